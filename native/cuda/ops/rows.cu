// Layer norms and softmaxes of rows, forward and backward.
//
// In and out: [rows, size], float32. A warp has a row: its lanes go over it 32 elements at a time, as often as the sums need, which come
// from the first-level cache but for the first time; the warp adds up by halves. Parameters' gradients are sums over rows: a
// block sums up a run of rows for 32 columns, a second kernel adds up the runs in their order, both in ways that depend on the
// shape alone. Softmaxes along an axis that is not the last have a thread for each column. Bound by memory: what is
// read once and written once. Not yet measured.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/ops/math.cuh"
#include "cuda/ops/ops.h"
#include "cuda/ops/sums.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

__global__ void __launch_bounds__(kThreads) layerNormKernel(const __grid_constant__ LayerNormArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= args.rows) return;
  const float* x = args.x + row * args.size;
  float sum = 0;
  for (int64_t i = lane; i < args.size; i += kWarp) sum += x[i];
  const float mean = warpSum(sum) / static_cast<float>(args.size);
  float squares = 0;
  for (int64_t i = lane; i < args.size; i += kWarp) squares = fmaf(x[i] - mean, x[i] - mean, squares);
  const float variance = warpSum(squares) / static_cast<float>(args.size);
  const float inverse = 1.0f / sqrtf(variance + args.epsilon);
  float* y = args.y + row * args.size;
  for (int64_t i = lane; i < args.size; i += kWarp) {
    const float beta = args.beta == nullptr ? 0.0f : args.beta[i];
    y[i] = fmaf((x[i] - mean) * inverse, args.gamma[i], beta);
  }
  if (lane == 0) {
    if (args.mean != nullptr) args.mean[row] = mean;
    if (args.inverse != nullptr) args.inverse[row] = inverse;
  }
}

// dx = inverse (g - mean(g) - x^ mean(g x^)), g = dy gamma.
__global__ void __launch_bounds__(kThreads)
    layerNormInputKernel(const __grid_constant__ LayerNormGradientArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= args.rows) return;
  const int64_t first = row * args.size;
  const float mean = args.mean[row], inverse = args.inverse[row];
  float sum = 0, moment = 0;
  for (int64_t i = lane; i < args.size; i += kWarp) {
    const float g = args.dy[first + i] * args.gamma[i];
    sum += g;
    moment = fmaf(g, (args.x[first + i] - mean) * inverse, moment);
  }
  sum = warpSum(sum) / static_cast<float>(args.size);
  moment = warpSum(moment) / static_cast<float>(args.size);
  for (int64_t i = lane; i < args.size; i += kWarp) {
    const float g = args.dy[first + i] * args.gamma[i];
    const float centred = (args.x[first + i] - mean) * inverse;
    const float gradient = inverse * (g - sum - centred * moment);
    args.dx[first + i] = args.residual == nullptr ? gradient : gradient + args.residual[first + i];
  }
}

// What a row adds to the gradients of gamma and beta.
struct LayerNormTerms {
  static constexpr int kSums = 2;
  const float* dy;
  const float* x;
  const float* mean;
  const float* inverse;
  int64_t size;

  CLIPCID_DEVICE void add(int64_t row, int64_t column, float (&sums)[kSums]) const {
    const float d = dy[row * size + column];
    sums[0] = fmaf(d, (x[row * size + column] - mean[row]) * inverse[row], sums[0]);
    sums[1] += d;
  }
};

__global__ void __launch_bounds__(kThreads) softmaxKernel(const __grid_constant__ SoftmaxRowsArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= args.outer) return;
  const float* x = args.x + row * args.size;
  float* y = args.y + row * args.size;
  float most = -INFINITY;
  for (int64_t i = lane; i < args.size; i += kWarp) most = fmaxf(most, x[i]);
  most = warpLargest(most);
  float sum = 0;
  for (int64_t i = lane; i < args.size; i += kWarp) sum += expf(x[i] - most);
  sum = warpSum(sum);
  const float inverse = 1.0f / sum, shift = most + logf(sum);
  for (int64_t i = lane; i < args.size; i += kWarp)
    y[i] = args.logarithm ? x[i] - shift : expf(x[i] - most) * inverse;
}

// dx = y (dy - dy . y); of the logarithm dy - e^y sum(dy).
__global__ void __launch_bounds__(kThreads)
    softmaxGradientKernel(const __grid_constant__ SoftmaxRowsGradientArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= args.outer) return;
  const float* dy = args.dy + row * args.size;
  const float* y = args.y + row * args.size;
  float* dx = args.dx + row * args.size;
  float sum = 0;
  for (int64_t i = lane; i < args.size; i += kWarp)
    sum = args.logarithm ? sum + dy[i] : fmaf(dy[i], y[i], sum);
  sum = warpSum(sum);
  for (int64_t i = lane; i < args.size; i += kWarp)
    dx[i] = args.logarithm ? dy[i] - expf(y[i]) * sum : y[i] * (dy[i] - sum);
}

// A thread for each column of [outer, size, inner].
__global__ void __launch_bounds__(kThreads)
    softmaxColumnsKernel(const __grid_constant__ SoftmaxRowsArgs args) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= args.outer * args.inner) return;
  const int64_t first = at / args.inner * args.size * args.inner + at % args.inner;
  const float* x = args.x + first;
  float most = -INFINITY, sum = 0;
  for (int64_t i = 0; i < args.size; ++i) most = fmaxf(most, x[i * args.inner]);
  for (int64_t i = 0; i < args.size; ++i) sum += expf(x[i * args.inner] - most);
  const float inverse = 1.0f / sum, shift = most + logf(sum);
  for (int64_t i = 0; i < args.size; ++i) {
    const float value = x[i * args.inner];
    args.y[first + i * args.inner] = args.logarithm ? value - shift : expf(value - most) * inverse;
  }
}

__global__ void __launch_bounds__(kThreads)
    softmaxColumnsGradientKernel(const __grid_constant__ SoftmaxRowsGradientArgs args) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= args.outer * args.inner) return;
  const int64_t first = at / args.inner * args.size * args.inner + at % args.inner;
  float sum = 0;
  for (int64_t i = 0; i < args.size; ++i) {
    const float dy = args.dy[first + i * args.inner];
    sum = args.logarithm ? sum + dy : fmaf(dy, args.y[first + i * args.inner], sum);
  }
  for (int64_t i = 0; i < args.size; ++i) {
    const int64_t one = first + i * args.inner;
    args.dx[one] =
        args.logarithm ? args.dy[one] - expf(args.y[one]) * sum : args.y[one] * (args.dy[one] - sum);
  }
}

Launch warpARow(const Work& work, int64_t rows) {
  return {
      .grid = static_cast<unsigned>((rows + kWarps - 1) / kWarps), .block = kThreads, .stream = work.stream};
}

Launch threadAColumn(const Work& work, int64_t columns) {
  return {.grid = static_cast<unsigned>((columns + kThreads - 1) / kThreads),
          .block = kThreads,
          .stream = work.stream};
}

}  // namespace

Status run(const Work& work, const LayerNormArgs& args) {
  return CLIPCID_LAUNCH(layerNormKernel, warpARow(work, args.rows), args);
}

Status run(const Work& work, const LayerNormGradientArgs& args) {
  // Before dx, which may be the residual but not dy or x.
  if (args.dGamma != nullptr || args.dBeta != nullptr) {
    const LayerNormTerms terms = {args.dy, args.x, args.mean, args.inverse, args.size};
    const SumTargets<2> targets = {{args.dGamma, args.dBeta}, {1, 1}, true};
    CLIPCID_TRY(sumColumns(work, terms, args.rows, args.size, targets));
  }
  if (args.dx == nullptr) return {};
  return CLIPCID_LAUNCH(layerNormInputKernel, warpARow(work, args.rows), args);
}

Status run(const Work& work, const SoftmaxRowsArgs& args) {
  if (args.inner == 1) return CLIPCID_LAUNCH(softmaxKernel, warpARow(work, args.outer), args);
  return CLIPCID_LAUNCH(softmaxColumnsKernel, threadAColumn(work, args.outer * args.inner), args);
}

Status run(const Work& work, const SoftmaxRowsGradientArgs& args) {
  if (args.inner == 1) return CLIPCID_LAUNCH(softmaxGradientKernel, warpARow(work, args.outer), args);
  return CLIPCID_LAUNCH(softmaxColumnsGradientKernel, threadAColumn(work, args.outer * args.inner), args);
}

}  // namespace clipcid::cuda
