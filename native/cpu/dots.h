// Dots of single pairs of rows as they are compared: canonical ones, and near ones that cost less where a row must be
// scaled first.
#pragma once

#include <vector>

#include "cpu/prepared.h"

namespace clipcid {

class Dots {
 public:
  Dots() = default;
  // Calls may come from so many workers at the same time. Queries are best asked for in order: rows of files are read
  // some at a time.
  Dots(const CpuPrepared& queries, const CpuPrepared& keys, int workers);

  // The canonical dot.
  Status exact(int64_t query, int64_t key, int worker, double* dot);
  // With a few keys: each canonical dot is within slack() of the number. No slack where rows are compared as stored.
  Status near(int64_t query, const int32_t* keys, int64_t count, int worker, double* dots);
  double slack(int64_t key) const { return slack_ * (keys_->unit ? 1 : keys_->normBound(key)); }

  const CpuPrepared& queries() const { return *queries_; }
  const CpuPrepared& keys() const { return *keys_; }

 private:
  // One a worker, on cache lines of its own: it is written for every row.
  struct alignas(128) Scratch {
    int64_t query = -1, storedQuery = -1;  // what `row` and `stored` are of
    const float* row = nullptr;
    const float* stored = nullptr;
    AlignedArray<float> rows{};    // [3, dim]: `row`, and keys
    AlignedArray<float> window{};  // [kWindow, dim]: queries that were read together
    int64_t windowBegin = 0, windowEnd = 0;
  };

  Status storedQuery(int64_t query, Scratch* scratch);

  const CpuPrepared* queries_ = nullptr;
  const CpuPrepared* keys_ = nullptr;
  double slack_ = 0;
  int64_t window_ = 1;
  std::vector<Scratch> scratch_;  // [workers]
};

}  // namespace clipcid
