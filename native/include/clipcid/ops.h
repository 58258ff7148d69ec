// Arguments of the operations that a program is made of: plain structs of pointers to a device's memory and of
// sizes. Each back end has one function an operation (cpu/ops/ops.h).
//
// Everything is float32 and dense unless it says otherwise. Gradients of parameters are added to what is there, so that
// a batch may be run in parts; everything else is overwritten, and may not overlap what is read unless it says so.
// Results are the same from run to run for one device and number of threads.
#pragma once

#include <cstdint>

namespace clipcid {

// Images lie pixel by pixel, [height, width, images, channels]: a pixel's images are a matrix of evenly spaced rows, which
// is what a product reads and writes where it lies, whatever the kernel, the stride and the padding. The weights of a
// convolution lie as ONNX has them, [channels out, channels in / groups, kernel height, kernel width], because that is
// how the parameters are saved; an operation packs them as it needs them.
struct ConvShape {
  int64_t images = 0;
  int64_t height = 0, width = 0, channels = 0;           // of the input
  int64_t outHeight = 0, outWidth = 0, outChannels = 0;  // of the output
  int64_t groups = 1;                                    // divides both channels
  int64_t kernelHeight = 1, kernelWidth = 1;
  int64_t strideHeight = 1, strideWidth = 1;
  int64_t dilationHeight = 1, dilationWidth = 1;
  // Zeros above and to the left; those below and to the right follow from the sizes.
  int64_t padTop = 0, padLeft = 0;
  // x lies as ONNX has it, [images, channels, height, width]: a graph's own input, whose gradient nobody asks for. One
  // group, and a dilationWidth of 1.
  bool planar = false;
};

struct ConvArgs {
  ConvShape shape;
  const float* x = nullptr;
  const float* weights = nullptr;
  const float* bias = nullptr;  // [outChannels], or null
  float* y = nullptr;
};

struct ConvInputGradientArgs {
  ConvShape shape;
  const float* dy = nullptr;
  const float* weights = nullptr;
  float* dx = nullptr;
  bool add = false;  // to what dx holds
};

struct ConvWeightGradientArgs {
  ConvShape shape;
  const float* x = nullptr;
  const float* dy = nullptr;
  float* dWeights = nullptr;  // added to
  float* dBias = nullptr;     // [outChannels], added to, or null
};

// What may follow a normalisation in the same pass.
enum class Activation : uint8_t { kNone, kRelu, kHardSwish };

// y = activation((x - mean) / sqrt(variance + epsilon) gamma + beta + residual), with the statistics of the batch or
// given ones. y may be x or the residual.
struct BatchNormArgs {
  int64_t rows = 0;      // height * width * images
  int64_t channels = 0;  // of x, y and the residual, [rows, channels]
  float epsilon = 1e-5f;
  Activation activation = Activation::kNone;
  bool given = false;  // mean and variance are read, not written
  const float* x = nullptr;
  const float* gamma = nullptr;  // [channels], as are beta, mean and variance
  const float* beta = nullptr;
  const float* residual = nullptr;  // or null
  float* y = nullptr;
  float* mean = nullptr;
  float* variance = nullptr;  // of the population: divided by `rows`
};

// dx may be dy.
struct BatchNormGradientArgs {
  int64_t rows = 0;
  int64_t channels = 0;
  float epsilon = 1e-5f;
  Activation activation = Activation::kNone;
  bool given = false;  // as in the pass forward
  const float* dy = nullptr;
  const float* x = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  const float* mean = nullptr;
  const float* variance = nullptr;
  // What came with the pass forward where there were both a residual and an activation: y where that is kRelu, which
  // tells as much, otherwise the residual. Null elsewhere.
  const float* y = nullptr;
  const float* residual = nullptr;
  float* dx = nullptr;
  float* dResidual = nullptr;  // dy behind the activation; or null. It may be dy where dx is not.
  float* dGamma = nullptr;     // [channels], added to, as is dBeta
  float* dBeta = nullptr;
};

struct PoolShape {
  int64_t images = 0;
  int64_t height = 0, width = 0, channels = 0;
  int64_t outHeight = 0, outWidth = 0;
  int64_t kernelHeight = 1, kernelWidth = 1;
  int64_t strideHeight = 1, strideWidth = 1;
  int64_t dilationHeight = 1, dilationWidth = 1;
  int64_t padTop = 0, padLeft = 0;
};

// Of equal elements the first in the window counts, as in ONNX. Every window reaches a pixel; at most 65,536 taps.
struct MaxPoolArgs {
  PoolShape shape;
  const float* x = nullptr;
  float* y = nullptr;
  uint16_t* taps = nullptr;  // as y: which tap of the window was the largest, row by row
};

struct MaxPoolGradientArgs {
  PoolShape shape;
  const float* dy = nullptr;
  const uint16_t* taps = nullptr;
  float* dx = nullptr;
};

struct AveragePoolArgs {
  PoolShape shape;
  bool countPadding = false;  // zeros of the padding count as elements
  const float* x = nullptr;
  float* y = nullptr;
};

struct AveragePoolGradientArgs {
  PoolShape shape;
  bool countPadding = false;
  const float* dy = nullptr;
  float* dx = nullptr;
};

// y[p, i] = x[p, i] scale[i]: channels of every image weighed alike at all pixels, as squeeze and excitation does.
struct ScalePixelsArgs {
  int64_t pixels = 0;
  int64_t size = 0;  // of a pixel: images * channels
  const float* x = nullptr;
  const float* scale = nullptr;  // [size]
  float* y = nullptr;
};

// dx = dy scale at every pixel, dScale = sum over pixels of dy x. dx may be dy.
struct ScalePixelsGradientArgs {
  int64_t pixels = 0;
  int64_t size = 0;
  const float* dy = nullptr;
  const float* x = nullptr;
  const float* scale = nullptr;
  float* dx = nullptr;
  float* dScale = nullptr;
};

}  // namespace clipcid
