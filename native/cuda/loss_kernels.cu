// In: rows [N, D] float32, their norms [N], gradients of them; what softmaxes said of each row. Out: unit rows and gradients [N, D],
// terms of the loss.
//
// A warp takes a row; its sums are in float64, of a lane's elements in order and then of the lanes by halves. Terms are sums of one
// block, each thread's rows in order and then by halves: there are as many as rows of a batch, and the next step waits for none of
// them. So every number has one order of additions. Bound by memory: each element is read twice, the second time from a cache, and
// written once. Not yet measured.
#include "cuda/loss_kernels.h"
#include "cuda/warps.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTermThreads = 512;

CLIPCID_DEVICE int64_t firstRow() { return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; }
CLIPCID_DEVICE int64_t rowStep() { return static_cast<int64_t>(gridDim.x) * kWarps; }
CLIPCID_DEVICE int laneOf() { return static_cast<int>(threadIdx.x % kWarp); }

CLIPCID_DEVICE double dotOfWarp(const float* x, const float* y, int64_t dim) {
  double sum = 0;
  for (int64_t k = laneOf(); k < dim; k += kWarp)
    sum += static_cast<double>(x[k]) * static_cast<double>(y[k]);
  return sumOfWarp(sum);
}

CLIPCID_DEVICE bool faulty(double norm) { return !(norm > 0 && norm < HUGE_VAL); }

__global__ void __launch_bounds__(kThreads)
    normaliseKernel(LossRows rows, const float* raw, const double* norms, float* unit, uint32_t* fault) {
  for (int64_t row = firstRow(); row < rows.count; row += rowStep()) {
    const double norm = norms[row], inverse = 1 / norm;
    if (laneOf() == 0 && faulty(norm)) atomicMin(fault, static_cast<uint32_t>(row));
    for (int64_t k = laneOf(); k < rows.stride; k += kWarp) {
      const int64_t at = row * rows.stride + k;
      unit[at] = k < rows.dim ? static_cast<float>(static_cast<double>(raw[at]) * inverse) : 0;
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    checkNormsKernel(const double* norms, int64_t count, int64_t first, uint32_t* fault) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < count; at += step) {
    if (faulty(norms[at])) atomicMin(fault, static_cast<uint32_t>(first + at));
  }
}

__global__ void __launch_bounds__(kThreads)
    unitGradientKernel(LossRows rows, const float* unit, const double* norms, const float* gradient, bool add,
                       float* out) {
  for (int64_t row = firstRow(); row < rows.count; row += rowStep()) {
    const float *u = unit + row * rows.stride, *g = gradient + row * rows.stride;
    float* to = out + row * rows.stride;
    const auto along = static_cast<float>(dotOfWarp(g, u, rows.dim));
    const auto scale = static_cast<float>(1 / norms[row]);
    for (int64_t k = laneOf(); k < rows.dim; k += kWarp) {
      const float of = (g[k] - along * u[k]) * scale;
      to[k] = add ? to[k] + of : of;
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    rawGradientKernel(LossRows rows, const float* raw, const double* norms, const float* gradient,
                      float factor, const int32_t* indices, float* out) {
  for (int64_t row = firstRow(); row < rows.count; row += rowStep()) {
    const float *x = raw + row * rows.stride, *g = gradient + row * rows.stride;
    float* to = out + (indices != nullptr ? indices[row] : row) * rows.stride;
    const double inverse = 1 / norms[row];
    const auto along = static_cast<float>(dotOfWarp(g, x, rows.dim) * inverse * inverse);
    const auto scale = static_cast<float>(static_cast<double>(factor) * inverse);
    for (int64_t k = laneOf(); k < rows.dim; k += kWarp) to[k] = (g[k] - along * x[k]) * scale;
  }
}

__global__ void __launch_bounds__(kThreads) addFloatsKernel(const float* x, int64_t count, float* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < count; at += step)
    out[at] += x[at];
}

__global__ void __launch_bounds__(kThreads) countUpKernel(int64_t count, int32_t* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < count; at += step)
    out[at] = static_cast<int32_t>(at);
}

__global__ void __launch_bounds__(kThreads) rowTermsKernel(RowTermsArgs args) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < args.count; at += step) {
    const double logSum = log2(args.sums[at]);
    args.lse[at] = (static_cast<double>(args.maxima[at]) + logSum) * kLn2;
    if (args.targetLogits != nullptr)
      args.targetLogit[at] = static_cast<double>(args.targetLogits[at]) * kLn2;
    if (args.teacherSums == nullptr) continue;
    // sum P (log P - log Q), both over their largest logits
    const double teacherSum = args.teacherSums[at];
    args.divergence[at] = (args.along[at] / teacherSum + logSum - log2(teacherSum)) * kLn2;
  }
}

// The sum over the block's threads, in thread 0.
CLIPCID_DEVICE double sumOfBlock(double value) {
  auto* shared = reinterpret_cast<double*>(sharedMemory());
  const auto thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  shared[thread] = value;
  __syncthreads();
  for (int by = kTermThreads / 2; by > 0; by /= 2) {
    if (thread < by) shared[thread] += shared[thread + by];
    __syncthreads();
  }
  return shared[0];
}

__global__ void __launch_bounds__(kTermThreads) contrastTermsKernel(ContrastTermsArgs args) {
  double value = 0, gradient = 0;
  for (int64_t at = threadIdx.x; at < args.count; at += kTermThreads) {
    const auto target = static_cast<double>(args.targetLogits[at]);
    // The largest logit and the target's are close where they are large: first their difference.
    double own = static_cast<double>(args.maxima[at]) - target + log2(args.sums[at]);
    if (args.columnSums != nullptr)
      own = (own + (static_cast<double>(args.columnMaxima[at]) - target) + log2(args.columnSums[at])) / 2;
    value += own;
    gradient += args.along[at];
  }
  value = sumOfBlock(value);
  gradient = sumOfBlock(gradient);
  if (threadIdx.x != 0) return;
  const auto count = static_cast<double>(args.count);
  args.terms[0] = value * kLn2 / count;
  args.terms[1] = gradient * kLn2 * args.weight / count;
}

__global__ void __launch_bounds__(kThreads) clusterRowsKernel(ClusterRowsArgs args) {
  const LossRows& rows = args.rows;
  for (int64_t row = firstRow(); row < rows.count; row += rowStep()) {
    const int64_t from = row * rows.stride;
    const float* soft = args.soft == nullptr ? nullptr : args.soft + from;
    if (soft != nullptr) {
      const double along = dotOfWarp(args.s + from, soft, rows.dim);
      if (laneOf() == 0)
        args.divergence[row] = args.lse[row] - along * args.scale - static_cast<double>(args.entropies[row]);
    }
    for (int64_t k = laneOf(); k < rows.dim; k += kWarp) {
      const float g =
          soft == nullptr ? args.sums[from + k] : args.sums[from + k] - args.teacherWeight * soft[k];
      args.ds[from + k] += args.factor * g;
    }
  }
}

__global__ void __launch_bounds__(kTermThreads)
    meanKernel(const double* a, const double* b, int64_t count, double* out) {
  double sum = 0;
  for (int64_t at = threadIdx.x; at < count; at += kTermThreads) sum += b == nullptr ? a[at] : a[at] - b[at];
  sum = sumOfBlock(sum);
  if (threadIdx.x == 0) *out = sum / static_cast<double>(count);
}

Launch aWarpEach(const Device& device, int64_t rows, Stream stream) {
  return {.grid = blocksFor(device, rows, kWarps), .block = kThreads, .stream = stream};
}
Launch aThreadEach(const Device& device, int64_t items, Stream stream) {
  return {.grid = blocksFor(device, items, kThreads), .block = kThreads, .stream = stream};
}
Launch oneBlock(Stream stream) {
  return {.block = kTermThreads, .shared = kTermThreads * sizeof(double), .stream = stream};
}

}  // namespace

Status normaliseRows(const Device& device, Stream stream, const LossRows& rows, const float* raw,
                     const double* norms, float* unit, uint32_t* fault) {
  return CLIPCID_LAUNCH(normaliseKernel, aWarpEach(device, rows.count, stream), rows, raw, norms, unit,
                        fault);
}

Status checkNorms(const Device& device, Stream stream, const double* norms, int64_t count, int64_t first,
                  uint32_t* fault) {
  return CLIPCID_LAUNCH(checkNormsKernel, aThreadEach(device, count, stream), norms, count, first, fault);
}

Status unitGradient(const Device& device, Stream stream, const LossRows& rows, const float* unit,
                    const double* norms, const float* gradient, bool add, float* out) {
  return CLIPCID_LAUNCH(unitGradientKernel, aWarpEach(device, rows.count, stream), rows, unit, norms,
                        gradient, add, out);
}

Status rawGradient(const Device& device, Stream stream, const LossRows& rows, const float* raw,
                   const double* norms, const float* gradient, float factor, const int32_t* indices,
                   float* out) {
  return CLIPCID_LAUNCH(rawGradientKernel, aWarpEach(device, rows.count, stream), rows, raw, norms, gradient,
                        factor, indices, out);
}

Status addFloats(const Device& device, Stream stream, const float* x, int64_t count, float* out) {
  return CLIPCID_LAUNCH(addFloatsKernel, aThreadEach(device, count, stream), x, count, out);
}

Status countUp(const Device& device, Stream stream, int64_t count, int32_t* out) {
  return CLIPCID_LAUNCH(countUpKernel, aThreadEach(device, count, stream), count, out);
}

Status rowTerms(const Device& device, Stream stream, const RowTermsArgs& args) {
  return CLIPCID_LAUNCH(rowTermsKernel, aThreadEach(device, args.count, stream), args);
}

Status contrastTerms(Stream stream, const ContrastTermsArgs& args) {
  return CLIPCID_LAUNCH(contrastTermsKernel, oneBlock(stream), args);
}

Status clusterRows(const Device& device, Stream stream, const ClusterRowsArgs& args) {
  return CLIPCID_LAUNCH(clusterRowsKernel, aWarpEach(device, args.rows.count, stream), args);
}

Status meanOf(Stream stream, const double* a, const double* b, int64_t count, double* out) {
  return CLIPCID_LAUNCH(meanKernel, oneBlock(stream), a, b, count, out);
}

}  // namespace clipcid::cuda
