#include "cpu/select_sweep.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kMostStateBytes = int64_t{128} << 20;

// One call of the mainloop, over queries whose lists fit; it may take them in several blocks.
Status runSlice(const Context& context, const SelectSweep& select, const int64_t* rows, int64_t count,
                int64_t out) {
  QueryBlock block;
  bool open = false;
  Sweep pass;
  pass.plan = select.plan;
  pass.queries = select.queries;
  pass.keys = select.keys;
  pass.rows = rows;
  pass.count = count;
  pass.begin = [&](const SweepBlocks& blocks) -> Status {
    if (!open || block.first != blocks.first) {
      if (open) CLIPCID_TRY(select.close(block));
      block.rows = rows == nullptr ? nullptr : rows + blocks.first;
      block.first = blocks.first;
      block.count = blocks.count;
      block.out = out + blocks.first;
      block.parts = blocks.parts;
      CLIPCID_TRY(select.open(block));
      open = true;
    }
    if (blocks.parts > block.parts) return {Code::kInternal, "More parts than lists"};
    return select.blocks ? select.blocks(blocks) : Status();
  };
  pass.limit = select.limit;
  pass.floors = select.floors;
  pass.euclidean = select.euclidean;
  pass.visit = select.visit;
  CLIPCID_TRY(sweep(context, pass));
  return open ? select.close(block) : Status();
}

}  // namespace

Status selectSweep(const Context& context, const SelectSweep& select) {
  const int64_t all = select.queries->rows;
  const int64_t count = select.count < 0 ? all - select.begin : select.count;
  const int64_t budget = std::min(memoryBudget(context) / 8, kMostStateBytes);
  const int64_t slice = std::max<int64_t>(budget / std::max<int64_t>(select.stateBytes, 1), kMostTileRows);
  if (select.rows == nullptr && count == all && slice >= count)
    return runSlice(context, select, nullptr, count, 0);
  std::vector<int64_t> places;
  for (int64_t begin = 0; begin < count; begin += slice) {
    const int64_t here = std::min(slice, count - begin);
    const int64_t* rows = select.rows == nullptr ? nullptr : select.rows + begin;
    if (rows == nullptr) {
      places.resize(static_cast<size_t>(here));
      std::iota(places.begin(), places.end(), select.begin + begin);
      rows = places.data();
    }
    Context part = context;
    if (context.progress) {
      part.progress = [&](double done, double total) {
        const double share = done / total * static_cast<double>(here);
        context.progress(static_cast<double>(begin) + share, static_cast<double>(count));
      };
    }
    CLIPCID_TRY(runSlice(part, select, rows, here, begin));
  }
  return {};
}

double pairBound(const FilterPlan& plan, const Strip& strip, int row, int64_t column) {
  return plan.bound(static_cast<double>(strip.errorOf(row)), static_cast<double>(strip.lengthOf(row)),
                    static_cast<double>(strip.keyErrorOf(column)),
                    static_cast<double>(strip.keyLengthOf(column)));
}

void markAgain(const Strip& strip, int row, float floor) {
  const QueryTerms query = {strip.known ? strip.errorOf(row) : std::numeric_limits<float>::infinity(),
                            strip.lengthOf(row),
                            strip.queries->steps.get() + (strip.query + row - strip.queries->begin), &floor};
  kernels().reaching(strip.scores + row * strip.stride, strip.stride, 1, (strip.columns + 15) / 16 * 16,
                     query, strip.terms, strip.bits + row * strip.strideBits, strip.strideBits);
}

PairScores::PairScores(int workers, const CpuPrepared& queries, const CpuPrepared& keys,
                       const CpuPrepared* secondQueries, const CpuPrepared* secondKeys, double cutoff)
    : sides_(secondQueries == nullptr ? 1 : 2), cutoff_(cutoff) {
  dots_[0] = Dots(queries, keys, workers);
  if (sides_ == 2) dots_[1] = Dots(*secondQueries, *secondKeys, workers);
}

Judge PairScores::judge(const QueryBlock& block) {
  Judge judge;
  judge.decide = [this, block](int64_t place, int32_t key, int worker, double* score) {
    return decide(block.row(place), key, worker, score);
  };
  judge.prefetch = [this](int32_t key) {
    for (int side = 0; side < sides_; ++side) dots_[side].keys().prefetch(key);
  };
  judge.tighten = [this, block](int64_t place, Candidate* candidate, int worker) {
    return tighten(block.row(place), candidate, worker);
  };
  return judge;
}

Status PairScores::decide(int64_t query, int32_t key, int worker, double* score) {
  double dots[2] = {};
  for (int side = 0; side < sides_; ++side) CLIPCID_TRY(dots_[side].exact(query, key, worker, &dots[side]));
  *score = sides_ == 1 ? dots[0] : dots[0] > cutoff_ || dots[1] > cutoff_ ? 0 : dots[0] * dots[1];
  return {};
}

Status PairScores::tighten(int64_t query, Candidate* candidate, int worker) {
  double dots[2] = {}, slack[2] = {};
  for (int side = 0; side < sides_; ++side) {
    CLIPCID_TRY(dots_[side].near(query, &candidate->index, 1, worker, &dots[side]));
    slack[side] = dots_[side].slack(candidate->index);
  }
  Candidate tight = {roundDown(dots[0] - slack[0]), roundUp(dots[0] + slack[0]), 0};
  if (sides_ == 2) tight = productInterval(dots[0], slack[0], dots[1], slack[1], cutoff_);
  candidate->low = tight.low;
  candidate->high = tight.high;
  return {};
}

Candidate productInterval(double a, double s, double b, double t, double cutoff) {
  if (a - s > cutoff || b - t > cutoff) return {0, 0, 0};
  const double corners[] = {(a - s) * (b - t), (a - s) * (b + t), (a + s) * (b - t), (a + s) * (b + t)};
  double low = *std::min_element(corners, corners + 4), high = *std::max_element(corners, corners + 4);
  if (a + s > cutoff || b + t > cutoff) {
    low = std::min(low, 0.0);
    high = std::max(high, 0.0);
  }
  return {roundDown(low), roundUp(high), 0};
}

}  // namespace clipcid
