// Fixed-point sums of rows by segment, on the device.
#pragma once

#include "cuda/device_rows.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// sums[segments[i]] += sign toFixed(row i weights[i], scale), one element at a time; row i is `rows` row indices[i], or i.
struct SegmentSumKernelArgs {
  DeviceRows rows;
  const int64_t* indices = nullptr;  // [count], or null
  int64_t count = 0;
  const int32_t* segments = nullptr;  // [count]
  const float* weights = nullptr;     // [count], or null for 1
  double scale = 1;
  int64_t sign = 1;
  int64_t segmentCount = 0;
  int64_t* sums = nullptr;  // [segmentCount, dim]
};
Status addToSegments(const Device& device, Stream stream, const SegmentSumKernelArgs& args);

}  // namespace clipcid::cuda
