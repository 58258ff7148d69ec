// The bfloat16 product in plain loops: 4 x 16, for processors without instructions for it, and to hold those against.
//
// A left block is rows of words, a word holding two successive elements of depth, the first in its lower half; a right panel
// is [words, columns]. The second product of a word is added before the first, each rounded to the nearest, as VDPBF16PS
// does: where nothing is smaller than 2^-126 the two agree to the bit.
#include <cstdint>
#include <cstring>

#include "cpu/product.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr int kRows = 4, kColumns = 16;

int64_t wordsOf(int64_t depth) { return (depth + 1) / 2; }

// To nearest, ties to even; a denormal becomes a zero of its sign, a NaN stays one.
uint32_t rounded(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t size = bits & 0x7fffffff;
  if (size < 0x00800000) return bits >> 31 << 15;
  if (size > 0x7f800000) return bits >> 16 | 0x40;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

float widened(uint32_t half) {
  const uint32_t bits = half << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// A word, as the panels of floats carry it.
void put(float* to, float first, float second) {
  const uint32_t word = rounded(first) | rounded(second) << 16;
  memcpy(to, &word, 4);
}

void packLeft(const float* a, int64_t stride, int64_t count, int64_t depth, float* out) {
  for (int64_t r = 0; r < kRows; ++r) {
    const float* row = a + r * stride;
    for (int64_t k = 0; k < depth; k += 2, ++out) {
      if (r < count) {
        put(out, row[k], k + 1 < depth ? row[k + 1] : 0);
      } else {
        put(out, 0, 0);
      }
    }
  }
}

void packRightRows(const float* b, int64_t stride, int64_t count, int64_t depth, float* out) {
  for (int64_t j = 0; j < kColumns; ++j) {
    const float* row = b + j * stride;
    for (int64_t k = 0; k < depth; k += 2) {
      float* to = out + k / 2 * kColumns + j;
      if (j < count) {
        put(to, row[k], k + 1 < depth ? row[k + 1] : 0);
      } else {
        put(to, 0, 0);
      }
    }
  }
}

void packRight(const float* b, int64_t stride, int64_t count, int64_t begin, int64_t length, int64_t,
               float* out) {
  out += begin / 2 * kColumns;
  for (int64_t k = 0; k < length; k += 2, b += 2 * stride, out += kColumns) {
    for (int64_t j = 0; j < count; ++j) put(out + j, b[j], k + 1 < length ? b[stride + j] : 0);
    for (int64_t j = count; j < kColumns; ++j) put(out + j, 0, 0);
  }
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

void nothing() {}

constexpr Product kProduct = {.rows = kRows,
                              .columns = kColumns,
                              .step = 2,
                              .elements = 2,
                              .skew = 0,
                              .direct = false,
                              .packLeft = packLeft,
                              .packRightRows = packRightRows,
                              .packRight = packRight,
                              .multiply = multiply,
                              .packLeftTurned = nullptr,
                              .multiplyTurned = nullptr,
                              .enter = nothing,
                              .leave = nothing};
static_assert(kRows <= kMostProductRows && kColumns <= kMostProductColumns);

}  // namespace

const Product& plainBfloat16Product() { return kProduct; }

}  // namespace clipcid
