// The mainloop of selection: chosen queries against all keys, strip by strip, for one pair of matrices or two of
// as many rows each.
#pragma once

#include <functional>

#include "cpu/prepared.h"
#include "cpu/sweep.h"

namespace clipcid {

// Queries of a pass: some that follow one another, or a run of a list. `row(place)` is a query's index, and
// `out + place` its place in the outputs.
struct QueryBlock {
  const int64_t* rows = nullptr;  // a list, or null
  int64_t begin = 0;              // the first query when there is no list
  int64_t count = 0;
  int64_t out = 0;

  int64_t row(int64_t place) const { return rows == nullptr ? begin + place : rows[place]; }
};

// Scores of a few queries of a block with a run of keys, for each of the pairs of matrices:
// scores[r * stride + j] is that of place `place + r` and key `key + j`. The visitor may overwrite them.
struct SelectStrip {
  const QueryBlock* queries;
  int64_t place;
  int rows;
  int64_t key;
  int64_t columns;
  int64_t stride;
  float* scores[2];
  double keyNorms[2];  // above the norm of every key of the strip
  // The keys are cut into parts that may be visited at the same time.
  int64_t part;
};

struct SelectSweep {
  int sides = 1;
  const CpuPrepared* queries[2] = {};
  const CpuPrepared* keys[2] = {};
  // `count` ascending queries; or, when null, the queries [begin, begin + count), to the end when count is negative.
  const int64_t* rows = nullptr;
  int64_t begin = 0;
  int64_t count = -1;
  // Bytes of state that the visitor has for a query and a part.
  int64_t stateBytes = 0;
  // Before and after all strips of a block of queries, on the calling thread.
  std::function<Status(const QueryBlock& queries, int64_t parts)> open;
  std::function<Status(const QueryBlock& queries)> close;
  std::function<Status(const SelectStrip& strip, int worker)> visit;
};

Status selectSweep(const Context& context, const SelectSweep& sweep);

}  // namespace clipcid
