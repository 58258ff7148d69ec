// Products of packed operands: what the softmax and `matmul` are made of.
//
// A left block is `rows` rows of the left operand, a right panel `columns` columns of the right one; both are packed
// into words of 32 bits, and `multiply` makes one tile of `rows` by `columns`.
//
// There are two kinds in float32's accuracy. float32: the microkernel of kernels.h; every element is one chain of `depth`
// roundings.
// split, where the machine multiplies matrices of bfloat16 much faster than it multiplies float32: every element x
// is hi + lo, both bfloat16, and the product is hi hi + hi lo + lo hi. With a the left and b the right row,
//   |error| <= (3 * 2^-18 + (2 depth + 96) 2^-23) sum_k |a_k b_k|
// for finite elements of up to 3e38, elements under 2^-100 counting as if 2^-126 off; in practice the roundings are
// as good as independent and the error is that of float32, within a factor of a few.
//
// The third, bfloat16, is for who asks for it: operands are rounded to bfloat16 as they are packed, to nearest, ties to
// even, and their products, which are exact, are added in float32. With a~ and b~ the rounded rows
//   |error| <= (depth + 64) 2^-23 sum_k |a~_k b~_k|,  and against a and b themselves  2^-6.99 sum_k |a_k b_k|  more,
// for finite elements of up to 3.38e38 that are zero or at least 2^-126, and results that are: what is smaller may count
// as zero. Vector instructions of x86 and ARM, AMX and plain loops, which are there everywhere, differ within that.
//
// An element of the product depends on its two rows alone, not on its place in the tile. It is the same when the
// operands change places, provided `mirrored` changes too.
#pragma once

#include <cstdint>

#include "clipcid/ops.h"

namespace clipcid {

struct Product {
  int rows;
  int columns;
  int step;      // the depth is filled up with zeros to a multiple of it
  int elements;  // of a word
  int skew = 0;  // words that follow each row of a left block
  // Operands can also be multiplied where they lie, by kernels().tile; panels are then [depth, columns].
  bool direct = false;

  // Words of a row of a left block, or of a column of a right panel.
  int64_t leftWords(int64_t depth) const { return rightWords(depth) + skew; }
  int64_t rightWords(int64_t depth) const { return (depth + step - 1) / step * step / elements; }

  // `count` rows, at most `rows`, `stride` elements apart, into a left block; the missing rows become zero. `out` is
  // 64-byte aligned for float32, and for bfloat16 as its words are.
  void (*packLeft)(const float* a, int64_t stride, int64_t count, int64_t depth, float* out);
  // The transpose of `count` rows, at most `columns`, into a right panel.
  void (*packRightRows)(const float* b, int64_t stride, int64_t count, int64_t depth, float* out);
  // Part of a right panel: the rows [begin, begin + length) of its `depth`, each of `count` columns. `begin` is a
  // multiple of 32, and `length` too unless it reaches the end.
  void (*packRight)(const float* b, int64_t stride, int64_t count, int64_t begin, int64_t length,
                    int64_t depth, float* out);
  // c = left right, or c += left right; all `rows` by `columns` of c, whose rows are 64-byte aligned for float32 alone.
  void (*multiply)(const float* left, const float* right, int64_t depth, float* c, int64_t strideC, bool add,
                   bool mirrored);

  // Of a left operand that is stored transposed, element (r, k) at a[k * stride + r]: any number of rows, as blocks one
  // behind the other, and what multiplies these. Null where such an operand has to be turned first.
  void (*packLeftTurned)(const float* a, int64_t stride, int64_t count, int64_t depth, float* out) = nullptr;
  void (*multiplyTurned)(const float* left, const float* right, int64_t depth, float* c, int64_t strideC,
                         bool add, bool mirrored) = nullptr;

  // Around every run of multiplications on a thread.
  void (*enter)() = [] {};
  void (*leave)() = [] {};
};

constexpr int kMostProductRows = 32;
constexpr int kMostProductColumns = 64;

const Product& floatProduct();
// This processor's, and whether it is made of instructions for it rather than of plain loops.
const Product& bfloat16Product();
bool hasBfloat16Product();
// The one for products of m x k by k x n in a precision: of float32 whichever is faster.
const Product& productFor(int64_t m, int64_t n, int64_t k, Precision precision = Precision::kFloat32);

// By file. Only where there are AVX512_BF16, and AMX; or BFDOT.
const Product& plainBfloat16Product();
#if defined(__aarch64__)
const Product& neonBfloat16Product();
#elif defined(__x86_64__)
const Product& avx512Bfloat16Product();
const Product& amxProduct();
const Product& amxBfloat16Product();
#endif

}  // namespace clipcid
