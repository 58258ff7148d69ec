// Filter in bfloat16 by AVX512_BF16. VDPBF16PS adds the two products of a word one after the other, each rounded to
// the nearest; it takes denormals for zero.
//
// Best measured, GFLOP/s of one thread at a depth of 16, 32, 128 and 256 words: 110, 117, 120 and 120 (AVX-512 Xeon,
// November 2026), which is slower than float32: see wantsBfloat16. On AMD's Zen 5 twice as fast as float32.
#include <immintrin.h>

#include "cpu/floats_avx512.inc"
#include "cpu/kernels.h"
#include "cpu/kernels_reach.inc"
#include "cpu/kernels_tile.inc"

namespace clipcid {
namespace {

struct Op {
  using Element = uint32_t;
  using Sum = __m512;
  using Vector = __m512i;
  static constexpr int width = 16, rows = 12, columns = 2;
  static Sum zero() { return _mm512_setzero_ps(); }
  static Vector load(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static Vector broadcast(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int>(*p)); }
  // As assembly for the reason in kernels_avx512_int8.cpp.
  static Sum add(Vector a, Vector b, Sum sum) {
    asm("vdpbf16ps %1, %2, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
  static void store(float* p, Sum value) { _mm512_storeu_ps(p, value); }
  // As assembly, because GCC 12 warns wrongly of the intrinsics.
  static void fold(const Sum* sums, float* out) {
    const auto half = [&](int i) {
      __m256 both;
      asm("vextractf64x4 $1, %1, %0\n\tvaddps %t1, %0, %0" : "=&v"(both) : "v"(sums[i]));
      return both;
    };
    const __m256 four = _mm256_hadd_ps(_mm256_hadd_ps(half(0), half(1)), _mm256_hadd_ps(half(2), half(3)));
    _mm_storeu_ps(out, _mm256_castps256_ps128(four) + _mm256_extractf128_ps(four, 1));
  }
  struct Below {
    explicit Below(float limit) : limit(_mm512_set1_ps(limit)) {}
    void also(Sum value) { below = _mm512_mask_cmp_ps_mask(below, value, limit, _CMP_LT_OQ); }
    bool all() const { return below == 0xffff; }
    __m512 limit;
    __mmask16 below = 0xffff;
  };
};

constexpr FilterKernel kBfloat16 = {Op::rows,
                                    Op::columns* Op::width,
                                    1,
                                    0,
                                    floatTile<Op>,
                                    nullptr,
                                    nullptr,
                                    spin<Op, 2>,
                                    64,
                                    pairScores<Op, float>,
                                    reachTile<Op, Vec>};

}  // namespace

const FilterKernel& avx512Bfloat16() { return kBfloat16; }

}  // namespace clipcid
