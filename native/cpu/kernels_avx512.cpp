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
  static Type min(Type a, Type b) { return a < b ? a : b; }
  struct Below {
    explicit Below(float limit) : limit(_mm512_set1_ps(limit)) {}
    void also(Type value) { below = _mm512_mask_cmp_ps_mask(below, value, limit, _CMP_LT_OQ); }
    bool all() const { return below == 0xffff; }
    Type limit;
    __mmask16 below = 0xffff;
  };
  using Doubles = __m512d;
  static constexpr int lanes = 8, dotsAtOnce = 4;
  static Doubles widen(const float* p) { return __builtin_convertvector(_mm256_loadu_ps(p), Doubles); }
  static Doubles addProduct(Doubles a, Doubles b, Doubles sum) { return _mm512_fmadd_pd(a, b, sum); }
  static double fold(const double* p) {
    const __m256d even = _mm256_loadu_pd(p) + _mm256_loadu_pd(p + 8);
    const __m256d four = even + (_mm256_loadu_pd(p + 4) + _mm256_loadu_pd(p + 12));
    const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
    return two[0] + two[1];
  }
  static void addFixed(const float* x, double weight, double scale, int64_t sign, int64_t* sums) {
    const __m512d value = widen(x) * weight * scale;
    // Rounds as rint does. With a mask, because GCC 12 warns wrongly without.
    const __m512i fixed = _mm512_maskz_cvtpd_epi64(0xff, value);
    const __m512i before = _mm512_loadu_si512(sums);
    _mm512_storeu_si512(sums, sign < 0 ? before - fixed : before + fixed);
  }
  static unsigned mask(const float* p, float low) {
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(p), _mm512_set1_ps(low), _CMP_NLT_UQ);
  }
};

}  // namespace

#include "cpu/kernels.inc"

namespace clipcid {

const Kernels& avx512Kernels() { return kKernels; }

}  // namespace clipcid
