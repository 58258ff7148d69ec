// The bfloat16 product by AVX512_BF16: 12 x 32, the microkernel of kernels_tile.inc over words of two elements.
//
// A left block is 12 rows of words, or turned: [words, 12]; a right panel is [words, 32]. A word holds two successive elements
// of depth, the first in its lower half.
//
// Best measured, within gemm.cpp: 0.85 to 0.94 of the peak of 515 GFLOP/s of one thread where the left operand lies by rows, 0.68 to
// 0.80 where it is turned (layers 192 to 2,048 wide, 3,200 or 4,160 rows; AMD Zen 5, November 2026).
#include "cpu/words_avx512.inc"
// After it, for GCC's sake.
#include <algorithm>

#include "cpu/bfloat16_avx512.inc"
#include "cpu/kernels_tile.inc"
#include "cpu/product.h"

namespace clipcid {
namespace {

constexpr int kRows = Op::rows, kColumns = Op::columns * Op::width, kSide = 16;
// As in product.cpp.
constexpr int kSkew = 16;

int64_t wordsOf(int64_t depth) { return (depth + 1) / 2; }

// Words of the successive elements of a row: 2 j and 2 j + 1 of the 32.
__m512i successive(__m512 first, __m512 second) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}

// Word j holds first[j] and second[j].
__m512i interleaved(__m512 first, __m512 second) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_maskz_permutexvar_epi16(0xffffffff, _mm512_load_si512(kOrder), successive(first, second));
}

// Words of the elements [from, from + 32) of a row that ends at `end`.
__m512i wordsAt(const float* row, int64_t from, int64_t end) {
  if (from + 2 * kSide <= end)
    return successive(_mm512_loadu_ps(row + from), _mm512_loadu_ps(row + from + kSide));
  return successive(_mm512_maskz_loadu_ps(firstLanes(end - from), row + from),
                    _mm512_maskz_loadu_ps(firstLanes(end - from - kSide), row + from + kSide));
}

void packLeft(const float* a, int64_t stride, int64_t count, int64_t depth, float* out) {
  const int64_t words = wordsOf(depth);
  for (int64_t r = 0; r < kRows; ++r, out += words + kSkew) {
    for (int64_t w = 0; w < words; w += kSide) {
      const __m512i values = r < count ? wordsAt(a + r * stride, 2 * w, depth) : _mm512_setzero_si512();
      _mm512_mask_storeu_epi32(out + w, firstLanes(words - w), values);
    }
  }
}

// Along the rows in memory, which are the columns of what is packed.
void packLeftTurned(const float* a, int64_t stride, int64_t count, int64_t depth, float* out) {
  const int64_t size = kRows * (wordsOf(depth) + kSkew);
  for (int64_t k = 0; k < depth; k += 2, a += 2 * stride, out += kRows) {
    float* to = out;
    for (int64_t r = 0; r < count; r += kRows, to += size) {
      const __mmask16 mask = firstLanes(std::min<int64_t>(kRows, count - r));
      const __m512 first = _mm512_maskz_loadu_ps(mask, a + r);
      const __m512 second = k + 1 < depth ? _mm512_maskz_loadu_ps(mask, a + stride + r) : _mm512_setzero_ps();
      _mm512_mask_storeu_epi32(to, firstLanes(kRows), interleaved(first, second));
    }
  }
}

void packRightRows(const float* b, int64_t stride, int64_t count, int64_t depth, float* out) {
  const int64_t words = wordsOf(depth);
  for (int64_t w = 0; w < words; w += kSide) {
    for (int64_t half = 0; half < kColumns; half += kSide) {
      __m512i rows[kSide];
      for (int64_t j = 0; j < kSide; ++j) {
        const int64_t row = half + j;
        rows[j] = row < count ? wordsAt(b + row * stride, 2 * w, depth) : _mm512_setzero_si512();
      }
      if (w + kSide <= words) {
        storeTransposed(rows, out + w * kColumns + half, kColumns);
        continue;
      }
      alignas(64) float rest[kSide * kSide];
      storeTransposed(rows, rest, kSide);
      for (int64_t at = w; at < words; ++at)
        _mm512_store_ps(out + at * kColumns + half, _mm512_load_ps(rest + (at - w) * kSide));
    }
  }
}

void packRight(const float* b, int64_t stride, int64_t count, int64_t begin, int64_t length, int64_t,
               float* out) {
  out += begin / 2 * kColumns;
  const __mmask16 masks[2] = {firstLanes(count), firstLanes(count - kSide)};
  for (int64_t k = 0; k < length; k += 2, b += 2 * stride, out += kColumns) {
    for (int half = 0; half < 2; ++half) {
      const float* row = b + half * kSide;
      const __m512 first = _mm512_maskz_loadu_ps(masks[half], row);
      const __m512 second =
          k + 1 < length ? _mm512_maskz_loadu_ps(masks[half], row + stride) : _mm512_setzero_ps();
      _mm512_store_si512(out + half * kSide, interleaved(first, second));
    }
  }
}

template <bool kTurned>
void multiplyTile(const float* left, const float* right, int64_t depth, float* c, int64_t strideC, bool add,
                  bool) {
#pragma GCC unroll 1
  for (int r = 0; r < kRows; ++r) {
    for (int64_t at = 0; at < kColumns; at += kSide) __builtin_prefetch(c + r * strideC + at, 1);
  }
  const int64_t words = wordsOf(depth);
  Tile<Op> sums;
  multiply<Op, kTurned>(reinterpret_cast<const uint32_t*>(left), kTurned ? kRows : words + kSkew,
                        reinterpret_cast<const uint32_t*>(right), words, sums);
  forTile(sums, [&](__m512 sum, int r, int column) {
    float* to = c + r * strideC + column;
    Op::store(to, add ? _mm512_loadu_ps(to) + sum : sum);
  });
}

constexpr Product kProduct = {.rows = kRows,
                              .columns = kColumns,
                              .step = 2,
                              .elements = 2,
                              .skew = kSkew,
                              .packLeft = packLeft,
                              .packRightRows = packRightRows,
                              .packRight = packRight,
                              .multiply = multiplyTile<false>,
                              .packLeftTurned = packLeftTurned,
                              .multiplyTurned = multiplyTile<true>};
static_assert(kRows <= kMostProductRows && kColumns <= kMostProductColumns);

}  // namespace

const Product& avx512Bfloat16Product() { return kProduct; }

}  // namespace clipcid
