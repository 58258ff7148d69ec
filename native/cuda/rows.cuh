// Rows on a device as they are stored, and as they are compared.
#pragma once

#include "clipcid/canonical.h"
#include "clipcid/types.h"
#include "cuda/device_rows.h"
#include "cuda/ptx.cuh"

namespace clipcid::cuda {

// canonicalRow's element, float32(float64(x) / norm), mostly without a division. `inverse` is 1 / norm in float64: so the
// product is within 3 units in the last place of the rounded quotient, and both are rounded to the same float32 unless a
// midpoint between two float32 lies there, or the result is subnormal and rounds elsewhere.
CLIPCID_BOTH float canonicalElement(float x, double norm, double inverse) {
  const double near = static_cast<double>(x) * inverse;
  uint64_t bits;
  memcpy(&bits, &near, 8);
  constexpr uint32_t kDropped = (1u << 29) - 1, kMiddle = 1u << 28, kClose = 4;
  const uint32_t dropped = static_cast<uint32_t>(bits) & kDropped;
  const bool close = dropped - (kMiddle - kClose) <= 2 * kClose;
  const bool small = (bits >> 52 & 0x7ff) < 1023 - 126;
  if (close || (small && x != 0)) return static_cast<float>(static_cast<double>(x) / norm);
  return static_cast<float>(near);
}

// Four elements as stored, widened; `k` is a multiple of 4.
CLIPCID_DEVICE Floats4 storedFour(const DeviceRows& rows, int64_t row, int64_t k) {
  if (rows.dtype == Dtype::kFloat32)
    return *reinterpret_cast<const Floats4*>(static_cast<const float*>(rows.data) + row * rows.stride + k);
  const Words2 words =
      *reinterpret_cast<const Words2*>(static_cast<const uint16_t*>(rows.data) + row * rows.stride + k);
  if (rows.dtype == Dtype::kBfloat16)
    return {
        widenBfloat16(static_cast<uint16_t>(words.x)), widenBfloat16(static_cast<uint16_t>(words.x >> 16)),
        widenBfloat16(static_cast<uint16_t>(words.y)), widenBfloat16(static_cast<uint16_t>(words.y >> 16))};
  return {widenHalf(static_cast<uint16_t>(words.x)), widenHalf(static_cast<uint16_t>(words.x >> 16)),
          widenHalf(static_cast<uint16_t>(words.y)), widenHalf(static_cast<uint16_t>(words.y >> 16))};
}

// One row on its way to be compared.
struct ComparedRow {
  int64_t row;
  double norm, inverse;
  bool unit, fault;

  CLIPCID_DEVICE ComparedRow(const DeviceRows& rows, int64_t row) : row(row), unit(rows.unit) {
    norm = rows.norms[row];
    fault = norm < 0;
    inverse = unit && !fault ? 1 / norm : 0;
  }
  CLIPCID_DEVICE float element(float stored) const {
    return fault ? 0.0f : unit ? canonicalElement(stored, norm, inverse) : stored;
  }
  CLIPCID_DEVICE Floats4 four(const DeviceRows& rows, int64_t k) const {
    Floats4 x = storedFour(rows, row, k);
    x.x = element(x.x);
    x.y = element(x.y);
    x.z = element(x.z);
    x.w = element(x.w);
    return x;
  }
};

// Canonical dots, four lanes of a warp a pair of rows: lane q of them adds up the canonical lanes 4 q to 4 q + 3. So eight
// pairs are under way in a warp, and each of its loads takes 64 bytes of a row.
constexpr int kDotLanes = 4;

struct DotLanes {
  double sums[4] = {0, 0, 0, 0};

  CLIPCID_DEVICE void add(const Floats4& x, const Floats4& y) {
    sums[0] += static_cast<double>(x.x) * static_cast<double>(y.x);
    sums[1] += static_cast<double>(x.y) * static_cast<double>(y.y);
    sums[2] += static_cast<double>(x.z) * static_cast<double>(y.z);
    sums[3] += static_cast<double>(x.w) * static_cast<double>(y.w);
  }
  // foldLanes over the four lanes; the first of them has the result. Called by the whole warp.
  CLIPCID_DEVICE double fold() {
    for (double& sum : sums) sum += __shfl_down_sync(kAllLanes, sum, 2, kDotLanes);
    for (double& sum : sums) sum += __shfl_down_sync(kAllLanes, sum, 1, kDotLanes);
    sums[0] += sums[2];
    sums[1] += sums[3];
    return sums[0] + sums[1];
  }
};

// Of a row as stored, or of two as compared. All lanes of a warp call these at once; `some` is whether their four have any.
CLIPCID_DEVICE double storedSquare(const DeviceRows& rows, int64_t row, bool some, int lane) {
  DotLanes lanes;
  for (int64_t k = 4 * (lane % kDotLanes); some && k < rows.dim; k += kLanes) {
    const Floats4 x = storedFour(rows, row, k);
    lanes.add(x, x);
  }
  return lanes.fold();
}

CLIPCID_DEVICE double comparedDot(const DeviceRows& a, const ComparedRow& x, const DeviceRows& b,
                                  const ComparedRow& y, bool some, int lane) {
  DotLanes lanes;
  // What is read behind the last element is zero.
  for (int64_t k = 4 * (lane % kDotLanes); some && k < a.dim; k += kLanes)
    lanes.add(x.four(a, k), y.four(b, k));
  return lanes.fold();
}

}  // namespace clipcid::cuda
