// Vectors of floats of the instruction set that the including file is compiled for; CLIPCID_SIMD_PLAIN asks for none in
// particular. Arithmetic and comparisons are the compiler's own on vector types. Everything has internal linkage (see
// canonical.h).
//
//   kWidth                      floats of a vector
//   kTileRows, kTileVectors     the largest tile of sums that stays in registers beside its operands
//   fused(a, b, c)              a b + c; rounded once, except where the instruction set may lack that
//   loadPart, storePart         the first `count` elements, 0 < count <= kWidth, by maskOf(count); others load as zero
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
// GCC 12 takes the undefined halves of its own intrinsics for a fault.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace clipcid {
namespace {

#if defined(CLIPCID_SIMD_PLAIN) || !(defined(__AVX512F__) || defined(__AVX2__) || defined(__aarch64__))
constexpr int kWidth = 4, kTileRows = 4, kTileVectors = 2;
typedef float Floats __attribute__((vector_size(16)));
[[gnu::always_inline]] inline Floats fused(Floats a, Floats b, Floats c) { return a * b + c; }
#elif defined(__AVX512F__)
constexpr int kWidth = 16, kTileRows = 12, kTileVectors = 2;
typedef __m512 Floats;
[[gnu::always_inline]] inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__)
constexpr int kWidth = 8, kTileRows = 6, kTileVectors = 2;
typedef __m256 Floats;
[[gnu::always_inline]] inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
#else
constexpr int kWidth = 4, kTileRows = 6, kTileVectors = 4;
typedef float32x4_t Floats;
[[gnu::always_inline]] inline Floats fused(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
#endif

typedef int32_t Ints __attribute__((vector_size(kWidth * 4)));

[[gnu::always_inline]] inline Floats load(const float* p) {
  Floats value;
  memcpy(&value, p, sizeof value);
  return value;
}
[[gnu::always_inline]] inline void store(float* p, Floats value) { memcpy(p, &value, sizeof value); }
// Less zero, which is left out; plus zero would turn -0 into 0, and is an addition.
[[gnu::always_inline]] inline Floats all(float value) { return value - Floats{}; }
// Where either is NaN, the second.
[[gnu::always_inline]] inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
[[gnu::always_inline]] inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

#if defined(__AVX512F__) && !defined(CLIPCID_SIMD_PLAIN)
typedef __mmask16 Mask;
[[gnu::always_inline]] inline Mask maskOf(int64_t count) {
  return static_cast<Mask>(0xffffu >> (16 - count));
}
[[gnu::always_inline]] inline Floats loadPart(const float* p, Mask mask) {
  return _mm512_maskz_loadu_ps(mask, p);
}
[[gnu::always_inline]] inline void storePart(float* p, Floats value, Mask mask) {
  _mm512_mask_storeu_ps(p, mask, value);
}
#elif defined(__AVX2__) && !defined(CLIPCID_SIMD_PLAIN)
typedef __m256i Mask;
[[gnu::always_inline]] inline Mask maskOf(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
[[gnu::always_inline]] inline Floats loadPart(const float* p, Mask mask) {
  return _mm256_maskload_ps(p, mask);
}
[[gnu::always_inline]] inline void storePart(float* p, Floats value, Mask mask) {
  _mm256_maskstore_ps(p, mask, value);
}
#else
typedef int64_t Mask;
[[gnu::always_inline]] inline Mask maskOf(int64_t count) { return count; }
[[gnu::always_inline]] inline Floats loadPart(const float* p, Mask count) {
  Floats value = {};
  for (int64_t i = 0; i < kWidth; ++i) {
    if (i < count) value[i] = p[i];
  }
  return value;
}
[[gnu::always_inline]] inline void storePart(float* p, Floats value, Mask count) {
  for (int64_t i = 0; i < kWidth; ++i) {
    if (i < count) p[i] = value[i];
  }
}
#endif

}  // namespace
}  // namespace clipcid
