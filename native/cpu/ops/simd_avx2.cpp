// AVX2 with FMA.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kWidth = 8, kAttentionRows = 6, kAttentionVectors = 2;
typedef __m256 Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats squareRoot(Floats a) { return _mm256_sqrt_ps(a); }
inline __m256i first(int64_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
}
inline Floats loadPart(const float* p, int64_t count) { return _mm256_maskload_ps(p, first(count)); }
inline void storePart(float* p, Floats value, int64_t count) { _mm256_maskstore_ps(p, first(count), value); }

}  // namespace

#include "cpu/ops/simd.inc"

namespace clipcid {

const Simd& avx2Simd() { return kSimd; }

}  // namespace clipcid
