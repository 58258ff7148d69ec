// Filters in int8 by SDOT, both sides signed, and in bfloat16 by BFDOT, which rounds the sum of a word's two products
// and the running sum to odd and takes denormals for zero.
//
// Not yet measured.
#include <arm_neon.h>

#include "cpu/floats_neon.inc"
#include "cpu/kernels.h"
#include "cpu/kernels_reach.inc"
#include "cpu/kernels_tile.inc"

namespace clipcid {
namespace {

struct Shape {
  using Element = uint32_t;
  using Vector = uint32x4_t;
  static constexpr int width = 4, rows = 6, columns = 4;
  static Vector load(const uint32_t* p) { return vld1q_u32(p); }
  static Vector broadcast(const uint32_t* p) { return vld1q_dup_u32(p); }
};

struct Bytes : Shape {
  using Sum = int32x4_t;
  using Floats = float32x4_t;
  static constexpr int offset = 0;
  static Sum zero() { return vdupq_n_s32(0); }
  static Sum add(Vector a, Vector b, Sum sum) {
    return vdotq_s32(sum, vreinterpretq_s8_u32(b), vreinterpretq_s8_u32(a));
  }
  static bool reaches(Floats scores, float limit) {
    return vminvq_u32(vcltq_f32(scores, vdupq_n_f32(limit))) == 0;
  }
};

struct Halves : Shape {
  using Sum = float32x4_t;
  static Sum zero() { return vdupq_n_f32(0); }
  static Sum add(Vector a, Vector b, Sum sum) {
    return vbfdotq_f32(sum, vreinterpretq_bf16_u32(b), vreinterpretq_bf16_u32(a));
  }
  static void store(float* p, Sum value) { vst1q_f32(p, value); }
  struct Below {
    explicit Below(float limit) : limit(vdupq_n_f32(limit)) {}
    void also(Sum value) { below = vandq_u32(below, vcltq_f32(value, limit)); }
    bool all() const { return vminvq_u32(below) != 0; }
    float32x4_t limit;
    uint32x4_t below = vdupq_n_u32(~0u);
  };
};

constexpr FilterKernel kInt8 = {Bytes::rows,
                                Bytes::columns* Bytes::width,
                                1,
                                Bytes::offset,
                                int8Tile<Bytes>,
                                nullptr,
                                nullptr,
                                spin<Bytes, 4>,
                                32,
                                pairScores<Bytes, int32_t>,
                                reachTile<Bytes, Vec>};
constexpr FilterKernel kBfloat16 = {Halves::rows,
                                    Halves::columns* Halves::width,
                                    1,
                                    0,
                                    floatTile<Halves>,
                                    nullptr,
                                    nullptr,
                                    spin<Halves, 2>,
                                    16,
                                    pairScores<Halves, float>,
                                    reachTile<Halves, Vec>};

}  // namespace

const FilterKernel& neonInt8() { return kInt8; }
const FilterKernel& neonBfloat16() { return kBfloat16; }

}  // namespace clipcid
