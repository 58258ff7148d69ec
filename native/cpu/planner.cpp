#include "cpu/planner.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"

namespace clipcid {
namespace {

constexpr int64_t kStepSample = 128;

double residual(const RowSample& sample, int64_t dim, float step) {
  double total = 0;
  const float inverse = 1 / step;
  for (int64_t r = 0; r < sample.count; ++r) {
    const float* row = sample.row(r);
    float sum = 0;
    for (int64_t k = 0; k < dim; ++k) {
      const float steps = std::clamp(row[k] * inverse, -127.0f, 127.0f);
      const float left = row[k] - std::nearbyint(steps) * step;
      sum += left * left;
    }
    total += static_cast<double>(sum);
  }
  return total;
}

struct Step {
  float step;
  double residual;
};

// The step of least residual: a smaller one than all values need clips a few.
Step chooseStep(const RowSample& sample, int64_t dim) {
  float most = 0;
  for (int64_t r = 0; r < sample.count; ++r) {
    for (int64_t k = 0; k < dim; ++k) most = std::max(most, std::fabs(sample.row(r)[k]));
  }
  // So large or so small values would leave float32's range in a product; float32 is the filter then.
  if (!(most > 1e-15f && most < 1e15f)) return {0, 0};
  Step best = {0, 0};
  for (const float part : {1.0f, 0.75f, 0.5f, 0.35f}) {
    const float step = most * part / 127;
    const double left = residual(sample, dim, step);
    if (best.step == 0 || left < best.residual) best = {step, left};
  }
  return best;
}

int64_t wordsOf(const FilterKernel& kernel, Filter filter, int64_t coordinates) {
  const int64_t each = filter == Filter::kFloat32 ? 1 : filter == Filter::kBfloat16 ? 2 : 4;
  const int64_t words = (coordinates + each - 1) / each;
  return (words + kernel.step - 1) / kernel.step * kernel.step;
}

void spreadSample(RowSample* sample, int64_t dim) {
  for (int64_t r = 0; r < sample->count; ++r) spreadRow(sample->rows.get() + r * sample->stride, dim);
}

}  // namespace

Status sampleRows(const Context& context, const CpuPrepared& rows, int64_t count, RowSample* out) {
  out->count = std::min(count, rows.rows);
  out->stride = (rows.dim + 15) / 16 * 16 + 16;
  // Whole tiles, for whoever multiplies them.
  out->rows = AlignedArray<float>((out->count + kMostTileRows) * out->stride);
  std::fill(out->rows.get() + out->count * out->stride,
            out->rows.get() + (out->count + kMostTileRows) * out->stride, 0.0f);
  return parallelTry(context, out->count, [&](int64_t at, int) -> Status {
    const int64_t index = rows.rows * (2 * at + 1) / (2 * out->count);
    const AlignedArray<float> scratch(rows.dim);
    const float* stored;
    CLIPCID_TRY(rows.stored(index, scratch.get(), &stored));
    approximateRows(rows, false, index, 1, stored, rows.dim, out->rows.get() + at * out->stride, out->stride);
    return {};
  });
}

Status planFilter(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, Filter filter,
                  FilterPlan* out) {
  out->queries = out->keys = {};
  out->dim = queries.dim;
  out->oneSided = false;
  filter = availableFilter(filter == Filter::kAuto ? Filter::kInt8 : filter);
  if (filter == Filter::kInt8) {
    RowSample samples[2];
    CLIPCID_TRY(sampleRows(context, queries, kStepSample, &samples[0]));
    const int sides = &queries == &keys ? 1 : 2;
    if (sides == 2) CLIPCID_TRY(sampleRows(context, keys, kStepSample, &samples[1]));
    Step plain[2], spread[2];
    bool usable = true, better = true;
    for (int side = 0; side < sides; ++side) {
      plain[side] = chooseStep(samples[side], queries.dim);
      spreadSample(&samples[side], queries.dim);
      spread[side] = chooseStep(samples[side], queries.dim);
      usable = usable && plain[side].step > 0 && spread[side].step > 0;
      better = better && spread[side].residual < 0.7 * plain[side].residual;
    }
    if (usable) {
      for (int side = 0; side < 2; ++side) {
        RowEncoding& encoding = side == 0 ? out->queries : out->keys;
        encoding.spread = better;
        encoding.step = (better ? spread : plain)[side < sides ? side : 0].step;
      }
    } else {
      filter = availableFilter(Filter::kBfloat16);
    }
  }
  out->kernel = &filterKernel(filter);
  for (RowEncoding* encoding : {&out->queries, &out->keys}) {
    encoding->filter = filter;
    encoding->words = wordsOf(*out->kernel, filter, out->dim);
  }
  return {};
}

Status planJoin(const Context& context, const CpuPrepared& queries, const CpuPrepared& keys, double, bool,
                FilterPlan* out) {
  return planFilter(context, queries, keys, context.filter, out);
}

}  // namespace clipcid
