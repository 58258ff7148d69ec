// NEON, with fused multiply-adds.
#include <arm_neon.h>

#include "clipcid/canonical.h"

namespace {

struct Vec {
  using Type = float32x4_t;
  using Sum = Type;
  using Vector = Type;
  using Element = float;
  static constexpr int width = 4, rows = 6, columns = 4;
  static constexpr double speed = 8;
  static Type zero() { return vdupq_n_f32(0); }
  static Type load(const float* p) { return vld1q_f32(p); }
  static Type broadcast(const float* p) { return vld1q_dup_f32(p); }
  static Type add(Type a, Type b, Type c) { return vfmaq_f32(c, a, b); }
  static void store(float* p, Type value) { vst1q_f32(p, value); }
  static Type max(Type a, Type b) { return vmaxq_f32(a, b); }
  static Type min(Type a, Type b) { return vminq_f32(a, b); }
  struct Below {
    explicit Below(float limit) : limit(vdupq_n_f32(limit)) {}
    void also(Type value) { below = vandq_u32(below, vcltq_f32(value, limit)); }
    bool all() const { return vminvq_u32(below) != 0; }
    float32x4_t limit;
    uint32x4_t below = vdupq_n_u32(~0u);
  };
  using Doubles = float64x2_t;
  static constexpr int lanes = 2, dotsAtOnce = 2;
  static Doubles widen(const float* p) { return vcvt_f64_f32(vld1_f32(p)); }
  static Doubles addProduct(Doubles a, Doubles b, Doubles sum) { return vfmaq_f64(sum, a, b); }
  static double fold(double* p) { return clipcid::foldLanes(p); }
  static void addFixed(const float* x, double weight, double scale, int64_t sign, int64_t* sums) {
    // Rounds as rint does.
    const int64x2_t fixed = vcvtnq_s64_f64(vmulq_n_f64(vmulq_n_f64(widen(x), weight), scale));
    const int64x2_t before = vld1q_s64(sums);
    vst1q_s64(sums, sign < 0 ? vsubq_s64(before, fixed) : vaddq_s64(before, fixed));
  }
  static unsigned mask(const float* p, float low) {
    const uint32x4_t weights = {1, 2, 4, 8};
    unsigned bits = 0;
    for (int v = 0; v < 4; ++v) {
      const uint32x4_t below = vcltq_f32(vld1q_f32(p + 4 * v), vdupq_n_f32(low));
      bits |= vaddvq_u32(vbicq_u32(weights, below)) << (4 * v);
    }
    return bits;
  }
};

}  // namespace

#include "cpu/kernels.inc"

namespace clipcid {

const Kernels& neonKernels() { return kKernels; }

}  // namespace clipcid
