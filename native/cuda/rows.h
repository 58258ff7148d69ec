// What is done row by row, in the canonical arithmetic. All of these only queue their work.
#pragma once

#include "clipcid/backend.h"
#include "cuda/device_rows.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

struct ScanResult {
  uint32_t largest;  // bits of the largest |element| of rows without a fault
  int32_t faults;
};

// Norms of rows as stored, sqrt of the canonical dot of each with itself; -1 for a fault: a NaN or an infinity, and zero if
// the rows are unit rows. `rows.norms` is not looked at.
struct ScanArgs {
  DeviceRows rows;
  double* norms = nullptr;       // [count]
  double* squares = nullptr;     // [count] of the rows as compared; 0 for a fault; or null
  ScanResult* result = nullptr;  // added to, and raised
};
Status scanRows(const Device& device, Stream stream, const ScanArgs& args);

// Norms as they are, whatever the rows hold.
Status normsOfRows(const Device& device, Stream stream, const DeviceRows& rows, double* norms);

// dots[i] of rows a[pairs[i].first] and b[pairs[i].second], as compared.
Status dotsOfPairs(const Device& device, Stream stream, const DeviceRows& a, const DeviceRows& b,
                   const Pair* pairs, int64_t count, double* dots);

// Rows as compared, `stride` elements apart, with zeros behind each; `indices` null for the rows in order.
Status comparedRows(const Device& device, Stream stream, const DeviceRows& rows, const int64_t* indices,
                    int64_t count, int64_t stride, float* out);

}  // namespace clipcid::cuda
