// Leading directions of a sample of rows.
//
// In: rows [n, D] float32. Out: P [p, D], nearly orthonormal, and how nearly.
//
// Subspace iteration on the second moments C = X'X: p random directions, twice multiplied with C, made orthonormal,
// and once more. Nothing rests on how good the directions are but time; that they are orthonormal is measured in
// float64 and counted: |P P' - I| <= defect.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "clipcid/philox.h"
#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/rotation.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr uint64_t kStartStream = 102;
typedef float Floats __attribute__((vector_size(64)));
constexpr int64_t kLanes = 16, kTogether = 4;

// row -= sum of (row . others[j]) others[j], for kTogether orthonormal `others`.
CLIPCID_WIDE void takeOut(float* row, const float* others, int64_t dim) {
  Floats sums[kTogether] = {};
  int64_t k = 0;
  for (; k + kLanes <= dim; k += kLanes) {
    Floats x;
    memcpy(&x, row + k, sizeof x);
#pragma GCC unroll 4
    for (int64_t j = 0; j < kTogether; ++j) {
      Floats y;
      memcpy(&y, others + j * dim + k, sizeof y);
      sums[j] += x * y;
    }
  }
  float times[kTogether] = {};
  for (int64_t j = 0; j < kTogether; ++j) {
    for (int64_t lane = 0; lane < kLanes; ++lane) times[j] += sums[j][lane];
  }
  for (; k < dim; ++k) {
    for (int64_t j = 0; j < kTogether; ++j) times[j] += row[k] * others[j * dim + k];
  }
  for (k = 0; k + kLanes <= dim; k += kLanes) {
    Floats x;
    memcpy(&x, row + k, sizeof x);
#pragma GCC unroll 4
    for (int64_t j = 0; j < kTogether; ++j) {
      Floats y;
      memcpy(&y, others + j * dim + k, sizeof y);
      x -= y * times[j];
    }
    memcpy(row + k, &x, sizeof x);
  }
  for (; k < dim; ++k) {
    for (int64_t j = 0; j < kTogether; ++j) row[k] -= times[j] * others[j * dim + k];
  }
}

float product(const float* x, const float* y, int64_t dim) {
  return static_cast<float>(kernels().dot(x, y, dim));
}

// Gram-Schmidt, so many times over: once leaves rows that are not far from orthonormal. A direction that vanishes
// becomes a row of zeros, which the defect then shows: the caller uses only the directions before it.
int64_t orthonormalise(float* rows, int64_t count, int64_t dim, int turns) {
  for (int64_t i = 0; i < count; ++i) {
    float* row = rows + i * dim;
    const float before = std::sqrt(product(row, row, dim));
    for (int turn = 0; turn < turns; ++turn) {
      int64_t j = 0;
      for (; j + kTogether <= i; j += kTogether) takeOut(row, rows + j * dim, dim);
      for (; j < i; ++j) {
        const float* other = rows + j * dim;
        const float times = product(row, other, dim);
        for (int64_t k = 0; k < dim; ++k) row[k] -= times * other[k];
      }
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
  if (orthonormalise(turn.get(), count, count, 1) < count) return {};
  for (int repeat = 0; repeat < 3; ++repeat) {
    CLIPCID_TRY(product(context, turn.get(), along.get(), false, count, count, count, turned.get()));
    if (orthonormalise(turned.get(), count, count, 1) < count) break;
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
  out->count = orthonormalise(from, directions, dim, 1);
  if (out->count == directions) {
    CLIPCID_TRY(multiply(from, other.get()));
    std::swap(out->rows, other);
    from = out->rows.get();
    out->count = orthonormalise(from, directions, dim, 1);
  }
  if (out->count == directions) {
    CLIPCID_TRY(sortDirections(context, moments.get(), directions, dim, from, other.get()));
    out->count = orthonormalise(from, directions, dim, 2);
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
