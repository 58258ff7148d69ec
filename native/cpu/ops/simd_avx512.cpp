// AVX-512.
// GCC 12 takes the undefined halves of its own intrinsics for a fault.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

namespace {

constexpr int kWidth = 16, kAttentionRows = 12, kAttentionVectors = 2;
typedef __m512 Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats squareRoot(Floats a) { return _mm512_sqrt_ps(a); }
inline __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
inline Floats loadPart(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(first(count), p); }
inline void storePart(float* p, Floats value, int64_t count) {
  _mm512_mask_storeu_ps(p, first(count), value);
}

}  // namespace

#include "cpu/ops/simd.inc"

namespace clipcid {

const Simd& avx512Simd() { return kSimd; }

}  // namespace clipcid
