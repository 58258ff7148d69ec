// What selections share: queries in blocks whose lists fit in memory, bounds for a strip, and canonical scores.
#pragma once

#include <functional>

#include "cpu/shortlist.h"
#include "cpu/sweep.h"

namespace clipcid {

// Queries whose lists exist at the same time: some that follow one another, or a run of a list.
struct QueryBlock {
  const int64_t* rows = nullptr;  // [count], or null
  int64_t first = 0;              // Strip::query of place 0
  int64_t count = 0;
  int64_t out = 0;  // of place 0, its place in the outputs
  int64_t parts = 1;

  int64_t row(int64_t place) const { return rows == nullptr ? first + place : rows[place]; }
};

struct SelectSweep {
  const FilterPlan* plan = nullptr;
  const CpuPrepared* queries = nullptr;
  const CpuPrepared* keys = nullptr;
  // `count` ascending queries; or, when null, the queries [begin, begin + count), to the end when count is negative.
  const int64_t* rows = nullptr;
  int64_t begin = 0;
  int64_t count = -1;
  // Bytes of the lists of a query.
  int64_t stateBytes = 0;
  // Before and after all strips of a block of queries, on the calling thread.
  std::function<Status(const QueryBlock& queries)> open;
  std::function<Status(const QueryBlock& queries)> close;
  // As Sweep's; `blocks` may be null.
  std::function<Status(const SweepBlocks& blocks)> blocks{};
  std::function<float(const Strip& strip, int worker)> limit{};
  std::function<Status(const Strip& strip, int worker)> visit{};
};

Status selectSweep(const Context& context, const SelectSweep& sweep);

// FilterPlan::bound for keys of a strip, worked out for a query at a time: it is linear in a query's error and
// length.
struct StripBound {
  double constant = 0, ofError = 0, ofLength = 0;

  StripBound() = default;
  // `euclidean`: of the dot less half the key's square, rounded to float32, in float32.
  StripBound(const FilterPlan& plan, const Strip& strip, bool euclidean);
  // Infinite where nothing is known.
  double at(float error, float length) const {
    return constant + ofError * static_cast<double>(error) + ofLength * static_cast<double>(length);
  }
};

// For a key of its own.
double pairBound(const FilterPlan& plan, const Strip& strip, int row, int64_t column);

// Canonical scores of single pairs, for one pair of matrices or two.
class PairScores {
 public:
  int sides = 1;
  const CpuPrepared* queries[2] = {};
  const CpuPrepared* keys[2] = {};
  bool euclidean = false;  // one pair of matrices only
  double cutoff = 2;       // two only

  // Call it once, when all is set.
  void start(int workers);
  Judge judge(const QueryBlock& block);

 private:
  struct Side {
    int64_t query = -1, storedQuery = -1;  // what x and stored are of
    const float* x = nullptr;
    const float* stored = nullptr;
    AlignedArray<float> buffer{};  // [4, dim]
  };

  Status decide(int64_t query, int64_t key, int worker, double* score);
  Status tighten(int64_t query, Candidate* candidate, int worker);
  Status nearDot(int side, int64_t query, int64_t key, int worker, double* dot);

  std::vector<Side> scratch_;  // [workers, 2]
};

// An interval of the product of a dot within s of a and one within t of b, and 0 where one may be over the cutoff.
Candidate productInterval(double a, double s, double b, double t, double cutoff);

// The 1-bit runs of a strip's panels: calls visit(from, columns), and returns its first failure.
template <typename Visit>
Status eachRun(const Strip& strip, Visit&& visit) {
  for (uint64_t hits = strip.hits; hits != 0;) {
    const int64_t begin = __builtin_ctzll(hits);
    const uint64_t rest = ~(hits >> begin);
    const int64_t length = rest == 0 ? 64 : __builtin_ctzll(rest);
    const int64_t from = begin * strip.panel;
    CLIPCID_TRY(visit(from, std::min(length * strip.panel, strip.columns - from)));
    if (begin + length >= 64) break;
    hits &= ~uint64_t{0} << (begin + length);
  }
  return {};
}

}  // namespace clipcid
