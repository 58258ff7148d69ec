// How softmaxes over keys are cut up: strips of queries, chunks of keys, and parts of the depth of sums. Plain arithmetic.
#pragma once

#include "clipcid/types.h"

namespace clipcid::cuda {

constexpr int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
constexpr int64_t roundUp(int64_t value, int64_t unit) { return divideUp(value, unit) * unit; }

struct SoftmaxLimits {
  int64_t stripBytes = int64_t{256} << 20;  // that a strip may take in any case
  int64_t pieceBytes = int64_t{32} << 20;   // of rows that are on the device as they came
  int64_t parts = 0;                        // of the depth of sums over keys, when not 0
};
// Tests make them small, to reach every path.
SoftmaxLimits& softmaxLimits();

// What a call needs.
struct SoftmaxShape {
  int64_t queries = 0, keys = 0, dim = 0;  // rows, rows, elements
  int64_t sides = 1;                       // logits of so many for each query and key at the same time
  bool sums = false;                       // over keys, for queries
  bool keySums = false;                    // over queries, for keys
  bool byKey = false;                      // log-sum-exps over the queries
  bool chunked = false;                    // keys may come in chunks, each twice
  // Matrices that are on the device as halves: one of as many rows as there are keys, and these of queries; and transposes.
  int64_t queryMatrices = 1;
  int64_t queryTransposes = 0, keyTransposes = 0;
};

struct SoftmaxPlan {
  int64_t stripRows = 0;  // queries of a strip, a multiple of kStripUnit
  // Of sums over keys: so many keys are added up, and their sum to those before it. A multiple of kHalvesDepth that depends on
  // the number of keys alone, as sums' bits do.
  int64_t partKeys = 0;
  int64_t chunkKeys = 0;  // keys at a time, filled up: a multiple of partKeys
  int64_t partsAtOnce =
      1;  // that are apart in memory meanwhile, so that all multiprocessors have tiles of the sums
  int64_t bytes = 0;  // of the device's memory, at most
};

// Rows that strips are made of: a warp's, and stages of the depth of sums over queries.
constexpr int64_t kStripUnit = 64;

// A strip has as many rows as fit softmaxLimits().stripBytes or a quarter of what the matrices take, whichever is more, and the
// budget: so memory is O((queries + keys) dim) whatever their product. Where not all keys fit, they come in chunks. kOutOfMemory
// when the smallest of both are more than the budget, less what of it is `held` already, saying what is needed.
Status planSoftmax(const SoftmaxShape& shape, int multiprocessors, int64_t budget, int64_t held,
                   SoftmaxPlan* out);

}  // namespace clipcid::cuda
