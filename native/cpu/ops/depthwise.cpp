// Depthwise convolutions: every channel for itself, so that a pixel's images and channels are one vector, and an output
// is a few multiply-adds of whole vectors.
#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/ops/conv.h"
#include "cpu/ops/conv_kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kLeastWork = 1 << 17;  // multiply-adds that are worth handing over
constexpr int64_t kMostParts = 16;       // of the weights' gradient
constexpr int64_t kNear = 32 << 10;      // floats that stay in the second-level cache

// What is by channel is repeated to this length.
int64_t periodOf(const ConvKernels& kernels, int64_t channels) {
  return std::lcm<int64_t>(channels, kernels.width);
}

// Elements from `channels` on as those before.
void repeat(float* values, int64_t channels, int64_t period) {
  for (int64_t i = channels; i < period; ++i) values[i] = values[i - channels];
}

// Weights [channels, taps] as [taps, period].
void repeatTaps(const ConvKernels& kernels, const float* weights, int64_t taps, int64_t channels,
                int64_t period, float* out) {
  const int64_t width = kernels.width;
  for (int64_t c = 0; c < channels; c += width) {
    const int lanes = static_cast<int>(std::min(width, channels - c));
    for (int64_t tap = 0; tap < taps; tap += width) {
      const int some = static_cast<int>(std::min(width, taps - tap));
      kernels.transpose(weights + c * taps + tap, taps, lanes, some, out + tap * period + c, period);
    }
  }
  for (int64_t tap = 0; tap < taps; ++tap) repeat(out + tap * period, channels, period);
}

// Slabs in pieces of some periods: what windows share of a piece stays near from one to the next.
struct Pieces {
  Pieces(int64_t slab, int64_t period, int64_t slabs) : slab(slab) {
    size = std::max<int64_t>(1, kNear / slabs / period) * period;
    count = (slab + size - 1) / size;
  }
  int64_t begin(int64_t piece) const { return piece * size; }
  int64_t length(int64_t piece) const { return std::min(size, slab - piece * size); }

  int64_t slab, size, count;
};

struct Sides {
  Taps vertical, horizontal;
  int64_t sourceHeight, sourceWidth;
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
  repeatTaps(kernels, weights, taps, shape.channels, period, repeated);
  float* offset = bias == nullptr ? nullptr : repeated + taps * period;
  if (bias != nullptr) {
    std::copy(bias, bias + shape.channels, offset);
    repeat(offset, shape.channels, period);
  }
  const Pieces pieces(slab, period, std::min(shape.kernelHeight, sides.sourceHeight) * sides.sourceWidth);
  const int64_t units = pieces.count * height;
  const int64_t tasks = std::clamp<int64_t>(height * width * slab * taps / kLeastWork, 1, units);
  struct Own {
    std::vector<const float*> sources, weights;
  };
  std::vector<Own> owns(static_cast<size_t>(team.threads()));
  team.each(tasks, [&](int64_t index, int worker) {
    Own& own = owns[static_cast<size_t>(worker)];
    for (int64_t unit = units * index / tasks; unit < units * (index + 1) / tasks; ++unit) {
      const int64_t y = unit % height, piece = unit / height;
      const int64_t begin = pieces.begin(piece);
      for (int64_t x = 0; x < width; ++x) {
        own.sources.clear();
        own.weights.clear();
        for (const Tap& row : sides.vertical.of(y)) {
          for (const Tap& column : sides.horizontal.of(x)) {
            own.sources.push_back(sources + (row.source * sides.sourceWidth + column.source) * slab + begin);
            own.weights.push_back(repeated + (row.kernel * shape.kernelWidth + column.kernel) * period);
          }
        }
        kernels.depthwise(own.sources.data(), own.weights.data(), static_cast<int64_t>(own.sources.size()),
                          offset, pieces.length(piece), period, add,
                          targets + (y * width + x) * slab + begin);
      }
    }
  });
}

}  // namespace

void depthwise(Team& team, const ConvArgs& args) {
  const ConvShape& shape = args.shape;
  const Sides sides = {Taps::forward(verticalAxis(shape)), Taps::forward(horizontalAxis(shape)), shape.height,
                       shape.width};
  sumSources(team, shape, sides, args.weights, args.bias, args.x, false, args.y);
}

void depthwise(Team& team, const ConvInputGradientArgs& args) {
  const ConvShape& shape = args.shape;
  const Sides sides = {Taps::backward(verticalAxis(shape)), Taps::backward(horizontalAxis(shape)),
                       shape.outHeight, shape.outWidth};
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
  float* sums = team.shared((parts + 1) * taps * period + taps * kernels.width);
  float* line = sums + parts * taps * period;
  const Pieces pieces(slab, period, (std::min(shape.kernelHeight, shape.height) + 1) * shape.width);
  struct Own {
    std::vector<const float*> x, dy;
  };
  std::vector<Own> owns(static_cast<size_t>(team.threads()));
  team.each(parts, [&](int64_t part, int worker) {
    Own& own = owns[static_cast<size_t>(worker)];
    float* to = sums + part * taps * period;
    std::fill_n(to, taps * period, 0.0f);
    for (int64_t piece = 0; piece < pieces.count; ++piece) {
      const int64_t begin = pieces.begin(piece);
      for (int64_t y = shape.outHeight * part / parts; y < shape.outHeight * (part + 1) / parts; ++y) {
        for (const Tap& row : vertical.of(y)) {
          for (int64_t tap = 0; tap < shape.kernelWidth; ++tap) {
            own.x.clear();
            own.dy.clear();
            for (int64_t x = 0; x < shape.outWidth; ++x) {
              for (const Tap& column : horizontal.of(x)) {
                if (column.kernel != tap) continue;
                own.x.push_back(args.x + (row.source * shape.width + column.source) * slab + begin);
                own.dy.push_back(args.dy + (y * shape.outWidth + x) * slab + begin);
              }
            }
            kernels.productSums(own.dy.data(), own.x.data(), static_cast<int64_t>(own.x.size()),
                                pieces.length(piece), period,
                                to + (row.kernel * shape.kernelWidth + tap) * period);
          }
        }
      }
    }
  });
  for (int64_t part = 1; part < parts; ++part) {
    for (int64_t i = 0; i < taps * period; ++i) sums[i] += sums[part * taps * period + i];
  }
  for (int64_t tap = 0; tap < taps; ++tap) {
    float* of = sums + tap * period;
    for (int64_t i = shape.channels; i < period; ++i) of[i % shape.channels] += of[i];
  }
  kernels.addTaps({sums, taps, period, 0, 1, shape.channels}, line, args.dWeights, 0);
}

}  // namespace clipcid
