// Rows in a device's memory.
#pragma once

#include <cstdint>

#include "clipcid/types.h"

namespace clipcid::cuda {

// Rows begin at multiples of 16 bytes; behind the last element of each are zeros up to the next one.
struct DeviceRows {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
  int64_t stride = 0;  // elements from row to row
  int64_t dim = 0;
  int64_t count = 0;
  // [count] canonical norms of the rows as stored; -1 for a fault.
  const double* norms = nullptr;
  bool unit = false;

  // Some of the rows.
  DeviceRows part(int64_t begin, int64_t number) const {
    DeviceRows rows = *this;
    rows.data = static_cast<const char*>(data) + begin * stride * static_cast<int64_t>(dtypeSize(dtype));
    rows.norms = norms + begin;
    rows.count = number;
    return rows;
  }
};

// Elements from row to row for rows of `dim`.
constexpr int64_t deviceStride(Dtype dtype, int64_t dim) {
  const int64_t each = 16 / static_cast<int64_t>(dtypeSize(dtype));
  return (dim + each - 1) / each * each;
}

}  // namespace clipcid::cuda
