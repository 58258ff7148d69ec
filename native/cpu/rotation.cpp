#include "cpu/rotation.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "clipcid/philox.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr uint64_t kSignStream = 101;
constexpr int64_t kMostSigns = 65536;

int64_t largestPower(int64_t dim) {
  int64_t power = 1;
  while (2 * power <= dim) power *= 2;
  return power;
}

// Signs of all coordinates there may be, made once: +1 or -1; and another set behind them.
const float* signs() {
  static const std::vector<float>* table = [] {
    auto* values = new std::vector<float>(2 * kMostSigns);
    for (int64_t k = 0; k < 2 * kMostSigns; ++k) {
      const Philox4 draw = philox(0x5eed, kSignStream, static_cast<uint64_t>(k) / 128);
      const auto bit = static_cast<unsigned>(k % 128);
      (*values)[static_cast<size_t>(k)] = (draw.word[bit / 32] >> (bit % 32) & 1) != 0 ? -1.0f : 1.0f;
    }
    return values;
  }();
  return table->data();
}

// Unscaled transform of 2^k values. Steps below 16 stay within vectors of 16.
CLIPCID_WIDE void transform(float* x, int64_t size, float scale) {
  typedef float Floats __attribute__((vector_size(64)));
  if (size < 16) {
    for (int64_t half = 1; half < size; half *= 2) {
      for (int64_t base = 0; base < size; base += 2 * half) {
        for (int64_t k = base; k < base + half; ++k) {
          const float a = x[k], b = x[k + half];
          x[k] = a + b;
          x[k + half] = a - b;
        }
      }
    }
    for (int64_t k = 0; k < size; ++k) x[k] *= scale;
    return;
  }
  constexpr Floats kSign1 = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
  constexpr Floats kSign2 = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
  constexpr Floats kSign4 = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
  constexpr Floats kSign8 = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
  for (int64_t at = 0; at < size; at += 16) {
    Floats v;
    memcpy(&v, x + at, sizeof v);
    v = v * kSign1 + __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    v = v * kSign2 + __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    v = v * kSign4 + __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v = v * kSign8 + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v *= scale;
    memcpy(x + at, &v, sizeof v);
  }
  for (int64_t half = 16; half < size; half *= 2) {
    for (int64_t base = 0; base < size; base += 2 * half) {
      for (int64_t at = base; at < base + half; at += 16) {
        Floats a, b;
        memcpy(&a, x + at, sizeof a);
        memcpy(&b, x + at + half, sizeof b);
        const Floats sum = a + b, difference = a - b;
        memcpy(x + at, &sum, sizeof sum);
        memcpy(x + at + half, &difference, sizeof difference);
      }
    }
  }
}

}  // namespace

void spreadRow(float* row, int64_t dim) {
  const float* sign = signs();
  for (int64_t k = 0; k < dim; ++k) row[k] *= sign[k];
  const int64_t size = largestPower(dim);
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
  transform(row, size, scale);
  if (size == dim) return;
  // Other signs: what the first transform made is as regular as the second.
  for (int64_t k = dim - size; k < dim; ++k) row[k] *= sign[kMostSigns + k];
  transform(row + dim - size, size, scale);
}

double spreadError(int64_t dim) {
  // A step rounds each of its sums once, which is at most 2^-24 of the vector's length, and is orthogonal but for
  // a factor; the scale is rounded, and so is the product with it. Twice when there are two transforms, and half
  // as much again for what is of second order.
  const double steps = std::log2(static_cast<double>(largestPower(dim))) + 2;
  return 3 * steps * std::ldexp(1.0, -24);
}

}  // namespace clipcid
