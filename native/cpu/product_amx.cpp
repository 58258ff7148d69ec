// The split and the bfloat16 product by AMX: 32 x 32 as 2 x 2 hardware tiles of 16 x 16, a step of depth 32 elements.
//
// A left block is two times, and a right panel too, [steps] pairs of hardware tiles of 1 KiB: the high halves, then
// the low ones, which the bfloat16 product does without. A tile of a left block is 16 rows of 32 bfloat16; one of a right
// panel is 16 words of 16 columns, a word holding two successive elements of depth, the first in its lower half.
//
// A step is 4 multiplications of tiles for 4 loads, or split 12 multiplications of tiles for 12 loads, as two tiles of each operand fit beside the four sums. Sums
// run hi hi, hi lo, lo hi (mirrored: hi hi, lo hi, hi lo) in every step; the hardware adds the even and the odd
// products of a pair apart and takes denormals for zero.
//
// Best measured, GFLOP/s of one thread (of the product asked for, which is a third of what is multiplied): 795 with
// panels of 256 columns by 512 deep from the second-level cache, of zeros; 605 of numbers, which take more power (Xeon,
// November 2026). Of the bfloat16 product nothing is measured yet; it has been run on emulated tiles (test_product).
#include "cpu/words_avx512.inc"
// After it, for GCC's sake.
#include "cpu/amx_tiles.h"
#include "cpu/product.h"

namespace clipcid {
namespace {

constexpr int kSide = 16, kStep = 32;
constexpr int64_t kTileFloats = 256;  // 1 KiB
// Of a step in a half: the high halves, and split the low ones.
template <bool kSplit>
constexpr int64_t kStepFloats = (kSplit ? 2 : 1) * kTileFloats;

int64_t stepsOf(int64_t depth) { return (depth + kStep - 1) / kStep; }

// Sixteen elements as bfloat16, in the low halves of words.
__m512i rounded(__m512 x) { return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x))); }

__m512 widened(__m512i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16)); }

struct Words {
  __m512i high, low;
};

// Word j holds first[j] and second[j].
Words interleaved(__m512 first, __m512 second) {
  const __m512i a = rounded(first), b = rounded(second);
  const __m512i c = rounded(_mm512_sub_ps(first, widened(a)));
  const __m512i d = rounded(_mm512_sub_ps(second, widened(b)));
  return {_mm512_or_si512(a, _mm512_slli_epi32(b, 16)), _mm512_or_si512(c, _mm512_slli_epi32(d, 16))};
}

// Word j holds elements 2 j and 2 j + 1 of the 32.
Words successive(__m512 first, __m512 second) {
  const auto pack = [](__m512 x, __m512 y) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(y, x)); };
  const __m512i high = pack(first, second);
  const __m512 a = widened(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(high)));
  const __m512 b = widened(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(high, 1)));
  return {high, pack(_mm512_sub_ps(first, a), _mm512_sub_ps(second, b))};
}

// Elements [from, from + 32) of a row that ends at `end`.
Words wordsOf(const float* row, int64_t from, int64_t end) {
  if (from + kStep <= end) return successive(_mm512_loadu_ps(row + from), _mm512_loadu_ps(row + from + 16));
  return successive(_mm512_maskz_loadu_ps(firstLanes(end - from), row + from),
                    _mm512_maskz_loadu_ps(firstLanes(end - from - 16), row + from + 16));
}

template <bool kSplit>
void packLeft(const float* a, int64_t stride, int64_t count, int64_t depth, float* out) {
  const int64_t steps = stepsOf(depth);
  for (int64_t r = 0; r < 2 * kSide; ++r) {
    float* to = out + r / kSide * steps * kStepFloats<kSplit> + r % kSide * kSide;
    for (int64_t step = 0; step < steps; ++step, to += kStepFloats<kSplit>) {
      const Words words = r < count ? wordsOf(a + r * stride, step * kStep, depth)
                                    : Words{_mm512_setzero_si512(), _mm512_setzero_si512()};
      _mm512_store_si512(to, words.high);
      if constexpr (kSplit) _mm512_store_si512(to + kTileFloats, words.low);
    }
  }
}

template <bool kSplit>
void packRightRows(const float* b, int64_t stride, int64_t count, int64_t depth, float* out) {
  const int64_t steps = stepsOf(depth);
  for (int64_t half = 0; half < 2; ++half) {
    for (int64_t step = 0; step < steps; ++step, out += kStepFloats<kSplit>) {
      __m512i high[kSide], low[kSide];
      for (int64_t j = 0; j < kSide; ++j) {
        const int64_t row = half * kSide + j;
        const Words words = row < count ? wordsOf(b + row * stride, step * kStep, depth)
                                        : Words{_mm512_setzero_si512(), _mm512_setzero_si512()};
        high[j] = words.high;
        low[j] = words.low;
      }
      storeTransposed(high, out, kSide);
      if constexpr (kSplit) storeTransposed(low, out + kTileFloats, kSide);
    }
  }
}

template <bool kSplit>
void packRight(const float* b, int64_t stride, int64_t count, int64_t begin, int64_t length, int64_t depth,
               float* out) {
  const int64_t steps = stepsOf(depth);
  const int64_t end = stepsOf(length);
  for (int64_t half = 0; half < 2; ++half) {
    const __mmask16 mask = firstLanes(count - half * kSide);
    float* to = out + (half * steps + begin / kStep) * kStepFloats<kSplit>;
    for (int64_t step = 0; step < end; ++step, to += kStepFloats<kSplit>) {
      for (int64_t word = 0; word < kSide; ++word) {
        const int64_t k = step * kStep + 2 * word;
        const float* row = b + k * stride + half * kSide;
        const __m512 first = k < length ? _mm512_maskz_loadu_ps(mask, row) : _mm512_setzero_ps();
        const __m512 second =
            k + 1 < length ? _mm512_maskz_loadu_ps(mask, row + stride) : _mm512_setzero_ps();
        const Words words = interleaved(first, second);
        _mm512_store_si512(to + word * kSide, words.high);
        if constexpr (kSplit) _mm512_store_si512(to + kTileFloats + word * kSide, words.low);
      }
    }
  }
}

// Tiles 0 to 3 are the sums, row by row; 4 and 5 of the left operand, 6 and 7 of the right one.
template <bool kSplit, bool kMirrored>
[[gnu::always_inline]] inline void sumSteps(const float* left, const float* right, int64_t steps) {
  constexpr int64_t kFloats = kStepFloats<kSplit>;
  const float* below = left + steps * kFloats;
  const float* beside = right + steps * kFloats;
  for (int64_t step = 0; step < steps; ++step) {
    _tile_loadd(4, left, 64);
    _tile_loadd(6, right, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, beside, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, below, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    if constexpr (!kSplit) {
      // That was all.
    } else if constexpr (kMirrored) {
      _tile_loadd(4, left + kTileFloats, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, below + kTileFloats, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(4, left, 64);
      _tile_loadd(6, right + kTileFloats, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, beside + kTileFloats, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, below, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    } else {
      _tile_loadd(6, right + kTileFloats, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      _tile_loadd(7, beside + kTileFloats, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(4, left + kTileFloats, 64);
      _tile_loadd(6, right, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, beside, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, below + kTileFloats, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    left += kFloats;
    below += kFloats;
    right += kFloats;
    beside += kFloats;
  }
}

template <bool kSplit>
void multiply(const float* left, const float* right, int64_t depth, float* c, int64_t strideC, bool add,
              bool mirrored) {
  float* below = c + kSide * strideC;
  const int64_t bytes = strideC * 4;
  if (add) {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + kSide, bytes);
    _tile_loadd(2, below, bytes);
    _tile_loadd(3, below + kSide, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  if (kSplit && mirrored) {
    sumSteps<kSplit, true>(left, right, stepsOf(depth));
  } else {
    sumSteps<kSplit, false>(left, right, stepsOf(depth));
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + kSide, bytes);
  _tile_stored(2, below, bytes);
  _tile_stored(3, below + kSide, bytes);
}

template <bool kSplit>
constexpr Product kProduct = {.rows = 2 * kSide,
                              .columns = 2 * kSide,
                              .step = kStep,
                              .elements = kSplit ? 1 : 2,
                              .packLeft = packLeft<kSplit>,
                              .packRightRows = packRightRows<kSplit>,
                              .packRight = packRight<kSplit>,
                              .multiply = multiply<kSplit>,
                              .enter = enter,
                              .leave = leave};

}  // namespace

const Product& amxProduct() { return kProduct<true>; }
const Product& amxBfloat16Product() { return kProduct<false>; }

}  // namespace clipcid
