// How many pairs a balance would find and how long it would take, from samples of the rows.
//
// In:  rows [N, D], threshold (a cosine), seed, work: the dots of the sample times D.
// Out: pairs (expected, low, high), seconds, memory, plan, and the sizes of the samples.
//
// Samples: Q queries and K keys, K = min(N, 65,536) and Q as many as the work allows, or all rows for both where it
// allows that. Sample t of n is row floor(t N / n) + scaleDraw(philox64(seed, stream 33, index), length of that run of
// rows), with index t for keys and 2^32 + t for queries.
// Pairs: `hits` are the pairs of a query and a key, different rows, over the threshold. A pair of rows is hit with a
// chance of 2 Q K / N^2, so expected = hits N^2 / (2 Q K). The standard error is that of the mean of hits by query
// and by key (both samples are independent); low and high are two of them away, and high is at least what three
// hits more would give, since rare groups may be missed. With all rows in both samples the number is exact.
// Seconds: of preparing and encoding, in proportion to rows, of comparing, in proportion to pairs, and once of choosing a
// filter; measured here and now, with the context's threads.
// Memory: the encoded rows of the plan that the sample was given, as much again for the keys in hand but no more than
// an eighth of the budget, and the figures of a row; at most the budget: Context::maxMemory, or half of what is free.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

struct EstimateArgs {
  Rows rows = {};
  double threshold = 0;
  double work = 0;
};

struct EstimateResult {
  double pairs = 0, low = 0, high = 0;
  double seconds = 0;
  double memory = 0;  // bytes beyond the rows and the results
  int64_t queries = 0, keys = 0;
  std::string plan;
};

Status estimateBalance(Backend& backend, const Context& context, const EstimateArgs& args,
                       EstimateResult* result);

}  // namespace clipcid
