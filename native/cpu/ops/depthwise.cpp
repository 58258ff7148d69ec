// Depthwise convolutions: every channel for itself, so that a pixel's images and channels are one vector, and an output
// is a few multiply-adds of whole vectors.
#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/ops/conv.h"
#include "cpu/ops/conv_kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kLeastWork = 1 << 15;  // multiply-adds that are worth handing over
constexpr int64_t kMostParts = 16;       // of the weights' gradient

// What is by channel is repeated to this length.
int64_t periodOf(const ConvKernels& kernels, int64_t channels) {
  return std::lcm<int64_t>(channels, kernels.width);
}

void repeat(const float* values, int64_t stride, int64_t channels, int64_t period, float* out) {
  for (int64_t i = 0; i < channels; ++i) out[i] = values[i * stride];
  for (int64_t i = channels; i < period; ++i) out[i] = out[i - channels];
}

struct Sides {
  Taps vertical, horizontal;
  int64_t sourceWidth;
};

// Targets as sums over their sources.
void sumSources(Team& team, const ConvShape& shape, const Sides& sides, const float* weights,
                const float* bias, const float* sources, bool add, float* targets) {
  const ConvKernels& kernels = convKernels();
  const int64_t taps = shape.kernelHeight * shape.kernelWidth;
  const int64_t period = periodOf(kernels, shape.channels);
  const int64_t slab = shape.images * shape.channels;
  const int64_t height = sides.vertical.targets(), width = sides.horizontal.targets();
  float* repeated = team.shared((taps + 1) * period);
  for (int64_t tap = 0; tap < taps; ++tap)
    repeat(weights + tap, taps, shape.channels, period, repeated + tap * period);
  float* offset = repeated + taps * period;
  if (bias != nullptr) repeat(bias, 1, shape.channels, period, offset);
  // A task's taps, and the weights that go with them.
  team.own(taps * period);
  const int64_t work = height * width * slab * taps;
  const int64_t tasks = std::clamp<int64_t>(work / kLeastWork, 1, height);
  std::vector<std::vector<const float*>> pointers(static_cast<size_t>(team.threads()));
  team.each(tasks, [&](int64_t index, int worker) {
    std::vector<const float*>& from = pointers[static_cast<size_t>(worker)];
    for (int64_t y = height * index / tasks; y < height * (index + 1) / tasks; ++y) {
      const std::span<const Tap> down = sides.vertical.of(y);
      for (int64_t x = 0; x < width; ++x) {
        const std::span<const Tap> across = sides.horizontal.of(x);
        from.clear();
        for (const Tap& row : down) {
          for (const Tap& column : across)
            from.push_back(sources + (row.source * sides.sourceWidth + column.source) * slab);
        }
        const auto count = static_cast<int64_t>(from.size());
        const float* used = repeated;
        if (count != taps) {
          float* to = team.of(worker);
          for (const Tap& row : down) {
            for (const Tap& column : across) {
              const float* weight = repeated + (row.kernel * shape.kernelWidth + column.kernel) * period;
              to = std::copy(weight, weight + period, to);
            }
          }
          used = team.of(worker);
        }
        kernels.depthwise(from.data(), used, count, bias == nullptr ? nullptr : offset, slab, period, add,
                          targets + (y * width + x) * slab);
      }
    }
  });
}

}  // namespace

void depthwise(Team& team, const ConvArgs& args) {
  const ConvShape& shape = args.shape;
  const Sides sides = {Taps::forward(verticalAxis(shape)), Taps::forward(horizontalAxis(shape)), shape.width};
  sumSources(team, shape, sides, args.weights, args.bias, args.x, false, args.y);
}

void depthwise(Team& team, const ConvInputGradientArgs& args) {
  const ConvShape& shape = args.shape;
  const Sides sides = {Taps::backward(verticalAxis(shape)), Taps::backward(horizontalAxis(shape)),
                       shape.outWidth};
  sumSources(team, shape, sides, args.weights, nullptr, args.dy, args.add, args.dx);
}

// Rows of the output are parted, each part sums for itself, and the parts are added in order.
void depthwise(Team& team, const ConvWeightGradientArgs& args) {
  const ConvShape& shape = args.shape;
  const ConvKernels& kernels = convKernels();
  const Taps vertical = Taps::forward(verticalAxis(shape)), horizontal = Taps::forward(horizontalAxis(shape));
  const int64_t taps = shape.kernelHeight * shape.kernelWidth;
  const int64_t period = periodOf(kernels, shape.channels);
  const int64_t slab = shape.images * shape.channels;
  const int64_t work = shape.outHeight * shape.outWidth * slab * taps;
  const int64_t parts = std::clamp<int64_t>(work / kLeastWork, 1, std::min(shape.outHeight, kMostParts));
  float* sums = team.shared(parts * taps * period);
  team.each(parts, [&](int64_t part, int) {
    float* own = sums + part * taps * period;
    std::fill_n(own, taps * period, 0.0f);
    for (int64_t y = shape.outHeight * part / parts; y < shape.outHeight * (part + 1) / parts; ++y) {
      for (int64_t x = 0; x < shape.outWidth; ++x) {
        const float* dy = args.dy + (y * shape.outWidth + x) * slab;
        for (const Tap& row : vertical.of(y)) {
          for (const Tap& column : horizontal.of(x)) {
            kernels.productSums(dy, args.x + (row.source * shape.width + column.source) * slab, slab, period,
                                own + (row.kernel * shape.kernelWidth + column.kernel) * period);
          }
        }
      }
    }
  });
  for (int64_t tap = 0; tap < taps; ++tap) {
    for (int64_t c = 0; c < shape.channels; ++c) {
      float sum = 0;
      for (int64_t part = 0; part < parts; ++part) {
        for (int64_t at = c; at < period; at += shape.channels)
          sum += sums[(part * taps + tap) * period + at];
      }
      args.dWeights[c * taps + tap] += sum;
    }
  }
}

}  // namespace clipcid
