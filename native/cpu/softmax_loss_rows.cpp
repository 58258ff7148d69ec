#include "cpu/softmax_loss_rows.h"

#include <cmath>
#include <cstring>

#include "cpu/wide.h"

namespace clipcid {
namespace {

// exp(x) for x up to 88, within 2 units in the last place; 0 below -87. exp(x) = 2^n exp(r), |r| <= ln(2) /
// 2, with the Taylor polynomial of degree 6 for exp(r), whose remainder is under 2^-23 / 8.
[[gnu::always_inline]] inline float exponential(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504088896341f + kShift;
  const float n = shifted - kShift;
  // ln(2) in two parts, so that n times the first is exact.
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440054690583e-4f;
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t bits;
  memcpy(&bits, &shifted, 4);
  bits = (bits + 127) << 23;  // the shift's own bits fall off the top
  float power;
  memcpy(&power, &bits, 4);
  return x < -87.0f ? 0.0f : p * power;
}

[[gnu::always_inline]] inline float largestOf(const float* z, int64_t count, float previous) {
  float lanes[kRowLanes];
  for (float& lane : lanes) lane = previous;
  for (int64_t i = 0; i < count; i += kRowLanes) {
    for (int lane = 0; lane < kRowLanes; ++lane)
      lanes[lane] = z[i + lane] > lanes[lane] ? z[i + lane] : lanes[lane];
  }
  float most = previous;
  for (const float lane : lanes) most = lane > most ? lane : most;
  return most;
}

// Exponentials and sums are loops of their own: compilers vectorise each, but not the two in one.
[[gnu::always_inline]] inline double sumOf(const float* z, int64_t count) {
  float lanes[kRowLanes] = {};
  for (int64_t i = 0; i < count; i += kRowLanes) {
    for (int lane = 0; lane < kRowLanes; ++lane) lanes[lane] += z[i + lane];
  }
  double total = 0;
  for (const float lane : lanes) total += static_cast<double>(lane);
  return total;
}

}  // namespace

CLIPCID_WIDE float softmaxRow(float* z, int64_t count, float previous, double* sum) {
  const float most = largestOf(z, count, previous);
  for (int64_t i = 0; i < count; ++i) z[i] = exponential(z[i] - most);
  *sum = sumOf(z, count);
  return most;
}

CLIPCID_WIDE double weighRow(float* __restrict z, int64_t count, float rowWeight, float rowLse,
                             float columnWeight, const float* __restrict columnLse) {
  constexpr int64_t kBlock = 256;
  double lanes[kRowLanes] = {};
  for (int64_t from = 0; from < count; from += kBlock) {
    float* block = z + from;
    const int64_t size = count - from < kBlock ? count - from : kBlock;
    float weights[kBlock];
    if (rowWeight != 0) {
      for (int64_t i = 0; i < size; ++i) weights[i] = rowWeight * exponential(block[i] - rowLse);
    } else {
      memset(weights, 0, static_cast<size_t>(size) * sizeof(float));
    }
    if (columnWeight != 0) {
      for (int64_t i = 0; i < size; ++i)
        weights[i] += columnWeight * exponential(block[i] - columnLse[from + i]);
    }
    for (int64_t i = 0; i < size; i += kRowLanes) {
      for (int lane = 0; lane < kRowLanes; ++lane) {
        lanes[lane] += static_cast<double>(weights[i + lane]) * static_cast<double>(block[i + lane]);
      }
    }
    memcpy(block, weights, static_cast<size_t>(size) * sizeof(float));
  }
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

}  // namespace clipcid
