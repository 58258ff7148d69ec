// In: rows [N, D] float32, norms [N]. Out: rows of halves [N, D'], and of the transpose [D, N'], D' and N' filled up.
//
// A block takes tiles of 64 x 64 elements through shared memory: read, and written in both orders, 16 bytes a thread, those
// next to each other by threads next to each other. Bound by memory: 4 bytes read and 4 or 8 written an element. Not yet measured.
#include <cmath>

#include "cuda/halves.cuh"
#include "cuda/warps.cuh"

namespace clipcid::cuda {
namespace {

__global__ void __launch_bounds__(kHalvesThreads, 4) encodeHalvesKernel(EncodeHalvesArgs args) {
  auto& tile = *reinterpret_cast<HalvesFloats*>(sharedMemory());
  const int64_t down = (args.count + kHalvesTile - 1) / kHalvesTile;
  const int64_t across = (args.dim + kHalvesTile - 1) / kHalvesTile;
  for (int64_t at = blockIdx.x; at < down * across; at += gridDim.x) {
    const int64_t firstRow = at / across * kHalvesTile, firstColumn = at % across * kHalvesTile;
    const int column = static_cast<int>(threadIdx.x) % 16 * 4;
#pragma unroll
    for (int i = 0; i < kHalvesTile / 16; ++i) {
      const int row = static_cast<int>(threadIdx.x) / 16 + 16 * i;
      Floats4 x = {0, 0, 0, 0};
      if (firstRow + row < args.count && firstColumn + column < args.stride)
        x = *reinterpret_cast<const Floats4*>(args.data + (firstRow + row) * args.stride + firstColumn +
                                              column);
      if (args.norms != nullptr && firstRow + row < args.count) {
        const double inverse = 1 / args.norms[firstRow + row];
        x = {static_cast<float>(static_cast<double>(x.x) * inverse),
             static_cast<float>(static_cast<double>(x.y) * inverse),
             static_cast<float>(static_cast<double>(x.z) * inverse),
             static_cast<float>(static_cast<double>(x.w) * inverse)};
      }
      tile[row][column] = x.x * args.scale;
      tile[row][column + 1] = x.y * args.scale;
      tile[row][column + 2] = x.z * args.scale;
      tile[row][column + 3] = x.w * args.scale;
    }
    __syncthreads();
    if (args.rows.words != nullptr) {
      const int64_t left = args.count - firstRow;
      putHalves<false>(tile, args.rows, firstRow, static_cast<int>(left < kHalvesTile ? left : kHalvesTile),
                       firstColumn);
    }
    if (args.columns.words != nullptr) {
      const int64_t left = args.dim - firstColumn;
      putHalves<true>(tile, args.columns, firstColumn,
                      static_cast<int>(left < kHalvesTile ? left : kHalvesTile), args.from + firstRow);
    }
    __syncthreads();
  }
}

// A warp a row.
__global__ void __launch_bounds__(kHalvesThreads)
    gatherFloatsKernel(const float* from, int64_t stride, const int32_t* indices, int64_t count, float* out) {
  constexpr int kWarps = kHalvesThreads / kWarp;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; at < count; at += step) {
    const float* row = from + indices[at] * stride;
    for (int64_t k = 4 * lane; k < stride; k += 4 * kWarp)
      *reinterpret_cast<Floats4*>(out + at * stride + k) = *reinterpret_cast<const Floats4*>(row + k);
  }
}

}  // namespace

float halvesScale(double largest) {
  constexpr int kTop = 14, kMost = 120;
  if (!(largest > 0) || !std::isfinite(largest)) return 1;
  return std::ldexp(1.0f, std::clamp(kTop - std::ilogb(largest), -kMost, kMost));
}

Status encodeHalves(const Device& device, Stream stream, const EncodeHalvesArgs& args) {
  const int64_t tiles =
      (args.count + kHalvesTile - 1) / kHalvesTile * ((args.dim + kHalvesTile - 1) / kHalvesTile);
  if (tiles == 0) return {};
  return CLIPCID_LAUNCH(encodeHalvesKernel,
                        {.grid = blocksFor(device, tiles, 1),
                         .block = kHalvesThreads,
                         .shared = sizeof(HalvesFloats),
                         .stream = stream},
                        args);
}

Status gatherFloats(const Device& device, Stream stream, const float* from, int64_t stride,
                    const int32_t* indices, int64_t count, float* out) {
  if (count == 0) return {};
  constexpr int64_t kWarps = kHalvesThreads / kWarp;
  return CLIPCID_LAUNCH(gatherFloatsKernel,
                        {.grid = blocksFor(device, count, kWarps), .block = kHalvesThreads, .stream = stream},
                        from, stride, indices, count, out);
}

}  // namespace clipcid::cuda
