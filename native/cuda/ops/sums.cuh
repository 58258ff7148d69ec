// Sums that are the same from run to run: of a warp by halves, and of columns over many rows in runs of rows.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/ops/work.h"

namespace clipcid::cuda {

// Every lane gets the sum.
CLIPCID_DEVICE float warpSum(float value) {
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2) value += __shfl_xor_sync(kAllLanes, value, with);
  return value;
}

CLIPCID_DEVICE float warpLargest(float value) {
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, with));
  return value;
}

// A block has 32 columns and kSumRows rows at a time.
constexpr int kSumRows = 8;
constexpr int kSumThreads = kSumRows * kWarp;

// parts[run][s][column] = sums over the rows of a run. Terms: kSums, and add(row, column, sums).
template <typename Terms>
__global__ void __launch_bounds__(kSumThreads)
    columnPartsKernel(const __grid_constant__ Terms terms, int64_t rows, int64_t columns, int64_t rowsOfRun,
                      float* parts) {
  constexpr int kSums = Terms::kSums;
  auto* shared = reinterpret_cast<float*>(sharedMemory());
  const int lane = static_cast<int>(threadIdx.x) % kWarp, line = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t pieces = (columns + kWarp - 1) / kWarp;
  const int64_t run = blockIdx.x / pieces, column = blockIdx.x % pieces * kWarp + lane;
  const int64_t end = (run + 1) * rowsOfRun < rows ? (run + 1) * rowsOfRun : rows;
  float sums[kSums] = {};
  if (column < columns) {
    for (int64_t row = run * rowsOfRun + line; row < end; row += kSumRows) terms.add(row, column, sums);
  }
#pragma unroll
  for (int s = 0; s < kSums; ++s) shared[(s * kSumRows + line) * kWarp + lane] = sums[s];
  __syncthreads();
  if (line != 0 || column >= columns) return;
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    float sum = shared[s * kSumRows * kWarp + lane];
    for (int other = 1; other < kSumRows; ++other) sum += shared[(s * kSumRows + other) * kWarp + lane];
    parts[(run * kSums + s) * columns + column] = sum;
  }
}

// Where sums go, each times a factor; null: nowhere.
template <int kSums>
struct SumTargets {
  float* to[kSums];
  float scale[kSums];
  bool accumulate;
};

template <int kSums>
__global__ void __launch_bounds__(kSumThreads)
    columnTotalsKernel(const float* parts, int64_t columns, int64_t runs,
                       const __grid_constant__ SumTargets<kSums> targets) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (at >= kSums * columns) return;
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    if (at / columns != s || targets.to[s] == nullptr) continue;
    const int64_t column = at % columns;
    // In float64: runs are many where rows are.
    double sum = 0;
    for (int64_t run = 0; run < runs; ++run)
      sum += static_cast<double>(parts[(run * kSums + s) * columns + column]);
    const auto total = static_cast<float>(sum * static_cast<double>(targets.scale[s]));
    float& to = targets.to[s][column];
    to = targets.accumulate ? to + total : total;
  }
}

// How many runs rows are cut into, and the parts of all of them.
template <typename Terms>
Status columnParts(const Work& work, const Terms& terms, int64_t rows, int64_t columns, float** parts,
                   int64_t* runs, int64_t* rowsOfRun) {
  const int64_t pieces = (columns + kWarp - 1) / kWarp;
  // Enough blocks for the GPU, of some rows each.
  const int64_t wanted =
      std::max<int64_t>(1, 4 * static_cast<int64_t>(work.device.properties.multiprocessors) / pieces);
  const int64_t most = std::min({wanted, (rows + 63) / 64, int64_t{1024}});
  *rowsOfRun = (rows + most - 1) / most;
  *runs = (rows + *rowsOfRun - 1) / *rowsOfRun;
  CLIPCID_TRY(work.take(*runs * Terms::kSums * columns, parts));
  return CLIPCID_LAUNCH((columnPartsKernel<Terms>),
                        {.grid = static_cast<unsigned>(*runs * pieces),
                         .block = kSumThreads,
                         .shared = sizeof(float) * Terms::kSums * kSumThreads,
                         .stream = work.stream},
                        terms, rows, columns, *rowsOfRun, *parts);
}

template <typename Terms>
Status sumColumns(const Work& work, const Terms& terms, int64_t rows, int64_t columns,
                  const SumTargets<Terms::kSums>& targets) {
  float* parts = nullptr;
  int64_t runs = 0, rowsOfRun = 0;
  CLIPCID_TRY(columnParts(work, terms, rows, columns, &parts, &runs, &rowsOfRun));
  const int64_t blocks = (Terms::kSums * columns + kSumThreads - 1) / kSumThreads;
  return CLIPCID_LAUNCH((columnTotalsKernel<Terms::kSums>),
                        {.grid = static_cast<unsigned>(blocks), .block = kSumThreads, .stream = work.stream},
                        parts, columns, runs, targets);
}

}  // namespace clipcid::cuda
