// SemDeDup (Abbas et al., arXiv 2303.09540): near-duplicates within the clusters of a k-means, for comparison with
// balance. Pairs whose rows are in different clusters are never looked at.
//
// In:  rows [N, D], centroids [K, D] and labels [N] of a spherical k-means over them, threshold (a cosine: 1 - epsilon
//      of the paper), order, seed.
// Out: keep [N], duplicateOf [N], similarity [N], and the number of pairs.
//
// 1. A row with a NaN or an infinity, or with a canonical norm of zero, fails the call with kInvalidData, which names
//    the first; likewise a centroid with a NaN or an infinity.
// 2. score_i = canonicalDot(x^_i, c), c the centroid of the row's label as it was given.
// 3. Order of the rows of a cluster, ties to the smaller index:
//      hard    ascending score: the farthest from the centroid first
//      easy    descending score
//      random  ascending philox64(seed, stream 32, index i)
// 4. Row j is dropped when a row i of its cluster that is before it in the order has canonicalDot(x^_i, x^_j) >
//    threshold, strictly, whether or not i itself is dropped. duplicateOf_j is the i of the largest such dot, ties to
//    the smaller index, and similarity_j float32 of that dot. A row that is kept has -1 and 0.
// 5. pairs: how many pairs of rows of one cluster are over the threshold.
//
// Memory: O(N + K D) and the rows of a run of clusters, at least those of the largest.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

enum class SemdedupOrder : uint8_t { kHard, kEasy, kRandom };

struct SemdedupArgs {
  Rows rows = {};
  const float* centroids = nullptr;  // [K, D]
  int64_t clusters = 0;
  const int32_t* labels = nullptr;  // [N]
  double threshold = 0;
  SemdedupOrder order = SemdedupOrder::kHard;
  uint8_t* keep = nullptr;         // [N]
  int32_t* duplicateOf = nullptr;  // [N]
  float* similarity = nullptr;     // [N]
};

struct SemdedupResult {
  int64_t pairs = 0;
};

Status semdedup(Backend& backend, const Context& context, const SemdedupArgs& args, SemdedupResult* result);

}  // namespace clipcid
