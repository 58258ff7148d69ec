// Rows from memory, by position from files, or from a matrix of the CPU, widened to float32.
#pragma once

#include "clipcid/types.h"
#include "core/aligned.h"

namespace clipcid {

// Widens rows [begin, begin + count) into float32; columns from dim to stride are zeroed.
Status readRows(const Rows& rows, int64_t begin, int64_t count, float* out, int64_t stride);
// All rows as stored, dense. They are of one dtype.
Status copyRows(const Rows& rows, char* out);

// A CPU's device matrix: rows in memory, dense.
class CpuMatrix final : public DeviceMatrix {
 public:
  CpuMatrix(const Backend* owner, Dtype dtype, int64_t rows, int64_t dim)
      : DeviceMatrix(owner, dtype, rows, dim), data(static_cast<int64_t>(bytes())) {}
  AlignedArray<char> data;
};

}  // namespace clipcid
