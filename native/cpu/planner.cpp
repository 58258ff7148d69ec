// Model of the time of a join, in nanoseconds of one thread:
//   pairs * (coordinates / speed + a tile's fixed cost / pairs of a tile)
//   + pairs * (share of pairs within the bound of the threshold) * cost of a canonical decision
//   + rows * cost of encoding a row, + finding the directions of a prefix.
// Shares come from the dots of a sample of queries with a sample of keys; a filter's bound from how well it rounds
// the samples. Directions are looked for only where what they might save is much more than what they cost.
#include "cpu/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/isa.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr int64_t kStepSample = 128;
constexpr int64_t kMostPrefix = 127, kWidestPrefix = 4096;
// Costs in nanoseconds, of a processor of this many cycles in one; about.
constexpr double kCycles = 2.6;
constexpr double kTile = 40, kDecision = 400, kCanonicalRows = 800, kFromFile = 3000;
constexpr double kEncodeElement = 0.4;

double pairsOf(const CpuPrepared& queries, const CpuPrepared& keys) {
  const double all = static_cast<double>(queries.rows) * static_cast<double>(keys.rows);
  return &queries == &keys ? all / 2 : all;
}

float largestOf(const RowSample& sample, int64_t dim) {
  float most = 0;
  for (int64_t r = 0; r < sample.count; ++r) most = std::max(most, largestElement(sample.row(r), dim));
  return most;
}

// Largest square of what rounding to int8 leaves of a row: a strip's bound is that of its worst row.
CLIPCID_WIDE double residual(const RowSample& sample, int64_t dim, float step) {
  constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer
  double most = 0;
  const float inverse = 1 / step;
  for (int64_t r = 0; r < sample.count; ++r) {
    const float* row = sample.row(r);
    float sums[16] = {};
    for (int64_t k = 0; k < dim; k += 16) {
      for (int64_t lane = 0; lane < 16; ++lane) {  // rows are padded with zeros
        float steps = row[k + lane] * inverse;
        steps = steps > 127.0f ? 127.0f : steps;
        steps = steps < -127.0f ? -127.0f : steps;
        const float left = row[k + lane] - ((steps + kToInteger) - kToInteger) * step;
        sums[lane] += left * left;
      }
    }
    double total = 0;
    for (const float sum : sums) total += static_cast<double>(sum);
    most = std::max(most, total);
  }
  return most;
}

struct Step {
  float step = 0;  // 0: int8 is no good for these rows
  double residual = 0;
};

// Larger or smaller values would leave float32's range in a product; float32 is the filter then.
bool fitsInt8(float most) { return most > 1e-15f && most < 1e15f; }

// The step of least residual: one smaller than the largest value needs clips a few.
Step chooseStep(const RowSample& sample, int64_t dim) {
  const float most = largestOf(sample, dim);
  if (!fitsInt8(most)) return {};
  Step best;
  for (const float part : {1.05f, 0.8f, 0.6f, 0.4f}) {
    const float step = most * part / 127;
    const double left = residual(sample, dim, step);
    if (best.step == 0 || left < best.residual) best = {step, left};
  }
  return best;
}

// The same for steps of the rows' own, where a step is not to be chosen.
Step ownSteps(const RowSample& sample, int64_t dim) {
  if (!fitsInt8(largestOf(sample, dim))) return {};
  Step own = {1, 0};
  for (int64_t r = 0; r < sample.count; ++r) {
    const double step = sampleStep(sample, r, dim);
    own.residual += step * step * static_cast<double>(dim) / 12 / static_cast<double>(sample.count);
  }
  return own;
}

int64_t perWord(Filter filter) {
  return filter == Filter::kFloat32 ? 1 : filter == Filter::kBfloat16 ? 2 : 4;
}

int64_t wordsOf(const FilterKernel& kernel, Filter filter, int64_t coordinates) {
  const int64_t words = (coordinates + perWord(filter) - 1) / perWord(filter);
  return (words + kernel.step - 1) / kernel.step * kernel.step;
}

RowSample copyOf(const RowSample& sample) {
  RowSample copy;
  copy.count = sample.count;
  copy.stride = sample.stride;
  copy.rows = AlignedArray<float>(sample.count * sample.stride);
  std::copy(sample.rows.get(), sample.rows.get() + sample.count * sample.stride, copy.rows.get());
  return copy;
}

void spreadSample(RowSample* sample, int64_t dim) {
  for (int64_t r = 0; r < sample->count; ++r) spreadRow(sample->rows.get() + r * sample->stride, dim);
}

// A plan, and how far a row of each side is from its encoding, about.
struct Candidate {
  FilterPlan plan;
  double errors[2] = {0, 0};
  double cost = std::numeric_limits<double>::infinity();
};

// Sets filter, kernel, steps, words and errors. The samples hold `coordinates` values a row. False when int8
// cannot hold them.
bool fill(Filter filter, bool own, const RowSample samples[2], int sides, int64_t coordinates,
          Candidate* out) {
  const auto steps = own ? ownSteps : chooseStep;
  FilterPlan& plan = out->plan;
  plan.kernel = &filterKernel(filter);
  Step plain[2], spread[2];
  bool usable = true, better = true;
  for (int side = 0; side < sides && filter == Filter::kInt8; ++side) {
    plain[side] = steps(samples[side], coordinates);
    RowSample turned = copyOf(samples[side]);
    spreadSample(&turned, coordinates);
    spread[side] = steps(turned, coordinates);
    usable = usable && plain[side].step > 0 && spread[side].step > 0;
    better = better && spread[side].residual < 0.7 * plain[side].residual;
  }
  if (!usable) return false;
  for (int side = 0; side < 2; ++side) {
    RowEncoding& encoding = side == 0 ? plan.queries : plan.keys;
    encoding.filter = filter;
    encoding.words = wordsOf(*plan.kernel, filter, coordinates);
    out->errors[side] = filter == Filter::kBfloat16 ? 0x1p-9 / std::sqrt(3.0) : 4 * 0x1p-24;
    if (filter != Filter::kInt8) continue;
    const int from = side < sides ? side : 0;
    encoding.spread = better;
    encoding.own = own;
    encoding.step = (better ? spread : plain)[from].step;
    out->errors[side] = std::sqrt((better ? spread : plain)[from].residual);
  }
  return true;
}

// Scores of a sample of queries with a sample of keys, [queries, keys].
Status productOf(const Context& context, const RowSample& queries, const RowSample& keys, int64_t width,
                 AlignedArray<float>* out) {
  *out = AlignedArray<float>(queries.count * keys.count);
  return cpuBackend().matmul(context, {.a = queries.rows.get(),
                                       .b = keys.rows.get(),
                                       .c = out->get(),
                                       .m = queries.count,
                                       .n = keys.count,
                                       .k = width,
                                       .strideA = queries.stride,
                                       .strideB = keys.stride,
                                       .strideC = keys.count,
                                       .transposeB = true});
}

class JoinPlanner {
 public:
  JoinPlanner(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, double threshold,
              bool decided)
      : context_(context),
        queries_(queries),
        keys_(keys),
        threshold_(threshold),
        decided_(decided),
        dim_(queries.dim),
        sides_(&queries == &keys ? 1 : 2),
        pairs_(pairsOf(queries, keys)) {}

  Status run(FilterPlan* out) {
    const bool large = pairs_ * static_cast<double>(dim_) > 1e12;
    // Samples take a small part of what may be held.
    const int64_t fits = std::max<int64_t>(memoryBudget(context_) / 64 / (4 * (dim_ + 32)), 32);
    CLIPCID_TRY(sampleRows(context_, queries_, std::min<int64_t>(large ? 256 : 128, fits), &samples_[0]));
    CLIPCID_TRY(sampleRows(context_, keys_, std::min<int64_t>(large ? 2048 : 512, fits), &samples_[1]));
    CLIPCID_TRY(productOf(context_, samples_[0], samples_[1], dim_, &dots_));
    const bool forced = context_.prefix > 0 && context_.prefix < dim_ && directionsFit(context_.prefix);
    if (!forced) {
      for (const Filter filter : filters()) considerAll(filter);
    }
    if (forced || (context_.prefix < 0 && wantsPrefix())) CLIPCID_TRY(considerPrefixes());
    // What was asked for may not hold these values, or there is no direction in rows that are all zeros.
    if (best_.plan.kernel == nullptr) considerAll(Filter::kFloat32);
    *out = std::move(best_.plan);
    return {};
  }

 private:
  // Filters that may be chosen; float32 always, where the others cannot hold the values.
  std::vector<Filter> filters() const {
    if (context_.filter == Filter::kAuto) {
      std::vector<Filter> all = {Filter::kFloat32};
      if (kernels().bfloat16 != nullptr) all.push_back(Filter::kBfloat16);
      if (kernels().int8 != nullptr) all.push_back(Filter::kInt8);
      return all;
    }
    return {availableFilter(context_.filter)};
  }

  // Both sides of a self-join are encoded alike; the larger sample says how.
  const RowSample* stepSamples(const RowSample* samples) const { return sides_ == 1 ? samples + 1 : samples; }

  // The microkernel's time for all pairs, in nanoseconds.
  double time(const FilterPlan& plan) const {
    return time(*plan.kernel, plan.queries.filter, plan.queries.words);
  }
  double time(const FilterKernel& kernel, Filter filter, int64_t words) const {
    const double coordinates = static_cast<double>(words * perWord(filter));
    return pairs_ * (coordinates / kernel.speed / kCycles + kTile / (kernel.tileRows * kernel.panel));
  }

  void considerAll(Filter filter) {
    Candidate candidate;
    if (fill(filter, false, stepSamples(samples_), sides_, dim_, &candidate)) consider(&candidate, dots_);
  }

  void consider(Candidate* candidate, const AlignedArray<float>& scores) {
    FilterPlan& plan = candidate->plan;
    plan.dim = dim_;
    plan.oneSided = plan.queries.basis != nullptr;
    const bool all = decided_ || plan.oneSided;
    int64_t open = 0, seen = 0;
    double bound = 0, queryLength = -1, keyLength = -1;
    for (int64_t i = 0; i < samples_[0].count; ++i) {
      const double length = static_cast<double>(samples_[0].lengths[static_cast<size_t>(i)]);
      for (int64_t j = 0; j < samples_[1].count; ++j) {
        if (sides_ == 1 &&
            samples_[0].indices[static_cast<size_t>(i)] == samples_[1].indices[static_cast<size_t>(j)])
          continue;
        const double other = static_cast<double>(samples_[1].lengths[static_cast<size_t>(j)]);
        if (length != queryLength || other != keyLength) {
          bound = plan.bound(candidate->errors[0], length, candidate->errors[1], other);
          queryLength = length;
          keyLength = other;
        }
        const double over = static_cast<double>(scores.get()[i * samples_[1].count + j]) - threshold_;
        // Not below it, and not above it where that is all one needs to know.
        open += !(over < -bound) && (all || !(over > bound));
        ++seen;
      }
    }
    const double share = static_cast<double>(open) / static_cast<double>(std::max<int64_t>(seen, 1));
    const bool files = !queries_.inMemory() || !keys_.inMemory();
    const double decision = kDecision + (decided_ ? kCanonicalRows : 0) + (files ? kFromFile : 0);
    // Where most of a strip is open it is done again in float32.
    const double again =
        static_cast<double>(dim_) / kernels().float32->speed / kCycles * 1.6 + kDecision * share;
    const double rows = static_cast<double>(queries_.rows + (sides_ == 1 ? 0 : keys_.rows));
    double encoding = kEncodeElement * static_cast<double>(dim_);
    if (plan.oneSided)
      encoding +=
          static_cast<double>(plan.queries.basis->count * dim_) / kernels().float32->speed / kCycles * 1.3;
    candidate->cost = time(plan) + pairs_ * std::min(share * decision, again) + rows * encoding;
    if (candidate->cost < best_.cost || best_.plan.kernel == nullptr) best_ = std::move(*candidate);
  }

  int64_t sampleOfDirections() const {
    return std::min<int64_t>(queries_.rows, std::max<int64_t>(1024, 2 * dim_));
  }

  // Their sample, its second moments and the directions themselves.
  bool directionsFit(int64_t most) const {
    const int64_t rows = std::max(sampleOfDirections(), 4 * most);
    return 4 * dim_ * (rows + dim_ + 3 * most) <= memoryBudget(context_) / 4;
  }

  bool wantsPrefix() const {
    if (!directionsFit(std::min(kMostPrefix, dim_)) || best_.plan.kernel == nullptr || dim_ < 64 ||
        dim_ > kWidestPrefix || queries_.rows < 1024)
      return false;
    const auto dim = static_cast<double>(dim_);
    const double moments = dim * dim * static_cast<double>(sampleOfDirections() + 6 * kMostPrefix) / 60 + 5e6;
    // Half of it, at least, would have to be left for encoding and a shorter comparison.
    return time(best_.plan) > 3 * moments;
  }

  Status considerPrefixes() {
    const int64_t most = context_.prefix > 0 ? context_.prefix : std::min(kMostPrefix, dim_ / 2 - 1);
    Directions directions;
    {
      RowSample sample;
      CLIPCID_TRY(sampleRows(context_, queries_, std::max(sampleOfDirections(), 4 * most), &sample));
      CLIPCID_TRY(leadingDirections(context_, sample.rows.get(), sample.stride, sample.count, dim_,
                                    std::min(most, dim_), &directions));
    }
    // Fewer rows, or rows of fewer dimensions, than directions that were asked for: one is always found.
    std::vector<int64_t> counts;
    if (context_.prefix > 0) {
      counts.push_back(std::min(context_.prefix, directions.count));
    } else {
      for (int64_t count = 31; count <= directions.count; count += 32) counts.push_back(count);
    }
    for (const int64_t count : counts) {
      if (count < 1 || !(directions.defect < 0.01)) continue;
      // Of those that would take longer for their products alone nothing is worked out.
      std::vector<Filter> left;
      for (const Filter filter : filters()) {
        const FilterKernel& kernel = filterKernel(filter);
        if (time(kernel, filter, wordsOf(kernel, filter, count + 1)) < best_.cost) left.push_back(filter);
      }
      if (left.empty()) continue;
      const std::shared_ptr<const Basis> basis = basisOf(directions, count, dim_);
      RowSample heads[2];
      for (int side = 0; side < 2; ++side)
        CLIPCID_TRY(project(directions, samples_[side], count, &heads[side]));
      AlignedArray<float> scores;
      CLIPCID_TRY(productOf(context_, heads[0], heads[1], count + 1, &scores));
      const double rounding =
          1.1 * static_cast<double>(dim_) * 0x1p-24 * std::sqrt(static_cast<double>(count));
      for (const Filter filter : left) {
        Candidate candidate;
        if (!fill(filter, false, stepSamples(heads), sides_, count + 1, &candidate)) continue;
        candidate.plan.queries.basis = candidate.plan.keys.basis = basis;
        for (double& error : candidate.errors) error += rounding;
        consider(&candidate, scores);
      }
    }
    return {};
  }

  // Coordinates of the sample's rows under the first directions, and the length of the remainder behind them.
  Status project(const Directions& directions, const RowSample& sample, int64_t count, RowSample* out) {
    out->count = sample.count;
    out->stride = (count + 1 + 15) / 16 * 16;
    out->rows = AlignedArray<float>(sample.count * out->stride);
    std::fill(out->rows.get(), out->rows.get() + sample.count * out->stride, 0.0f);
    CLIPCID_TRY(cpuBackend().matmul(context_, {.a = sample.rows.get(),
                                               .b = directions.rows.get(),
                                               .c = out->rows.get(),
                                               .m = sample.count,
                                               .n = count,
                                               .k = dim_,
                                               .strideA = sample.stride,
                                               .strideB = dim_,
                                               .strideC = out->stride,
                                               .transposeB = true}));
    for (int64_t r = 0; r < sample.count; ++r) {
      float* row = out->rows.get() + r * out->stride;
      const double length = static_cast<double>(sample.lengths[static_cast<size_t>(r)]);
      double left = length * length;
      for (int64_t k = 0; k < count; ++k) left -= static_cast<double>(row[k]) * static_cast<double>(row[k]);
      row[count] = static_cast<float>(std::sqrt(std::max(left, 0.0)));
    }
    return {};
  }

  const Context& context_;
  const CpuPrepared& queries_;
  const CpuPrepared& keys_;
  const double threshold_;
  const bool decided_;
  const int64_t dim_;
  const int sides_;
  const double pairs_;
  RowSample samples_[2];
  AlignedArray<float> dots_;
  Candidate best_;
};

}  // namespace

Status sampleRows(const Context& context, const CpuPrepared& rows, int64_t count, RowSample* out) {
  out->count = std::min(count, rows.rows);
  out->stride = (rows.dim + 15) / 16 * 16 + 16;
  // A microkernel reads whole tiles.
  const int64_t readable = out->count + kMostTileRows;
  out->rows = AlignedArray<float>(readable * out->stride);
  std::fill(out->rows.get() + out->count * out->stride, out->rows.get() + readable * out->stride, 0.0f);
  out->indices.resize(static_cast<size_t>(out->count));
  out->lengths.resize(static_cast<size_t>(out->count));
  constexpr int64_t kRange = 32;
  return parallelTry(context, (out->count + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
    const AlignedArray<float> scratch(rows.dim);
    for (int64_t at = range * kRange; at < std::min((range + 1) * kRange, out->count); ++at) {
      const int64_t index = (2 * at + 1) * rows.rows / (2 * out->count);
      const float* stored;
      CLIPCID_TRY(rows.stored(index, scratch.get(), &stored));
      approximateRows(rows, false, index, 1, stored, rows.dim, out->rows.get() + at * out->stride,
                      out->stride);
      out->indices[static_cast<size_t>(at)] = index;
      out->lengths[static_cast<size_t>(at)] = static_cast<float>(rows.normBound(index));
    }
    return {};
  });
}

double sampleStep(const RowSample& sample, int64_t at, int64_t dim) {
  return static_cast<double>(largestElement(sample.row(at), dim)) / 127;
}

Status planFilter(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, Filter filter,
                  bool own, FilterPlan* out) {
  filter = availableFilter(filter == Filter::kAuto ? Filter::kInt8 : filter);
  const int sides = &queries == &keys ? 1 : 2;
  RowSample samples[2];
  CLIPCID_TRY(sampleRows(context, queries, kStepSample, &samples[0]));
  if (sides == 2) CLIPCID_TRY(sampleRows(context, keys, kStepSample, &samples[1]));
  Candidate candidate;
  if (!fill(filter, own, samples, sides, queries.dim, &candidate))
    fill(availableFilter(Filter::kBfloat16), own, samples, sides, queries.dim, &candidate);
  candidate.plan.dim = queries.dim;
  *out = std::move(candidate.plan);
  return {};
}

Status planJoin(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, double threshold,
                bool decided, FilterPlan* out) {
  // So little to compare that a sample would cost more than it could save.
  const bool little = pairsOf(queries, keys) * static_cast<double>(queries.dim) < 1e8;
  if (little && context.filter == Filter::kAuto && context.prefix <= 0)
    return planFilter(context, queries, keys, Filter::kFloat32, false, out);
  if (queries.rows == 0 || keys.rows == 0)
    return planFilter(context, queries, keys, Filter::kFloat32, false, out);
  return JoinPlanner(context, queries, keys, threshold, decided).run(out);
}

}  // namespace clipcid
