// Which kind of multiplication: float32 without tensor cores for little work and short rows; float16, whose errors are small
// for all rows; or int8, twice or four times as fast, where a sample shows that its bound leaves few pairs open.
//
// Model of the time of a join: multiplications by the tensor cores' rates, and decisions of pairs within the bound by the
// memory's; shares of pairs come from the dots of a sample of queries with a sample of keys. Rates are of data sheets; not yet
// measured.
#include "cuda/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/aligned.h"
#include "cuda/mainloops.h"
#include "cuda/tensor_rounding.h"

namespace clipcid::cuda {
namespace {

// Products of elements below which a sample would take longer than it could save.
constexpr double kLittle = 1e10;
// Rows of fewer elements waste tensor cores; so do fewer pairs than some small tiles.
constexpr int64_t kShort = 16;
constexpr int64_t kFewPairs = 4 * 64 * 64;
constexpr int64_t kStepSample = 128;
// Largest value of a float16 word, of 65,504.
constexpr int kHalfExponent = 14;

// Multiplications in a cycle and multiprocessor; sums in float32.
struct Rates {
  int architecture;  // this one and up, to the next
  double float16, int8;
};
constexpr Rates kRates[] = {{80, 1024, 2048}, {86, 256, 1024}, {90, 2048, 4096}, {120, 256, 1024}};
constexpr double kCycles = 1.6e9;    // a second, about
constexpr double kBandwidth = 6e11;  // bytes a second, where the device does not say
constexpr double kCacheGain = 3;     // of rows that are decided, most come from the cache

double pairsOf(const CudaPrepared& queries, const CudaPrepared& keys) {
  const double all = static_cast<double>(queries.rows) * static_cast<double>(keys.rows);
  return &queries == &keys ? all / 2 : all;
}

// A power of two that brings the largest element just below 2^kHalfExponent.
float halfScale(double largest) {
  int exponent = 0;
  if (largest > 0) std::frexp(largest, &exponent);
  return std::ldexp(1.0f, std::clamp(kHalfExponent - exponent, -120, 100));
}

// Some rows as compared, spread evenly over a matrix.
struct Sample {
  int64_t count = 0, dim = 0;
  AlignedArray<float> rows{};  // [count, dim]
  std::vector<int64_t> indices{};

  float* row(int64_t at) const { return rows.get() + at * dim; }
};

Status takeSample(const Context& context, const CudaPrepared& from, int64_t count, Sample* out) {
  out->count = std::min(count, from.rows);
  out->dim = from.dim;
  out->rows = AlignedArray<float>(std::max<int64_t>(out->count * out->dim, 1));
  for (int64_t at = 0; at < out->count; ++at)
    out->indices.push_back((2 * at + 1) * from.rows / (2 * out->count));
  return gatherCompared(context, from, out->indices.data(), out->count, out->rows.get());
}

// Largest square of what rounding to int8 leaves of a row: a tile's bound is that of its worst row.
double residual(const Sample& sample, float step) {
  double most = 0;
  for (int64_t r = 0; r < sample.count; ++r) {
    double sum = 0;
    for (int64_t k = 0; k < sample.dim; ++k) {
      const float x = sample.row(r)[k];
      const float left = x - std::rint(std::clamp(x / step, -127.0f, 127.0f)) * step;
      sum += static_cast<double>(left) * static_cast<double>(left);
    }
    most = std::max(most, sum);
  }
  return most;
}

struct Step {
  float step = 0;  // 0: int8 is no good for these rows
  double residual = 0;
};

// The step of least residual: one smaller than the largest value needs clips a few.
Step chooseStep(const Sample& sample) {
  float most = 0;
  for (int64_t at = 0; at < sample.count * sample.dim; ++at)
    most = std::max(most, std::fabs(sample.rows.get()[at]));
  // Larger or smaller values would leave float32's range on their way.
  if (!(most > 1e-15f && most < 1e15f)) return {};
  Step best;
  for (const float part : {1.05f, 0.8f, 0.6f, 0.4f}) {
    const float step = most * part / 127;
    const double left = residual(sample, step);
    if (best.step == 0 || left < best.residual) best = {step, left};
  }
  return best;
}

// Both sides' encodings from their samples; errors about as large as a row's. False where int8 cannot hold the values.
bool encodeInt8(const Sample samples[2], int sides, FilterPlan* plan, double errors[2]) {
  Step plain[2], spread[2];
  bool better = plan->dim <= kWidestSpread && plan->dim >= 16;
  const std::vector<uint32_t> signs = spreadSigns();
  for (int side = 0; side < sides; ++side) {
    plain[side] = chooseStep(samples[side]);
    if (plain[side].step == 0) return false;
    if (!better) continue;
    Sample turned;
    turned.count = samples[side].count;
    turned.dim = samples[side].dim;
    turned.rows = AlignedArray<float>(std::max<int64_t>(turned.count * turned.dim, 1));
    std::copy(samples[side].rows.get(), samples[side].rows.get() + turned.count * turned.dim,
              turned.rows.get());
    for (int64_t r = 0; r < turned.count; ++r) spreadOnHost(signs, turned.row(r), turned.dim);
    spread[side] = chooseStep(turned);
    better = spread[side].step > 0 && spread[side].residual < 0.7 * plain[side].residual;
  }
  for (int side = 0; side < 2; ++side) {
    const Step& step = (better ? spread : plain)[side < sides ? side : 0];
    Encoding& encoding = side == 0 ? plan->queries : plan->keys;
    encoding = {Math::kInt8, better, 1 / step.step};
    errors[side] = std::sqrt(step.residual);
  }
  return true;
}

void encodeFloats(const CudaPrepared& queries, const CudaPrepared& keys, Math math, FilterPlan* plan,
                  double errors[2]) {
  plan->queries = {math, false, halfScale(queries.largest)};
  plan->keys = {math, false, halfScale(keys.largest)};
  errors[0] = errors[1] = math == Math::kFloat16 ? 0x1p-12 : 0;
}

// Bounds of int8 are of a sample's worst row, those of float16 of what rounding does to any.
class JoinPlanner {
 public:
  JoinPlanner(const Context& context, const CudaPrepared& queries, const CudaPrepared& keys, double threshold,
              bool decided)
      : context_(context), queries_(queries), keys_(keys), threshold_(threshold), decided_(decided) {}

  Status run(FilterPlan* out) {
    const int sides = &queries_ == &keys_ ? 1 : 2;
    CLIPCID_TRY(takeSample(context_, queries_, 128, &samples_[0]));
    CLIPCID_TRY(takeSample(context_, keys_, 1024, &samples_[1]));
    const int64_t dim = queries_.dim;
    for (int side = 0; side < 2; ++side) {
      for (int64_t r = 0; r < samples_[side].count; ++r) {
        const float* row = samples_[side].row(r);
        double sum = 0;
        for (int64_t k = 0; k < dim; ++k) sum += static_cast<double>(row[k]) * static_cast<double>(row[k]);
        lengths_[side].push_back(std::sqrt(sum));
      }
    }
    dots_ = AlignedArray<float>(std::max<int64_t>(samples_[0].count * samples_[1].count, 1));
    CLIPCID_TRY(cpuBackend().matmul(context_, {.a = samples_[0].rows.get(),
                                               .b = samples_[1].rows.get(),
                                               .c = dots_.get(),
                                               .m = samples_[0].count,
                                               .n = samples_[1].count,
                                               .k = dim,
                                               .strideA = dim,
                                               .strideB = dim,
                                               .strideC = samples_[1].count,
                                               .transposeB = true}));
    FilterPlan plan = *out;
    double errors[2];
    encodeFloats(queries_, keys_, Math::kFloat16, &plan, errors);
    const double float16 = cost(plan, errors);
    *out = plan;
    // Both sides of a self-join are encoded alike; the larger sample says how.
    if (encodeInt8(sides == 1 ? samples_ + 1 : samples_, sides, &plan, errors) &&
        cost(plan, errors) < float16)
      *out = plan;
    return {};
  }

 private:
  // Seconds.
  double cost(const FilterPlan& plan, const double errors[2]) const {
    const DeviceProperties& device = queries_.device().properties;
    Rates rates = kRates[0];
    for (const Rates& one : kRates) {
      if (one.architecture <= device.architecture()) rates = one;
    }
    const double pairs = pairsOf(queries_, keys_), dim = static_cast<double>(plan.dim);
    const double each = plan.math() == Math::kInt8 ? rates.int8 : rates.float16;
    const double products = pairs * dim / (each * device.multiprocessors * kCycles);
    // Errors of float16 are of a row's length, those of int8 are absolute.
    const auto error = [&](int side, double length) {
      return plan.math() == Math::kInt8 ? errors[side] : errors[side] * length;
    };
    int64_t open = 0, seen = 0;
    for (int64_t i = 0; i < samples_[0].count; ++i) {
      const double length = lengths_[0][static_cast<size_t>(i)];
      for (int64_t j = 0; j < samples_[1].count; ++j) {
        if (&queries_ == &keys_ &&
            samples_[0].indices[static_cast<size_t>(i)] == samples_[1].indices[static_cast<size_t>(j)])
          continue;
        const double other = lengths_[1][static_cast<size_t>(j)];
        const double bound = error(0, length) * other + error(1, other) * length;
        const double over = static_cast<double>(dots_.get()[i * samples_[1].count + j]) - threshold_;
        open += !(over < -bound) && (decided_ || !(over > bound));
        ++seen;
      }
    }
    const double share = static_cast<double>(open) / static_cast<double>(std::max<int64_t>(seen, 1));
    const double bandwidth = device.memoryBandwidth > 0 ? device.memoryBandwidth : kBandwidth;
    const double decision =
        static_cast<double>(queries_.rowBytes() + keys_.rowBytes()) / (bandwidth * kCacheGain);
    return products + pairs * share * decision;
  }

  const Context& context_;
  const CudaPrepared& queries_;
  const CudaPrepared& keys_;
  const double threshold_;
  const bool decided_;
  Sample samples_[2];
  std::vector<double> lengths_[2];
  AlignedArray<float> dots_;
};

}  // namespace

BoundTerms FilterPlan::terms() const {
  const auto elements = static_cast<double>(stride() / elementBytes(math()));
  double relative = 0, absolute = 0;
  switch (math()) {
    case Math::kFloat32:
      // A chain of fused multiplications and additions.
      relative = (elements + 8) * 0x1p-23;
      absolute = (elements + 8) * 0x1p-148;
      break;
    case Math::kFloat16: {
      // Zeros behind the end of a row, up to that of a mainloop's last stage, are steps too.
      const int64_t bytes = (stride() + kMostDepthBytes - 1) / kMostDepthBytes * kMostDepthBytes;
      relative = (static_cast<double>(bytes / 2) / kTensorStep + 2) * kTensorRounding;
      break;
    }
    case Math::kInt8:
      relative = 0x1p-23;  // sums are exact, but are compared as float32
      break;
    case Math::kHalves:
      return {HUGE_VALF, HUGE_VALF};  // no filter
  }
  relative /= 1 - relative;
  // 2^-40 is more than the canonical dot's own rounding for up to 65,536 elements.
  return {roundUp(relative + 0x1p-40), roundUp(absolute)};
}

std::string FilterPlan::text(const Device& device) const {
  const std::string width = std::to_string(dim);
  std::string text = std::string(mathName(math())) + ", " + width + " of " + width + " dimensions, sm_" +
                     std::to_string(device.properties.architecture());
  const Mainloop best = tileRuleOf(device.properties.architecture()).mainloop;
  if (math() != Math::kFloat32 && mainloopOf(device) != best) text += " by the sm_80 mainloop";
  return text;
}

Math mathOf(Filter filter) {
  // There is no bfloat16: float16 is as fast, and eight times as precise.
  return filter == Filter::kInt8 ? Math::kInt8 : filter == Filter::kFloat32 ? Math::kFloat32 : Math::kFloat16;
}

Status planMath(const Context& context, const CudaPrepared& queries, const CudaPrepared& keys, Math math,
                FilterPlan* out) {
  *out = {};
  out->dim = queries.dim;
  out->shape = tileShapeOf(queries.device().properties.architecture());
  double errors[2];
  if (math == Math::kInt8) {
    const int sides = &queries == &keys ? 1 : 2;
    Sample samples[2];
    CLIPCID_TRY(takeSample(context, queries, kStepSample, &samples[0]));
    if (sides == 2) CLIPCID_TRY(takeSample(context, keys, kStepSample, &samples[1]));
    if (encodeInt8(samples, sides, out, errors)) return {};
    math = Math::kFloat16;
  }
  encodeFloats(queries, keys, math, out, errors);
  return {};
}

Status planJoin(const Context& context, const CudaPrepared& queries, const CudaPrepared& keys,
                double threshold, bool decided, FilterPlan* out) {
  if (context.filter != Filter::kAuto) return planMath(context, queries, keys, mathOf(context.filter), out);
  const double pairs = pairsOf(queries, keys);
  const bool small = queries.dim < kShort || pairs < static_cast<double>(kFewPairs);
  CLIPCID_TRY(planMath(context, queries, keys, small ? Math::kFloat32 : Math::kFloat16, out));
  if (small || pairs * static_cast<double>(queries.dim) < kLittle) return {};
  return JoinPlanner(context, queries, keys, threshold, decided).run(out);
}

Status planBest(const Context& context, const CudaPrepared& queries, const CudaPrepared& keys, int64_t count,
                bool euclidean, FilterPlan* out) {
  const double pairs = static_cast<double>(count) * static_cast<double>(keys.rows);
  const bool small = queries.dim < kShort || pairs < static_cast<double>(kFewPairs);
  // The best of many is often close to the next: int8 would leave too many open. Nor does it hold half of a key's square.
  Math math = context.filter != Filter::kAuto ? mathOf(context.filter)
              : small                         ? Math::kFloat32
                                              : Math::kFloat16;
  if (math == Math::kInt8 && euclidean) math = Math::kFloat16;
  return planMath(context, queries, keys, math, out);
}

Status planCentres(const Context& context, const CudaPrepared& rows, int64_t count, int64_t clusters,
                   double largest, FilterPlan* out) {
  const double pairs = static_cast<double>(count) * static_cast<double>(clusters);
  const bool small = rows.dim < kShort || pairs < static_cast<double>(kFewPairs);
  Math math = context.filter != Filter::kAuto ? mathOf(context.filter)
              : small                         ? Math::kFloat32
                                              : Math::kFloat16;
  // There is no sample of centres that do not exist yet.
  if (math == Math::kInt8) math = Math::kFloat16;
  *out = {};
  out->dim = rows.dim;
  out->shape = tileShapeOf(rows.device().properties.architecture());
  out->queries = {math, false, halfScale(rows.largest)};
  out->keys = {math, false, halfScale(largest)};
  return {};
}

Status planTopK(const Context& context, const CudaPrepared& queries, const CudaPrepared& keys, double pairs,
                FilterPlan* out) {
  const bool small = queries.dim < kShort || pairs < static_cast<double>(kFewPairs);
  const Math math = context.filter != Filter::kAuto ? mathOf(context.filter)
                    : small                         ? Math::kFloat32
                                                    : Math::kFloat16;
  return planMath(context, queries, keys, math, out);
}

float roundDown(double value) {
  const auto near = static_cast<float>(value);
  return static_cast<double>(near) > value ? std::nextafterf(near, -std::numeric_limits<float>::infinity())
                                           : near;
}

float roundUp(double value) {
  const auto near = static_cast<float>(value);
  return static_cast<double>(near) < value ? std::nextafterf(near, std::numeric_limits<float>::infinity())
                                           : near;
}

}  // namespace clipcid::cuda
