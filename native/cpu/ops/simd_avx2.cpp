// AVX2 with FMA.
#include <immintrin.h>

namespace {

constexpr int kWidth = 8, kAttentionRows = 6, kAttentionVectors = 2;
typedef __m256 Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats squareRoot(Floats a) { return _mm256_sqrt_ps(a); }

}  // namespace

#include "cpu/ops/simd.inc"

namespace clipcid {

const Simd& avx2Simd() { return kSimd; }

}  // namespace clipcid
