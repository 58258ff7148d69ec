// In and out: flat float32 buffers of one length, cut into runs of at most kAdamwRun parameters of one group.
//
// A block a run. Squares are summed up in float64: a thread's own in order, then the threads' by halves, and the runs' likewise by
// one block. The update is elementwise, without fused operations: to the bit what the CPU does for the same norm. It does nothing
// where the norm is not finite or a fault was noted, so that nobody has to wait for either before it is queued. Bound by memory, 16 bytes read and 16
// to 20 written for each parameter. Not yet measured.
#include "cuda/adamw_kernels.h"
#include "cuda/launch.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    squaresKernel(const AdamwRun* runs, const float* gradients, double* sums) {
  auto* parts = reinterpret_cast<double*>(sharedMemory());
  const AdamwRun run = runs[blockIdx.x];
  double sum = 0;
  for (int64_t i = threadIdx.x; run.frozen == 0 && i < run.length; i += kThreads) {
    const auto value = static_cast<double>(gradients[run.begin + i]);
    sum += value * value;
  }
  parts[threadIdx.x] = sum;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = parts[0];
}

__global__ void __launch_bounds__(kThreads) normKernel(const double* sums, int64_t count, double* norm) {
  auto* parts = reinterpret_cast<double*>(sharedMemory());
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += sums[i];
  parts[threadIdx.x] = sum;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *norm = sqrt(parts[0]);
}

__global__ void __launch_bounds__(kThreads, 4)
    updateKernel(const AdamwRun* runs, const AdamwScalars* scalars,
                 const __grid_constant__ AdamwBuffers buffers, const __grid_constant__ AdamwControl control) {
  const double norm = *control.norm;
  if (!(norm < INFINITY) || (control.fault != nullptr && *control.fault != 0)) return;
  const AdamwRun run = runs[blockIdx.x];
  AdamwScalars s = scalars[run.group];
  const double scale = control.clip / (norm + 1e-6);
  s.gradientScale = control.clip > 0 && scale < 1.0 ? static_cast<float>(scale) : 1.0f;
  for (int64_t i = run.begin + threadIdx.x; i < run.begin + run.length; i += kThreads) {
    if (run.frozen == 0) {
      const float g = buffers.gradients[i] * s.gradientScale;
      const float m = s.beta1 * buffers.first[i] + s.rest1 * g;
      const float v = s.beta2 * buffers.second[i] + s.rest2 * g * g;
      buffers.first[i] = m;
      buffers.second[i] = v;
      buffers.parameters[i] =
          buffers.parameters[i] * s.keep - s.stepSize * (m / (sqrtf(v) * s.inverseCorrection + s.epsilon));
    }
    buffers.gradients[i] = 0;
    if (buffers.ema != nullptr) buffers.ema[i] += s.averageRest * (buffers.parameters[i] - buffers.ema[i]);
  }
}

}  // namespace

Status squaresOfRuns(Stream stream, const AdamwRun* runs, int64_t count, const float* gradients,
                     double* sums) {
  if (count == 0) return {};
  return CLIPCID_LAUNCH(squaresKernel,
                        {.grid = static_cast<unsigned>(count),
                         .block = kThreads,
                         .shared = kThreads * sizeof(double),
                         .stream = stream},
                        runs, gradients, sums);
}

Status normOfRuns(Stream stream, const double* sums, int64_t count, double* norm) {
  return CLIPCID_LAUNCH(normKernel,
                        {.grid = 1, .block = kThreads, .shared = kThreads * sizeof(double), .stream = stream},
                        sums, count, norm);
}

Status updateRuns(Stream stream, const AdamwRun* runs, int64_t count, const AdamwScalars* scalars,
                  const AdamwBuffers& buffers, const AdamwControl& control) {
  if (count == 0) return {};
  return CLIPCID_LAUNCH(updateKernel,
                        {.grid = static_cast<unsigned>(count), .block = kThreads, .stream = stream}, runs,
                        scalars, buffers, control);
}

}  // namespace clipcid::cuda
