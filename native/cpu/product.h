// Products of packed operands in float32's accuracy: what the softmax and `matmul` are made of.
//
// A left block is `rows` rows of the left operand, a right panel `columns` columns of the right one; both are packed
// into words of 32 bits, one for each element, and `multiply` makes one tile of `rows` by `columns`.
//
// There are two kinds. float32: the microkernel of kernels.h; every element is one chain of `depth` roundings.
// split, where the machine multiplies matrices of bfloat16 much faster than it multiplies float32: every element x
// is hi + lo, both bfloat16, and the product is hi hi + hi lo + lo hi. With a the left and b the right row,
//   |error| <= (3 * 2^-18 + (2 depth + 96) 2^-23) sum_k |a_k b_k|
// for finite elements of up to 3e38, elements under 2^-100 counting as if 2^-126 off; in practice the roundings are
// as good as independent and the error is that of float32, within a factor of a few.
//
// An element of the product depends on its two rows alone, not on its place in the tile. It is the same when the
// operands change places, provided `mirrored` changes too.
#pragma once

#include <cstdint>

namespace clipcid {

struct Product {
  int rows;
  int columns;
  int step;  // the depth is filled up with zeros to a multiple of it
  int skew;  // words that follow each row of a left block
  bool
      direct;  // operands can also be multiplied where they lie, by kernels().tile; panels are then [depth, columns]

  // Words of a row of a left block, or of a column of a right panel.
  int64_t leftWords(int64_t depth) const { return rightWords(depth) + skew; }
  int64_t rightWords(int64_t depth) const { return (depth + step - 1) / step * step; }

  // `count` rows, at most `rows`, `stride` elements apart, into a left block; the missing rows become zero. `out` of
  // this and the others is 64-byte aligned.
  void (*packLeft)(const float* a, int64_t stride, int64_t count, int64_t depth, float* out);
  // The transpose of `count` rows, at most `columns`, into a right panel.
  void (*packRightRows)(const float* b, int64_t stride, int64_t count, int64_t depth, float* out);
  // Part of a right panel: the rows [begin, begin + length) of its `depth`, each of `count` columns. `begin` is a
  // multiple of 32, and `length` too unless it reaches the end.
  void (*packRight)(const float* b, int64_t stride, int64_t count, int64_t begin, int64_t length,
                    int64_t depth, float* out);
  // c = left right, or c += left right; all `rows` by `columns` of c, whose rows are 64-byte aligned.
  void (*multiply)(const float* left, const float* right, int64_t depth, float* c, int64_t strideC, bool add,
                   bool mirrored);

  // Around every run of multiplications on a thread.
  void (*enter)();
  void (*leave)();
};

constexpr int kMostProductRows = 32;
constexpr int kMostProductColumns = 64;

const Product& floatProduct();
// The one for products of m x k by k x n: whichever is faster.
const Product& productFor(int64_t m, int64_t n, int64_t k);

#if defined(__x86_64__)
// Only where there are AMX and AVX512_BF16.
const Product& amxProduct();
#endif

}  // namespace clipcid
