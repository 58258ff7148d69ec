// Rows made ready for the CPU: read from memory or by position from files, widened, normalised and packed
// block by block.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "clipcid/backend.h"

namespace clipcid {

// Cache-aligned memory that is not cleared; throws std::bad_alloc.
template <typename T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes == 0 ? 64 : bytes)));
    if (!data_) throw std::bad_alloc();
  }
  T* get() const { return data_.get(); }
  bool empty() const { return !data_; }

 private:
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T, Free> data_;
};

// How much memory the blocks of one matrix take. Results do not depend on it; tests make it small to reach
// every path.
struct PreparedLimits {
  int64_t blockBytes = int64_t{64} << 20;  // one block
  int64_t keepBytes = int64_t{1} << 30;    // a matrix up to this size keeps its blocks
};
PreparedLimits& preparedLimits();

// Consecutive rows as compared. `rows` is [count, stride], padded with zeros to whole tiles downward and to
// `stride` across; `panels`, for keys only, is [ceil(count / panel)][dim][panel], padded with zero rows.
struct Block {
  int64_t begin = 0;
  int64_t count = 0;
  int64_t stride = 0;
  AlignedArray<float> rows;
  AlignedArray<float> panels;

  const float* row(int64_t index) const { return rows.get() + (index - begin) * stride; }
};

class CpuPrepared final : public Prepared {
 public:
  explicit CpuPrepared(const PrepareArgs& args);

  // Norms, squares, faults and the largest element: one pass over the rows.
  Status scan(const Context& context);

  int64_t blockCount() const { return (rows + blockRows_ - 1) / blockRows_; }
  int64_t blockRows() const { return blockRows_; }
  // Small matrices keep their blocks; those of large ones are made anew each time, so that memory is bounded.
  Status block(const Context& context, int64_t index, bool panels, std::shared_ptr<const Block>* out) const;
  // The row as compared, with `dim` elements: in a block that is kept, or read into `scratch`.
  Status row(int64_t index, float* scratch, const float** out) const;

  bool isFault(int64_t index) const { return faulty_[static_cast<size_t>(index)] != 0; }
  // A little above the norm of the row as compared.
  double normBound(int64_t index) const;
  double normBound(int64_t begin, int64_t end) const;  // the largest of a range

 private:
  void allocate(int64_t index, Block* block) const;
  void asCompared(int64_t index, float* row) const;

  Rows source_;
  int64_t offset_;
  int64_t blockRows_ = 1;
  bool keepBlocks_ = false;
  std::vector<double> norms_;  // [rows] canonical norms as stored, of unit rows only
  std::vector<uint8_t> faulty_;
  mutable std::vector<std::shared_ptr<Block>> kept_;
};

const CpuPrepared& cpuPrepared(const Prepared* prepared);

// Widens rows [begin, begin + count) of chunks or of a CPU matrix into float32; columns from dim to stride
// are zeroed.
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
