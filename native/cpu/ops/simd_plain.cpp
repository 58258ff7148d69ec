// No instructions beyond the architecture's own.
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kWidth = 4, kAttentionRows = 4, kAttentionVectors = 2;
typedef float Floats __attribute__((vector_size(16)));
inline Floats fused(Floats a, Floats b, Floats c) { return a * b + c; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats squareRoot(Floats a) {
  for (int lane = 0; lane < kWidth; ++lane) a[lane] = std::sqrt(a[lane]);
  return a;
}
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

const Simd& plainSimd() { return kSimd; }

}  // namespace clipcid
