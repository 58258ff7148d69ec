// The kernels of topK: what may be among the k keys of highest score of each query, and its canonical scores.
#pragma once

#include "cuda/best_kernels.h"

namespace clipcid::cuda {

// A key that may be among the best: its canonical score is from low to high, in units of scores.
struct Candidate {
  int32_t key;
  float low, high;
};

// One matrix's side of a score.
struct ScoreSide {
  EncodedView queries, keys;
  BoundTerms terms;
  float cutoff = 0;  // of products: a dot that may be over it counts as 0, too; in units of its dots
};

struct TopKParams {
  ScoreSide side;
  ScoreSide second;       // of products
  bool skipSelf = false;  // leaves out the key of the query's own index
  int32_t queryBegin = 0, keyBegin = 0;
  // [queries] scores below are not among the k best: a lower end of the k-th.
  const float* floors = nullptr;
  Candidate* candidates = nullptr;  // [queries, capacity]
  int32_t* counts = nullptr;        // [queries] runs on where there is no more room
  int32_t capacity = 0;
};
Status topKTiles(const Device& device, Stream stream, Math math, TileShape shape,
                 const MainloopParams& params, const TopKParams& topK);
// For products: of both pairs of matrices, the second in params.second.
Status topKProductTiles(const Device& device, Stream stream, Math math, const MainloopParams& params,
                        const TopKParams& topK);

// What is known of a block's lists.
struct TopKState {
  int32_t most;     // largest count
  int32_t crowded;  // queries whose list is more than half full after pruning
};
// Raises `state->most` to the largest count.
Status longestList(const Device& device, Stream stream, int32_t queries, const int32_t* counts,
                   TopKState* state);
// Raises each query's floor to the k-th largest lower end among its candidates, where it has so many, and drops what does not
// reach it; lists the queries that stay crowded in `crowded`. Counts must be within the capacity.
Status pruneLists(const Device& device, Stream stream, int32_t queries, int32_t k, const TopKParams& topK,
                  float* floors, TopKState* state, int32_t* crowded);

// scores[query, at] = canonical score of the candidate, for all of listed queries (all when null).
struct TopKDecideParams {
  DeviceRows queries, keys;
  DeviceRows secondQueries, secondKeys;  // of products
  bool product = false;
  double cutoff = 2;
  int32_t keyBegin = 0;  // of the keys at hand; candidates' keys count from the matrix's first
  const Candidate* candidates = nullptr;
  const int32_t* counts = nullptr;
  int32_t capacity = 0;
  double* scores = nullptr;  // [queries, capacity]
};
Status decideLists(const Device& device, Stream stream, const TopKDecideParams& params, const int32_t* listed,
                   int32_t count);

}  // namespace clipcid::cuda
