// Semantic balance: exact groups of near-duplicates over a cosine threshold, and the row of each that stays.
//
// In:  rows [N, D], threshold (a cosine), keep policy, least score.
// Out: labels [N], keep [N], centrality [N], and counts.
//
// 1. Faults: rows with a NaN or an infinity, and rows whose canonical norm is zero. A fault is alone in its
//    group, kept, and has centrality 0.
// 2. Edges: pairs i < j of rows without fault with canonicalDot(x^_i, x^_j) > threshold, strictly; x^ is the
//    canonical row.
// 3. Groups: connected components. A group's label is its smallest member.
// 4. With a least score (maxDiameter = 1 - least score), from the top: a group of two or more rows of which one has
//    a score (6) with the group's mean below it, compared as float64, is split by a stricter threshold: the smallest
//    weight of an edge of the group's maximum spanning tree, so that it becomes the components of its edges of greater
//    weight. Each of these is looked at in the same way, by its own mean, until all hold; a row alone holds. Faults
//    are not looked at.
// 5. Mean of a group G of two or more rows, one dimension at a time, in fixed point:
//      scale = fixedScale(1, N)                               (N: all rows of the matrix, faults included)
//      sum   = sum over G of toFixed(float64(x^_ik), scale)   (int64)
//      mean  = fixedMean(sum, scale, |G|)                     (float32)
//    m^ = the canonical row of that mean.
// 6. Score of a member: canonicalDot(x^_i, m^), float64; 0 for all members where the mean's canonical norm is
//    zero. Centrality = float32(score); of a row alone 1.
// 7. The row that is kept: that of highest rank by the policy (keep.h), ties to the smaller index. A row alone stays.
// `edges` counts the pairs over the threshold (2), whatever is split in 4.
#pragma once

#include "clipcid/backend.h"
#include "core/forest.h"
#include "core/keep.h"

namespace clipcid {

struct BalanceArgs {
  Rows rows = {};
  double threshold = 0;
  KeepPolicy keepPolicy = {};
  double leastScore = -2;  // no score is below
  // The maximum spanning forest of the rows' edges, complete above the threshold, in order; then the pairs are not
  // compared again. Or null.
  const std::vector<Edge>* forest = nullptr;
  // [N] rows of which no pair counts; or null. Not with a forest.
  const uint8_t* skip = nullptr;
  int32_t* labels = nullptr;    // [N]
  uint8_t* keep = nullptr;      // [N]
  float* centrality = nullptr;  // [N]
};

struct BalanceResult {
  int64_t groups = 0;
  int64_t edges = 0;
  std::vector<int32_t> faults;
  std::string plan;  // of the join; empty where a forest was given
};

Status balance(Backend& backend, const Context& context, const BalanceArgs& args, BalanceResult* result);

}  // namespace clipcid
