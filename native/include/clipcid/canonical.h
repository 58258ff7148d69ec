// The canonical arithmetic: what decides, on every device, whatever a fast filter leaves open.
//
//   dot   every element widened to float64; the product (exact: 24 + 24 bits fit in 53) added to lane
//         `index mod 16` in index order; then lane[i] += lane[i + s] for s = 8, 4, 2, 1. Whether a compiler fuses
//         the multiply and the add cannot matter, because the product is exact.
//   row   n = sqrt(dot(x, x)); x^ = float32(float64(x) / n). |x^| <= 1 for every element, since the sum never
//         falls below the square of one element and sqrt rounds correctly.
//   sums  value -> rint(value * scale), ties to even, into int64; addition of integers is associative, so neither
//         order nor threads matter.
//
// Everything here has internal linkage: these functions are compiled once for each instruction set, and a
// shared inline definition would let the linker put AVX-512 code where a plain CPU runs it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define CLIPCID_INLINE static inline __host__ __device__
#else
#define CLIPCID_INLINE [[maybe_unused]] static inline
#endif

namespace clipcid {

constexpr int kLanes = 16;

// Bits of an IEEE half to the float32 of the same value; subnormals, infinities and NaN included.
CLIPCID_INLINE float widenFloat16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t fraction = bits & 0x3ffu;
  uint32_t wide;
  if (exponent == 0x1fu) {
    wide = sign | 0x7f800000u | (fraction << 13);
  } else if (exponent != 0) {
    wide = sign | ((exponent + 112u) << 23) | (fraction << 13);
  } else {
    // A subnormal half is fraction * 2^-24, which float32 holds exactly.
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    uint32_t magnitudeBits;
    memcpy(&magnitudeBits, &magnitude, 4);
    wide = sign | magnitudeBits;
  }
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

CLIPCID_INLINE float widenBfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

// Folds the sixteen lanes into lane 0 and returns it.
CLIPCID_INLINE double foldLanes(double* lanes) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

// Zeros appended to both rows do not change the result.
CLIPCID_INLINE double canonicalDot(const float* x, const float* y, int64_t dim) {
  double lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= dim; k += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(x[k + lane]) * static_cast<double>(y[k + lane]);
    }
  }
  for (int lane = 0; k + lane < dim; ++lane) {
    lanes[lane] += static_cast<double>(x[k + lane]) * static_cast<double>(y[k + lane]);
  }
  return foldLanes(lanes);
}

CLIPCID_INLINE double canonicalNorm(const float* x, int64_t dim) { return sqrt(canonicalDot(x, x, dim)); }

// `out` may be `x`. `norm` must be canonicalNorm(x), finite and above zero.
CLIPCID_INLINE void canonicalRow(const float* x, int64_t dim, double norm, float* out) {
  for (int64_t k = 0; k < dim; ++k) out[k] = static_cast<float>(static_cast<double>(x[k]) / norm);
}

// The largest power of two for which count * largest * scale < 2^62; 1 when there is nothing to sum.
CLIPCID_INLINE double fixedScale(double largest, int64_t count) {
  const double product = static_cast<double>(count) * largest;
  if (!(product > 0)) return 1;
  int exponent;
  frexp(product, &exponent);  // product < 2^exponent
  return ldexp(1.0, 62 - exponent);
}

// `value * scale` is exact, because the scale is a power of two; rint rounds ties to even.
CLIPCID_INLINE int64_t toFixed(double value, double scale) {
  return static_cast<int64_t>(rint(value * scale));
}

CLIPCID_INLINE float fixedMean(int64_t sum, double scale, int64_t count) {
  return static_cast<float>(static_cast<double>(sum) / scale / static_cast<double>(count));
}

}  // namespace clipcid
