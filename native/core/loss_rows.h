// Rows on the unit sphere, and gradients through the normalisation. Elementwise work on the host's threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "clipcid/backend.h"

namespace clipcid {

// Float memory that is not cleared.
struct FloatBuffer {
  std::unique_ptr<float[]> owned;

  FloatBuffer() = default;
  explicit FloatBuffer(int64_t count) : owned(new float[static_cast<size_t>(count)]) {}
  float* get() const { return owned.get(); }
};

struct UnitRows {
  FloatBuffer unit;           // [rows, dim]
  std::vector<double> norms;  // [rows]
  int64_t rows = 0;
  int64_t dim = 0;

  const float* data() const { return unit.get(); }
  const float* row(int64_t index) const { return unit.get() + index * dim; }
};

// `raw` is dense; with `indices`, [rows] of them, only these rows of it. kInvalidData: "Row 3 of <name> is
// zero, NaN or infinite", the first such row, where raw's row 0 counts as `firstRow`.
Status normaliseRows(const Context& context, const std::string& name, const float* raw, int64_t rows,
                     int64_t dim, const int32_t* indices, UnitRows* out, int64_t firstRow = 0);

// Gradient of the raw rows from the gradient of the unit rows, factor * gradient: (g - (g . u) u) / norm.
// Adds to `out` or overwrites it; `out` may be `gradient`. With `indices`, row i goes to row indices[i] of
// `out`.
void throughNormalise(const Context& context, const UnitRows& unit, const float* gradient, float factor,
                      bool add, float* out, const int32_t* indices = nullptr);

// out[i] += factor * x[i]
void addScaled(const Context& context, const float* x, float factor, int64_t count, float* out);

}  // namespace clipcid
