// The key of highest canonical score for each of many queries, from what is known of it before: what `best` and the
// assignment of k-means are made of.
#pragma once

#include <functional>
#include <limits>
#include <string>

#include "cpu/select_sweep.h"

namespace clipcid {

// The best key of a query so far. Its canonical score is within `slack` of `score`.
struct Found {
  double score = -std::numeric_limits<double>::infinity();
  double slack = 0;
  int32_t index = -1;  // -1: none; keys whose score is not over `score` do not count then

  double low() const { return score - slack; }
};

struct SearchArgs {
  const CpuPrepared* queries = nullptr;
  const CpuPrepared* keys = nullptr;
  // As BestArgs has them.
  bool euclidean = false;
  const int64_t* rows = nullptr;
  int64_t count = 0;
  const FilterPlan* plan = nullptr;
  Dots* dots = nullptr;    // of the queries with the keys
  Found* found = nullptr;  // [count], in and out
  // [queries] a key that is likely, for queries of which nothing is known; or -1. Or null.
  const int32_t* guesses = nullptr;
  // What gaps of the strip's r-th query are to be stored, from the strip's first key on, as to what is known of it now;
  // `place` counts in the list. Those of a query are left out where `to` is null. And called when they are. For queries with
  // a guess; both or none.
  std::function<GapTerms(const Strip& strip, int r, int64_t place, const Found& own, int worker)> gaps{};
  std::function<void(const Strip& strip, int r, int64_t place, int worker)> gapsStored{};
};

Status search(const Context& context, const SearchArgs& args);

// What a score of the query with the key is, as far as Dots::near tells.
Status nearScore(Dots* dots, bool euclidean, int64_t query, int32_t key, int worker, Found* out);
// Whether one of these keys is better.
Status considerAll(Dots* dots, bool euclidean, int64_t query, const int32_t* keys, int64_t count, int worker,
                   Found* own);
// Makes `score` the canonical one.
Status decide(Dots* dots, bool euclidean, int64_t query, int worker, Found* found);

}  // namespace clipcid
