// What the loss's products in fixed point of 16 bits share: how rows are scaled, and which weights of a softmax are too large
// for it (distil_fixed.cpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/softmax_loss_rows.h"

namespace clipcid {

// Elements. Sums over longer parts are faster, and logits less exact: unit rows of D elements have 1 / sqrt(D / part) in one.
constexpr int64_t kShortPart = 64, kLongPart = 128;
constexpr double kMostElement = 32767;
// With kLongPart roundings of a half each, the product of both is under 2^31.
constexpr double kQueryRoot = 77900, kKeyRoot = 26600;
static_assert((kQueryRoot + 6) * (kKeyRoot + 6) < 0x1p31 && 6 * 6 * 4 > kLongPart);
constexpr double kMostLarge = 8e-3, kError = 1e-5, kUnitError = 4e-6;  // the last of short parts
constexpr double kLeastKeys = 8;                                       // times the limit
constexpr int64_t kLeastDim = 64;
constexpr double kMostScale = 128;

// Of a row with this largest element and this largest sum of squares of a part.
inline float scaleOf(float largest, float square, double root) {
  const double byElement = kMostElement / static_cast<double>(largest);
  const double byPart = root / std::sqrt(static_cast<double>(square));
  const double scale = std::min(byElement, byPart);
  return scale < 1e30 ? static_cast<float>(scale) * (1 - 0x1p-20f) : 1.0f;
}

// Over which a weight is a large one.
inline double limitOf(double scale, int64_t part) {
  const double error = kError / (scale * kUnitError);
  return std::min(kMostLarge, error * error * kShortPart / static_cast<double>(part));
}

// Words of a row, and from row to row: an odd number of a cache's lines, as a stride of a power of two would put all rows of a
// tile into a few of its sets.
inline int64_t fixedWords(int64_t dim) { return (dim + 2 * kPair - 1) / (2 * kPair) * kPair; }
inline int64_t fixedStride(int64_t words) { return (words + kPair - 1) / kPair * kPair | kPair; }

}  // namespace clipcid
