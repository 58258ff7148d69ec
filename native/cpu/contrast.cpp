// InfoNCE forward and backward (clipcid/backend.h, ContrastArgs).
//
// In: x, y [B, D]. Out: the loss, its gradients in x and y and in the logarithm of the scale.
//
// Strips of rows of z = x y^T are products, kept while rows' and columns' log-sum-exps are taken from them and while they
// are turned into the gradient's weights g; then dx = g y and dy = g^T x are products again. So every logit is made once
// where all of them fit kKeptBytes, and twice where they don't and the columns' log-sum-exps are wanted, and its
// exponentials are of the same bits each time.
//
// By column, chunks of rows each keep a maximum and a sum, merged in order at the end: as the chunks depend on the number
// of rows alone, threads do not matter. At most kMostChunks, so their memory is below that of a strip. Memory: a strip;
// and what fixed point takes beside it.
//
// Products are made in float32, or, where the machine has products of int16, in fixed point (contrast_fixed.cpp).
//
// Best measured in float32, two threads, 1,024 x 512: 8.4 ms with both gradients, 5.8 ms with one (AMD Zen 5, AVX-512, November
// 2026).
#include "cpu/contrast.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/contrast_fixed.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/softmax_loss_pass.h"
#include "cpu/softmax_loss_rows.h"

namespace clipcid {
namespace {

constexpr int64_t kKeptBytes = 16 << 20;
constexpr int64_t kLeastChunk = 32, kMostChunks = 32;  // rows; chunks
constexpr int64_t kRowTask = 8;
constexpr int64_t kSumRun = 1024;  // elements that are summed up in float32
constexpr double kLn2 = 0.69314718055994531;
constexpr double kLog2e = 1.4426950408889634;

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
int64_t roundUp(int64_t value, int64_t unit) { return divideUp(value, unit) * unit; }

// Rows of a row of logits, filled up. A stride of a power of two would put a column into a few sets of a cache.
int64_t columnsOf(const ContrastArgs& args) { return roundUp(args.rows, kRowLanes); }
int64_t strideOf(const ContrastArgs& args) { return columnsOf(args) + 16; }

int64_t chunkOf(const ContrastArgs& args) {
  return std::max(kLeastChunk, roundUp(divideUp(args.rows, kMostChunks), kLeastChunk));
}

// Rows of a strip, whole chunks.
int64_t stripOf(const Context& context, const ContrastArgs& args) {
  const int64_t most = context.maxMemory > 0 ? std::min(kKeptBytes, context.maxMemory / 2) : kKeptBytes;
  const int64_t rowBytes = strideOf(args) * static_cast<int64_t>(sizeof(float)), chunk = chunkOf(args);
  return std::min(roundUp(args.rows, chunk), std::max<int64_t>(1, most / rowBytes / chunk) * chunk);
}

}  // namespace

Contrast::Contrast(const Context& context, const ContrastArgs& args)
    : context_(context),
      args_(args),
      scale_(static_cast<float>(args.scale * kLog2e)),
      columns_(columnsOf(args)),
      stride_(strideOf(args)),
      chunk_(chunkOf(args)),
      strip_(stripOf(context, args)) {
  // Tiles may be higher than what is left.
  z_ = AlignedArray<float>((strip_ + kMostTileRows) * stride_);
  const auto rows = static_cast<size_t>(args.rows);
  rowLse_.resize(rows);
  targetLogit_.resize(rows);
  logitSums_.resize(rows);
  if (!args.columns) return;
  columnLse_.resize(rows);
  const auto chunks = static_cast<size_t>(divideUp(args.rows, chunk_) * columns_);
  columnMaxima_.assign(chunks, -INFINITY);
  columnSums_.assign(chunks, 0.0f);
}

Status Contrast::run() {
  const bool twice = args_.columns && strip_ < args_.rows;
  for (int64_t begin = 0; begin < args_.rows; begin += strip_) {
    CLIPCID_TRY(logits(begin));
    CLIPCID_TRY(sums(begin));
    if (args_.columns) continue;
    CLIPCID_TRY(refine());
    CLIPCID_TRY(gradients(begin));
  }
  if (args_.columns) {
    CLIPCID_TRY(finishColumns());
    CLIPCID_TRY(refine());
    for (int64_t begin = 0; begin < args_.rows; begin += strip_) {
      if (twice) CLIPCID_TRY(logits(begin));
      CLIPCID_TRY(gradients(begin));
    }
  }
  double byRow = 0, byColumn = 0, gradient = 0;
  for (size_t i = 0; i < rowLse_.size(); ++i) {
    byRow += rowLse_[i] - targetLogit_[i];
    if (args_.columns) byColumn += columnLse_[i] - targetLogit_[i];
    gradient += logitSums_[i];
  }
  const auto count = static_cast<double>(args_.rows);
  *args_.value = args_.columns ? (byRow + byColumn) / (2 * count) : byRow / count;
  *args_.logScaleGradient = gradient;
  return {};
}

Status Contrast::logits(int64_t begin) {
  GemmArgs product;
  product.m = rowsFrom(begin);
  product.n = args_.rows;
  product.k = args_.dim;
  product.a = {args_.x + begin * args_.dim, args_.dim, false};
  product.b = {args_.y, args_.dim, true};
  product.c = z_.get();
  product.strideC = stride_;
  return gemm(context_, product);
}

Status Contrast::sums(int64_t begin) {
  return parallelTry(context_, divideUp(rowsFrom(begin), chunk_), [&](int64_t index, int) -> Status {
    const int64_t first = begin + index * chunk_, end = std::min(args_.rows, first + chunk_);
    for (int64_t i = first; i < end; ++i) {
      float* z = row(begin, i);
      std::fill(z + args_.rows, z + columns_, -INFINITY);
      // The scale as it was rounded, so that it is that of the log-sum-exp.
      targetLogit_[static_cast<size_t>(i)] = static_cast<double>(z[i]) * static_cast<double>(scale_) * kLn2;
      rowLse_[static_cast<size_t>(i)] = lseOf(z);
    }
    if (!args_.columns) return {};
    const int64_t at = first / chunk_ * columns_;
    for (int64_t i = first; i < end; i += kLeastChunk) {
      softmaxRows().columns(row(begin, i), stride_, std::min(kLeastChunk, end - i), columns_, scale_,
                            columnMaxima_.data() + at, columnSums_.data() + at);
    }
    return {};
  });
}

double Contrast::lseOf(const float* z) const {
  float maximum = -INFINITY;
  double sum = 0;
  for (int64_t j = 0; j < columns_; j += kSumRun) {
    double part = 0;
    const float next = softmaxRows().sum(z + j, std::min(kSumRun, columns_ - j), scale_, maximum, &part);
    if (j > 0) sum *= std::exp2(static_cast<double>(maximum) - static_cast<double>(next));
    sum += part;
    maximum = next;
  }
  return (static_cast<double>(maximum) + std::log2(sum)) * kLn2;
}

Status Contrast::finishColumns() {
  return parallelTry(context_, divideUp(args_.rows, kSumRun), [&](int64_t run, int) -> Status {
    const int64_t end = std::min(args_.rows, (run + 1) * kSumRun);
    for (int64_t j = run * kSumRun; j < end; ++j) {
      float most = -INFINITY;
      for (auto at = static_cast<size_t>(j); at < columnMaxima_.size(); at += static_cast<size_t>(columns_))
        most = std::max(most, columnMaxima_[at]);
      double sum = 0;
      for (auto at = static_cast<size_t>(j); at < columnMaxima_.size(); at += static_cast<size_t>(columns_)) {
        sum += static_cast<double>(columnSums_[at]) *
               std::exp2(static_cast<double>(columnMaxima_[at]) - static_cast<double>(most));
      }
      columnLse_[static_cast<size_t>(j)] = (static_cast<double>(most) + std::log2(sum)) * kLn2;
    }
    return {};
  });
}

// Turns a strip's logits into weights, and adds the sums with them to the gradients.
Status Contrast::gradients(int64_t begin) {
  const int64_t rows = rowsFrom(begin);
  // The factor of the gradients is in the weights.
  const double weight =
      args_.weight * args_.scale / static_cast<double>(args_.rows) * (args_.columns ? 0.5 : 1);
  const RoundedLse byRow(rowLse_.data() + begin, rows, weight, rows);
  const RoundedLse byColumn(columnLse_.data(), static_cast<int64_t>(columnLse_.size()), weight, columns_);
  const auto ofTarget = static_cast<float>(args_.columns ? 2 * weight : weight);
  CLIPCID_TRY(parallelTry(context_, divideUp(rows, kRowTask), [&](int64_t index, int) -> Status {
    const int64_t end = std::min(rows, (index + 1) * kRowTask);
    for (int64_t r = index * kRowTask; r < end; ++r) {
      const int64_t i = begin + r;
      float* z = row(begin, i);
      std::fill(z + args_.rows, z + columns_, 0.0f);
      const auto dot = static_cast<double>(z[i]);
      WeighRow weigh;
      weigh.scale = scale_;
      weigh.rowWeight = byRow.weights[static_cast<size_t>(r)];
      weigh.rowLse = byRow.lse[static_cast<size_t>(r)];
      weigh.columnWeights = args_.columns ? byColumn.weights.data() : nullptr;
      weigh.columnLse = byColumn.lse.data();
      const double sum = softmaxRows().weigh(z, columns_, weigh);
      z[i] -= ofTarget;
      logitSums_[static_cast<size_t>(i)] = sum - static_cast<double>(ofTarget) * dot;
    }
    return {};
  }));
  return products(begin);
}

Status Contrast::products(int64_t begin) {
  const int64_t rows = rowsFrom(begin);
  GemmArgs product;
  product.m = rows;
  product.n = args_.dim;
  product.k = args_.rows;
  product.a = {z_.get(), stride_, false};
  product.b = {args_.y, args_.dim, false};
  product.c = args_.dx + begin * args_.dim;
  product.strideC = args_.dim;
  product.beta = 1;
  CLIPCID_TRY(gemm(context_, product));
  if (args_.dy == nullptr) return {};
  product.m = args_.rows;
  product.k = rows;
  product.a.transposed = true;
  product.b.data = args_.x + begin * args_.dim;
  product.c = args_.dy;
  return gemm(context_, product);
}

bool Contrast::isWhole(const Context& context, const ContrastArgs& args) {
  return stripOf(context, args) >= args.rows;
}

Status CpuBackend::contrast(const Context& context, const ContrastArgs& args) {
  if (args.rows < 1 || args.dim < 1) return {Code::kInvalidArgument, "A contrast of no rows or of no width"};
  return guarded([&] {
    return ContrastFixed::serves(context, args) ? ContrastFixed(context, args).run()
                                                : Contrast(context, args).run();
  });
}

}  // namespace clipcid
