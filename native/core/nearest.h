// Exact top-k search, by one score or by the product of two.
//
// nearest. In: queries [Q, D], base [N, D], k. Out: indices [Q, k] and scores [Q, k], best first.
//
// Score = canonicalDot of the canonical rows (cosine) or of the rows as stored (dot), in float64; descending,
// ties to the smaller index; what is returned is float32(score). A row of either side with a NaN or an
// infinity, or with a canonical norm of zero for cosine, fails the call with kInvalidData, which names the
// first bad row (queries are looked at first). k > N is kInvalidArgument.
//
// nearestProduct. In: pairs of rows, images [N, D] and texts [N, E], k, and a cut-off; and queries of the same
// widths, images [Q, D] and texts [Q, E], or none: then the pairs are their own queries, and no pair is among
// its own results. Out: as nearest.
//
// Score = x * y in float64, of the float64 scores x = canonicalDot of the canonical image rows and y = the same
// of the text rows; 0 where x > cutoff or y > cutoff. Both negative give a positive score, as in any product.
// Descending, ties to the smaller index (0 and -0 are a tie); what is returned is float32(score). A zero, NaN
// or infinite row of either side fails the call with kInvalidData, which names the first bad row of the images
// of the queries, else of their texts, else of the base's images, else of its texts. k > N, or k > N - 1
// without queries, is kInvalidArgument.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

struct NearestArgs {
  Rows queries;
  Rows base;
  int64_t k = 1;
  bool cosine = true;
  int32_t* indices = nullptr;   // [Q, k]
  float* scores = nullptr;      // [Q, k]
  std::string* plan = nullptr;  // what filter was used, or null
};

Status nearest(Backend& backend, const Context& context, const NearestArgs& args);

struct NearestProductArgs {
  Rows images;
  Rows texts;
  // Not looked at with `self`, where the pairs are their own queries.
  Rows queryImages;
  Rows queryTexts;
  bool self = true;
  int64_t k = 1;
  double cutoff = 2;
  int32_t* indices = nullptr;   // [Q, k]
  float* scores = nullptr;      // [Q, k]
  std::string* plan = nullptr;  // what filter was used, or null
};

Status nearestProduct(Backend& backend, const Context& context, const NearestProductArgs& args);

}  // namespace clipcid
