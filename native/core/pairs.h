// All pairs over a cosine threshold, handed on as they are found.
//
// In:  rows [N, D], threshold (a cosine); optionally a base [M, D].
// Out: to the sink, every pair (first, second) with canonicalDot(x^_first, x^_second) > threshold, strictly, once,
//      with that dot: both rows of `rows` and first < second; or, with a base, first of `rows` and second of the
//      base. In no order. Rows with a NaN or an infinity, and rows whose canonical norm is zero, are in no pair.
//
// Memory does not grow with the number of pairs: the sink may wait, and the search waits with it.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

struct PairsArgs {
  Rows rows = {};
  Rows base = {};
  bool hasBase = false;
  double threshold = 0;
  std::function<Status(const Pair* pairs, const double* dots, size_t count)> sink = {};
  std::string* plan = nullptr;
};

Status findPairs(Backend& backend, const Context& context, const PairsArgs& args);

}  // namespace clipcid
