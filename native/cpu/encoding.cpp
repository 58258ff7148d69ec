// In: rows as stored [n, D] float32, their norms. Out: words [n, words], errors, lengths and sums [n].
//
// One row at a time, while it is in the first-level cache: scaled to length 1, rotated, rounded, its residual
// summed, all in float32 with every rounding counted in the row's error:
//   scaling     x is float32(stored / norm); float32(stored * float32(1 / norm)) differs from it by at most 3 units
//               of 2^-24 of each element, and 1 is for what is of second order;
//   rotation    spreadError(D) of the length;
//   projection  with n = D + 8, n 2^-24 / (1 - n 2^-24) |P|_F <= 1.01 n 2^-24 sqrt(p (1 + defect)) of the length;
//   residual    the sum of at most D / 16 + 20 squares in a chain and its root: 1.001; the residual's own
//               elements: 2^-22 of the length;
//   underflow   of squares below 2^-126: 2^-63 sqrt(D), which matters only for rows that are not of length 1.
//
// The remainder under a basis P, h = P x: |x - projection|^2 = |x|^2 - h' (P P')^-1 h <= |x|^2 - |h|^2 / (1 + defect),
// and h' (P P')^-1 k <= h.k + defect / (1 - defect) |h| |k|, which FilterPlan::bound adds.
//
// Best measured: 100,000 rows of 256 to int8 with steps of their own in 12 ms of a thread (AMD Zen 5, November 2026).
#include "cpu/encoding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/isa.h"
#include "cpu/prepared.h"
#include "cpu/wide.h"

namespace clipcid {
namespace {

constexpr double kUnit = 0x1p-24;
// Rows longer than this are encoded as zeros by the filters that round: sums of squares might overflow.
constexpr double kLongest = 1e18;

// Half of a word.
typedef uint16_t Half __attribute__((may_alias));

int64_t roundUpTo(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

CLIPCID_WIDE void scaled(const float* from, int64_t dim, float by, float* to) {
  for (int64_t k = 0; k < dim; ++k) to[k] = from[k] * by;
}

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef int8_t Bytes __attribute__((vector_size(16)));
constexpr int kLanes = 16;

// The step at which a row's largest value is 127. None is so small that products of two would leave float32's range.
float stepOf(const float* row, int64_t dim) {
  return std::max(largestElement(row, dim) * (1.0f / 127), 0x1p-60f);
}

// Sum of squares of the residuals. Writes the values and adds up their sum.
CLIPCID_WIDE float roundToInt8(const float* row, int64_t dim, float step, int8_t* out, int32_t* sum) {
  constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer
  const float inverse = 1 / step;
  Floats residual = {};
  Ints sums = {};
  float rest[kLanes] = {};
  memcpy(rest, row + dim / kLanes * kLanes, static_cast<size_t>(dim % kLanes) * sizeof(float));
  for (int64_t k = 0; k < dim; k += kLanes) {
    Floats x;
    memcpy(&x, k + kLanes <= dim ? row + k : rest, sizeof x);
    Floats steps = x * inverse;
    steps = steps > 127.0f ? Floats{} + 127.0f : steps;
    steps = steps < -127.0f ? Floats{} - 127.0f : steps;
    const Floats value = (steps + kToInteger) - kToInteger;
    const Floats left = x - value * step;
    residual += left * left;
    const Ints integers = __builtin_convertvector(value, Ints);
    sums += integers;
    const Bytes bytes = __builtin_convertvector(integers, Bytes);
    if (k + kLanes <= dim) {
      memcpy(out + k, &bytes, sizeof bytes);
    } else {
      memcpy(out + k, &bytes, static_cast<size_t>(dim - k));
    }
  }
  float total = 0;
  *sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    total += residual[lane];
    *sum += sums[lane];
  }
  return total;
}

// To nearest, ties to even. What is below 2^-126 becomes zero.
CLIPCID_WIDE float roundToBfloat16(const float* row, int64_t dim, Half* out) {
  constexpr int kLanes = 16;
  float residual[kLanes] = {};
  const auto one = [](float x, Half* to) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits += 0x7fffu + (bits >> 16 & 1u);
    bits = (bits & 0x7f800000u) == 0 ? 0u : bits & 0xffff0000u;
    float value;
    memcpy(&value, &bits, 4);
    *to = static_cast<uint16_t>(bits >> 16);
    return (x - value) * (x - value);
  };
  int64_t k = 0;
  for (; k + kLanes <= dim; k += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) residual[lane] += one(row[k + lane], out + k + lane);
  }
  for (int lane = 0; k + lane < dim; ++lane) residual[lane] += one(row[k + lane], out + k + lane);
  float total = 0;
  for (const float lane : residual) total += lane;
  return total;
}

// The last step of every encoding. `row` is off by at most `error` already; `length` is at least its length.
void writeRow(const RowEncoding& encoding, const float* row, int64_t dim, double error, double length,
              int64_t index, EncodedRows* out) {
  const auto at = static_cast<size_t>(index - out->begin);
  uint32_t* words = out->row(index);
  const int64_t bytesEach = encoding.filter == Filter::kFloat32    ? 4
                            : encoding.filter == Filter::kBfloat16 ? 2
                                                                   : 1;
  const int64_t used = (dim * bytesEach + 3) / 4;
  if (used > 0) words[used - 1] = 0;
  std::fill(words + used, words + out->stride, 0u);
  out->sums.get()[at] = 0;
  out->steps.get()[at] = 1;
  if (encoding.filter == Filter::kFloat32) {
    memcpy(words, row, static_cast<size_t>(dim) * 4);
  } else if (!(length < kLongest)) {
    std::fill(words, words + used, 0u);
    error += length;
    length = 0;
  } else {
    if (encoding.own) out->steps.get()[at] = stepOf(row, dim);
    const float step = encoding.own ? out->steps.get()[at] : encoding.step;
    const float squares =
        encoding.filter == Filter::kInt8
            ? roundToInt8(row, dim, step, reinterpret_cast<int8_t*>(words), out->sums.get() + at)
            : roundToBfloat16(row, dim, reinterpret_cast<Half*>(words));
    error += 1.001 * std::sqrt(static_cast<double>(squares)) + 4 * kUnit * length +
             0x1p-63 * std::sqrt(static_cast<double>(dim));
    length += error;
  }
  // A NaN, where float32 overflowed on the way, must not pass for small: it is in no maximum.
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  out->errors.get()[at] = roundUp(error < kInfinity ? error : kInfinity);
  out->lengths.get()[at] = roundUp(length < kInfinity ? length : kInfinity);
}

// How far approximateRows may be off, of a row's length.
double approximationError(const CpuPrepared& rows, bool spread) {
  return (rows.unit ? 4 * kUnit : 0) + (spread ? spreadError(rows.dim) : 0);
}

void projectRange(const CpuPrepared& rows, const RowEncoding& encoding, int64_t begin, int64_t count,
                  const float* stored, int64_t stride, EncodedRows* out) {
  const Basis& basis = *encoding.basis;
  const Kernels& kernel = kernels();
  const int64_t dim = rows.dim, padded = roundUpTo(count, kernel.tileRows);
  const int64_t strideRows = roundUpTo(dim, 16) + 16;
  const AlignedArray<float> approximate(padded * strideRows), heads(padded * (basis.strideOut + 1));
  std::fill(approximate.get() + count * strideRows, approximate.get() + padded * strideRows, 0.0f);
  approximateRows(rows, false, begin, count, stored, stride, approximate.get(), strideRows);
  const int64_t strideHeads = basis.strideOut + 1;
  for (int64_t r = 0; r < padded; r += kernel.tileRows) {
    for (int64_t c = 0; c < basis.strideOut; c += kernel.panel) {
      kernel.tile({.a = approximate.get() + r * strideRows,
                   .strideA = strideRows,
                   .b = basis.panels.get() + c * dim,
                   .strideB = kernel.panel,
                   .depth = dim,
                   .c = heads.get() + r * strideHeads + c,
                   .strideC = strideHeads,
                   .rows = kernel.tileRows});
    }
  }
  const double rounding = 1.01 * static_cast<double>(dim + 8) * kUnit *
                              std::sqrt(static_cast<double>(basis.count) * (1 + basis.defect)) +
                          approximationError(rows, false) * (1 + basis.defect);
  for (int64_t i = begin; i < begin + count; ++i) {
    float* head = heads.get() + (i - begin) * strideHeads;
    double square = 0;
    for (int64_t k = 0; k < basis.count; ++k)
      square += static_cast<double>(head[k]) * static_cast<double>(head[k]);
    const double norm = rows.normBound(i);
    double error = rounding * norm;
    const double known = std::max(std::sqrt(square) * (1 - 1e-9) - error, 0.0);
    const double left =
        std::sqrt(std::max(norm * norm - known * known / (1 + basis.defect), 0.0) * (1 + 1e-9));
    head[basis.count] = roundUp(left);
    const int64_t values = basis.count + 1;
    // In double-check of the lengths: head and remainder together.
    double length = std::sqrt(square + left * left) * (1 + 1e-6);
    if (rows.isFault(i)) error = length = 0;
    if (encoding.spread) {
      spreadRow(head, values);
      error += spreadError(values) * length;
      length *= 1 + spreadError(values);
    }
    writeRow(encoding, head, values, error, length, i, out);
  }
}

}  // namespace

CLIPCID_WIDE float largestElement(const float* row, int64_t dim) {
  Floats most = {};
  float rest[kLanes] = {};
  memcpy(rest, row + dim / kLanes * kLanes, static_cast<size_t>(dim % kLanes) * sizeof(float));
  for (int64_t k = 0; k < dim; k += kLanes) {
    Floats x;
    memcpy(&x, k + kLanes <= dim ? row + k : rest, sizeof x);
    const Floats size = x < 0 ? -x : x;
    most = most < size ? size : most;
  }
  float largest = 0;
  for (int lane = 0; lane < kLanes; ++lane) largest = std::max(largest, most[lane]);
  return largest;
}

void EncodedRows::allocate(const RowEncoding& encoding, int64_t first, int64_t number) {
  begin = first;
  count = number;
  // Rows a power of two apart would share a few sets of the first-level cache.
  stride = encoding.words + (encoding.words % 256 == 0 ? 16 : 0);
  const int64_t padded = number + kMostTileRows;
  if (padded > rowsHeld_) {
    sums = AlignedArray<int32_t>(padded);
    errors = AlignedArray<float>(padded);
    lengths = AlignedArray<float>(padded);
    steps = AlignedArray<float>(padded);
    rowsHeld_ = padded;
  }
  if (padded * stride > wordsHeld_) {
    words = AlignedArray<uint32_t>(padded * stride);
    wordsHeld_ = padded * stride;
  }
  std::fill(words.get() + number * stride, words.get() + padded * stride, 0u);
  std::fill(sums.get() + number, sums.get() + padded, 0);
  std::fill(errors.get() + number, errors.get() + padded, 0.0f);
  std::fill(lengths.get() + number, lengths.get() + padded, 0.0f);
  std::fill(steps.get() + number, steps.get() + padded, 1.0f);
}

int64_t EncodedRows::rowBytes(const RowEncoding& encoding) { return 4 * (encoding.words + 16) + 16; }

void approximateRows(const CpuPrepared& rows, bool spread, int64_t begin, int64_t count, const float* stored,
                     int64_t stride, float* out, int64_t strideOut) {
  for (int64_t i = begin; i < begin + count; ++i, stored += stride, out += strideOut) {
    prefetchRow(stored + kRowsAhead * stride, rows.dim);
    const double norm = rows.storedNorm(i);
    if (rows.unit && norm > 1e-30 && norm < 1e30) {
      scaled(stored, rows.dim, static_cast<float>(1 / norm), out);
    } else {
      rows.compared(i, stored, out);
    }
    if (spread) spreadRow(out, rows.dim);
    std::fill(out + rows.dim, out + strideOut, 0.0f);
  }
}

void encodeRange(const CpuPrepared& rows, const RowEncoding& encoding, int64_t begin, int64_t count,
                 const float* stored, int64_t stride, EncodedRows* out) {
  if (encoding.basis) {
    projectRange(rows, encoding, begin, count, stored, stride, out);
    return;
  }
  const AlignedArray<float> scratch(rows.dim);
  const double relative = approximationError(rows, encoding.spread);
  for (int64_t i = begin; i < begin + count; ++i, stored += stride) {
    approximateRows(rows, encoding.spread, i, 1, stored, stride, scratch.get(), rows.dim);
    const double norm = rows.normBound(i);
    writeRow(encoding, scratch.get(), rows.dim, relative * norm, norm * (1 + relative), i, out);
  }
}

void copyEncoded(const EncodedRows& from, int64_t row, EncodedRows* out, int64_t place) {
  const int64_t at = row - from.begin, to = place - out->begin;
  memcpy(out->row(place), from.row(row), static_cast<size_t>(out->stride) * 4);
  out->sums.get()[to] = from.sums.get()[at];
  out->errors.get()[to] = from.errors.get()[at];
  out->lengths.get()[to] = from.lengths.get()[at];
  out->steps.get()[to] = from.steps.get()[at];
}

CLIPCID_WIDE void packPanel(const FilterKernel& kernel, const EncodedRows& rows, int64_t words, int64_t begin,
                            int64_t count, uint32_t* out) {
  // Adding 128 to a byte, modulo 256, is flipping its highest bit.
  const uint32_t flip = kernel.offset == 128 ? 0x80808080u : 0u;
  const int64_t panel = kernel.panel;
  constexpr int64_t kBlock = 16;
  for (int64_t first = 0; first < panel; first += kBlock) {
    const int64_t columns = std::min(kBlock, panel - first);
    for (int64_t word = 0; word < words; word += kBlock) {
      const int64_t depth = std::min(kBlock, words - word);
      for (int64_t j = 0; j < columns; ++j) {
        uint32_t* to = out + word * panel + first + j;
        if (first + j >= count) {
          for (int64_t k = 0; k < depth; ++k) to[k * panel] = flip;
          continue;
        }
        const uint32_t* row = rows.row(begin + first + j) + word;
        for (int64_t k = 0; k < depth; ++k) to[k * panel] = row[k] ^ flip;
      }
    }
  }
}

Filter availableFilter(Filter filter) {
  const Kernels& kernel = kernels();
  if (filter == Filter::kInt8 && kernel.int8 != nullptr) return filter;
  if ((filter == Filter::kInt8 || filter == Filter::kBfloat16) && kernel.bfloat16 != nullptr)
    return Filter::kBfloat16;
  return Filter::kFloat32;
}

const FilterKernel& filterKernel(Filter filter) {
  switch (availableFilter(filter)) {
    case Filter::kInt8:
      return *kernels().int8;
    case Filter::kBfloat16:
      return *kernels().bfloat16;
    default:
      return *kernels().float32;
  }
}

double FilterPlan::bound(double queryError, double queryLength, double keyError, double keyLength) const {
  const double product = (queryLength + queryError) * (keyLength + keyError);
  if (!(product < 1e37)) return std::numeric_limits<double>::infinity();
  const auto words = static_cast<double>(queries.words);
  double relative = 0, absolute = 0;
  switch (queries.filter) {
    case Filter::kInt8:
      // The sum, the scale and their product are rounded once each.
      relative = 4 * kUnit;
      absolute = 0x1p-125;
      break;
    case Filter::kBfloat16:
      relative = (2 * words + 8) * 2 * kUnit;
      absolute = (2 * words + 8) * 0x1p-125;
      break;
    default:
      relative = (words + 8) * 2 * kUnit;
      absolute = (words + 8) * 0x1p-148;
      break;
  }
  relative /= 1 - relative;
  if (queries.basis) relative += 2 * queries.basis->defect;
  // 2^-40 is more than the canonical dot's own rounding for up to 65,536 elements.
  const double accumulation = (relative + 0x1p-40) * product + absolute;
  return 1.0001 * (queryError * (keyLength + keyError) + queryLength * keyError + accumulation);
}

std::string FilterPlan::text() const {
  const char* name = queries.filter == Filter::kInt8       ? "int8"
                     : queries.filter == Filter::kBfloat16 ? "bfloat16"
                                                           : "float32";
  const int64_t count = queries.basis ? queries.basis->count : dim;
  return std::string(name) + ", " + std::to_string(count) + " of " + std::to_string(dim) + " dimensions, " +
         isaName();
}

}  // namespace clipcid
