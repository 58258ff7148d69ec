// What the engine compares: rows as words of 32 bits in the precision of a filter, each with how far it may be
// from the row it stands for.
//
// Below, x is a row as compared (canonical for unit rows), x~ the vector that its words stand for, both in the
// coordinates of the encoding, which an orthogonal rotation may have changed. Of every row are kept
//   error  >= |x - x~|      and      length >= |x~|.
// Then a score s of two encoded rows, as the microkernel computes it, is bounded by
//   |x.y - s| <= error_x (length_y + error_y) + length_x error_y + accumulation        (FilterPlan::bound)
// since x.y - x~.y~ = (x - x~).y + x~.(y - y~).
//
// With a basis (prefix) x~ is p coordinates of x under the basis and, behind them, coordinates of one value that
// together are at least as long as what is left of x. As the remainders' dot is at most the product of their
// lengths, x.y <= s + bound: such a score only rules out.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "clipcid/types.h"
#include "core/aligned.h"
#include "cpu/kernels.h"
#include "cpu/rotation.h"

namespace clipcid {

class CpuPrepared;

// How one matrix is encoded. Two that are equal give equal words.
struct RowEncoding {
  Filter filter = Filter::kFloat32;
  bool spread = false;                   // rotated by spreadRow
  std::shared_ptr<const Basis> basis{};  // null: all coordinates
  float step = 1;     // int8: the value of 1; 1 for other filters, and where rows have their own
  bool own = false;   // int8: each row has a step of its own, EncodedRows::steps
  int64_t words = 0;  // a row, whole steps of the microkernel

  bool operator==(const RowEncoding&) const = default;
};

// Consecutive rows of a matrix, or listed ones. Below the last row are rows of zeros that fill up its tile.
struct EncodedRows {
  int64_t begin = 0;
  int64_t count = 0;
  int64_t stride = 0;              // words from row to row
  AlignedArray<uint32_t> words{};  // [count + kMostTileRows, stride]
  AlignedArray<int32_t> sums{};    // [count + kMostTileRows] int8: sum of a row's values
  AlignedArray<float> errors{};    // [count + kMostTileRows]
  AlignedArray<float> lengths{};   // [count + kMostTileRows]
  AlignedArray<float>
      steps{};  // [count + kMostTileRows] the value of 1 where rows have steps of their own; else 1

  // Sets all but the rows' contents; keeps its memory where that is enough.
  void allocate(const RowEncoding& encoding, int64_t begin, int64_t count);
  uint32_t* row(int64_t index) const { return words.get() + (index - begin) * stride; }

  static int64_t rowBytes(const RowEncoding& encoding);

 private:
  int64_t rowsHeld_ = 0, wordsHeld_ = 0;
};

// Encodes the rows [begin, begin + count), given as stored, into their places in `out`.
void encodeRange(const CpuPrepared& rows, const RowEncoding& encoding, int64_t begin, int64_t count,
                 const float* stored, int64_t stride, EncodedRows* out);

// The rows as the encoding's filter sees them before it rounds: out[r, :] = row begin + r, scaled to length 1 in
// float32 for unit rows and rotated where `spread`. Its error is counted in EncodedRows::errors. strideOut is at
// least dim.
void approximateRows(const CpuPrepared& rows, bool spread, int64_t begin, int64_t count, const float* stored,
                     int64_t stride, float* out, int64_t strideOut);

// One row of `from` to its place in `out`; indices are each object's own.
void copyEncoded(const EncodedRows& from, int64_t row, EncodedRows* out, int64_t place);

// Keys as a microkernel takes them: [panels][words][panel], zeros behind the last, the kernel's offset added.
// Packs the rows [begin, begin + count) of `rows`, indices of the matrix; `out` has room for whole panels.
void packPanel(const FilterKernel& kernel, const EncodedRows& rows, int64_t words, int64_t begin,
               int64_t count, uint32_t* out);

// Of a filter that is chosen: its microkernel, or that of the next more precise one the machine has.
const FilterKernel& filterKernel(Filter filter);
Filter availableFilter(Filter filter);

// Everything about how a pair of matrices is compared.
struct FilterPlan {
  const FilterKernel* kernel = nullptr;
  RowEncoding queries{}, keys{};
  int64_t dim = 0;
  // Scores bound dots from above only.
  bool oneSided = false;

  // For rows of these errors and lengths: see above; infinite where nothing is known. Includes the canonical
  // dot's own rounding.
  double bound(double queryError, double queryLength, double keyError, double keyLength) const;
  // "int8, 512 of 512 dimensions, amx"
  std::string text() const;
};

// The largest |element|; a NaN is none.
float largestElement(const float* row, int64_t dim);

// The float32 next below or equal to / above or equal to a float64.
inline float roundDown(double value) {
  const auto near = static_cast<float>(value);
  if (!(static_cast<double>(near) > value)) return near;
  uint32_t bits;
  memcpy(&bits, &near, sizeof bits);
  // The float32 before: its bits are one less above zero and one more below.
  bits = near > 0 ? bits - 1 : near < 0 ? bits + 1 : 0x80000001u;
  float before;
  memcpy(&before, &bits, sizeof before);
  return before;
}
inline float roundUp(double value) { return -roundDown(-value); }

}  // namespace clipcid
