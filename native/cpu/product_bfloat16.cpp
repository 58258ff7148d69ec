// The bfloat16 product in plain loops: 4 x 16, for processors without instructions for it, and to hold those against.
//
// The second product of a word is added before the first, each rounded to the nearest, as VDPBF16PS does: where nothing is
// smaller than 2^-126 the two agree to the bit.
#include "cpu/bfloat16_pack.inc"
#include "cpu/product.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr int kRows = 4, kColumns = 16;

float widened(uint32_t half) {
  const uint32_t bits = half << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

CLIPCID_WIDE
void multiply(const float* left, const float* right, int64_t depth, float* c, int64_t strideC, bool add,
              bool) {
  const int64_t words = wordsOf(depth);
  float sums[kRows][kColumns] = {};
  for (int64_t w = 0; w < words; ++w) {
    float first[kColumns], second[kColumns];
    for (int j = 0; j < kColumns; ++j) {
      uint32_t word;
      memcpy(&word, right + w * kColumns + j, 4);
      first[j] = widened(word & 0xffff);
      second[j] = widened(word >> 16);
    }
    for (int r = 0; r < kRows; ++r) {
      uint32_t word;
      memcpy(&word, left + r * words + w, 4);
      const float a = widened(word & 0xffff), b = widened(word >> 16);
      for (int j = 0; j < kColumns; ++j) sums[r][j] = sums[r][j] + b * second[j] + a * first[j];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* to = c + r * strideC;
    for (int j = 0; j < kColumns; ++j) to[j] = add ? to[j] + sums[r][j] : sums[r][j];
  }
}

constexpr Product kProduct = {.rows = kRows,
                              .columns = kColumns,
                              .step = 2,
                              .elements = 2,
                              .packLeft = packLeft<kRows>,
                              .packRightRows = packRightRows<kColumns>,
                              .packRight = packRight<kColumns>,
                              .multiply = multiply};
static_assert(kRows <= kMostProductRows && kColumns <= kMostProductColumns);

}  // namespace

const Product& plainBfloat16Product() { return kProduct; }

}  // namespace clipcid
