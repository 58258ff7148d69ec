// In: x, y [B, D]. Out: as contrast.cpp has it.
//
// Logits are made in fixed point as in distil_fixed.cpp: rows of x are keys there, rows of y queries. When the log-sum-exps of rows
// and columns are known, logits whose weight in either is over a limit, and the targets', are made again in float32, and the sums
// put right. What that leaves of errors in a softmax is as small as there.
//
// Products with the weights: the large ones are added up apart, in float32. The others are at most the limit times the gradients'
// factor; they are scaled, all alike, so that sums over kShortPart of them times the largest element of a row stay under 2^31. That
// rounds a weight by 2^-13 of the largest, and as good as independently: an element of a gradient is off by some sqrt(B / D) times
// that. So errors are small beside the factor, which bounds a row's gradient, and not beside the gradient
// itself: where a batch is fitted so well that gradients are a hundredth of it, they are some 10^-3 of its largest element.
//
// Memory: beside the logits, which all are kept, twice as much for the weights and their transpose.
//
// Measured with the whole loss only: see distil.cpp.
#include "cpu/contrast_fixed.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cpu/fixed_point.h"
#include "cpu/product.h"

namespace clipcid {
namespace {

constexpr double kLn2 = 0.69314718055994531;
constexpr double kLog2e = 1.4426950408889634;
constexpr int64_t kRowTask = 8;   // rows
constexpr int64_t kTileTask = 4;  // tiles
constexpr float kMostRow = 8191, kMostWeight = 4080;
static_assert(static_cast<double>(kShortPart) * (kMostRow + 0.5) * (kMostWeight + 0.5) < 0x1p31);

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

bool leavesFew(const ContrastArgs& args, int64_t part) {
  return static_cast<double>(args.rows) * limitOf(args.scale, part) >= kLeastKeys;
}

// Whether logits, weights both ways and rows, packed and not yet, stay within a limit to the memory.
bool fits(const Context& context, const ContrastArgs& args) {
  return context.maxMemory <= 0 || 12 * args.rows * (args.rows + args.dim) <= context.maxMemory;
}

AlignedArray<uint32_t> zeros(int64_t count) {
  AlignedArray<uint32_t> words(count);
  std::fill(words.get(), words.get() + count, 0u);
  return words;
}

}  // namespace

bool ContrastFixed::serves(const Context& context, const ContrastArgs& args) {
  return kernels().int16 != nullptr && args.dim >= kLeastDim && args.scale <= kMostScale &&
         leavesFew(args, kShortPart) && isWhole(context, args) && fits(context, args) &&
         productFor(kMostProductRows, kMostProductRows, args.dim).direct;
}

ContrastFixed::ContrastFixed(const Context& context, const ContrastArgs& args)
    : Contrast(context, args),
      fixed_(*kernels().int16),
      rows_(softmaxRows()),
      part_(leavesFew(args, kLongPart) ? kLongPart : kShortPart),
      limit_(limitOf(args.scale, part_)),
      columnLimits_(static_cast<size_t>(columns_), INFINITY),
      large_(static_cast<size_t>(args.rows)) {}

Status ContrastFixed::logits(int64_t) {
  const int64_t count = args_.rows, dim = args_.dim, words = fixedWords(dim), stride = fixedStride(words);
  const int64_t height = fixed_.tileRows, width = fixed_.panel;
  const AlignedArray<uint32_t> left = zeros((count + height) * stride), right = zeros(columns_ * words);
  std::vector<float> inverses(static_cast<size_t>(count)), units(static_cast<size_t>(columns_));
  CLIPCID_TRY(parallelTry(context_, divideUp(count, kRowLanes), [&](int64_t task, int) -> Status {
    std::vector<uint32_t> one(static_cast<size_t>(words));
    for (int64_t i = task * kRowLanes; i < std::min(count, (task + 1) * kRowLanes); ++i) {
      const float *x = args_.x + i * dim, *y = args_.y + i * dim;
      float largest = 0, square = 0;
      rows_.extent(x, dim, part_, &largest, &square);
      float scale = scaleOf(largest, square, kKeyRoot);
      rows_.fixRow(x, dim, scale, left.get() + i * stride);
      inverses[static_cast<size_t>(i)] = 1 / scale;
      rows_.extent(y, dim, part_, &largest, &square);
      scale = scaleOf(largest, square, kQueryRoot);
      rows_.fixRow(y, dim, scale, one.data());
      units[static_cast<size_t>(i)] = 1 / scale;
      uint32_t* to = right.get() + i / width * width * words + i % width;
      for (int64_t word = 0; word < words; ++word) to[word * width] = one[static_cast<size_t>(word)];
    }
    return {};
  }));
  const int64_t run = kTileTask * height, partWords = part_ / 2;
  return parallelTry(context_, divideUp(count, run), [&](int64_t task, int) -> Status {
    const int64_t begin = task * run, end = std::min(count, begin + run);
    for (int64_t lane = 0; lane < columns_; lane += width) {
      const uint32_t* panel = right.get() + lane * words;
      for (int64_t i = begin; i < end; i += height) {
        for (int64_t word = 0; word < words; word += partWords) {
          fixed_.tile({.a = left.get() + i * stride + word,
                       .strideA = stride,
                       .b = panel + word * width,
                       .strideB = width,
                       .depth = std::min(partWords, words - word),
                       .c = row(0, i) + lane,
                       .strideC = stride_,
                       .scales = units.data() + lane,
                       .add = word > 0,
                       .ahead = units.data()});
        }
      }
    }
    rows_.scaleKeys(row(0, begin), stride_, end - begin, columns_, inverses.data() + begin);
    return {};
  });
}

Status ContrastFixed::refine() {
  const double least = std::log2(limit_), scale = static_cast<double>(scale_);
  const auto limitFor = [&](double lse) { return static_cast<float>((lse * kLog2e + least) / scale); };
  for (size_t j = 0; j < columnLse_.size(); ++j) columnLimits_[j] = limitFor(columnLse_[j]);
  CLIPCID_TRY(parallelTry(context_, divideUp(args_.rows, kRowTask), [&](int64_t task, int) -> Status {
    for (int64_t i = task * kRowTask; i < std::min(args_.rows, (task + 1) * kRowTask); ++i)
      refineRow(i, limitFor(rowLse_[static_cast<size_t>(i)]), &large_[static_cast<size_t>(i)]);
    return {};
  }));
  std::vector<double> changes(columnLse_.size());
  for (const std::vector<Large>& row : large_) {
    for (size_t at = 0; at < row.size() && !changes.empty(); ++at)
      changes[static_cast<size_t>(row[at].column)] += row[at].change;
  }
  for (size_t j = 0; j < changes.size(); ++j) columnLse_[j] += std::log1p(changes[j]);
  return {};
}

// The logits of a row that are large, or its target's.
void ContrastFixed::refineRow(int64_t i, float rowLimit, std::vector<Large>* out) {
  const auto columns = static_cast<size_t>(columns_);
  float* z = row(0, i);
  std::vector<float> over(columns), dots;
  std::vector<int32_t> found(columns);
  for (size_t j = 0; j < columns; ++j) {
    const float limit = columnLimits_[j] < rowLimit ? columnLimits_[j] : rowLimit;
    over[j] = z[j] - limit;
  }
  over[static_cast<size_t>(i)] = 0;
  found.resize(static_cast<size_t>(kernels().notBelow(over.data(), args_.rows, 0, found.data())));
  std::vector<const float*> others;
  for (const int32_t j : found) others.push_back(args_.y + j * args_.dim);
  dots.resize(found.size());
  const float* x = args_.x + i * args_.dim;
  rows_.dots(x, others.data(), static_cast<int64_t>(found.size()), args_.dim, x, dots.data());
  const auto own = static_cast<size_t>(i);
  const double scale = static_cast<double>(scale_), lse = rowLse_[own] * kLog2e;
  double change = 0;
  for (size_t at = 0; at < found.size(); ++at) {
    const auto j = static_cast<size_t>(found[at]);
    const double before = static_cast<double>(z[j]) * scale, after = static_cast<double>(dots[at]) * scale;
    z[j] = dots[at];
    change += std::exp2(after - lse) - std::exp2(before - lse);
    double ofColumn = 0;
    if (args_.columns) {
      const double other = columnLse_[j] * kLog2e;
      ofColumn = std::exp2(after - other) - std::exp2(before - other);
    }
    out->push_back({found[at], 0, ofColumn});
  }
  rowLse_[own] += std::log1p(change);
  targetLogit_[own] = static_cast<double>(z[own]) * scale * kLn2;
}

// Adds what the large weights make to the gradients, sets them to zero, and tells the largest of the others.
Status ContrastFixed::takeLarge(float* largest) {
  const int64_t count = args_.rows, dim = args_.dim;
  std::vector<float> most(static_cast<size_t>(count));
  CLIPCID_TRY(parallelTry(context_, divideUp(count, kRowTask), [&](int64_t task, int) -> Status {
    for (int64_t i = task * kRowTask; i < std::min(count, (task + 1) * kRowTask); ++i) {
      float* weights = row(0, i);
      for (Large& one : large_[static_cast<size_t>(i)]) {
        one.weight = weights[one.column];
        weights[one.column] = 0;
        rows_.add(args_.y + one.column * dim, one.weight, dim, args_.dx + i * dim);
      }
      std::fill(weights + count, weights + columns_, 0.0f);
      float square;
      rows_.extent(weights, columns_, columns_, &most[static_cast<size_t>(i)], &square);
    }
    return {};
  }));
  *largest = *std::max_element(most.begin(), most.end());
  if (args_.dy == nullptr) return {};
  std::vector<std::vector<std::pair<int64_t, float>>> byColumn(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    for (const Large& one : large_[static_cast<size_t>(i)])
      byColumn[static_cast<size_t>(one.column)].emplace_back(i, one.weight);
  }
  return parallelTry(context_, divideUp(count, kRowTask), [&](int64_t task, int) -> Status {
    for (int64_t j = task * kRowTask; j < std::min(count, (task + 1) * kRowTask); ++j) {
      for (const auto& [i, weight] : byColumn[static_cast<size_t>(j)])
        rows_.add(args_.x + i * dim, weight, dim, args_.dy + j * dim);
    }
    return {};
  });
}

Status ContrastFixed::products(int64_t) {
  float largest = 0;
  CLIPCID_TRY(takeLarge(&largest));
  if (!(largest > 0)) return {};
  // Rows that fill up the last pairs.
  std::fill(row(0, args_.rows), row(0, columns_), 0.0f);
  const float scale = kMostWeight / largest, unit = largest / kMostWeight;
  const int64_t words = fixedWords(columns_), stride = fixedStride(words);
  const int64_t pairStride = fixedStride(columns_ + fixed_.tileRows);
  const AlignedArray<uint32_t> weights = zeros((columns_ + fixed_.tileRows) * stride);
  AlignedArray<uint32_t> pairs;
  if (args_.dy != nullptr) pairs = zeros(columns_ / 2 * pairStride);
  CLIPCID_TRY(parallelTry(context_, columns_ / (2 * kPair), [&](int64_t block, int) -> Status {
    for (int64_t at = 0; at < kPair; ++at) {
      const int64_t i = 2 * kPair * block + at, j = i + kPair;
      uint32_t *first = weights.get() + i * stride, *second = weights.get() + j * stride;
      if (args_.dy != nullptr) {
        rows_.fixRows(row(0, i), row(0, j), columns_, scale, scale, first, second,
                      pairs.get() + (kPair * block + at) * pairStride);
      } else {
        rows_.fixRow(row(0, i), columns_, scale, first);
        rows_.fixRow(row(0, j), columns_, scale, second);
      }
    }
    return {};
  }));
  CLIPCID_TRY(multiply(weights.get(), stride, false, args_.y, unit, args_.dx));
  return args_.dy == nullptr ? Status() : multiply(pairs.get(), pairStride, true, args_.x, unit, args_.dy);
}

// out += weights rows, or the transposed weights' pairs of rows.
Status ContrastFixed::multiply(const uint32_t* weights, int64_t strideWeights, bool transposed,
                               const float* rows, float weightUnit, float* out) {
  const int64_t count = args_.rows, dim = args_.dim, padded = 2 * fixedWords(dim);
  const int64_t stride = fixedStride(padded), height = fixed_.tileRows, width = fixed_.panel;
  std::vector<float> most(static_cast<size_t>(divideUp(count, kRowLanes)));
  CLIPCID_TRY(parallelTry(context_, static_cast<int64_t>(most.size()), [&](int64_t task, int) -> Status {
    for (int64_t i = task * kRowLanes; i < std::min(count, (task + 1) * kRowLanes); ++i) {
      float largest, square;
      rows_.extent(rows + i * dim, dim, dim, &largest, &square);
      most[static_cast<size_t>(task)] = std::max(most[static_cast<size_t>(task)], largest);
    }
    return {};
  }));
  const float largest = *std::max_element(most.begin(), most.end());
  if (!(largest > 0)) return {};
  const float scale = kMostRow / largest;
  const std::vector<float> units(static_cast<size_t>(width), weightUnit * (largest / kMostRow));
  const std::vector<float> none(static_cast<size_t>(dim));
  const AlignedArray<uint32_t> pairs(columns_ / 2 * stride);
  CLIPCID_TRY(parallelTry(context_, columns_ / (2 * kPair), [&](int64_t block, int) -> Status {
    std::vector<uint32_t> first(static_cast<size_t>(padded / 2)), second(first.size());
    for (int64_t at = 0; at < kPair; ++at) {
      const int64_t i = 2 * kPair * block + at, j = i + kPair;
      rows_.fixRows(i < count ? rows + i * dim : none.data(), j < count ? rows + j * dim : none.data(), dim,
                    scale, scale, first.data(), second.data(), pairs.get() + (kPair * block + at) * stride);
    }
    return {};
  }));
  constexpr int64_t kPartWords = kShortPart / 2;
  const int64_t words = columns_ / 2, run = kTileTask * height;
  return parallelTry(context_, divideUp(count, run), [&](int64_t task, int) -> Status {
    const AlignedArray<float> sums(height * padded);
    for (int64_t i = task * run; i < std::min(count, (task + 1) * run); i += height) {
      for (int64_t d = 0; d < padded; d += width) {
        for (int64_t word = 0; word < words; word += kPartWords) {
          fixed_.tile({.a = weights + (transposed ? word * strideWeights + i : i * strideWeights + word),
                       .strideA = strideWeights,
                       .b = pairs.get() + word * stride + d,
                       .strideB = stride,
                       .depth = std::min(kPartWords, words - word),
                       .c = sums.get() + d,
                       .strideC = padded,
                       .scales = units.data(),
                       .transposedA = transposed,
                       .add = word > 0,
                       .ahead = units.data()});
        }
      }
      for (int64_t r = i; r < std::min(count, i + height); ++r)
        rows_.add(sums.get() + (r - i) * padded, 1, dim, out + r * dim);
    }
    return {};
  });
}

}  // namespace clipcid
