// Chooses how two matrices are compared, from samples of their rows. What is chosen decides the time that an
// operation takes, never its result.
#pragma once

#include <string>

#include "clipcid/backend.h"
#include "cpu/encoding.h"
#include "cpu/prepared.h"

namespace clipcid {

// Some rows of a matrix, spread evenly over it, as approximateRows makes them.
struct RowSample {
  int64_t count = 0;
  int64_t stride = 0;
  AlignedArray<float> rows{};      // [count, stride], and zero rows to the end of any tile
  std::vector<int64_t> indices{};  // [count] of the matrix
  std::vector<float> lengths{};    // [count]

  const float* row(int64_t at) const { return rows.get() + at * stride; }
};
Status sampleRows(const Context& context, const CpuPrepared& rows, int64_t count, RowSample* out);

// The int8 step that row `at` of the sample would have for its own.
double sampleStep(const RowSample& sample, int64_t at, int64_t dim);

// The encodings of a filter that was chosen (kAuto: int8, or what the machine has) without prefix; in int8, each row may
// have a step of its own.
Status planFilter(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, Filter filter,
                  bool own, FilterPlan* out);

// The filter that is expected to tell soonest which dots are over `threshold`, unless the context names one.
// `decided`: every pair over it needs its canonical dot anyway.
Status planJoin(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, double threshold,
                bool decided, FilterPlan* out);

}  // namespace clipcid
