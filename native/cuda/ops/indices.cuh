// Indices of rows, and grids over many elements.
#pragma once

#include <algorithm>

#include "clipcid/ops.h"
#include "cuda/launch.cuh"
#include "cuda/ops/work.h"

namespace clipcid::cuda {

// The place that an index names, which counts from the end where it is negative; -1 where there is none, and it is noted.
CLIPCID_DEVICE int64_t indexOrFault(const void* indices, ElementType type, int64_t at, int64_t size,
                                    DataFault* fault) {
  const int64_t value = type == ElementType::kInt64 ? static_cast<const int64_t*>(indices)[at]
                                                    : static_cast<const int32_t*>(indices)[at];
  const int64_t place = value < 0 ? value + size : value;
  if (place >= 0 && place < size) return place;
  if (atomicCAS(&fault->kind, 0, 1) == 0) {
    fault->value = value;
    fault->at = at;
    fault->size = size;
  }
  return -1;
}

// 256 threads a block, which go on with elements a grid further.
inline Launch manyElements(const Work& work, int64_t count) {
  constexpr int64_t kThreads = 256;
  const int64_t most = static_cast<int64_t>(work.device.properties.multiprocessors) * 32;
  return {.grid = static_cast<unsigned>(std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, most)),
          .block = kThreads,
          .stream = work.stream};
}

}  // namespace clipcid::cuda
