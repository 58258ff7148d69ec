// The bfloat16 product by BFDOT: 6 x 16, the microkernel of kernels_tile.inc over words of two elements.
//
// Not yet measured; it has been run on an emulated processor.
#include "cpu/bfloat16_neon.inc"
#include "cpu/bfloat16_pack.inc"
#include "cpu/kernels_tile.inc"
#include "cpu/product.h"

namespace clipcid {
namespace {

constexpr int kRows = Halves::rows, kColumns = Halves::columns * Halves::width;

void multiplyTile(const float* left, const float* right, int64_t depth, float* c, int64_t strideC, bool add,
                  bool) {
  const int64_t words = wordsOf(depth);
  Tile<Halves> sums;
  multiply<Halves>(reinterpret_cast<const uint32_t*>(left), words, reinterpret_cast<const uint32_t*>(right),
                   words, sums);
  forTile(sums, [&](float32x4_t sum, int r, int column) {
    float* to = c + r * strideC + column;
    Halves::store(to, add ? vaddq_f32(vld1q_f32(to), sum) : sum);
  });
}

constexpr Product kProduct = {.rows = kRows,
                              .columns = kColumns,
                              .step = 2,
                              .elements = 2,
                              .packLeft = packLeft<kRows>,
                              .packRightRows = packRightRows<kColumns>,
                              .packRight = packRight<kColumns>,
                              .multiply = multiplyTile};
static_assert(kRows <= kMostProductRows && kColumns <= kMostProductColumns);

}  // namespace

const Product& neonBfloat16Product() { return kProduct; }

}  // namespace clipcid
