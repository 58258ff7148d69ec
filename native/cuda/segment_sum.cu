// In: rows [N, D] as compared, their segments and weights. Out: sums [segments, D], int64.
//
// A warp takes a row at a time and adds its elements to the sums with 64-bit atomics: of integers, so that no order matters.
// Few sums are added up in a block's shared memory first, where rows of one segment do not wait for those of all other
// blocks. Bound by the level-2 cache's atomics, D a row. Not yet measured.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/rows.cuh"
#include "cuda/segment_sum.h"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBlocksOfMultiprocessor = 8;
// Sums that a block adds up by itself: two blocks fit on a multiprocessor.
constexpr int64_t kMostOwnBytes = 48 << 10;

CLIPCID_DEVICE void addFixed(int64_t* to, float value, double weight, const SegmentSumKernelArgs& args) {
  const int64_t fixed = args.sign * toFixed(static_cast<double>(value) * weight, args.scale);
  if (fixed != 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(fixed));
}

template <bool kOwn>
__global__ void __launch_bounds__(kThreads) segmentSumKernel(SegmentSumKernelArgs args) {
  const DeviceRows& rows = args.rows;
  auto* own = reinterpret_cast<int64_t*>(sharedMemory());
  const int64_t total = args.segmentCount * rows.dim;
  if (kOwn) {
    for (int64_t at = threadIdx.x; at < total; at += kThreads) own[at] = 0;
    __syncthreads();
  }
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; at < args.count;
       at += step) {
    const ComparedRow row(rows, args.indices == nullptr ? at : args.indices[at]);
    if (row.fault) continue;
    const double weight = args.weights == nullptr ? 1 : static_cast<double>(args.weights[at]);
    int64_t* to = (kOwn ? own : args.sums) + args.segments[at] * rows.dim;
    for (int64_t k = 4 * lane; k < rows.dim; k += 4 * kWarp) {
      const Floats4 x = row.four(rows, k);
      addFixed(to + k, x.x, weight, args);
      if (k + 1 < rows.dim) addFixed(to + k + 1, x.y, weight, args);
      if (k + 2 < rows.dim) addFixed(to + k + 2, x.z, weight, args);
      if (k + 3 < rows.dim) addFixed(to + k + 3, x.w, weight, args);
    }
  }
  if (kOwn) {
    __syncthreads();
    for (int64_t at = threadIdx.x; at < total; at += kThreads) {
      if (own[at] != 0)
        atomicAdd(reinterpret_cast<unsigned long long*>(args.sums + at),
                  static_cast<unsigned long long>(own[at]));
    }
  }
}

}  // namespace

Status addToSegments(const Device& device, Stream stream, const SegmentSumKernelArgs& args) {
  if (args.count == 0 || args.segmentCount == 0) return {};
  const int64_t most = int64_t{kBlocksOfMultiprocessor} * device.properties.multiprocessors;
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>((args.count + kWarps - 1) / kWarps, 1, most));
  const int64_t bytes = args.segmentCount * args.rows.dim * 8;
  if (bytes > kMostOwnBytes)
    return CLIPCID_LAUNCH(segmentSumKernel<false>, {.grid = blocks, .block = kThreads, .stream = stream},
                          args);
  return CLIPCID_LAUNCH(
      segmentSumKernel<true>,
      {.grid = blocks, .block = kThreads, .shared = static_cast<size_t>(bytes), .stream = stream}, args);
}

}  // namespace clipcid::cuda
