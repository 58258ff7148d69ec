// How far a score may be from the dot that it stands for; encode.h has the formula. In float32, with room for its own rounding.
#pragma once

#include "cuda/encode.h"
#include "cuda/platform.cuh"

namespace clipcid::cuda {

// More than ten roundings of 2^-24 add up to, and than 2^-40 of the canonical dot's own.
constexpr float kBoundSafety = 1.0001f;

// Infinite where nothing is known.
CLIPCID_BOTH float scoreBound(const RowBound& query, const RowBound& key, const BoundTerms& terms) {
  const float reach = key.length + key.error;
  const float bound = kBoundSafety * (query.error * reach + query.length * key.error +
                                      terms.relative * (query.length + query.error) * reach + terms.absolute);
  return bound < 1e30f ? bound : HUGE_VALF;
}

// Of the rows [first, first + count) of a matrix, or a few more.
CLIPCID_DEVICE RowBound largestBound(const EncodedView& rows, int64_t first, int count) {
  RowBound most = {0, 0};
  for (int64_t group = first / kBoundGroup; group * kBoundGroup < first + count; ++group) {
    most.error = fmaxf(most.error, rows.maxima[group].error);
    most.length = fmaxf(most.length, rows.maxima[group].length);
  }
  return most;
}

// Scores below this are of dots that are not over `threshold`; all are open where nothing is known.
CLIPCID_BOTH float openFrom(float thresholdBelow, float bound) {
  const float limit = thresholdBelow - bound;
  return limit - fabsf(limit) * 0x1p-22f - 0x1p-148f;
}
// Scores above this are of dots that are over it.
CLIPCID_BOTH float certainAbove(float thresholdAbove, float bound) {
  const float limit = thresholdAbove + bound;
  return limit + fabsf(limit) * 0x1p-22f + 0x1p-148f;
}

// A limit of scores as what they are compared with: of integers, the next one below or above.
template <typename T>
CLIPCID_BOTH T limitBelow(float limit) {
  if constexpr (T(0.5f) == T(0)) {
    constexpr float kMost = 2147483520.0f;
    return limit < -kMost ? -2147483647 - 1 : limit > kMost ? 2147483647 : static_cast<T>(floorf(limit));
  } else {
    return limit;
  }
}
template <typename T>
CLIPCID_BOTH T limitAbove(float limit) {
  if constexpr (T(0.5f) == T(0)) {
    constexpr float kMost = 2147483520.0f;
    return limit < -kMost ? -2147483647 - 1 : limit > kMost ? 2147483647 : static_cast<T>(ceilf(limit));
  } else {
    return limit;
  }
}

}  // namespace clipcid::cuda
