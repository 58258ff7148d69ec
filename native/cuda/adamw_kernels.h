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

// The root of their sum.
Status normOfRuns(Stream stream, const double* sums, int64_t count, double* norm);

struct AdamwBuffers {
  float* parameters;
  float* gradients;
  float* first;
  float* second;
  float* ema;  // or null
};
// What the device knows first: the gradients' norm, by which they are clipped where `clip` is over 0. Nothing changes where it is
// not finite, or where `fault` points to something else than 0.
struct AdamwControl {
  const double* norm;
  double clip;
  const int32_t* fault;  // or null
};
Status updateRuns(Stream stream, const AdamwRun* runs, int64_t count, const AdamwScalars* scalars,
                  const AdamwBuffers& buffers, const AdamwControl& control);

// A step's tables on the device, for one division into groups. What differs from step to step - rates and corrections - comes from
// pinned memory when `step` is done, so that a graph of it is good for all steps.
class AdamwTables {
 public:
  // The host's part: `step` is queued behind it, or a graph of one that was queued in the same generation. The pinned memory is read
  // until the stream has come past the step, for which somebody waits before the next call.
  Status prepare(Stream stream, const AdamwArgs& args);
  // Changes when the tables are others, in other places.
  uint64_t generation() const { return generation_; }
  // Norm and update. `buffers` are the device's; the norm lies at norm() when the stream is there.
  Status step(Stream stream, const AdamwBuffers& buffers, double clip, const int32_t* fault) const;
  const double* norm() const { return sums_.get() + count_; }

 private:
  std::vector<AdamwRun> runs_;
  int64_t count_ = 0, groups_ = 0;
  uint64_t generation_ = 0;
  Buffer<AdamwRun> deviceRuns_;
  Buffer<AdamwScalars> deviceScalars_;
  Pinned<AdamwScalars> scalars_;
  Buffer<double> sums_;
};

// Which gradient of those on the host is the first that is not finite.
Status firstNotFinite(const AdamwArgs& args, const float* gradients);

}  // namespace clipcid::cuda
