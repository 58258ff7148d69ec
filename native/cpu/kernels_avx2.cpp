// AVX2 with FMA.
#include <immintrin.h>

namespace {

struct Vec {
  using Type = __m256;
  static constexpr int width = 8, rows = 6, columns = 2;
  static Type zero() { return _mm256_setzero_ps(); }
  static Type load(const float* p) { return _mm256_loadu_ps(p); }
  static Type broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Type fma(Type a, Type b, Type c) { return _mm256_fmadd_ps(a, b, c); }
  static void store(float* p, Type value) { _mm256_storeu_ps(p, value); }
  static Type max(Type a, Type b) { return _mm256_max_ps(a, b); }
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
