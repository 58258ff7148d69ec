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
  static void addQuarters(const void* four, float* out) {
    const auto* from = static_cast<const __m128*>(four);
    _mm_storeu_ps(out, _mm_hadd_ps(_mm_hadd_ps(from[0], from[1]), _mm_hadd_ps(from[2], from[3])));
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
