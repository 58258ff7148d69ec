// Pooling, with a thread for each element of the result: forward it goes over the pixels of its window, backward over the windows
// that its pixel is in. Images lie [height, width, images, channels], so threads next to each other read what lies next to each
// other. Bound by memory. Not yet measured.
#include "cuda/ops/indices.cuh"
#include "cuda/ops/ops.h"
#include "cuda/ops/windows.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;

// How many pixels a window reaches along an axis; all taps with `padding`.
CLIPCID_DEVICE int64_t reached(int64_t at, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad,
                               int64_t size, bool padding) {
  if (padding) return kernel;
  int64_t count = 0;
  for (int64_t tap = 0; tap < kernel; ++tap) count += sourceUnder(at, tap, stride, dilation, pad, size) >= 0;
  return count;
}

CLIPCID_DEVICE float shareOf(const PoolShape& shape, int64_t row, int64_t column, bool padding) {
  const int64_t down = reached(row, shape.kernelHeight, shape.strideHeight, shape.dilationHeight,
                               shape.padTop, shape.height, padding);
  const int64_t across = reached(column, shape.kernelWidth, shape.strideWidth, shape.dilationWidth,
                                 shape.padLeft, shape.width, padding);
  return 1.0f / static_cast<float>(down * across);
}

__global__ void __launch_bounds__(kThreads) maxPoolKernel(const __grid_constant__ MaxPoolArgs args) {
  const PoolShape& shape = args.shape;
  const int64_t slab = shape.images * shape.channels, count = shape.outHeight * shape.outWidth * slab;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; index < count;
       index += static_cast<int64_t>(gridDim.x) * kThreads) {
    float most = 0;
    int64_t first = -1;
    overWindow(shape, elementAt(index, shape.outWidth, slab), [&](int64_t place, int64_t tap) {
      const float value = args.x[place];
      if (first >= 0 && !(value > most)) return;
      most = value;
      first = tap;
    });
    args.y[index] = most;
    args.taps[index] = static_cast<uint16_t>(first);
  }
}

__global__ void __launch_bounds__(kThreads)
    maxPoolGradientKernel(const __grid_constant__ MaxPoolGradientArgs args) {
  const PoolShape& shape = args.shape;
  const int64_t slab = shape.images * shape.channels, count = shape.height * shape.width * slab;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; index < count;
       index += static_cast<int64_t>(gridDim.x) * kThreads) {
    const Element at = elementAt(index, shape.width, slab);
    float sum = 0;
    overWindowsOf(shape, at, [&](int64_t row, int64_t column, int64_t tap) {
      const int64_t place = (row * shape.outWidth + column) * slab + at.inside;
      if (args.taps[place] == tap) sum += args.dy[place];
    });
    args.dx[index] = sum;
  }
}

__global__ void __launch_bounds__(kThreads) averagePoolKernel(const __grid_constant__ AveragePoolArgs args) {
  const PoolShape& shape = args.shape;
  const int64_t slab = shape.images * shape.channels, count = shape.outHeight * shape.outWidth * slab;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; index < count;
       index += static_cast<int64_t>(gridDim.x) * kThreads) {
    const Element at = elementAt(index, shape.outWidth, slab);
    const float share = shareOf(shape, at.row, at.column, args.countPadding);
    float sum = 0;
    overWindow(shape, at, [&](int64_t place, int64_t) { sum = fmaf(args.x[place], share, sum); });
    args.y[index] = sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    averagePoolGradientKernel(const __grid_constant__ AveragePoolGradientArgs args) {
  const PoolShape& shape = args.shape;
  const int64_t slab = shape.images * shape.channels, count = shape.height * shape.width * slab;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; index < count;
       index += static_cast<int64_t>(gridDim.x) * kThreads) {
    const Element at = elementAt(index, shape.width, slab);
    float sum = 0;
    overWindowsOf(shape, at, [&](int64_t row, int64_t column, int64_t) {
      sum = fmaf(args.dy[(row * shape.outWidth + column) * slab + at.inside],
                 shareOf(shape, row, column, args.countPadding), sum);
    });
    args.dx[index] = sum;
  }
}

int64_t inputs(const PoolShape& shape) { return shape.height * shape.width * shape.images * shape.channels; }
int64_t outputs(const PoolShape& shape) {
  return shape.outHeight * shape.outWidth * shape.images * shape.channels;
}

}  // namespace

Status run(const Work& work, const MaxPoolArgs& args) {
  return CLIPCID_LAUNCH(maxPoolKernel, manyElements(work, outputs(args.shape)), args);
}

Status run(const Work& work, const MaxPoolGradientArgs& args) {
  return CLIPCID_LAUNCH(maxPoolGradientKernel, manyElements(work, inputs(args.shape)), args);
}

Status run(const Work& work, const AveragePoolArgs& args) {
  return CLIPCID_LAUNCH(averagePoolKernel, manyElements(work, outputs(args.shape)), args);
}

Status run(const Work& work, const AveragePoolGradientArgs& args) {
  return CLIPCID_LAUNCH(averagePoolGradientKernel, manyElements(work, inputs(args.shape)), args);
}

}  // namespace clipcid::cuda
