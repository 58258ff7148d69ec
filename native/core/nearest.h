// Exact top-k search.
//
// In:  queries [Q, D], base [N, D], k. Out: indices [Q, k] and scores [Q, k], best first.
//
// Score = canonicalDot of the canonical rows (cosine) or of the rows as stored (dot), in float64; descending,
// ties to the smaller index; what is returned is float32(score). A row of either side with a NaN or an
// infinity, or with a canonical norm of zero for cosine, fails the call with kInvalidData, which names the
// first bad row (queries are looked at first). k > N is kInvalidArgument.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

struct NearestArgs {
  Rows queries;
  Rows base;
  int64_t k = 1;
  bool cosine = true;
  int32_t* indices = nullptr;  // [Q, k]
  float* scores = nullptr;     // [Q, k]
};

Status nearest(Backend& backend, const Context& context, const NearestArgs& args);

}  // namespace clipcid
