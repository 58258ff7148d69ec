// Rows made ready for the CPU: read from memory or by position from files, widened, normalised and packed
// block by block.
#pragma once

#include <memory>
#include <vector>

#include "clipcid/backend.h"
#include "core/aligned.h"
#include "core/read_rows.h"

namespace clipcid {

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

}  // namespace clipcid
