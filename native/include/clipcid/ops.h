// Arguments of the operations that a program is made of: plain structs of pointers to a device's memory and of
// sizes. Each back end has one function an operation (cpu/ops/ops.h).
//
// Everything is float32, row-major and dense unless it says otherwise. Gradients of parameters are added to what is there, so that
// a batch may be run in parts; everything else is overwritten, and may not overlap what is read unless it says so.
// Results are the same from run to run for one device and number of threads.
#pragma once

#include <cstdint>

namespace clipcid {

constexpr int kMostAxes = 8;
constexpr int kMostChainAxes = 4;
constexpr int kMostChainInputs = 12;
constexpr int kMostChainOutputs = 6;
constexpr int kMostChainSteps = 40;

enum class ElementType : uint8_t { kFloat32, kInt64, kInt32, kBool };

// What a product multiplies: float32, or its operands rounded to bfloat16. Sums are float32 either way.
enum class Precision : uint8_t { kFloat32, kBfloat16 };

constexpr int64_t elementSize(ElementType type) {
  return type == ElementType::kInt64 ? 8 : type == ElementType::kBool ? 1 : 4;
}

// What a step of a chain does with its operands a, b, c and its numbers p, q.
enum class Step : uint8_t {
  kCopy,
  kNegate,
  kAbsolute,
  kSign,
  kSquareRoot,
  kReciprocal,
  kExponential,
  kLogarithm,
  kSine,
  kCosine,
  kFloor,
  kCeil,
  kTanh,
  kSigmoid,
  kErf,
  kSoftplus,
  kRelu,
  kLeakyRelu,    // p: slope below 0
  kElu,          // p: alpha
  kHardSigmoid,  // p: alpha, q: beta
  kHardSwish,
  kGelu,
  kQuickGelu,  // p: alpha
  kNot,
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kPower,
  kModulo,  // of the divisor's sign
  kMinimum,
  kMaximum,
  kEqual,  // 1 or 0, as are the others
  kLess,
  kLessOrEqual,
  kGreater,
  kGreaterOrEqual,
  kAnd,
  kOr,
  kGeluGradient,       // a: dy, b: x
  kQuickGeluGradient,  // a: dy, b: x; p: alpha
  kHardSwishGradient,  // a: dy, b: x
  kSelect,             // a: condition, b: where it is not 0, c: elsewhere
  kMultiplyAdd,        // a b + c
};
constexpr int kSteps = static_cast<int>(Step::kMultiplyAdd) + 1;

// An operand is the number of an input, or kMostChainInputs and the number of a step, whose result it is; or kNumber,
// which is p.
constexpr uint8_t kNumber = 255;

struct ChainStep {
  Step step = Step::kCopy;
  uint8_t a = 0, b = 0, c = 0;
  float p = 0, q = 0;
};

struct ChainInput {
  ElementType type = ElementType::kFloat32;
  int64_t strides[kMostChainAxes] = {};  // in elements; 0 along an axis that it is the same on
  const void* data = nullptr;
};

struct ChainOutput {
  ElementType type = ElementType::kFloat32;
  uint8_t from = 0;      // an operand
  void* data = nullptr;  // dense, in the order of the axes
};

// Elementwise operations over the same elements, in one pass. Steps come one after the other and read inputs and steps
// before them. An output may be an input's memory where that is dense.
struct Chain {
  bool integers = false;  // steps compute in int64 rather than in float32
  int axes = 1;
  int64_t dims[kMostChainAxes] = {1, 1, 1, 1};
  int inputs = 0, outputs = 0, steps = 0;
  ChainInput input[kMostChainInputs];
  ChainOutput output[kMostChainOutputs];
  ChainStep step[kMostChainSteps];

  int64_t rows() const {
    int64_t rows = 1;
    for (int axis = 0; axis + 1 < axes; ++axis) rows *= dims[axis];
    return rows;
  }
  int64_t columns() const { return dims[axes - 1]; }
};

struct ChainArgs {
  Chain chain;
};

// c = alpha op(a) op(b), of each of batches[0] * batches[1] triples of matrices; op(a) is [m, k], op(b) [k, n]. With a
// chain, c is its first input and an output of it is c's memory: the chain is applied to each block as it is made. Its
// dims are [m, n] with the rows' axis in up to three, and there is one batch.
struct ProductArgs {
  int64_t batches[2] = {1, 1};
  int64_t batchA[2] = {0, 0}, batchB[2] = {0, 0}, batchC[2] = {0, 0};  // elements between matrices
  int64_t m = 0, n = 0, k = 0;
  int64_t rowA = 0, rowB = 0, rowC = 0;  // elements between stored rows
  bool transposeA = false, transposeB = false;
  bool packedB = false;     // b is what PackArgs made; one batch
  bool accumulate = false;  // added to c; without a chain
  Precision precision = Precision::kFloat32;
  float alpha = 1;
  int64_t packedFloats = 0;  // of a packed b
  const float* a = nullptr;
  const float* b = nullptr;
  float* c = nullptr;
  bool chained = false;
  Chain chain;
};

// The right side of products, packed for many of them, of the same precision.
struct PackArgs {
  int64_t n = 0, k = 0;
  int64_t row = 0;
  bool transpose = false;
  Precision precision = Precision::kFloat32;
  int64_t packedFloats = 0;  // what the back end's Runner says for n, k and the precision
  const float* b = nullptr;
  float* packed = nullptr;
};

// y = (x - mean) inverse gamma + beta over rows, inverse = 1 / sqrt(variance + epsilon).
struct LayerNormArgs {
  int64_t rows = 0, size = 0;
  float epsilon = 1e-5f;
  const float* x = nullptr;      // [rows, size]
  const float* gamma = nullptr;  // [size]
  const float* beta = nullptr;   // [size], or null
  float* y = nullptr;            // [rows, size]
  float* mean = nullptr;         // [rows], or null
  float* inverse = nullptr;      // [rows], or null
};

struct LayerNormGradientArgs {
  int64_t rows = 0, size = 0;
  const float* dy = nullptr;
  const float* x = nullptr;
  const float* gamma = nullptr;
  const float* mean = nullptr;
  const float* inverse = nullptr;
  const float* residual = nullptr;  // [rows, size] added to dx, or null; may be dx
  float* dx = nullptr;              // or null
  float* dGamma = nullptr;          // [size], added to, or null
  float* dBeta = nullptr;           // [size], added to, or null
};

// Multi-head attention over rows that hold the heads side by side: for item b and head h, with D = depth columns,
//   p[i, :] = softmax(scale q[b, i, hD:] . k[b, :, hD:] + mask[b, h, i, :]),  y[b, i, hD:] = sum_j p[i, j] v[b, j, hD:]
struct AttentionShape {
  int64_t batch = 0, queries = 0, keys = 0, heads = 0, depth = 0;
  int64_t rowQ = 0, rowK = 0, rowV = 0;  // elements between rows of q, k, v and of their gradients
  float scale = 1;
  bool causal = false;                        // query i sees keys up to i
  Precision precision = Precision::kFloat32;  // of the products, on a GPU; the CPU's are float32
  int64_t maskStrides[3] = {0, 0, 0};         // of item, head and query; keys are dense
};

struct AttentionArgs {
  AttentionShape shape;
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  const float* mask = nullptr;  // or null
  float* y = nullptr;           // [batch, queries, heads * depth]
  float* lse = nullptr;         // [batch, heads, queries] log of the sum of exponentials of a row, or null
};

struct AttentionGradientArgs {
  AttentionShape shape;
  const float* dy = nullptr;  // as y
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  const float* mask = nullptr;
  const float* y = nullptr;
  const float* lse = nullptr;
  float* dq = nullptr;
  float* dk = nullptr;
  float* dv = nullptr;
};

// Along the middle axis of [outer, size, inner].
struct SoftmaxRowsArgs {
  int64_t outer = 0, size = 0, inner = 1;
  bool logarithm = false;
  const float* x = nullptr;
  float* y = nullptr;
};

struct SoftmaxRowsGradientArgs {
  int64_t outer = 0, size = 0, inner = 1;
  bool logarithm = false;
  const float* dy = nullptr;
  const float* y = nullptr;
  float* dx = nullptr;
};

enum class Reduction : uint8_t { kSum, kSumOfSquares, kMaximum, kMinimum, kLogSumExp };

// [outer, size, inner] to [outer, inner].
struct ReduceArgs {
  int64_t outer = 0, size = 0, inner = 1;
  Reduction reduction = Reduction::kSum;
  float scale = 1;          // of a sum
  bool accumulate = false;  // of a sum: added to y
  const float* x = nullptr;
  float* y = nullptr;
};

// Index of the largest (or least) along the middle axis; of equals the first, or the last.
struct ArgumentArgs {
  int64_t outer = 0, size = 0, inner = 1;
  ElementType type = ElementType::kFloat32;
  bool least = false;
  bool last = false;
  const void* x = nullptr;
  int64_t* y = nullptr;  // [outer, inner]
};

// Elements from one place to another; strides in elements.
struct CopyArgs {
  ElementType type = ElementType::kFloat32;
  int axes = 1;
  int64_t dims[kMostAxes] = {};
  int64_t fromStrides[kMostAxes] = {};
  int64_t toStrides[kMostAxes] = {};
  const void* from = nullptr;
  void* to = nullptr;
};

struct FillArgs {
  ElementType type = ElementType::kFloat32;
  int64_t count = 0;
  double value = 0;
  void* to = nullptr;
};

// y[o, i, :] = x[o, indices[i], :]. Negative indices count from the end; one out of range is a fault.
struct GatherRowsArgs {
  int64_t outer = 1, size = 0, inner = 0, count = 0;
  ElementType indexType = ElementType::kInt64;
  bool apart = false;       // each of `outer` has `count` indices of its own, [outer, count]
  int64_t bytes = 4;        // of an element
  const void* x = nullptr;  // [outer, size, inner]
  const void* indices = nullptr;
  void* y = nullptr;  // [outer, count, inner]
};

// y[o, indices[i], :] += rows[o, i, :], in the order of the indices.
struct ScatterRowsArgs {
  int64_t outer = 1, size = 0, inner = 0, count = 0;
  ElementType indexType = ElementType::kInt64;
  bool apart = false;
  bool accumulate = false;  // otherwise y begins at zero
  const float* rows = nullptr;
  const void* indices = nullptr;
  float* y = nullptr;
};

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
  Precision precision = Precision::kFloat32;  // of the products, on a GPU; the CPU's are float32
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

}  // namespace clipcid
