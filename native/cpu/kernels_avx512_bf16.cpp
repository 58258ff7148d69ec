// Filter in bfloat16 by AVX512_BF16.
//
// Best measured, GFLOP/s of one thread at a depth of 16, 32, 128 and 256 words: 110, 117, 120 and 120 (AVX-512 Xeon,
// November 2026), which is slower than float32: see wantsBfloat16. On AMD's Zen 5 twice as fast as float32.
#include "cpu/bfloat16_avx512.inc"
#include "cpu/floats_avx512.inc"
#include "cpu/kernels.h"
#include "cpu/kernels_reach.inc"
#include "cpu/kernels_tile.inc"

namespace clipcid {
namespace {

constexpr FilterKernel kBfloat16 = {Op::rows,
                                    Op::columns* Op::width,
                                    1,
                                    0,
                                    floatTile<Op>,
                                    nullptr,
                                    nullptr,
                                    spin<Op, 2>,
                                    64,
                                    pairScores<Op, float>,
                                    reachTile<Op, Vec>};

}  // namespace

const FilterKernel& avx512Bfloat16() { return kBfloat16; }

}  // namespace clipcid
