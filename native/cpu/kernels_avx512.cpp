// AVX-512 F, DQ, BW and VL.
#include <immintrin.h>

namespace {

struct Vec {
  using Type = __m512;
  using Sum = Type;
  using Vector = Type;
  using Element = float;
  static constexpr int width = 16, rows = 12, columns = 2;
  static constexpr double speed = 32;
  static Type zero() { return _mm512_setzero_ps(); }
  static Type load(const float* p) { return _mm512_loadu_ps(p); }
  static Type broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static Type add(Type a, Type b, Type c) { return _mm512_fmadd_ps(a, b, c); }
  static void store(float* p, Type value) { _mm512_storeu_ps(p, value); }
  // Not _mm512_max_ps, which GCC 12 warns of wrongly.
  static Type max(Type a, Type b) { return a > b ? a : b; }
  struct Below {
    explicit Below(float limit) : limit(_mm512_set1_ps(limit)) {}
    void also(Type value) { below = _mm512_mask_cmp_ps_mask(below, value, limit, _CMP_LT_OQ); }
    bool all() const { return below == 0xffff; }
    Type limit;
    __mmask16 below = 0xffff;
  };
  static unsigned mask(const float* p, float low) {
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(p), _mm512_set1_ps(low), _CMP_NLT_UQ);
  }
};

}  // namespace

#include "cpu/kernels.inc"

namespace clipcid {

const Kernels& avx512Kernels() { return kKernels; }

}  // namespace clipcid
