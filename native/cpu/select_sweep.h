// What selections share: queries in blocks whose lists fit in memory, bounds for a strip, and canonical scores.
#pragma once

#include <cstring>
#include <functional>

#include "cpu/dots.h"
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
  std::function<Sweep::Floors(const Strip& strip, int worker)> floors{};
  bool euclidean = false;
  std::function<Status(const Strip& strip, int worker)> visit{};
};

Status selectSweep(const Context& context, const SelectSweep& sweep);

// Sets the bits of one row anew, for a floor that has risen.
void markAgain(const Strip& strip, int row, float floor);

// Canonical scores of single pairs, for one pair of matrices or two.
class PairScores {
 public:
  // Of dots, or, where there is a second pair, of their products, which are 0 where either is over the cutoff.
  PairScores(int workers, const CpuPrepared& queries, const CpuPrepared& keys,
             const CpuPrepared* secondQueries = nullptr, const CpuPrepared* secondKeys = nullptr,
             double cutoff = 2);

  Judge judge(const QueryBlock& block);

 private:
  Status decide(int64_t query, int32_t key, int worker, double* score);
  Status tighten(int64_t query, Candidate* const* candidates, int64_t count, int worker);

  const int sides_;
  const double cutoff_;
  Dots dots_[2];
};

// An interval of the product of a dot within s of a and one within t of b, and 0 where one may be over the cutoff.
Candidate productInterval(double a, double s, double b, double t, double cutoff);

// Calls visit(column) for every 1 among the bits of a row, ascending.
template <typename Visit>
void eachHit(const Strip& strip, int row, Visit&& visit) {
  const uint8_t* bits = strip.bits + row * strip.strideBits;
  for (int64_t from = 0; from < strip.columns; from += 64) {
    uint64_t hits;
    memcpy(&hits, bits + from / 8, sizeof hits);
    if (strip.columns - from < 64) hits &= (uint64_t{1} << (strip.columns - from)) - 1;
    for (; hits != 0; hits &= hits - 1) visit(from + __builtin_ctzll(hits));
  }
}

}  // namespace clipcid
