// The numbers of the operations on images (program_operations.cpp), which lie pixel by pixel.
#include "core/program_reader.h"

namespace clipcid {
namespace {

constexpr int64_t kMostSide = 1 << 20;
constexpr int64_t kMostTaps = 1 << 16;

Extent pixels(int64_t height, int64_t width, int64_t images, int64_t channels) {
  return Extent(height) * Extent(width) * Extent(images) * Extent(channels);
}

// A window along one axis. `reached`: each lies on at least one pixel.
void readAxis(Reader& r, int64_t inputs, int64_t* outputs, int64_t* kernel, int64_t* stride,
              int64_t* dilation, int64_t* pad, bool reached) {
  *outputs = r.integer(1, kMostSide);
  *kernel = r.integer(1, kMostTaps);
  *stride = r.integer(1, kMostSide);
  *dilation = r.integer(1, kMostSide);
  *pad = r.integer(0, kMostSide);
  for (int64_t at = 0; reached && r.fine() && at < *outputs; ++at) {
    // The first tap that is not in front of the input.
    const int64_t start = at * *stride - *pad;
    const int64_t tap = start >= 0 ? 0 : (-start + *dilation - 1) / *dilation;
    r.require(tap < *kernel && start + tap * *dilation < inputs, "a window reaches no pixel");
  }
}

void readShape(Reader& r, ConvShape& shape) {
  shape.images = r.integer(1, 1 << 30);
  shape.height = r.integer(1, kMostSide);
  shape.width = r.integer(1, kMostSide);
  shape.channels = r.integer(1, 1 << 24);
  shape.outChannels = r.integer(1, 1 << 24);
  shape.groups = r.integer(1, 1 << 24);
  readAxis(r, shape.height, &shape.outHeight, &shape.kernelHeight, &shape.strideHeight, &shape.dilationHeight,
           &shape.padTop, false);
  readAxis(r, shape.width, &shape.outWidth, &shape.kernelWidth, &shape.strideWidth, &shape.dilationWidth,
           &shape.padLeft, false);
  shape.planar = r.flag();
  shape.precision = r.choice(Precision::kBfloat16);
  r.require(shape.channels % shape.groups == 0 && shape.outChannels % shape.groups == 0,
            "groups don't divide the channels");
  r.require(shape.kernelHeight * shape.kernelWidth <= kMostTaps, "a kernel is too large");
  r.require(!shape.planar || (shape.groups == 1 && shape.dilationWidth == 1),
            "a planar input has groups or a dilation");
}

Extent inputOf(const ConvShape& shape) {
  return pixels(shape.height, shape.width, shape.images, shape.channels);
}
Extent outputOf(const ConvShape& shape) {
  return pixels(shape.outHeight, shape.outWidth, shape.images, shape.outChannels);
}
Extent weightsOf(const ConvShape& shape) {
  return Extent(shape.outChannels) * Extent(shape.channels / shape.groups) * Extent(shape.kernelHeight) *
         Extent(shape.kernelWidth);
}

void readShape(Reader& r, PoolShape& shape, bool reached) {
  shape.images = r.integer(1, 1 << 30);
  shape.height = r.integer(1, kMostSide);
  shape.width = r.integer(1, kMostSide);
  shape.channels = r.integer(1, 1 << 24);
  readAxis(r, shape.height, &shape.outHeight, &shape.kernelHeight, &shape.strideHeight, &shape.dilationHeight,
           &shape.padTop, reached);
  readAxis(r, shape.width, &shape.outWidth, &shape.kernelWidth, &shape.strideWidth, &shape.dilationWidth,
           &shape.padLeft, reached);
  r.require(shape.kernelHeight * shape.kernelWidth <= kMostTaps, "a window is too large");
}

Extent inputOf(const PoolShape& shape) {
  return pixels(shape.height, shape.width, shape.images, shape.channels);
}
Extent outputOf(const PoolShape& shape) {
  return pixels(shape.outHeight, shape.outWidth, shape.images, shape.channels);
}

}  // namespace

void read(Reader& r, ConvArgs& args) {
  readShape(r, args.shape);
  r.operand(args.x, inputOf(args.shape));
  r.operand(args.weights, weightsOf(args.shape));
  r.operand(args.bias, args.shape.outChannels, true);
  r.operand(args.y, outputOf(args.shape));
}

void read(Reader& r, ConvInputGradientArgs& args) {
  readShape(r, args.shape);
  args.add = r.flag();
  r.require(!args.shape.planar, "a planar input has no gradient");
  r.operand(args.dy, outputOf(args.shape));
  r.operand(args.weights, weightsOf(args.shape));
  r.operand(args.dx, inputOf(args.shape));
}

void read(Reader& r, ConvWeightGradientArgs& args) {
  readShape(r, args.shape);
  r.operand(args.x, inputOf(args.shape));
  r.operand(args.dy, outputOf(args.shape));
  r.operand(args.dWeights, weightsOf(args.shape));
  r.operand(args.dBias, args.shape.outChannels, true);
}

void read(Reader& r, BatchNormArgs& args) {
  args.rows = r.size();
  args.channels = r.integer(1, 1 << 24);
  args.epsilon = r.number();
  args.activation = r.choice(Activation::kHardSwish);
  args.given = r.flag();
  const Extent all = Extent(args.rows) * Extent(args.channels);
  r.operand(args.x, all);
  r.operand(args.gamma, args.channels);
  r.operand(args.beta, args.channels);
  r.operand(args.residual, all, true);
  r.operand(args.y, all);
  if (args.given) {
    r.readOnly(args.mean, args.channels);
    r.readOnly(args.variance, args.channels);
  } else {
    r.operand(args.mean, args.channels);
    r.operand(args.variance, args.channels);
  }
}

void read(Reader& r, BatchNormGradientArgs& args) {
  args.rows = r.size();
  args.channels = r.integer(1, 1 << 24);
  args.epsilon = r.number();
  args.activation = r.choice(Activation::kHardSwish);
  args.given = r.flag();
  const Extent all = Extent(args.rows) * Extent(args.channels);
  r.operand(args.dy, all);
  r.operand(args.x, all);
  r.operand(args.gamma, args.channels);
  r.operand(args.beta, args.channels);
  r.operand(args.mean, args.channels);
  r.operand(args.variance, args.channels);
  r.operand(args.y, all, true);
  r.operand(args.residual, all, true);
  r.require(r.null() || args.activation != Activation::kRelu, "the result of a relu is missing");
  r.operand(args.dx, all);
  r.operand(args.dResidual, all, true);
  r.operand(args.dGamma, args.channels);
  r.operand(args.dBeta, args.channels);
}

void read(Reader& r, MaxPoolArgs& args) {
  readShape(r, args.shape, true);
  r.operand(args.x, inputOf(args.shape));
  r.operand(args.y, outputOf(args.shape));
  r.operand(args.taps, outputOf(args.shape));
}

void read(Reader& r, MaxPoolGradientArgs& args) {
  readShape(r, args.shape, true);
  r.operand(args.dy, outputOf(args.shape));
  r.operand(args.taps, outputOf(args.shape));
  r.operand(args.dx, inputOf(args.shape));
}

void read(Reader& r, AveragePoolArgs& args) {
  readShape(r, args.shape, true);
  args.countPadding = r.flag();
  r.operand(args.x, inputOf(args.shape));
  r.operand(args.y, outputOf(args.shape));
}

void read(Reader& r, AveragePoolGradientArgs& args) {
  readShape(r, args.shape, true);
  args.countPadding = r.flag();
  r.operand(args.dy, outputOf(args.shape));
  r.operand(args.dx, inputOf(args.shape));
}

}  // namespace clipcid
