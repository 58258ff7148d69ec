// Rows from memory, by position from files, or from a matrix of the CPU, widened to float32.
#pragma once

#include <memory>
#include <vector>

#include "clipcid/types.h"
#include "core/aligned.h"

namespace clipcid {

class File;

// Reads rows again and again, from several threads: files stay open, unless there are very many. What goes
// wrong with a file is told when it is read.
class RowReader {
 public:
  explicit RowReader(const Rows& rows);
  ~RowReader();

  bool inMemory() const { return inMemory_; }
  // Widens rows [begin, begin + count) into float32; columns from dim to stride are zeroed.
  Status read(int64_t begin, int64_t count, float* out, int64_t stride) const;
  // Rows [begin, begin + count) as stored, `strideBytes` apart; all rows must be of one dtype. Nothing is written behind a row.
  Status readStored(int64_t begin, int64_t count, char* out, size_t strideBytes) const;
  // The rows themselves where they lie together in memory as float32, `*stride` elements apart; null otherwise.
  const float* inPlace(int64_t begin, int64_t count, int64_t* stride) const;

 private:
  size_t chunkOf(int64_t row) const;

  Rows rows_;
  std::vector<int64_t> begins_;  // [chunks] first row of each
  // [chunks] chunks of one file share it; null for memory, and when there are too many.
  std::vector<std::shared_ptr<const File>> files_;
  bool inMemory_ = true;
};

// RowReader::read, once.
Status readRows(const Rows& rows, int64_t begin, int64_t count, float* out, int64_t stride);
// What a CPU's device matrix holds.
MatrixView hostView(const DeviceMatrix& matrix);
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
