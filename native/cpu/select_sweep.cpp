#include "cpu/select_sweep.h"

#include <algorithm>
#include <cmath>
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
  pass.visit = select.visit;
  CLIPCID_TRY(sweep(context, pass));
  return open ? select.close(block) : Status();
}

// The canonical dot of unit rows is this near to that of the rows as stored over their norms: their elements are off
// by 2^-24 of themselves, or 2^-150, and |x^| |y^| <= 1 + 2^-23.
constexpr double kNear = 0x1.01p-23 + 0x1p-40;

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

StripBound::StripBound(const FilterPlan& plan, const Strip& strip, bool euclidean) {
  const auto keyError = static_cast<double>(strip.keyError), keyLength = static_cast<double>(strip.keyLength);
  const double most = plan.bound(static_cast<double>(strip.queryError),
                                 static_cast<double>(strip.queryLength), keyError, keyLength);
  const double norm = keyError + keyLength;
  if (!std::isfinite(most) || (euclidean && !(norm * norm < 1e37))) {
    constant = std::numeric_limits<double>::infinity();
    return;
  }
  // More than the roundings of these sums.
  constexpr double kSlack = 1 + 1e-9;
  constant = plan.bound(0, 0, keyError, keyLength) * kSlack;
  // At a length for which the bound is finite.
  const double error = static_cast<double>(strip.queryError), length = static_cast<double>(strip.queryLength);
  if (error > 0) ofError = plan.bound(error, 0, keyError, keyLength) / error * kSlack;
  if (length > 0) ofLength = plan.bound(0, length, keyError, keyLength) / length * kSlack;
  if (!euclidean) return;
  // The halved square's rounding and the subtraction's: |dot| <= (error + length) norm.
  constant += std::ldexp(2 * norm * norm, -23);
  ofError += std::ldexp(norm, -23);
  ofLength += std::ldexp(norm, -23);
}

double pairBound(const FilterPlan& plan, const Strip& strip, int row, int64_t column) {
  return plan.bound(static_cast<double>(strip.errorOf(row)), static_cast<double>(strip.lengthOf(row)),
                    static_cast<double>(strip.keyErrorOf(column)),
                    static_cast<double>(strip.keyLengthOf(column)));
}

void PairScores::start(int workers) {
  scratch_.resize(static_cast<size_t>(2 * workers));
  for (size_t at = 0; at < scratch_.size(); ++at) {
    const auto side = static_cast<int>(at % 2);
    if (side < sides) scratch_[at].buffer = AlignedArray<float>(4 * queries[side]->dim);
  }
}

Judge PairScores::judge(const QueryBlock& block) {
  Judge judge;
  judge.decide = [this, block](int64_t place, int32_t key, int worker, double* score) {
    return decide(block.row(place), key, worker, score);
  };
  judge.prefetch = [this](int32_t key) {
    for (int side = 0; side < sides; ++side) keys[side]->prefetch(key);
  };
  judge.tighten = [this, block](int64_t place, Candidate* candidate, int worker) {
    return tighten(block.row(place), candidate, worker);
  };
  return judge;
}

Status PairScores::decide(int64_t query, int64_t key, int worker, double* score) {
  double dots[2] = {};
  for (int side = 0; side < sides; ++side) {
    Side& own = scratch_[static_cast<size_t>(2 * worker + side)];
    const int64_t dim = queries[side]->dim;
    if (own.query != query) {
      own.query = -1;
      CLIPCID_TRY(queries[side]->row(query, own.buffer.get(), &own.x));
      own.query = query;
    }
    const float* y;
    CLIPCID_TRY(keys[side]->row(key, own.buffer.get() + dim, &y));
    dots[side] = kernels().dot(own.x, y, dim);
  }
  if (sides == 2) {
    *score = dots[0] > cutoff || dots[1] > cutoff ? 0 : dots[0] * dots[1];
  } else {
    *score = euclidean ? dots[0] - keys[0]->squares[static_cast<size_t>(key)] / 2 : dots[0];
  }
  return {};
}

Status PairScores::nearDot(int side, int64_t query, int64_t key, int worker, double* dot) {
  Side& own = scratch_[static_cast<size_t>(2 * worker + side)];
  const int64_t dim = queries[side]->dim;
  *dot = 0;
  if (queries[side]->isFault(query) || keys[side]->isFault(key)) return {};
  if (own.storedQuery != query) {
    own.storedQuery = -1;
    CLIPCID_TRY(queries[side]->stored(query, own.buffer.get() + 2 * dim, &own.stored));
    own.storedQuery = query;
  }
  const float* y;
  CLIPCID_TRY(keys[side]->stored(key, own.buffer.get() + 3 * dim, &y));
  *dot = kernels().dot(own.stored, y, dim) / queries[side]->storedNorm(query) / keys[side]->storedNorm(key);
  return {};
}

Status PairScores::tighten(int64_t query, Candidate* candidate, int worker) {
  bool unit = !euclidean;
  for (int side = 0; side < sides; ++side) unit = unit && queries[side]->unit && keys[side]->unit;
  Candidate tight = {};
  if (!unit) {
    // Rows that are compared as they are stored have nothing cheaper than their canonical score.
    double score;
    CLIPCID_TRY(decide(query, candidate->index, worker, &score));
    tight = {roundDown(score), roundUp(score), 0};
  } else {
    double a, b;
    CLIPCID_TRY(nearDot(0, query, candidate->index, worker, &a));
    tight = {roundDown(a - kNear), roundUp(a + kNear), 0};
    if (sides == 2) {
      CLIPCID_TRY(nearDot(1, query, candidate->index, worker, &b));
      tight = productInterval(a, kNear, b, kNear, cutoff);
    }
  }
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
