// An AdamW step on the device; core/adamw.h has the step.
#pragma once

#include "core/adamw.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// A run of parameters of one group.
struct AdamwRun {
  int64_t begin, length;
  int32_t group;
  int32_t frozen;  // of rate 0
};
constexpr int64_t kAdamwRun = 1 << 14;

// sums[i] = sum of squares of the gradients of run i, 0 for frozen ones; in an order that depends on nothing else.
Status squaresOfRuns(Stream stream, const AdamwRun* runs, int64_t count, const float* gradients,
                     double* sums);

struct AdamwBuffers {
  float* parameters;
  float* gradients;
  float* first;
  float* second;
  float* ema;  // or null
};
Status updateRuns(Stream stream, const AdamwRun* runs, int64_t count, const AdamwScalars* scalars,
                  const AdamwBuffers& buffers);

}  // namespace clipcid::cuda
