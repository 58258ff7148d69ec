// NEON.
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace {

constexpr int kWidth = 4, kAttentionRows = 8, kAttentionVectors = 2;
typedef float32x4_t Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats larger(Floats a, Floats b) { return vmaxq_f32(a, b); }
inline Floats smaller(Floats a, Floats b) { return vminq_f32(a, b); }
inline Floats squareRoot(Floats a) { return vsqrtq_f32(a); }
inline Floats loadPart(const float* p, int64_t count) {
  Floats value = {};
  memcpy(&value, p, static_cast<size_t>(count) * sizeof(float));
  return value;
}
inline void storePart(float* p, Floats value, int64_t count) {
  memcpy(p, &value, static_cast<size_t>(count) * sizeof(float));
}
}  // namespace

#include "cpu/ops/simd.inc"

namespace clipcid {

const Simd& neonSimd() { return kSimd; }

}  // namespace clipcid
