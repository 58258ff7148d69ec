// Functions of one float32, within some units in the last place; what is not a number stays so.
#pragma once

#include "cuda/platform.cuh"

namespace clipcid::cuda {

constexpr float kInverseSqrt2 = 0.707106781f;

CLIPCID_DEVICE float sigmoidOf(float x) {
  const float e = expf(-fabsf(x));
  const float inverse = 1.0f / (1.0f + e);
  const float y = x < 0 ? e * inverse : inverse;
  return x != x ? x : y;
}

// ln(1 + e^x)
CLIPCID_DEVICE float softplusOf(float x) {
  const float y = fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
  return x != x ? x : y;
}

// The normal distribution up to x, and its density.
CLIPCID_DEVICE float normalDistribution(float x) { return 0.5f * erfcf(-x * kInverseSqrt2); }
CLIPCID_DEVICE float normalDensity(float x) { return 0.39894228f * expf(-0.5f * x * x); }

// Sine, or cosine `quarters` 1 quarter turn on: the angle is taken to within an eighth of a turn in float64, which is exact enough
// up to 2^30, and a short series follows. CUDA's own keep a stack for large angles.
CLIPCID_DEVICE float sineOf(float angle, int quarters) {
  if (!(fabsf(angle) < 1073741824.0f)) {
    // Nothing is left of the angle: somewhere on the circle, or not a number.
    if (!(fabsf(angle) < INFINITY)) return angle - angle;
    angle = fmodf(angle, 6.28318530717958647f);
  }
  const auto x = static_cast<double>(angle);
  const double turns = rint(x * 0.63661977236758134);
  double r = fma(turns, -1.5707963267948966, x);
  r = fma(turns, -6.1232339957367660e-17, r);
  const double s = r * r;
  const int at = (static_cast<int>(static_cast<long long>(turns) & 3) + quarters) & 3;
  double y;
  if (at % 2 == 0) {
    y = fma(s, 2.7557313707070068e-06, -1.9841269841201840e-04);
    y = fma(s, y, 8.3333333333331950e-03);
    y = fma(s, y, -1.6666666666666666e-01);
    y = fma(r * s, y, r);
  } else {
    y = fma(s, 2.4801587288851704e-05, -1.3888888888873056e-03);
    y = fma(s, y, 4.1666666666666595e-02);
    y = fma(s, y, -0.5);
    y = fma(s, y, 1.0);
  }
  return static_cast<float>(at < 2 ? y : -y);
}

}  // namespace clipcid::cuda
