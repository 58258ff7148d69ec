// AdamW on the CPU, the step of core/adamw.h.
//
// In and out: flat float32 buffers of one length. Pass 1 sums the gradients' squares in float64, sixteen
// lanes a chunk, and adds the chunks' sums in order; a sum that is not finite means a gradient that is not,
// and nothing has been written then. Pass 2 updates chunk by chunk. A chunk's bounds come from its group
// alone and nothing is fused, so that neither the number of threads nor the instruction set changes a bit.
// Bound by memory bandwidth: 4 bytes read, then 28 to 36 moved for each parameter.
//
// Best measured: 5 million parameters with the average, 18 ms on one thread and 9 ms on two (24 GB/s); Xeon
// with AVX-512 at 2.6 GHz, 2026-11-22.
#include "core/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr int64_t kChunk = 1 << 14;
constexpr int kLanes = 16;

struct Range {
  int64_t begin;
  int64_t length;
  size_t group;
};

CLIPCID_WIDE double sumOfSquares(const float* values, int64_t length) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<double>(values[i + lane]);
      lanes[lane] += value * value;
    }
  }
  for (; i < length; ++i) {
    const auto value = static_cast<double>(values[i]);
    lanes[i % kLanes] += value * value;
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

CLIPCID_WIDE void update(const AdamwScalars& scalars, float* __restrict parameters,
                         float* __restrict gradients, float* __restrict first, float* __restrict second,
                         int64_t length) {
  // A copy, because a store to a buffer could otherwise be taken to change it.
  const AdamwScalars s = scalars;
  for (int64_t i = 0; i < length; ++i) {
    const float g = gradients[i] * s.gradientScale;
    const float m = s.beta1 * first[i] + s.rest1 * g;
    const float v = s.beta2 * second[i] + s.rest2 * g * g;
    first[i] = m;
    second[i] = v;
    parameters[i] =
        parameters[i] * s.keep - s.stepSize * (m / (std::sqrt(v) * s.inverseCorrection + s.epsilon));
    gradients[i] = 0;
  }
}

CLIPCID_WIDE void average(float rest, float* __restrict ema, const float* __restrict parameters,
                          int64_t length) {
  for (int64_t i = 0; i < length; ++i) ema[i] += rest * (parameters[i] - ema[i]);
}

// The first gradient that is NaN or infinite.
Status notFinite(const AdamwArgs& args) {
  int64_t begin = 0;
  for (const AdamwGroup& group : args.groups) {
    for (int64_t i = begin; group.rate != 0 && i < begin + group.length; ++i) {
      if (!std::isfinite(args.gradients[i])) {
        return {Code::kInvalidData, "The gradient at element " + std::to_string(i) + " is NaN or infinite"};
      }
    }
    begin += group.length;
  }
  return {Code::kInternal, "The gradient norm is not finite"};
}

}  // namespace

Status CpuBackend::adamw(const Context& context, const AdamwArgs& args) {
  CLIPCID_TRY(validateAdamw(args));
  try {
    std::vector<Range> ranges;
    int64_t begin = 0;
    for (size_t group = 0; group < args.groups.size(); ++group) {
      const int64_t end = begin + args.groups[group].length;
      for (; begin < end; begin += std::min(kChunk, end - begin)) {
        ranges.push_back({begin, std::min(kChunk, end - begin), group});
      }
    }
    const auto count = static_cast<int64_t>(ranges.size());

    std::vector<double> sums(ranges.size(), 0.0);
    parallelFor(context.threads, count, [&](int64_t index, int) {
      const Range& range = ranges[index];
      if (args.groups[range.group].rate == 0) return;
      sums[index] = sumOfSquares(args.gradients + range.begin, range.length);
    });
    double squares = 0;
    for (const double sum : sums) squares += sum;
    const double norm = std::sqrt(squares);
    if (!std::isfinite(norm)) return notFinite(args);
    // From here on buffers change: a step that began to write finishes.
    if (context.cancelled()) return Status::aborted();

    std::vector<AdamwScalars> scalars;
    for (const AdamwGroup& group : args.groups) scalars.push_back(adamwScalars(args, group, norm));
    parallelFor(context.threads, count, [&](int64_t index, int) {
      const Range& range = ranges[index];
      float* gradients = args.gradients + range.begin;
      if (args.groups[range.group].rate == 0) {
        std::memset(gradients, 0, static_cast<size_t>(range.length) * sizeof(float));
      } else {
        update(scalars[range.group], args.parameters + range.begin, gradients, args.first + range.begin,
               args.second + range.begin, range.length);
      }
      if (args.ema != nullptr) {
        average(scalars[range.group].averageRest, args.ema + range.begin, args.parameters + range.begin,
                range.length);
      }
    });
    if (args.gradientNorm != nullptr) *args.gradientNorm = norm;
  } catch (const std::bad_alloc&) {
    return {Code::kOutOfMemory, "Out of memory in AdamW"};
  }
  return {};
}

}  // namespace clipcid
