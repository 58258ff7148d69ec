// Reductions along the middle axis of [outer, size, inner], and the places of the largest.
//
// Along the last axis a warp has a row. Otherwise a thread has a column, or, for sums of few columns over many rows, rows are cut into
// runs as sums.cuh has it. The order of each sum follows from the shape alone. Bound by memory. Not yet measured.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/ops/ops.h"
#include "cuda/ops/sums.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

CLIPCID_DEVICE float term(Reduction reduction, float value, float most, float sum) {
  switch (reduction) {
    case Reduction::kSum:
      return sum + value;
    case Reduction::kSumOfSquares:
      return fmaf(value, value, sum);
    case Reduction::kLogSumExp:
      return sum + expf(value - most);
    case Reduction::kMaximum:
      return sum != sum ? sum : value > sum || value != value ? value : sum;
    case Reduction::kMinimum:
      return sum != sum ? sum : value < sum || value != value ? value : sum;
  }
  return sum;
}

CLIPCID_DEVICE float beginning(Reduction reduction) {
  return reduction == Reduction::kMaximum ? -INFINITY : reduction == Reduction::kMinimum ? INFINITY : 0.0f;
}

CLIPCID_DEVICE void finish(const ReduceArgs& args, int64_t at, float value, float most) {
  if (args.reduction == Reduction::kLogSumExp) {
    // Of all minus infinities it is that too.
    value = most + logf(value);
  } else if (args.reduction == Reduction::kSum || args.reduction == Reduction::kSumOfSquares) {
    value *= args.scale;
  }
  args.y[at] = args.accumulate ? args.y[at] + value : value;
}

__global__ void __launch_bounds__(kThreads) reduceRowsKernel(const __grid_constant__ ReduceArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= args.outer) return;
  const float* x = args.x + row * args.size;
  float most = 0;
  if (args.reduction == Reduction::kLogSumExp) {
    most = -INFINITY;
    for (int64_t i = lane; i < args.size; i += kWarp) most = fmaxf(most, x[i]);
    most = warpLargest(most);
    if (most == -INFINITY) most = 0;
  }
  float value = beginning(args.reduction);
  for (int64_t i = lane; i < args.size; i += kWarp) value = term(args.reduction, x[i], most, value);
  const bool extreme = args.reduction == Reduction::kMaximum || args.reduction == Reduction::kMinimum;
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, value, with);
    value = extreme ? term(args.reduction, other, 0, value) : value + other;
  }
  if (lane == 0) finish(args, row, value, most);
}

__global__ void __launch_bounds__(kThreads) reduceColumnsKernel(const __grid_constant__ ReduceArgs args) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= args.outer * args.inner) return;
  const float* x = args.x + at / args.inner * args.size * args.inner + at % args.inner;
  float most = 0;
  if (args.reduction == Reduction::kLogSumExp) {
    most = -INFINITY;
    for (int64_t i = 0; i < args.size; ++i) most = fmaxf(most, x[i * args.inner]);
    if (most == -INFINITY) most = 0;
  }
  float value = beginning(args.reduction);
  for (int64_t i = 0; i < args.size; ++i) value = term(args.reduction, x[i * args.inner], most, value);
  finish(args, at, value, most);
}

struct ColumnTerms {
  static constexpr int kSums = 1;
  const float* x;
  int64_t columns;
  bool squares;

  CLIPCID_DEVICE void add(int64_t row, int64_t column, float (&sums)[kSums]) const {
    const float value = x[row * columns + column];
    sums[0] = squares ? fmaf(value, value, sums[0]) : sums[0] + value;
  }
};

template <typename T>
CLIPCID_DEVICE int64_t placeOf(const ArgumentArgs& args, const T* x) {
  int64_t best = 0;
  for (int64_t i = 1; i < args.size; ++i) {
    const T value = x[i * args.inner], held = x[best * args.inner];
    const bool better = args.least ? value < held : value > held;
    if (better || (args.last && value == held)) best = i;
  }
  return best;
}

__global__ void __launch_bounds__(kThreads) argumentKernel(const __grid_constant__ ArgumentArgs args) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= args.outer * args.inner) return;
  const int64_t first = at / args.inner * args.size * args.inner + at % args.inner;
  switch (args.type) {
    case ElementType::kInt64:
      args.y[at] = placeOf(args, static_cast<const int64_t*>(args.x) + first);
      break;
    case ElementType::kInt32:
      args.y[at] = placeOf(args, static_cast<const int32_t*>(args.x) + first);
      break;
    case ElementType::kBool:
      args.y[at] = placeOf(args, static_cast<const uint8_t*>(args.x) + first);
      break;
    default:
      args.y[at] = placeOf(args, static_cast<const float*>(args.x) + first);
  }
}

Launch threadAColumn(const Work& work, int64_t columns) {
  return {.grid = static_cast<unsigned>((columns + kThreads - 1) / kThreads),
          .block = kThreads,
          .stream = work.stream};
}

}  // namespace

Status run(const Work& work, const ReduceArgs& args) {
  constexpr int64_t kManyRows = 128;
  if (args.inner == 1) {
    return CLIPCID_LAUNCH(reduceRowsKernel,
                          {.grid = static_cast<unsigned>((args.outer + kWarps - 1) / kWarps),
                           .block = kThreads,
                           .stream = work.stream},
                          args);
  }
  const bool sum = args.reduction == Reduction::kSum || args.reduction == Reduction::kSumOfSquares;
  if (sum && args.outer == 1 && args.size >= kManyRows) {
    const ColumnTerms terms = {args.x, args.inner, args.reduction == Reduction::kSumOfSquares};
    return sumColumns(work, terms, args.size, args.inner,
                      SumTargets<1>{{args.y}, {args.scale}, args.accumulate});
  }
  return CLIPCID_LAUNCH(reduceColumnsKernel, threadAColumn(work, args.outer * args.inner), args);
}

Status run(const Work& work, const ArgumentArgs& args) {
  return CLIPCID_LAUNCH(argumentKernel, threadAColumn(work, args.outer * args.inner), args);
}

}  // namespace clipcid::cuda
