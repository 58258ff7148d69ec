// Depthwise convolutions: every channel for itself.
//
// In and out: images [height, width, images, channels], weights [channels, taps], which are turned first. A thread has an element of the
// result and goes over the taps; threads next to each other have channels next to each other. Weights' gradients are sums over
// pixels and images for each tap and channel (sums.cuh). Bound by memory, the taps' reads coming from the caches. Not yet
// measured.
#include "cuda/ops/conv.h"
#include "cuda/ops/indices.cuh"
#include "cuda/ops/ops.h"
#include "cuda/ops/sums.cuh"
#include "cuda/ops/windows.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads, 2)
    forwardKernel(const __grid_constant__ ConvArgs args, const float* weights) {
  const ConvShape& shape = args.shape;
  const int64_t slab = shape.images * shape.channels;
  const int64_t count = shape.outHeight * shape.outWidth * slab;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; index < count;
       index += static_cast<int64_t>(gridDim.x) * kThreads) {
    const Element at = elementAt(index, shape.outWidth, slab);
    const int64_t channel = at.inside - quotient(at.inside, shape.channels) * shape.channels;
    float sum = args.bias == nullptr ? 0.0f : args.bias[channel];
    overWindow(shape, at, [&](int64_t place, int64_t tap) {
      sum = fmaf(args.x[place], weights[tap * shape.channels + channel], sum);
    });
    args.y[index] = sum;
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    inputKernel(const __grid_constant__ ConvInputGradientArgs args, const float* weights) {
  const ConvShape& shape = args.shape;
  const int64_t slab = shape.images * shape.channels;
  const int64_t count = shape.height * shape.width * slab;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; index < count;
       index += static_cast<int64_t>(gridDim.x) * kThreads) {
    const Element at = elementAt(index, shape.width, slab);
    const int64_t channel = at.inside - quotient(at.inside, shape.channels) * shape.channels;
    float sum = 0;
    overWindowsOf(shape, at, [&](int64_t row, int64_t column, int64_t tap) {
      sum = fmaf(args.dy[(row * shape.outWidth + column) * slab + at.inside],
                 weights[tap * shape.channels + channel], sum);
    });
    args.dx[index] = args.add ? args.dx[index] + sum : sum;
  }
}

// Column (tap, channel) of the weights' gradient; rows are pixels and images.
struct WeightTerms {
  static constexpr int kSums = 1;
  ConvShape shape;
  const float* x;
  const float* dy;

  CLIPCID_DEVICE void add(int64_t row, int64_t column, float (&sums)[kSums]) const {
    const int64_t tap = quotient(column, shape.channels), channel = column - tap * shape.channels;
    const int64_t down = quotient(tap, shape.kernelWidth), across = tap - down * shape.kernelWidth;
    const Element at = elementAt(row, shape.outWidth, shape.images);
    const int64_t y =
        sourceUnder(at.row, down, shape.strideHeight, shape.dilationHeight, shape.padTop, shape.height);
    const int64_t z =
        sourceUnder(at.column, across, shape.strideWidth, shape.dilationWidth, shape.padLeft, shape.width);
    if (y < 0 || z < 0) return;
    sums[0] = fmaf(dy[row * shape.channels + channel],
                   x[((y * shape.width + z) * shape.images + at.inside) * shape.channels + channel], sums[0]);
  }
};

// weights [channels, taps] += sums [taps, channels]
__global__ void __launch_bounds__(kThreads, 2)
    addTurnedKernel(const float* sums, int64_t taps, int64_t channels, float* weights) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at < taps * channels) weights[at] += sums[at % taps * channels + at / taps];
}

// [channels, taps] as [taps, channels].
Status turnWeights(const Work& work, const ConvShape& shape, const float* weights, float** out) {
  const int64_t taps = shape.kernelHeight * shape.kernelWidth;
  CLIPCID_TRY(work.take(taps * shape.channels, out));
  CopyArgs copy;
  copy.axes = 2;
  copy.dims[0] = taps;
  copy.dims[1] = shape.channels;
  copy.fromStrides[0] = 1;
  copy.fromStrides[1] = taps;
  copy.toStrides[0] = shape.channels;
  copy.toStrides[1] = 1;
  copy.from = weights;
  copy.to = *out;
  return run(work, copy);
}

}  // namespace

Status depthwiseForward(const Work& work, const ConvArgs& args) {
  float* weights = nullptr;
  CLIPCID_TRY(turnWeights(work, args.shape, args.weights, &weights));
  const int64_t count = args.shape.outHeight * args.shape.outWidth * args.shape.images * args.shape.channels;
  return CLIPCID_LAUNCH(forwardKernel, manyElements(work, count), args, weights);
}

Status depthwiseInput(const Work& work, const ConvInputGradientArgs& args) {
  float* weights = nullptr;
  CLIPCID_TRY(turnWeights(work, args.shape, args.weights, &weights));
  const int64_t count = args.shape.height * args.shape.width * args.shape.images * args.shape.channels;
  return CLIPCID_LAUNCH(inputKernel, manyElements(work, count), args, weights);
}

Status depthwiseWeights(const Work& work, const ConvWeightGradientArgs& args) {
  const ConvShape& shape = args.shape;
  const int64_t taps = shape.kernelHeight * shape.kernelWidth;
  float* sums = nullptr;
  CLIPCID_TRY(work.take(taps * shape.channels, &sums));
  CLIPCID_TRY(sumColumns(work, WeightTerms{shape, args.x, args.dy},
                         shape.outHeight * shape.outWidth * shape.images, taps * shape.channels,
                         SumTargets<1>{{sums}, {1}, false}));
  const int64_t blocks = (taps * shape.channels + kThreads - 1) / kThreads;
  return CLIPCID_LAUNCH(addTurnedKernel,
                        {.grid = static_cast<unsigned>(blocks), .block = kThreads, .stream = work.stream},
                        sums, taps, shape.channels, args.dWeights);
}

}  // namespace clipcid::cuda
