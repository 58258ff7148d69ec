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
  judge.tighten = [this, block](int64_t place, Candidate* const* candidates, int64_t count, int worker) {
    return tighten(block.row(place), candidates, count, worker);
  };
  return judge;
}

Status PairScores::decide(int64_t query, int32_t key, int worker, double* score) {
  double dots[2] = {};
  for (int side = 0; side < sides_; ++side) CLIPCID_TRY(dots_[side].exact(query, key, worker, &dots[side]));
  *score = sides_ == 1 ? dots[0] : dots[0] > cutoff_ || dots[1] > cutoff_ ? 0 : dots[0] * dots[1];
  return {};
}

Status PairScores::tighten(int64_t query, Candidate* const* candidates, int64_t count, int worker) {
  int32_t keys[Judge::kTogether];
  double dots[2][Judge::kTogether];
  for (int64_t at = 0; at < count; ++at) keys[at] = candidates[at]->index;
  for (int side = 0; side < sides_; ++side)
    CLIPCID_TRY(dots_[side].near(query, keys, count, worker, dots[side]));
  for (int64_t at = 0; at < count; ++at) {
    const double dot = dots[0][at], slack = dots_[0].slack(keys[at]);
    Candidate tight = {roundDown(dot - slack), roundUp(dot + slack), 0};
    if (sides_ == 2) tight = productInterval(dot, slack, dots[1][at], dots_[1].slack(keys[at]), cutoff_);
    candidates[at]->low = tight.low;
    candidates[at]->high = tight.high;
  }
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
