// Convolution: the pass forward, and the gradient of the input.
#include "cpu/ops/conv.h"

#include <algorithm>
#include <cstring>

#include "cpu/ops/ops.h"
#include "cpu/ops/window_sums.h"
#include "cpu/ops/winograd.h"

namespace clipcid {
namespace {

// Weights [outChannels, channels, height, width] as [height, width * channels, stride], as rows of a planar input are.
void packRows(const ConvShape& shape, const float* weights, int64_t count, int64_t stride, float* panel) {
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t c = 0; c < shape.channels; ++c) {
      for (int64_t y = 0; y < shape.kernelHeight; ++y) {
        for (int64_t x = 0; x < shape.kernelWidth; ++x)
          panel[((y * shape.kernelWidth + x) * shape.channels + c) * stride + j] = *weights++;
      }
    }
  }
}

}  // namespace

Winograd winogradOf(const ConvShape& shape, bool backward) {
  Winograd winograd;
  winograd.images = shape.images;
  winograd.sourceHeight = backward ? shape.outHeight : shape.height;
  winograd.sourceWidth = backward ? shape.outWidth : shape.width;
  winograd.depth = backward ? shape.outChannels : shape.channels;
  winograd.targetHeight = backward ? shape.height : shape.outHeight;
  winograd.targetWidth = backward ? shape.width : shape.outWidth;
  winograd.columns = backward ? shape.channels : shape.outChannels;
  winograd.padTop = backward ? 2 - shape.padTop : shape.padTop;
  winograd.padLeft = backward ? 2 - shape.padLeft : shape.padLeft;
  winograd.flipped = backward;
  return winograd;
}

InputRows::InputRows(const ConvShape& shape)
    : shape(shape),
      paddedWidth(std::max(shape.padLeft + shape.width,
                           (shape.outWidth - 1) * shape.strideWidth + shape.kernelWidth)) {}

void InputRows::fill(Team& team, const float* x, float* out) const {
  const int64_t channels = shape.channels, plane = shape.height * shape.width;
  team.each(shape.height, [&](int64_t y, int) {
    float* to = out + y * row();
    for (int64_t n = 0; n < shape.images; ++n, to += image()) {
      const float* from = x + n * channels * plane + y * shape.width;
      std::fill_n(to, shape.padLeft * channels, 0.0f);
      float* inside = to + shape.padLeft * channels;
      if (channels == 3) {
        for (int64_t i = 0; i < shape.width; ++i) {
          inside[3 * i] = from[i];
          inside[3 * i + 1] = from[plane + i];
          inside[3 * i + 2] = from[2 * plane + i];
        }
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t i = 0; i < shape.width; ++i) inside[i * channels + c] = from[c * plane + i];
        }
      }
      std::fill(inside + shape.width * channels, to + image(), 0.0f);
    }
  });
}

namespace {

WindowSums sumsOf(const ConvShape& shape, const Taps& vertical, const Taps& horizontal, bool backward) {
  const int64_t inputs = shape.channels / shape.groups, outputs = shape.outChannels / shape.groups;
  WindowSums sums;
  sums.images = shape.images;
  sums.vertical = &vertical;
  sums.horizontal = &horizontal;
  sums.verticalTaps = shape.kernelHeight;
  sums.horizontalTaps = shape.kernelWidth;
  sums.groups = shape.groups;
  sums.depth = sums.sourceGroup = backward ? outputs : inputs;
  sums.columns = backward ? inputs : outputs;
  sums.sourceImage = backward ? shape.outChannels : shape.channels;
  sums.sourceColumn = shape.images * sums.sourceImage;
  sums.sourceRow = (backward ? shape.outWidth : shape.width) * sums.sourceColumn;
  return sums;
}

void fromRows(Team& team, const ConvArgs& args) {
  const ConvShape& shape = args.shape;
  const InputRows rows(shape);
  float* packed = team.shared(rows.floats());
  rows.fill(team, args.x, packed);
  const Taps vertical = Taps::forward(verticalAxis(shape));
  const Taps starts = Taps::forward({shape.outWidth, shape.outWidth, 1, 1, 1, 0});
  WindowSums sums = sumsOf(shape, vertical, starts, false);
  sums.horizontalTaps = 1;
  sums.depth = shape.kernelWidth * shape.channels;
  sums.source = packed;
  sums.sourceImage = rows.image();
  sums.sourceColumn = shape.strideWidth * shape.channels;
  sums.sourceRow = rows.row();
  sums.target = args.y;
  sums.bias = args.bias;
  const int64_t size = shape.channels * shape.kernelHeight * shape.kernelWidth;
  sums.pack = [&](int64_t, int64_t first, int64_t count, int64_t stride, float* panel) {
    packRows(shape, args.weights + first * size, count, stride, panel);
  };
  run(team, sums);
}

}  // namespace

Status run(Team& team, const ConvArgs& args) {
  const ConvShape& shape = args.shape;
  if (isDepthwise(shape)) {
    depthwise(team, args);
    return {};
  }
  if (shape.planar) {
    fromRows(team, args);
    return {};
  }
  const ConvKernels& kernels = convKernels();
  const int64_t inputs = shape.channels / shape.groups, outputs = shape.outChannels / shape.groups;
  const int64_t taps = shape.kernelHeight * shape.kernelWidth;
  const auto pack = [&](int64_t group, int64_t first, int64_t count, int64_t stride, float* panel) {
    kernels.packForward(args.weights + (group * outputs + first) * inputs * taps, inputs, taps, count, stride,
                        panel);
  };
  if (isThreeByThree(shape)) {
    Winograd winograd = winogradOf(shape, false);
    if (pays(winograd)) {
      winograd.source = args.x;
      winograd.target = args.y;
      winograd.bias = args.bias;
      winograd.pack = [&](int64_t first, int64_t count, int64_t stride, float* panel) {
        pack(0, first, count, stride, panel);
      };
      run(team, winograd);
      return {};
    }
  }
  const Taps vertical = Taps::forward(verticalAxis(shape)), horizontal = Taps::forward(horizontalAxis(shape));
  WindowSums sums = sumsOf(shape, vertical, horizontal, false);
  sums.source = args.x;
  sums.target = args.y;
  sums.bias = args.bias;
  sums.pack = pack;
  run(team, sums);
  return {};
}

Status run(Team& team, const ConvInputGradientArgs& args) {
  const ConvShape& shape = args.shape;
  if (isDepthwise(shape)) {
    depthwise(team, args);
    return {};
  }
  const ConvKernels& kernels = convKernels();
  const int64_t inputs = shape.channels / shape.groups, outputs = shape.outChannels / shape.groups;
  const int64_t taps = shape.kernelHeight * shape.kernelWidth;
  const auto pack = [&](int64_t group, int64_t first, int64_t count, int64_t stride, float* panel) {
    kernels.packBackward(args.weights + (group * outputs * inputs + first) * taps, outputs, inputs, taps,
                         count, stride, panel);
  };
  if (isThreeByThree(shape)) {
    Winograd winograd = winogradOf(shape, true);
    if (pays(winograd)) {
      winograd.source = args.dy;
      winograd.target = args.dx;
      winograd.add = args.add;
      winograd.pack = [&](int64_t first, int64_t count, int64_t stride, float* panel) {
        pack(0, first, count, stride, panel);
      };
      run(team, winograd);
      return {};
    }
  }
  const Taps vertical = Taps::backward(verticalAxis(shape)),
             horizontal = Taps::backward(horizontalAxis(shape));
  WindowSums sums = sumsOf(shape, vertical, horizontal, true);
  sums.source = args.dy;
  sums.target = args.dx;
  sums.add = args.add;
  sums.pack = pack;
  run(team, sums);
  return {};
}

}  // namespace clipcid
