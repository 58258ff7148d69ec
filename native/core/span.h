// The maximum spanning forest of all pairs of unit rows above a floor.
//
// In:  rows [N, D], floor (a cosine), merges.
// Out: edges of the forest (forest.h), at most N - 1, in order; the floor down to which it is complete.
//
// Pairs are the edges of balance.h (2), with the floor for the threshold. Without `merges`, the forest is complete above
// the floor. With `merges` = m > 0, it is cut behind the m-th edge and those of equal weight, and complete down to the
// float64 just below that weight, wherever the floor leaves so many edges.
//
// A cut forest is had without looking at most pairs: the m-th weight of the forest of any part of the pairs bounds the
// true one from below. So samples of the rows, each four times the one before, are joined with all rows, above the
// bound that the smaller one gave: some 3 N pairs each, and the last bound leaves few of the N^2 / 2 pairs to decide.
#pragma once

#include "core/forest.h"

namespace clipcid {

// Adds the edges of `rows`, which are unit rows, above the floor.
Status collectForest(Backend& backend, const Context& context, const Prepared& rows, double floor,
                     int64_t merges, ForestBuilder* builder, std::string* plan);

struct ForestArgs {
  Rows rows = {};
  double floor = -1;
  int64_t merges = 0;
};

struct ForestResult {
  std::vector<Edge> edges;
  double floor = 0;
  std::vector<int32_t> faults;
  std::string plan;
};

Status spanningForest(Backend& backend, const Context& context, const ForestArgs& args, ForestResult* result);

}  // namespace clipcid
