// Convolutions as products, without the pixels under the windows ever being stored: loaders (product.cuh) find them.
//
// In and out: images [height, width, images, channels], weights [out, in / groups, kernel height, kernel width]. A line of the product is
// a pixel of an image, its depth the taps of the window with the channels of a group next to each other:
//   forward   y[pixel, out]       = sum over (tap, in) of x[source(pixel, tap), in] w[out, in, tap]
//   input     dx[pixel, in]       = sum over (tap, out) of dy[target(pixel, tap), out] w[out, in, tap]
//   weights   dw[out, (tap, in)]  = sum over pixels of dy[pixel, out] x[source(pixel, tap), in]
// Weights are put in the order of (tap, channel) before, and their gradient is put back behind. Groups are matrices of a batch. A
// planar input is put pixel by pixel first. Depthwise convolutions are in depthwise.cu. Not yet measured.
#include "cuda/ops/conv.h"
#include "cuda/ops/indices.cuh"
#include "cuda/ops/ops.h"
#include "cuda/ops/product.cuh"
#include "cuda/ops/sums.cuh"
#include "cuda/ops/windows.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;

// Where windows lie. For the input's gradient sources are pixels of the output, and taps point backward.
struct Windows {
  int32_t images, channels, groups;  // channels of what is read, of all groups
  int32_t height, width;             // of what is read
  int32_t lineWidth;                 // pixels of a row of lines
  int32_t kernelWidth, taps;
  int32_t strideHeight, strideWidth, dilationHeight, dilationWidth, padTop, padLeft;
  bool backward;
};

// Elements under windows: (line, tap and channel), lines being (row, column, image).
template <bool kLinesAreDepth>
class WindowLoader {
 public:
  // Channels lie next to each other: that is what a chunk goes along.
  static constexpr bool kDepthMajor = kLinesAreDepth;
  struct Params {
    const float* data;
    Windows windows;
    int32_t pixels;  // lines
    bool aligned;    // chunks of a tap's channels are vectors
  };

  CLIPCID_DEVICE WindowLoader(const Params& params, int32_t group)
      : params_(params),
        ofGroup_(params.windows.channels / params.windows.groups),
        data_(params.data + group * ofGroup_) {}

  CLIPCID_DEVICE void fetch(float (&to)[kChunkElements], int32_t line, int32_t depth,
                            int32_t depthEnd) const {
    const Windows& windows = params_.windows;
    const int32_t pixel = kLinesAreDepth ? depth : line, first = kLinesAreDepth ? line : depth;
    const int32_t pixels = kLinesAreDepth ? depthEnd : params_.pixels;
    const int32_t end = kLinesAreDepth ? windows.taps * ofGroup_ : depthEnd;
#pragma unroll
    for (int i = 0; i < kChunkElements; ++i) to[i] = 0;
    if (pixel >= pixels || first >= end) return;
    const int32_t place = pixel / windows.images, image = pixel - place * windows.images;
    const int32_t row = place / windows.lineWidth, column = place - row * windows.lineWidth;
    const int32_t tap = first / ofGroup_, channel = first - tap * ofGroup_;
    if (channel + kChunkElements <= ofGroup_ && first + kChunkElements <= end && params_.aligned) {
      const float* from = at(row, column, image, tap);
      if (from == nullptr) return;
      const auto* fours = reinterpret_cast<const Floats4*>(from + channel);
      const Floats4 low = fours[0], high = fours[1];
      to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
      to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
      return;
    }
#pragma unroll
    for (int i = 0; i < kChunkElements; ++i) {
      if (first + i >= end) continue;
      const int32_t own = (first + i) / ofGroup_;
      const float* from = at(row, column, image, own);
      if (from != nullptr) to[i] = from[first + i - own * ofGroup_];
    }
  }

 private:
  // The group's channels of a source, or null.
  CLIPCID_DEVICE const float* at(int32_t row, int32_t column, int32_t image, int32_t tap) const {
    const Windows& w = params_.windows;
    const int32_t down = tap / w.kernelWidth, across = tap - down * w.kernelWidth;
    const auto place = [&](int32_t at, int32_t tap, int32_t stride, int32_t dilation, int32_t pad,
                           int32_t size) {
      return w.backward ? windowOver(at, tap, stride, dilation, pad, size)
                        : sourceUnder(at, tap, stride, dilation, pad, size);
    };
    const int32_t y = place(row, down, w.strideHeight, w.dilationHeight, w.padTop, w.height);
    const int32_t x = place(column, across, w.strideWidth, w.dilationWidth, w.padLeft, w.width);
    if (y < 0 || x < 0) return nullptr;
    return data_ + ((static_cast<int64_t>(y) * w.width + x) * w.images + image) * w.channels;
  }

  const Params& params_;
  const int32_t ofGroup_;
  const float* data_;
};

Windows windowsOf(const ConvShape& shape, bool backward) {
  Windows windows = {};
  windows.images = static_cast<int32_t>(shape.images);
  windows.channels = static_cast<int32_t>(backward ? shape.outChannels : shape.channels);
  windows.groups = static_cast<int32_t>(shape.groups);
  windows.height = static_cast<int32_t>(backward ? shape.outHeight : shape.height);
  windows.width = static_cast<int32_t>(backward ? shape.outWidth : shape.width);
  windows.lineWidth = static_cast<int32_t>(backward ? shape.width : shape.outWidth);
  windows.kernelWidth = static_cast<int32_t>(shape.kernelWidth);
  windows.taps = static_cast<int32_t>(shape.kernelHeight * shape.kernelWidth);
  windows.strideHeight = static_cast<int32_t>(shape.strideHeight);
  windows.strideWidth = static_cast<int32_t>(shape.strideWidth);
  windows.dilationHeight = static_cast<int32_t>(shape.dilationHeight);
  windows.dilationWidth = static_cast<int32_t>(shape.dilationWidth);
  windows.padTop = static_cast<int32_t>(shape.padTop);
  windows.padLeft = static_cast<int32_t>(shape.padLeft);
  windows.backward = backward;
  return windows;
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <typename Loader>
typename Loader::Params windowParams(const ConvShape& shape, const float* data, bool backward) {
  typename Loader::Params params;
  params.data = data;
  params.windows = windowsOf(shape, backward);
  const int64_t pixels =
      (backward ? shape.height * shape.width : shape.outHeight * shape.outWidth) * shape.images;
  params.pixels = static_cast<int32_t>(pixels);
  params.aligned = aligned(data) && params.windows.channels / params.windows.groups % kChunkElements == 0;
  return params;
}

// Matrices of groups, `batch` elements apart.
template <bool kDepthMajor>
typename MatrixLoader<kDepthMajor>::Params matrixParams(const float* data, int64_t stride, int64_t batch,
                                                        int64_t lines) {
  typename MatrixLoader<kDepthMajor>::Params params;
  params.data = data;
  params.stride = stride;
  params.batch[0] = batch;
  params.batch[1] = 0;
  params.inner = 1;
  params.lines = static_cast<int32_t>(lines);
  params.aligned = aligned(data) && stride % 4 == 0 && batch % 4 == 0;
  return params;
}

ProductResult resultOf(float* c, int64_t row, int64_t batch) {
  ProductResult result;
  result.c = c;
  result.row = row;
  result.batch[0] = batch;
  result.vector = aligned(c) && row % 4 == 0 && batch % 4 == 0;
  return result;
}

// Weights [out, in, taps] as [out, taps, in] (kForward), or per group [taps, out, in].
Status packWeights(const Work& work, const ConvShape& shape, const float* weights, bool forward, float* out) {
  const int64_t in = shape.channels / shape.groups, taps = shape.kernelHeight * shape.kernelWidth;
  const int64_t outs = shape.outChannels / shape.groups;
  CopyArgs copy;
  copy.axes = 4;
  const int64_t dims[4] = {shape.groups, forward ? outs : taps, forward ? taps : outs, in};
  const int64_t outStride = in * taps;
  const int64_t from[4] = {outs * outStride, forward ? outStride : 1, forward ? 1 : outStride, taps};
  int64_t stride = 1;
  for (int axis = 3; axis >= 0; --axis) {
    copy.dims[axis] = dims[axis];
    copy.fromStrides[axis] = from[axis];
    copy.toStrides[axis] = stride;
    stride *= dims[axis];
  }
  copy.from = weights;
  copy.to = out;
  return run(work, copy);
}

// dWeights [out, in, taps] += packed [out, taps, in]
__global__ void __launch_bounds__(kThreads)
    unpackKernel(const float* packed, int64_t in, int64_t taps, int64_t count, float* weights) {
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < count;
       at += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t line = quotient(at, taps), tap = at - line * taps;
    const int64_t out = quotient(line, in), channel = line - out * in;
    weights[at] += packed[(out * taps + tap) * in + channel];
  }
}

struct BiasTerms {
  static constexpr int kSums = 1;
  const float* dy;
  int64_t channels;

  CLIPCID_DEVICE void add(int64_t row, int64_t column, float (&sums)[kSums]) const {
    sums[0] += dy[row * channels + column];
  }
};

// [images, channels, height, width] pixel by pixel.
Status pixelsOf(const Work& work, const ConvShape& shape, const float* x, float** out) {
  const int64_t plane = shape.height * shape.width;
  CLIPCID_TRY(work.take(shape.images * shape.channels * plane, out));
  CopyArgs copy;
  copy.axes = 3;
  copy.dims[0] = plane;
  copy.dims[1] = shape.images;
  copy.dims[2] = shape.channels;
  copy.fromStrides[0] = 1;
  copy.fromStrides[1] = shape.channels * plane;
  copy.fromStrides[2] = plane;
  copy.toStrides[0] = shape.images * shape.channels;
  copy.toStrides[1] = shape.channels;
  copy.toStrides[2] = 1;
  copy.from = x;
  copy.to = *out;
  return run(work, copy);
}

// Pixels, and what is read along the depth, are numbered in 32 bits.
Status checkShape(const ConvShape& shape) {
  const int64_t most = INT32_MAX - 4096;
  const int64_t taps = shape.kernelHeight * shape.kernelWidth;
  const bool fits = shape.height * shape.width * shape.images < most &&
                    shape.outHeight * shape.outWidth * shape.images < most && taps * shape.channels < most &&
                    taps * shape.outChannels < most;
  return fits ? Status() : Status(Code::kInvalidArgument, "A convolution of more than 2^31 pixels");
}

bool isDepthwise(const ConvShape& shape) {
  return shape.groups == shape.channels && shape.groups == shape.outChannels && shape.groups > 1;
}

const ChainProgram kNoChain = {};

}  // namespace

Status run(const Work& work, const ConvArgs& args) {
  const ConvShape& shape = args.shape;
  CLIPCID_TRY(checkShape(shape));
  if (isDepthwise(shape)) return depthwiseForward(work, args);
  const float* x = args.x;
  if (shape.planar) {
    float* pixels = nullptr;
    CLIPCID_TRY(pixelsOf(work, shape, args.x, &pixels));
    x = pixels;
  }
  const int64_t in = shape.channels / shape.groups, outs = shape.outChannels / shape.groups;
  const int64_t depth = shape.kernelHeight * shape.kernelWidth * in;
  float* packed = nullptr;
  CLIPCID_TRY(work.take(shape.outChannels * depth, &packed));
  CLIPCID_TRY(packWeights(work, shape, args.weights, true, packed));
  ProductResult result = resultOf(args.y, shape.outChannels, outs);
  result.bias = args.bias;
  result.biasBatch = outs;
  return queueProduct<WindowLoader<false>, MatrixLoader<false>, false>(
      work, shape.precision, windowParams<WindowLoader<false>>(shape, x, false),
      matrixParams<false>(packed, depth, outs * depth, outs), shape.groups,
      shape.outHeight * shape.outWidth * shape.images, outs, depth, result, kNoChain);
}

Status run(const Work& work, const ConvInputGradientArgs& args) {
  const ConvShape& shape = args.shape;
  CLIPCID_TRY(checkShape(shape));
  if (isDepthwise(shape)) return depthwiseInput(work, args);
  const int64_t in = shape.channels / shape.groups, outs = shape.outChannels / shape.groups;
  const int64_t depth = shape.kernelHeight * shape.kernelWidth * outs;
  float* packed = nullptr;
  CLIPCID_TRY(work.take(shape.groups * depth * in, &packed));
  CLIPCID_TRY(packWeights(work, shape, args.weights, false, packed));
  ProductResult result = resultOf(args.dx, shape.channels, in);
  result.accumulate = args.add;
  return queueProduct<WindowLoader<false>, MatrixLoader<true>, false>(
      work, shape.precision, windowParams<WindowLoader<false>>(shape, args.dy, true),
      matrixParams<true>(packed, in, depth * in, in), shape.groups, shape.height * shape.width * shape.images,
      in, depth, result, kNoChain);
}

Status run(const Work& work, const ConvWeightGradientArgs& args) {
  const ConvShape& shape = args.shape;
  CLIPCID_TRY(checkShape(shape));
  const int64_t pixels = shape.outHeight * shape.outWidth * shape.images;
  if (args.dBias != nullptr) {
    const BiasTerms terms = {args.dy, shape.outChannels};
    CLIPCID_TRY(sumColumns(work, terms, pixels, shape.outChannels, SumTargets<1>{{args.dBias}, {1}, true}));
  }
  if (isDepthwise(shape)) return depthwiseWeights(work, args);
  const float* x = args.x;
  if (shape.planar) {
    float* made = nullptr;
    CLIPCID_TRY(pixelsOf(work, shape, args.x, &made));
    x = made;
  }
  const int64_t in = shape.channels / shape.groups, outs = shape.outChannels / shape.groups;
  const int64_t taps = shape.kernelHeight * shape.kernelWidth;
  float* packed = nullptr;
  CLIPCID_TRY(work.take(shape.outChannels * taps * in, &packed));
  CLIPCID_TRY((queueProduct<MatrixLoader<true>, WindowLoader<true>, false>(
      work, shape.precision, matrixParams<true>(args.dy, shape.outChannels, outs, outs),
      windowParams<WindowLoader<true>>(shape, x, false), shape.groups, outs, taps * in, pixels,
      resultOf(packed, taps * in, outs * taps * in), kNoChain)));
  const int64_t count = shape.outChannels * taps * in;
  return CLIPCID_LAUNCH(unpackKernel, manyElements(work, count), packed, in, taps, count, args.dWeights);
}

}  // namespace clipcid::cuda
