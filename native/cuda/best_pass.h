// One comparison of queries with all keys of their problems, and what it needs beside them: the steps of best, for whoever has
// rows and keys on the device.
#pragma once

#include "cuda/best_kernels.h"
#include "cuda/plan.h"

namespace clipcid::cuda {

// Results do not depend on these; tests make them small to reach every path.
struct BestLimits {
  int64_t queries = int64_t{1} << 21;  // that best works on at a time
  int64_t open = 0;                    // room for queries with more than one candidate, when not 0
  int64_t again = 0;                   // queries that may have a second pass, when not 0
};
BestLimits& bestLimits();

struct BestSides {
  DeviceRows queries, keys;  // [problems queriesOfProblem], [problems keysOfProblem]
  EncodedView encodedQueries, encodedKeys;
  int32_t problems = 1;
  int32_t queriesOfProblem = 0, keysOfProblem = 0;
  const double* squares = nullptr;  // [keys] when Euclidean, on the device

  int64_t places() const { return int64_t{problems} * queriesOfProblem; }
};

class BestPass {
 public:
  BestPass(Device& device, Stream stream) : device_(device), stream_(stream) {}

  // For so many places. Floors are the caller's to set (best_kernels.h).
  Status allocate(const BestSides& sides);
  int32_t* floors() const { return floors_.get(); }
  // Queues the steps; `labels` [places] are of keys counted from their problem's first. Nothing is done where *stop is not 0.
  Status run(const FilterPlan& plan, const BestSides& sides, const int32_t* stop, int32_t* labels);

  static DecideParams decideParams(const BestSides& sides);

 private:
  Device& device_;
  const Stream stream_;
  int64_t openCapacity_ = 0, again_ = 0;
  Buffer<int32_t> floors_, overflow_, overflowAgain_;
  Buffer<OpenQuery> open_;
  Buffer<BestCounters> counters_;  // of the first pass and the second
  EncodedRows gathered_;
  Buffer<RowBound> maxima_;
  Buffer<float> biases_;
};

}  // namespace clipcid::cuda
