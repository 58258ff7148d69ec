// Batch normalisation, with the residual and the activation that follow it.
//
// In and out: [rows, channels]. Forward: one pass for the means, one for the squares around them, one that writes y. Backward: one for
// both sums, one for dx. Sums are those of sums.cuh, the same from run to run; what is by channel is computed in float64 by a
// thread a channel. Bound by memory. Not yet measured.
#include "cuda/ops/chain.cuh"
#include "cuda/ops/indices.cuh"
#include "cuda/ops/ops.h"
#include "cuda/ops/sums.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;

struct MeanTerms {
  static constexpr int kSums = 1;
  const float* x;
  int64_t channels;
  CLIPCID_DEVICE void add(int64_t row, int64_t column, float (&sums)[kSums]) const {
    sums[0] += x[row * channels + column];
  }
};

struct SquareTerms {
  static constexpr int kSums = 1;
  const float* x;
  const float* mean;
  int64_t channels;
  CLIPCID_DEVICE void add(int64_t row, int64_t column, float (&sums)[kSums]) const {
    const float centred = x[row * channels + column] - mean[column];
    sums[0] = fmaf(centred, centred, sums[0]);
  }
};

CLIPCID_DEVICE double inverseDeviation(float variance, float epsilon) {
  return 1 / sqrt(static_cast<double>(variance) + static_cast<double>(epsilon));
}

__global__ void __launch_bounds__(kThreads)
    scaleKernel(const float* gamma, const float* variance, float epsilon, int64_t channels, float* scale) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c < channels)
    scale[c] = static_cast<float>(static_cast<double>(gamma[c]) * inverseDeviation(variance[c], epsilon));
}

CLIPCID_DEVICE float activated(Activation activation, float z) {
  if (activation == Activation::kRelu) return z > 0 ? z : 0.0f;
  if (activation == Activation::kHardSwish) return z * fminf(fmaxf(fmaf(z, 1.0f / 6, 0.5f), 0.0f), 1.0f);
  return z;
}

// dy activation'(z)
CLIPCID_DEVICE float gradientOf(Activation activation, float dy, float z) {
  if (activation == Activation::kRelu) return z > 0 ? dy : 0.0f;
  if (activation == Activation::kHardSwish) {
    const float slope = z < 3 ? fmaf(z, 1.0f / 3, 0.5f) : 1.0f;
    return z > -3 ? dy * slope : 0.0f;
  }
  return dy;
}

__global__ void __launch_bounds__(kThreads)
    normalizeKernel(const __grid_constant__ BatchNormArgs args, const float* scale) {
  const int64_t count = args.rows * args.channels;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < count;
       at += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t c = at - quotient(at, args.channels) * args.channels;
    float z = fmaf(args.x[at] - args.mean[c], scale[c], args.beta[c]);
    if (args.residual != nullptr) z += args.residual[at];
    args.y[at] = activated(args.activation, z);
  }
}

// The gradient behind the activation, which is kept where it is asked for, and its product with the centred input.
struct GradientTerms {
  static constexpr int kSums = 2;
  BatchNormGradientArgs args;
  const float* scale;

  CLIPCID_DEVICE void add(int64_t row, int64_t column, float (&sums)[kSums]) const {
    const int64_t at = row * args.channels + column;
    const float centred = args.x[at] - args.mean[column];
    float gradient = args.dy[at];
    if (args.activation == Activation::kRelu && args.y != nullptr) {
      gradient = gradientOf(args.activation, gradient, args.y[at]);
    } else if (args.activation != Activation::kNone) {
      float z = fmaf(centred, scale[column], args.beta[column]);
      if (args.residual != nullptr) z += args.residual[at];
      gradient = gradientOf(args.activation, gradient, z);
    }
    if (args.dResidual != nullptr) args.dResidual[at] = gradient;
    sums[0] += gradient;
    sums[1] = fmaf(gradient, centred, sums[1]);
  }
};

// sums, moments: [channels]. slope and offset of dx by channel.
__global__ void __launch_bounds__(kThreads)
    slopesKernel(const __grid_constant__ BatchNormGradientArgs args, const float* sums, const float* moments,
                 float* slope, float* offset) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= args.channels) return;
  const double inverse = inverseDeviation(args.variance[c], args.epsilon);
  const auto sum = static_cast<double>(sums[c]), moment = static_cast<double>(moments[c]);
  args.dBeta[c] += static_cast<float>(sum);
  args.dGamma[c] += static_cast<float>(moment * inverse);
  const double factor =
      args.given ? 0 : -static_cast<double>(args.gamma[c]) * inverse / static_cast<double>(args.rows);
  slope[c] = static_cast<float>(factor * inverse * inverse * moment);
  offset[c] = static_cast<float>(factor * sum);
}

__global__ void __launch_bounds__(kThreads)
    inputKernel(const __grid_constant__ BatchNormGradientArgs args, const float* scale, const float* slope,
                const float* offset) {
  const int64_t count = args.rows * args.channels;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < count;
       at += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t c = at - quotient(at, args.channels) * args.channels;
    const float centred = args.x[at] - args.mean[c];
    float gradient;
    if (args.dResidual != nullptr) {
      gradient = args.dResidual[at];
    } else {
      gradient = args.dy[at];
      if (args.activation == Activation::kRelu && args.y != nullptr) {
        gradient = gradientOf(args.activation, gradient, args.y[at]);
      } else if (args.activation != Activation::kNone) {
        float z = fmaf(centred, scale[c], args.beta[c]);
        if (args.residual != nullptr) z += args.residual[at];
        gradient = gradientOf(args.activation, gradient, z);
      }
    }
    args.dx[at] = fmaf(gradient, scale[c], fmaf(centred, slope[c], offset[c]));
  }
}

Launch threadAChannel(const Work& work, int64_t channels) {
  return {.grid = static_cast<unsigned>((channels + kThreads - 1) / kThreads),
          .block = kThreads,
          .stream = work.stream};
}

}  // namespace

Status run(const Work& work, const BatchNormArgs& args) {
  const auto share = static_cast<float>(1.0 / static_cast<double>(args.rows));
  if (!args.given) {
    CLIPCID_TRY(sumColumns(work, MeanTerms{args.x, args.channels}, args.rows, args.channels,
                           SumTargets<1>{{args.mean}, {share}, false}));
    CLIPCID_TRY(sumColumns(work, SquareTerms{args.x, args.mean, args.channels}, args.rows, args.channels,
                           SumTargets<1>{{args.variance}, {share}, false}));
  }
  float* scale = nullptr;
  CLIPCID_TRY(work.take(args.channels, &scale));
  CLIPCID_TRY(CLIPCID_LAUNCH(scaleKernel, threadAChannel(work, args.channels), args.gamma, args.variance,
                             args.epsilon, args.channels, scale));
  return CLIPCID_LAUNCH(normalizeKernel, manyElements(work, args.rows * args.channels), args, scale);
}

Status run(const Work& work, const BatchNormGradientArgs& args) {
  float* tables = nullptr;
  CLIPCID_TRY(work.take(5 * args.channels, &tables));
  float* scale = tables;
  float* sums = scale + args.channels;
  float* moments = sums + args.channels;
  float* slope = moments + args.channels;
  float* offset = slope + args.channels;
  CLIPCID_TRY(CLIPCID_LAUNCH(scaleKernel, threadAChannel(work, args.channels), args.gamma, args.variance,
                             args.epsilon, args.channels, scale));
  CLIPCID_TRY(sumColumns(work, GradientTerms{args, scale}, args.rows, args.channels,
                         SumTargets<2>{{sums, moments}, {1, 1}, false}));
  CLIPCID_TRY(
      CLIPCID_LAUNCH(slopesKernel, threadAChannel(work, args.channels), args, sums, moments, slope, offset));
  return CLIPCID_LAUNCH(inputKernel, manyElements(work, args.rows * args.channels), args, scale, slope,
                        offset);
}

}  // namespace clipcid::cuda
