// Filters in int8 and bfloat16 by AMX: 32 x 32 as 2 x 2 hardware tiles of 16 x 16, a step of depth 16 words. A
// hardware tile of A is 16 rows of 16 words as they lie; one of B is 16 words of 16 columns, as a panel has them.
// Both operands of TDPBSSD are signed. TDPBF16PS adds the even and the odd products of a step apart, each rounded to
// the nearest, and takes denormals for zero.
//
// The sums must go through memory; the largest is sought there before anything is converted.
//
// Best measured, Gop/s of one thread at a depth of 16, 32, 128 and 256 words, panels from the second-level cache:
// int8 2,150, 3,180, 4,340 and 3,840; bfloat16 1,030, 1,360, 2,140 and 1,800. From the first-level cache 2,440, 3,480
// and 5,040, and 1,120, 1,540 and 2,410, of 6,100 and 3,030 in registers (Xeon, November 2026). A tile costs about
// 100 cycles beside its multiplications.
#include <immintrin.h>

#include <limits>

#include "cpu/amx_tiles.h"
#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr int kSide = 32, kStep = 16;

// The four sums in tiles 0 to 3.
#define CLIPCID_AMX_SUM(name, instruction)                                                       \
  [[gnu::always_inline]] inline void name(const uint32_t* a, int64_t strideA, const uint32_t* b, \
                                          int64_t words) {                                       \
    const uint32_t* below = a + 16 * strideA;                                                    \
    const int64_t bytesA = strideA * 4, bytesB = kSide * 4;                                      \
    _tile_zero(0);                                                                               \
    _tile_zero(1);                                                                               \
    _tile_zero(2);                                                                               \
    _tile_zero(3);                                                                               \
    for (int64_t k = 0; k < words; k += kStep) {                                                 \
      const uint32_t* column = b + k * kSide;                                                    \
      _tile_loadd(6, column, bytesB);                                                            \
      _tile_loadd(4, a + k, bytesA);                                                             \
      _tile_loadd(7, column + 16, bytesB);                                                       \
      _tile_loadd(5, below + k, bytesA);                                                         \
      instruction(0, 4, 6);                                                                      \
      instruction(1, 4, 7);                                                                      \
      instruction(2, 5, 6);                                                                      \
      instruction(3, 5, 7);                                                                      \
    }                                                                                            \
  }
CLIPCID_AMX_SUM(sumInt8, _tile_dpbssd)
CLIPCID_AMX_SUM(sumBfloat16, _tile_dpbf16ps)
#undef CLIPCID_AMX_SUM

[[gnu::always_inline]] inline void storeSums(void* out, int64_t stride) {
  char* to = static_cast<char*>(out);
  const int64_t bytes = stride * 4;
  _tile_stored(0, to, bytes);
  _tile_stored(1, to + 64, bytes);
  _tile_stored(2, to + 16 * bytes, bytes);
  _tile_stored(3, to + 16 * bytes + 64, bytes);
}

typedef int32_t Ints __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));

bool int8Tile(const uint32_t* a, int64_t strideA, const int32_t*, const uint32_t* b, int64_t words,
              float scale, float limit, float* scores, int64_t strideScores) {
  alignas(64) Ints sums[kSide][2];
  sumInt8(a, strideA, b, words);
  storeSums(sums, kSide);
  Ints most[4] = {sums[0][0], sums[0][1], sums[1][0], sums[1][1]};
#pragma GCC unroll 16
  for (int r = 2; r < kSide; r += 2) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const Ints sum = sums[r + v / 2][v % 2];
      most[v] = most[v] > sum ? most[v] : sum;
    }
  }
#pragma GCC unroll 4
  for (int v = 1; v < 4; ++v) most[0] = most[0] > most[v] ? most[0] : most[v];
  const Floats top = __builtin_convertvector(most[0], Floats) * scale;
  if (_mm512_cmp_ps_mask(top, _mm512_set1_ps(limit), _CMP_NLT_UQ) == 0) return false;
  for (int r = 0; r < kSide; ++r) {
    for (int v = 0; v < 2; ++v) {
      _mm512_storeu_ps(scores + r * strideScores + v * 16,
                       __builtin_convertvector(sums[r][v], Floats) * scale);
    }
  }
  return true;
}

bool bfloat16Tile(const uint32_t* a, int64_t strideA, const int32_t*, const uint32_t* b, int64_t words, float,
                  float limit, float* scores, int64_t strideScores) {
  sumBfloat16(a, strideA, b, words);
  if (limit == -std::numeric_limits<float>::infinity()) {
    storeSums(scores, strideScores);
    return true;
  }
  alignas(64) Floats sums[kSide][2];
  storeSums(sums, kSide);
  const __m512 low = _mm512_set1_ps(limit);
  __mmask16 below[4] = {0xffff, 0xffff, 0xffff, 0xffff};
#pragma GCC unroll 16
  for (int r = 0; r < kSide; r += 2) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      below[v] = _mm512_mask_cmp_ps_mask(below[v], sums[r + v / 2][v % 2], low, _CMP_LT_OQ);
    }
  }
  if ((below[0] & below[1] & below[2] & below[3]) == 0xffff) return false;
  for (int r = 0; r < kSide; ++r) {
    for (int v = 0; v < 2; ++v) _mm512_storeu_ps(scores + r * strideScores + v * 16, sums[r][v]);
  }
  return true;
}

// Four tiles of sums, so that none waits for the one before.
#define CLIPCID_AMX_SPIN(name, instruction, perWord)   \
  int64_t name(int64_t rounds) {                       \
    for (int64_t round = 0; round < rounds; ++round) { \
      instruction(0, 4, 6);                            \
      instruction(1, 4, 7);                            \
      instruction(2, 5, 6);                            \
      instruction(3, 5, 7);                            \
    }                                                  \
    return rounds * kSide * kSide * kStep * perWord;   \
  }
CLIPCID_AMX_SPIN(spinInt8, _tile_dpbssd, 4)
CLIPCID_AMX_SPIN(spinBfloat16, _tile_dpbf16ps, 2)
#undef CLIPCID_AMX_SPIN

constexpr FilterKernel kInt8 = {kSide, kSide,    kStep, 0,       int8Tile, enter,
                                leave, spinInt8, 700,   nullptr, nullptr};
constexpr FilterKernel kBfloat16 = {kSide, kSide,        kStep, 0,       bfloat16Tile, enter,
                                    leave, spinBfloat16, 350,   nullptr, nullptr};
static_assert(kSide <= kMostTileRows && kSide <= kMostPanel);

}  // namespace

// Single pairs are the vector units'.
const FilterKernel& amxInt8() {
  static const FilterKernel kernel = [] {
    FilterKernel made = kInt8;
    made.pairs = avx512Int8().pairs;
    return made;
  }();
  return kernel;
}
const FilterKernel& amxBfloat16() {
  static const FilterKernel kernel = [] {
    FilterKernel made = kBfloat16;
    made.pairs = avx512Bfloat16().pairs;
    return made;
  }();
  return kernel;
}

}  // namespace clipcid
