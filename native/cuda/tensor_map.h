// What TMA is told of a matrix on the device, so that a single thread can have a part of it copied to shared memory.
#pragma once

#include <cstdint>

#include "clipcid/types.h"

namespace clipcid::cuda {

// The driver's; nobody else looks into it. A kernel has it as a parameter. Aligned as CUDA 13 wants it, CUDA 12 to 64 bytes.
struct alignas(128) TensorMap {
  uint64_t words[16] = {};
};

// Bytes [problems, rows, rowBytes] from `data` on. A copy takes a box of 128 bytes of `boxRows` rows of a problem, of which row r
// comes to r * 128 bytes behind the place that is named, with its chunks of 16 bytes permuted as the 128-byte swizzle says.
// What of a box lies outside of the matrix becomes zeros.
struct TensorShape {
  const void* data = nullptr;  // aligned to 16 bytes
  int64_t stride = 0;          // bytes from row to row: a multiple of 16 below 2^32
  int64_t rowBytes = 0;        // of a row: at most the stride
  int64_t rows = 0, problems = 1;
  int boxRows = 0;  // up to 256
};
constexpr int kBoxBytes = 128;
constexpr int kMostBoxRows = 256;

// Whether TMA takes it.
inline bool suitsTensorMap(const TensorShape& shape) {
  return reinterpret_cast<uintptr_t>(shape.data) % 16 == 0 && shape.stride > 0 && shape.stride % 16 == 0 &&
         shape.rowBytes > 0 && shape.rowBytes <= shape.stride && shape.stride < INT64_C(1) << 32 &&
         shape.rows > 0 && shape.rows <= INT64_C(1) << 31 && shape.problems > 0 &&
         shape.problems <= INT64_C(1) << 31 && shape.stride * shape.rows < INT64_C(1) << 40 &&
         shape.boxRows > 0 && shape.boxRows <= kMostBoxRows;
}

// What the sm_90 mainloop is given: the second ones for epilogues of two products.
struct TensorMaps {
  TensorMap queries, keys, secondQueries, secondKeys;
};

// Made by the driver, which is asked for at run time; on the host, and nothing is queued.
Status encodeTensorMap(const TensorShape& shape, TensorMap* out);

}  // namespace clipcid::cuda
