// Filters in int8 by SDOT, both sides signed, and in bfloat16 by BFDOT.
//
// Not yet measured.
#include "cpu/bfloat16_neon.inc"
#include "cpu/floats_neon.inc"
#include "cpu/kernels.h"
#include "cpu/kernels_reach.inc"
#include "cpu/kernels_tile.inc"

namespace clipcid {
namespace {

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
