// Rows on the unit sphere, and gradients through the normalisation. Elementwise work on the host's threads.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "clipcid/backend.h"
#include "core/aligned.h"

namespace clipcid {

// Rows over their norms, and these.
struct UnitView {
  const float* unit = nullptr;    // [rows, dim]
  const double* norms = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t dim = 0;

  const float* row(int64_t index) const { return unit + index * dim; }
};

struct UnitRows {
  AlignedArray<float> unit;   // [rows, dim]
  std::vector<double> norms;  // [rows]
  int64_t rows = 0;
  int64_t dim = 0;

  const float* data() const { return unit.get(); }
  const float* row(int64_t index) const { return unit.get() + index * dim; }
  UnitView view() const { return {unit.get(), norms.data(), rows, dim}; }
};

// kInvalidData: "Row 3 of <name> is zero, NaN or infinite".
Status faultyRow(const std::string& name, int64_t row);
// The first such row by its norm. The rows are those with
// these indices, or the ones from `firstRow` on.
Status checkNorms(const std::string& name, const std::vector<double>& norms, const int32_t* indices,
                  int64_t firstRow = 0);

// Dense rows over their norms, which are checked.
Status normaliseRows(Backend& backend, const Context& context, const std::string& name, const float* raw,
                     int64_t rows, int64_t dim, UnitRows* out, int64_t firstRow = 0);

// Gradient of the raw rows from the gradient of the unit rows: (g - (g . u) u) / norm. Adds to `out` or overwrites it;
// `out` may be `gradient`.
void throughNormalise(const Context& context, const UnitView& unit, const float* gradient, bool add,
                      float* out);

// The same in place of factor * gradient, for rows that are `raw` over their norms, and lie in `gradient` as they do in `raw`: by
// their indices, or the first.
void throughNormalise(const Context& context, const SoftmaxSide& raw, int64_t dim, float factor,
                      float* gradient);

// body(i) for every row, some at a time on a thread.
void forRows(const Context& context, int64_t rows, const std::function<void(int64_t)>& body);

// out[i] += factor * x[i]
void addScaled(const Context& context, const float* x, float factor, int64_t count, float* out);

}  // namespace clipcid
