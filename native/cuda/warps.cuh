// Grids of a few blocks for every multiprocessor, and sums of a warp.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/memory.h"

namespace clipcid::cuda {

// Blocks for so many items, `perBlock` of which a block has at a time: at most `most` for each multiprocessor.
inline unsigned blocksFor(const Device& device, int64_t items, int64_t perBlock, int64_t most = 8) {
  return static_cast<unsigned>(
      std::clamp<int64_t>((items + perBlock - 1) / perBlock, 1, most * device.properties.multiprocessors));
}

// The same in all lanes, whatever their order.
template <typename T>
CLIPCID_DEVICE T sumOfWarp(T value) {
#pragma unroll
  for (int by = kWarp / 2; by > 0; by /= 2) value += __shfl_xor_sync(kAllLanes, value, by);
  return value;
}

}  // namespace clipcid::cuda
