// AVX2 with FMA.
#include <immintrin.h>

namespace {

struct Vec {
  using Type = __m256;
  using Sum = Type;
  using Vector = Type;
  using Element = float;
  static constexpr int width = 8, rows = 6, columns = 2;
  static constexpr double speed = 16;
  static Type zero() { return _mm256_setzero_ps(); }
  static Type load(const float* p) { return _mm256_loadu_ps(p); }
  static Type broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Type add(Type a, Type b, Type c) { return _mm256_fmadd_ps(a, b, c); }
  static void store(float* p, Type value) { _mm256_storeu_ps(p, value); }
  static Type max(Type a, Type b) { return _mm256_max_ps(a, b); }
  static Type min(Type a, Type b) { return _mm256_min_ps(a, b); }
  struct Below {
    explicit Below(float limit) : limit(_mm256_set1_ps(limit)) {}
    void also(Type value) { below = _mm256_and_ps(below, _mm256_cmp_ps(value, limit, _CMP_LT_OQ)); }
    bool all() const { return _mm256_movemask_ps(below) == 0xff; }
    Type limit, below = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  };
  using Doubles = __m256d;
  static constexpr int lanes = 4, dotsAtOnce = 2;
  static Doubles widen(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  static Doubles addProduct(Doubles a, Doubles b, Doubles sum) { return _mm256_fmadd_pd(a, b, sum); }
  static double fold(const double* p) {
    const __m256d even = _mm256_loadu_pd(p) + _mm256_loadu_pd(p + 8);
    const __m256d four = even + (_mm256_loadu_pd(p + 4) + _mm256_loadu_pd(p + 12));
    const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
    return two[0] + two[1];
  }
  // In halves, as there is no conversion to int64: value = high 2^32 + low, |high| < 2^30, 0 <= low < 2^32.
  static void addFixed(const float* x, double weight, double scale, int64_t sign, int64_t* sums) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m256d value = _mm256_round_pd(widen(x) * weight * scale, kNearest);
    const __m256d high = _mm256_floor_pd(value * 0x1p-32);
    const __m256d low = value - high * 0x1p32;
    const __m256i highBits = _mm256_slli_epi64(_mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(high)), 32);
    // Behind 2^52, an integer below it is the fraction's bits.
    const __m256i lowBits = _mm256_castpd_si256(low + 0x1p52) & _mm256_set1_epi64x(0xffffffff);
    const __m256i fixed = highBits + lowBits;
    auto* to = reinterpret_cast<__m256i*>(sums);
    const __m256i before = _mm256_loadu_si256(to);
    _mm256_storeu_si256(to, sign < 0 ? before - fixed : before + fixed);
  }
  static unsigned mask(const float* p, float low) {
    const __m256 limit = _mm256_set1_ps(low);
    const int first = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), limit, _CMP_NLT_UQ));
    const int second = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p + 8), limit, _CMP_NLT_UQ));
    return static_cast<unsigned>(first) | static_cast<unsigned>(second) << 8;
  }
};

}  // namespace

#include "cpu/kernels.inc"

namespace clipcid {

const Kernels& avx2Kernels() { return kKernels; }

}  // namespace clipcid
