// Leading directions of a sample of rows.
//
// In: rows [n, D] float32. Out: P [p, D], nearly orthonormal, and how nearly.
//
// Subspace iteration on the second moments C = X'X: p random directions, twice multiplied with C, made orthonormal,
// and once more. Nothing rests on how good the directions are but time; that they are orthonormal is measured in
// float64 and counted: |P P' - I| <= defect.
#include <algorithm>
#include <cmath>

#include "clipcid/philox.h"
#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/rotation.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr uint64_t kStartStream = 102;
constexpr int kLanes = 16;

CLIPCID_WIDE float product(const float* x, const float* y, int64_t count) {
  float lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += x[k + lane] * y[k + lane];
  }
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  for (; k < count; ++k) sum += x[k] * y[k];
  return sum;
}

CLIPCID_WIDE void subtract(float* x, const float* y, float times, int64_t count) {
  for (int64_t k = 0; k < count; ++k) x[k] -= times * y[k];
}

// Gram-Schmidt, twice over. A direction that vanishes becomes a row of zeros, which the defect then shows: the
// caller uses only the directions before it.
int64_t orthonormalise(float* rows, int64_t count, int64_t dim) {
  for (int64_t i = 0; i < count; ++i) {
    float* row = rows + i * dim;
    const float before = std::sqrt(product(row, row, dim));
    for (int turn = 0; turn < 2; ++turn) {
      for (int64_t j = 0; j < i; ++j) subtract(row, rows + j * dim, product(row, rows + j * dim, dim), dim);
    }
    const float norm = std::sqrt(product(row, row, dim));
    // What rounding left of a direction is as good a start as any other.
    if (!(norm > 1e-12f * before) || !std::isfinite(norm)) return i;
    for (int64_t k = 0; k < dim; ++k) row[k] /= norm;
  }
  return count;
}

Status product(const Context& context, const float* a, const float* b, bool transposeB, int64_t m, int64_t n,
               int64_t k, float* c) {
  return cpuBackend().matmul(context, {.a = a,
                                       .b = b,
                                       .c = c,
                                       .m = m,
                                       .n = n,
                                       .k = k,
                                       .strideA = k,
                                       .strideB = transposeB ? k : n,
                                       .strideC = n,
                                       .transposeB = transposeB});
}

// Turns directions within what they span so that the first hold most: orthogonal iteration on the small matrix of
// the moments along them. Overwrites `scratch` [count, dim].
Status sortDirections(const Context& context, const float* moments, int64_t count, int64_t dim, float* rows,
                      float* scratch) {
  const AlignedArray<float> along(count * count), turned(count * count);
  AlignedArray<float> turn(count * count);
  CLIPCID_TRY(product(context, rows, moments, false, count, dim, dim, scratch));
  CLIPCID_TRY(product(context, scratch, rows, true, count, count, dim, along.get()));
  std::copy(along.get(), along.get() + count * count, turn.get());
  if (orthonormalise(turn.get(), count, count) < count) return {};
  for (int repeat = 0; repeat < 3; ++repeat) {
    CLIPCID_TRY(product(context, turn.get(), along.get(), false, count, count, count, turned.get()));
    if (orthonormalise(turned.get(), count, count) < count) break;
    std::copy(turned.get(), turned.get() + count * count, turn.get());
  }
  CLIPCID_TRY(product(context, turn.get(), rows, false, count, dim, count, scratch));
  std::copy(scratch, scratch + count * dim, rows);
  return {};
}

}  // namespace

Status leadingDirections(const Context& context, const float* rows, int64_t stride, int64_t count,
                         int64_t dim, int64_t directions, Directions* out) {
  Backend& backend = cpuBackend();
  const AlignedArray<float> moments(dim * dim);
  AlignedArray<float> other(directions * dim);
  out->rows = AlignedArray<float>(directions * dim);
  CLIPCID_TRY(backend.matmul(context, {.a = rows,
                                       .b = rows,
                                       .c = moments.get(),
                                       .m = dim,
                                       .n = dim,
                                       .k = count,
                                       .strideA = stride,
                                       .strideB = stride,
                                       .strideC = dim,
                                       .transposeA = true}));
  float* from = out->rows.get();
  for (int64_t at = 0; at < directions * dim; ++at) {
    const uint64_t draw = philox64(0, kStartStream, static_cast<uint64_t>(at));
    from[at] = static_cast<float>(static_cast<double>(draw >> 11) * 0x1p-53 - 0.5);
  }
  const auto multiply = [&](const float* a, float* c) {
    return product(context, a, moments.get(), false, directions, dim, dim, c);
  };
  CLIPCID_TRY(multiply(from, other.get()));
  CLIPCID_TRY(multiply(other.get(), from));
  out->count = orthonormalise(from, directions, dim);
  if (out->count == directions) {
    CLIPCID_TRY(multiply(from, other.get()));
    std::swap(out->rows, other);
    from = out->rows.get();
    out->count = orthonormalise(from, directions, dim);
  }
  if (out->count == directions) {
    CLIPCID_TRY(sortDirections(context, moments.get(), directions, dim, from, other.get()));
    out->count = orthonormalise(from, directions, dim);
  }
  std::vector<double> defects(static_cast<size_t>(out->count));
  const Kernels& kernel = kernels();
  CLIPCID_TRY(parallelTry(context, out->count, [&](int64_t i, int) -> Status {
    double sum = 0;
    for (int64_t j = 0; j <= i; ++j) {
      const double off = kernel.dot(from + i * dim, from + j * dim, dim) - (i == j ? 1 : 0);
      sum += (i == j ? 1 : 2) * off * off;
    }
    defects[static_cast<size_t>(i)] = sum;
    return {};
  }));
  double total = 0;
  for (const double defect : defects) total += defect;
  // The dots' own rounding, in float64.
  out->defect = std::sqrt(total) + 0x1p-40 * static_cast<double>(out->count);
  return {};
}

std::shared_ptr<const Basis> basisOf(const Directions& directions, int64_t count, int64_t dim) {
  const int width = kernels().panel;
  auto basis = std::make_shared<Basis>();
  basis->dim = dim;
  basis->count = count;
  // A part of the directions is no further from orthonormal than all of them.
  basis->defect = directions.defect;
  basis->strideOut = (count + width - 1) / width * width;
  basis->panels = AlignedArray<float>(basis->strideOut * dim);
  for (int64_t p = 0; p < basis->strideOut; ++p) {
    float* to = basis->panels.get() + p / width * width * dim + p % width;
    for (int64_t k = 0; k < dim; ++k) to[k * width] = p < count ? directions.rows.get()[p * dim + k] : 0;
  }
  return basis;
}

}  // namespace clipcid
