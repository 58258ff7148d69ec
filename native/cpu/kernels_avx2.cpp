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
  struct Below {
    explicit Below(float limit) : limit(_mm256_set1_ps(limit)) {}
    void also(Type value) { below = _mm256_and_ps(below, _mm256_cmp_ps(value, limit, _CMP_LT_OQ)); }
    bool all() const { return _mm256_movemask_ps(below) == 0xff; }
    Type limit, below = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  };
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
