// Rows made ready for the CPU: where they are, their norms, and which are at fault.
//
// Of the rows themselves nothing is copied. What the engine compares is encoded from the source (encoding.h), all
// of it once where memory allows; a canonical row is worked out from the stored row and its norm wherever it is
// needed, because that is rare.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "clipcid/backend.h"
#include "core/aligned.h"
#include "core/read_rows.h"
#include "cpu/encoding.h"

namespace clipcid {

// Results do not depend on these; tests make them small to reach every path.
struct PreparedLimits {
  int64_t memory = 0;     // instead of what Context::maxMemory and the machine say, when not 0
  int64_t blockRows = 0;  // rows of a key block at most, when not 0
  int64_t stagingBytes = int64_t{8} << 20;      // read from a file at a time, twice
  int64_t gapBytes = int64_t{1} << 30;          // of gaps (gaps.h), at most
  int64_t gapBytesUntried = int64_t{32} << 20;  // up to which they are kept of all rows at once
};
PreparedLimits& preparedLimits();

// What the hardware foresees ends at every page: rows that are read in order are asked for so many rows before they are
// needed. There need not be such a row.
constexpr int64_t kRowsAhead = 3;
inline void prefetchRow(const float* row, int64_t dim) {
  for (int64_t k = 0; k < dim; k += 16) __builtin_prefetch(row + k);
}

// Bytes that a call may hold: Context::maxMemory, or half of what the machine has free.
int64_t memoryBudget(const Context& context);

class CpuPrepared final : public Prepared {
 public:
  explicit CpuPrepared(const PrepareArgs& args);

  // Norms, faults, the largest element and, where asked for, squares: one pass over the rows.
  Status scan(const Context& context, bool squaresOfUnitRows);

  bool isFault(int64_t index) const { return faulty_[static_cast<size_t>(index)] != 0; }
  // Canonical norm of the row as stored; 0 for a fault.
  double storedNorm(int64_t index) const { return norms_[static_cast<size_t>(index)]; }
  // A little above the norm of the row as compared; 0 for a fault.
  double normBound(int64_t index) const {
    const double norm = storedNorm(index);
    return unit && norm > 0 ? 1 + 1e-6 : norm * (1 + 1e-6);
  }

  // Rows as stored, widened: calls `visit` for ranges of a few rows that make up [begin, begin + count), from
  // several threads. Rows of files are read ahead by a thread.
  using Visit =
      std::function<Status(int64_t begin, int64_t count, const float* stored, int64_t stride, int worker)>;
  Status eachRange(const Context& context, int64_t begin, int64_t count, const Visit& visit) const;

  // One row as stored: where it is, or read into `scratch` [dim].
  Status stored(int64_t index, float* scratch, const float** out) const {
    if (base_ == nullptr) return storedElsewhere(index, scratch, out);
    *out = base_ + index * stride_;
    return {};
  }
  // Consecutive rows as stored, [count, dim].
  Status storedRows(int64_t begin, int64_t count, float* out) const {
    return reader_.read(offset_ + begin, count, out, dim);
  }
  // Asks for the row's memory, so that stored() soon finds it in the cache.
  // Where the row lies in memory as it is stored; null where it does not.
  const float* placeOf(int64_t index) const { return base_ == nullptr ? nullptr : base_ + index * stride_; }
  void prefetch(int64_t index) const {
    if (base_ != nullptr) prefetchRow(base_ + index * stride_, dim);
  }
  // One row as compared: the canonical row of a unit matrix, zeros for a fault. `out` may be `scratch` [dim].
  Status row(int64_t index, float* scratch, const float** out) const;
  // The row as compared of a row as stored; `out` [dim] may be `stored`.
  void compared(int64_t index, const float* stored, float* out) const;

  // All rows encoded; kept for the next call with the same encoding, the last one only.
  Status encoded(const Context& context, const RowEncoding& encoding,
                 std::shared_ptr<const EncodedRows>* out) const;
  // Whether `encoded` would have nothing to do.
  bool hasEncoded(const RowEncoding& encoding) const;
  // Of the rows that `encoded` keeps; kAuto when there are none.
  Filter keptFilter() const;
  // The rows [begin, begin + count) encoded, into an object that may be used again.
  Status encode(const Context& context, const RowEncoding& encoding, int64_t begin, int64_t count,
                EncodedRows* out) const;
  bool inMemory() const { return reader_.inMemory(); }
  // The row lies in memory as it is compared: row() gives a pointer that stays good.
  bool inPlace(int64_t index) const;

 private:
  Status eachRangeOfFile(const Context& context, int64_t begin, int64_t count, int64_t range,
                         const Visit& visit) const;

  Status storedElsewhere(int64_t index, float* scratch, const float** out) const;

  RowReader reader_;
  int64_t offset_;
  // Where all rows lie in one place in memory as they are stored: the first of them.
  const float* base_ = nullptr;
  int64_t stride_ = 0;
  std::vector<double> norms_;
  std::vector<uint8_t> faulty_;
  mutable std::mutex mutex_;
  mutable RowEncoding keptAs_;
  mutable std::shared_ptr<const EncodedRows> kept_;
};

const CpuPrepared& cpuPrepared(const Prepared* prepared);

}  // namespace clipcid
