// Semantic balance: exact groups of near-duplicates over a cosine threshold, and the central row of each.
//
// In:  rows [N, D], threshold (a cosine).
// Out: labels [N], keep [N], centrality [N], and counts.
//
// 1. Faults: rows with a NaN or an infinity, and rows whose canonical norm is zero. A fault is alone in its
//    group, kept, and has centrality 0.
// 2. Edges: pairs i < j of rows without fault with canonicalDot(x^_i, x^_j) > threshold, strictly; x^ is the
//    canonical row.
// 3. Groups: connected components. A group's label is its smallest member.
// 4. Mean of a group G of two or more rows, one dimension at a time, in fixed point:
//      scale = fixedScale(1, N)                               (N: all rows of the matrix, faults included)
//      sum   = sum over G of toFixed(float64(x^_ik), scale)   (int64)
//      mean  = fixedMean(sum, scale, |G|)                     (float32)
//    m^ = the canonical row of that mean.
// 5. Score of a member: canonicalDot(x^_i, m^), float64; 0 for all members where the mean's canonical norm is
//    zero. Centrality = float32(score).
// 6. The central row, which is kept: the member of highest score (compared as float64), ties to the smaller
//    index. Two exceptions decide without scores: a row alone is kept with centrality 1, and of a group of
//    exactly two the smaller index is kept, since both are equally far from their mean and only rounding could
//    tell them apart (their centralities are computed as above).
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

struct BalanceArgs {
  Rows rows = {};
  double threshold = 0;
  int32_t* labels = nullptr;    // [N]
  uint8_t* keep = nullptr;      // [N]
  float* centrality = nullptr;  // [N]
};

struct BalanceResult {
  int64_t groups = 0;
  int64_t edges = 0;
  std::vector<int32_t> faults;
};

Status balance(Backend& backend, const Context& context, const BalanceArgs& args, BalanceResult* result);

}  // namespace clipcid
