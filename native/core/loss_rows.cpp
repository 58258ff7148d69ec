#include "core/loss_rows.h"

#include <algorithm>
#include <cmath>

#include "clipcid/canonical.h"
#include "core/parallel.h"

namespace clipcid {
namespace {

constexpr int64_t kRowBlock = 32;
constexpr int64_t kElementBlock = 1 << 15;

int64_t blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace

void forRows(const Context& context, int64_t rows, const std::function<void(int64_t)>& body) {
  parallelFor(context.threads, blocks(rows, kRowBlock), [&](int64_t block, int) {
    const int64_t end = std::min(rows, (block + 1) * kRowBlock);
    for (int64_t i = block * kRowBlock; i < end; ++i) body(i);
  });
}

Status faultyRow(const std::string& name, int64_t row) {
  return {Code::kInvalidData, "Row " + std::to_string(row) + " of " + name + " is zero, NaN or infinite"};
}

Status checkNorms(const std::string& name, const std::vector<double>& norms, const int32_t* indices,
                  int64_t firstRow) {
  for (size_t i = 0; i < norms.size(); ++i) {
    if (norms[i] > 0 && std::isfinite(norms[i])) continue;
    const int64_t row = indices != nullptr ? indices[i] : firstRow + static_cast<int64_t>(i);
    return faultyRow(name, row);
  }
  return {};
}

Status normaliseRows(Backend& backend, const Context& context, const std::string& name, const float* raw,
                     int64_t rows, int64_t dim, UnitRows* out, int64_t firstRow) {
  out->rows = rows;
  out->dim = dim;
  out->unit = AlignedArray<float>(rows * dim);
  out->norms.resize(static_cast<size_t>(rows));
  RowNormsArgs norms;
  norms.data = raw;
  norms.count = rows;
  norms.dim = dim;
  norms.norms = out->norms.data();
  CLIPCID_TRY(backend.rowNorms(context, norms));
  CLIPCID_TRY(checkNorms(name, out->norms, nullptr, firstRow));
  forRows(context, rows, [&](int64_t i) {
    const float* x = raw + i * dim;
    float* u = out->unit.get() + i * dim;
    const double inverse = 1 / out->norms[static_cast<size_t>(i)];
    for (int64_t k = 0; k < dim; ++k) u[k] = static_cast<float>(static_cast<double>(x[k]) * inverse);
  });
  return {};
}

void throughNormalise(const Context& context, const UnitView& unit, const float* gradient, bool add,
                      float* out) {
  const int64_t dim = unit.dim;
  forRows(context, unit.rows, [&](int64_t i) {
    const float* u = unit.row(i);
    const float* g = gradient + i * dim;
    float* target = out + i * dim;
    const auto along = static_cast<float>(canonicalDot(g, u, dim));
    const auto scale = static_cast<float>(1 / unit.norms[i]);
    if (add) {
      for (int64_t k = 0; k < dim; ++k) target[k] += (g[k] - along * u[k]) * scale;
    } else {
      for (int64_t k = 0; k < dim; ++k) target[k] = (g[k] - along * u[k]) * scale;
    }
  });
}

void throughNormalise(const Context& context, const SoftmaxSide& raw, int64_t dim, float factor,
                      float* gradient) {
  forRows(context, raw.count, [&](int64_t i) {
    const int64_t row = raw.indices != nullptr ? raw.indices[i] : i;
    const float* x = raw.data + row * dim;
    float* g = gradient + row * dim;
    const double inverse = 1 / raw.norms[i];
    const auto along = static_cast<float>(canonicalDot(g, x, dim) * inverse * inverse);
    const auto scale = static_cast<float>(static_cast<double>(factor) * inverse);
    for (int64_t k = 0; k < dim; ++k) g[k] = (g[k] - along * x[k]) * scale;
  });
}

void addScaled(const Context& context, const float* x, float factor, int64_t count, float* out) {
  parallelFor(context.threads, blocks(count, kElementBlock), [&](int64_t block, int) {
    const int64_t end = std::min(count, (block + 1) * kElementBlock);
    for (int64_t i = block * kElementBlock; i < end; ++i) out[i] += factor * x[i];
  });
}

}  // namespace clipcid
