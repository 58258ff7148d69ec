// How softmaxes over keys are cut up: strips of queries, and parts of the depth of sums. Plain arithmetic.
#pragma once

#include "clipcid/types.h"

namespace clipcid::cuda {

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
  // Matrices that are on the device as halves: one of as many rows as there are keys, and these of queries; and transposes.
  int64_t queryMatrices = 1;
  int64_t queryTransposes = 0, keyTransposes = 0;
};

struct SoftmaxPlan {
  int64_t stripRows = 0;  // queries of a strip, a multiple of kStripUnit
  int64_t keyDepth = 0;   // of sums over keys, filled up: a multiple of parts * kHalvesDepth
  int32_t parts = 1;      // that it is split into, so that all multiprocessors have tiles of the sums
  int64_t bytes = 0;      // of the device's memory, at most
};

// Rows that strips are made of: a warp's, and stages of the depth of sums over queries.
constexpr int64_t kStripUnit = 64;

// A strip has as many rows as fit softmaxLimits().stripBytes or a quarter of what the matrices take, whichever is more, and the
// budget: so memory is O((queries + keys) dim) whatever their product. kOutOfMemory when the smallest strip is more than the
// budget, saying what is needed.
Status planSoftmax(const SoftmaxShape& shape, int multiprocessors, int64_t budget, SoftmaxPlan* out);

}  // namespace clipcid::cuda
