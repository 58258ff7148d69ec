// The mainloop: Q K^T strip by strip. What is done with a strip is the caller's; nothing larger is ever
// stored.
#pragma once

#include <functional>

#include "cpu/prepared.h"

namespace clipcid {

// Float32 dots of a few queries with a run of keys: scores[r * stride + j] is that of query `query + r` and
// key `key + j`.
struct Strip {
  const Block* queries;
  const Block* keys;
  int64_t query;
  int rows;
  int64_t key;
  int64_t columns;
  float* scores;
  int64_t stride;
  // The keys of a pair of blocks are cut into parts that may be visited at the same time; a query's strips of
  // one part come one after another.
  int64_t part;
};

struct Sweep {
  const CpuPrepared* queries = nullptr;
  const CpuPrepared* keys = nullptr;
  // Leaves out strips in which no key is greater than a query; others come whole.
  bool triangle = false;
  // Before and after the strips of a pair of blocks, on the calling thread.
  std::function<void(const Block& queries, int64_t parts)> begin;
  std::function<void(const Block& queries, int64_t parts)> end;
  std::function<Status(const Strip& strip, int worker)> visit;
};

constexpr int64_t kMostStrip = 512;

Status sweep(const Context& context, const Sweep& sweep);

// |computed - canonical| <= dotBound(dim, |q|, |k|) for a dot of the sweep, the canonical dot's own rounding
// included. Infinite where float32 might overflow, so that nothing is decided on its result.
//   Float32: a chain of at most dim + 1 roundings, gamma(dim + 1) sum |products| (Higham, Accuracy and
//   Stability, 3.1), and sum |products| <= |q| |k|; underflow adds at most 2^-149 a step.
double dotBound(int64_t dim, double queryNorm, double keyNorm);

// The float32 next below or equal to / above or equal to a float64.
float roundDown(double value);
float roundUp(double value);

}  // namespace clipcid
