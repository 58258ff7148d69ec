// The softmax epilogue of one row of a tile of logits.
//
// Rows hold a multiple of kRowLanes logits; the padding is kPadding, whose weight is exactly 0. Sums run in
// kRowLanes lanes, in order, whatever the width of the machine's vectors.
#pragma once

#include <cstdint>

namespace clipcid {

constexpr int kRowLanes = 16;
constexpr float kPadding = -1e30f;

// z[i] = exp(z[i] - m) with m = max(previous, every z); returns m, and the sum of the new z in `sum`.
float softmaxRow(float* z, int64_t count, float previous, double* sum);

// z[i] = rowWeight exp(z[i] - rowLse) + columnWeight exp(z[i] - columnLse[i]), without the part of a weight
// that is 0; returns the sum of the new z times the old.
double weighRow(float* z, int64_t count, float rowWeight, float rowLse, float columnWeight,
                const float* columnLse);

}  // namespace clipcid
