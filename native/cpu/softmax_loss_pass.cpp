#include "cpu/softmax_loss_pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/softmax_loss_rows.h"

namespace clipcid {
namespace {

constexpr int64_t kRunBytes = 16 << 20;
constexpr int64_t kGroupBytes = 4 << 20;
constexpr int64_t kMostTaskRows = 256;
constexpr int64_t kLeastKeyRun = 32;  // Product::packRight takes its depth in such parts
constexpr int64_t kFloatBytes = sizeof(float);

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
int64_t roundUp(int64_t value, int64_t unit) { return divideUp(value, unit) * unit; }

// Rows [begin, begin + count) of a side, dense: where they lie, or gathered into `scratch`.
const float* gathered(const SoftmaxSide& side, int64_t begin, int64_t count, int64_t dim, float* scratch) {
  if (side.indices == nullptr && side.norms == nullptr && side.measured == nullptr)
    return side.data + begin * dim;
  for (int64_t i = begin; i < begin + count; ++i) {
    const float* row = side.data + (side.indices != nullptr ? side.indices[i] : i) * dim;
    double norm = side.norms != nullptr ? side.norms[i] : 1;
    if (side.measured != nullptr) side.measured[i] = norm = std::sqrt(kernels().dot(row, row, dim));
    softmaxRows().scaled(row, dim, 1 / norm, scratch + (i - begin) * dim);
  }
  return scratch;
}

}  // namespace

SoftmaxPass::SoftmaxPass(const Context& context, Shape shape)
    : context_(context),
      shape_(std::move(shape)),
      // Whatever the shape: passes over the same logits must take the same kind.
      product_(productFor(kMostProductRows, kMostProductRows, shape_.dim)) {
  const int64_t dim = shape_.dim;
  for (size_t set = 0; set < shape_.queries.size(); ++set) {
    for (int64_t first = 0; first < shape_.queries[set].count; first += product_.rows) {
      const int64_t count = std::min<int64_t>(product_.rows, shape_.queries[set].count - first);
      tiles_.push_back({set, first, count, static_cast<int64_t>(tiles_.size())});
    }
  }
  const auto tiles = static_cast<int64_t>(tiles_.size());
  dims_ = roundUp(dim, product_.columns);
  sumStride_ = shape_.sums ? dims_ + 16 : 0;
  leftSize_ = product_.rows * product_.leftWords(dim);
  unit_ = divideUp(shape_.taskRows, product_.rows);
  const int64_t tileBytes = (leftSize_ + product_.rows * sumStride_) * kFloatBytes;
  runTiles_ = std::min(roundUp(std::max<int64_t>(1, kRunBytes / tileBytes), unit_), roundUp(tiles, unit_));
  // Twice as many tasks as threads, so that a thread which is held up does not hold up the others for long.
  const int64_t wanted = divideUp(std::min(runTiles_, tiles), 2 * context.threads);
  taskTiles_ = roundUp(std::clamp<int64_t>(wanted, 1, divideUp(kMostTaskRows, product_.rows)), unit_);

  keyRun_ = std::max<int64_t>(kLeastKeyRun, product_.columns);
  keyBlockSize_ = kKeyBlock * product_.rightWords(dim);
  valueBlockSize_ = shape_.sums ? dims_ * product_.rightWords(kKeyBlock) : 0;
  const int64_t blockBytes = (keyBlockSize_ + valueBlockSize_) * kFloatBytes;
  const int64_t blocks =
      std::min(std::max<int64_t>(1, kGroupBytes / blockBytes), divideUp(shape_.keys.count, kKeyBlock));
  groupKeys_ = blocks * kKeyBlock;

  left_ = AlignedArray<float>(runTiles_ * leftSize_);
  sums_ = AlignedArray<float>(runTiles_ * product_.rows * sumStride_);
  keyPanels_ = AlignedArray<float>(blocks * keyBlockSize_);
  valuePanels_ = AlignedArray<float>(blocks * valueBlockSize_);
  const int64_t most = std::max(runTiles_, groupKeys_ / keyRun_);
  scratch_.resize(static_cast<size_t>(std::min<int64_t>(context.threads, most)));
  for (Scratch& scratch : scratch_) {
    scratch.rows = AlignedArray<float>(std::max<int64_t>(keyRun_, product_.rows) * dim);
    if (shape_.values.data != nullptr) scratch.values = AlignedArray<float>(keyRun_ * dim);
    scratch.dots = AlignedArray<float>(product_.rows * kStride);
    if (shape_.sums) scratch.weights = AlignedArray<float>(product_.rows * product_.leftWords(kKeyBlock));
  }
}

Status SoftmaxPass::run() {
  const auto tiles = static_cast<int64_t>(tiles_.size());
  const int64_t keys = shape_.keys.count;
  const auto scratch = [this](int worker) -> Scratch& { return scratch_[static_cast<size_t>(worker)]; };
  for (int64_t begin = 0; begin < tiles; begin += runTiles_) {
    const int64_t run = std::min(runTiles_, tiles - begin);
    runBegin_ = static_cast<size_t>(begin);
    parallelFor(context_.threads, run, [&](int64_t local, int worker) {
      packQueries(tiles_[static_cast<size_t>(begin + local)], local, scratch(worker));
    });
    for (int64_t first = 0; first < keys; first += groupKeys_) {
      if (context_.cancelled()) return Status::aborted();
      const int64_t count = std::min(groupKeys_, keys - first);
      // A single group stays as it is for every run.
      if (begin == 0 || keys > groupKeys_) {
        parallelFor(context_.threads, divideUp(count, keyRun_), [&](int64_t index, int worker) {
          packKeys(first, count, index * keyRun_, scratch(worker));
        });
      }
      parallelFor(context_.threads, divideUp(run, taskTiles_), [&](int64_t index, int worker) {
        task(index * taskTiles_, std::min(run, (index + 1) * taskTiles_), first, count, scratch(worker));
      });
    }
    if (context_.cancelled()) return Status::aborted();
    parallelFor(context_.threads, run, [&](int64_t local, int) {
      finish(tiles_[static_cast<size_t>(begin + local)],
             shape_.sums ? sums_.get() + local * product_.rows * sumStride_ : nullptr, sumStride_);
    });
  }
  return {};
}

void SoftmaxPass::packQueries(const Tile& tile, int64_t local, Scratch& scratch) {
  const float* rows =
      gathered(shape_.queries[tile.set], tile.first, tile.count, shape_.dim, scratch.rows.get());
  product_.packLeft(rows, shape_.dim, tile.count, shape_.dim, left_.get() + local * leftSize_);
}

int64_t SoftmaxPass::keysOfBlock(int64_t block, int64_t count) const {
  return std::min(kKeyBlock, count - block * kKeyBlock);
}

// The keys [run, run + keyRun_) of the group of `count` keys from `first` on.
void SoftmaxPass::packKeys(int64_t first, int64_t count, int64_t run, Scratch& scratch) {
  const int64_t dim = shape_.dim;
  const int64_t keys = std::min(keyRun_, count - run);
  const int64_t block = run / kKeyBlock;
  const int64_t at = run % kKeyBlock;
  const float* rows = gathered(shape_.keys, first + run, keys, dim, scratch.rows.get());
  const int64_t words = product_.rightWords(dim);
  float* panels = keyPanels_.get() + block * keyBlockSize_ + at * words;
  for (int64_t j = 0; j < keys; j += product_.columns) {
    product_.packRightRows(rows + j * dim, dim, std::min<int64_t>(product_.columns, keys - j), dim,
                           panels + j * words);
  }
  if (!shape_.sums) return;
  const float* values = shape_.values.data == nullptr
                            ? rows
                            : gathered(shape_.values, first + run, keys, dim, scratch.values.get());
  const int64_t depth = keysOfBlock(block, count);
  float* to = valuePanels_.get() + block * valueBlockSize_;
  for (int64_t d = 0; d < dim; d += product_.columns) {
    product_.packRight(values + d, dim, std::min<int64_t>(product_.columns, dim - d), at, keys, depth,
                       to + d * product_.rightWords(depth));
  }
}

void SoftmaxPass::task(int64_t begin, int64_t end, int64_t first, int64_t count, Scratch& scratch) {
  const int64_t words = product_.rightWords(shape_.dim);
  product_.enter();
  for (int64_t block = 0; block * kKeyBlock < count; ++block) {
    if (context_.cancelled()) break;
    const int64_t keys = keysOfBlock(block, count);
    const int64_t firstKey = first + block * kKeyBlock;
    const float* panels = keyPanels_.get() + block * keyBlockSize_;
    for (int64_t local = begin; local < end; ++local) {
      const Tile& tile = tiles_[runBegin_ + static_cast<size_t>(local)];
      float* dots = scratch.dots.get();
      for (int64_t j = 0; j < keys; j += product_.columns) {
        product_.multiply(left_.get() + local * leftSize_, panels + j * words, shape_.dim, dots + j, kStride,
                          false, shape_.mirrored);
      }
      float factors[kMostProductRows];
      const bool rescale = epilogue(tile, firstKey, keys, dots, factors);
      if (!shape_.sums) continue;
      if (rescale && firstKey > 0) {
        for (int64_t r = 0; r < tile.count; ++r) {
          float* sums = sums_.get() + (local * product_.rows + r) * sumStride_;
          if (factors[r] == 1) continue;
          for (int64_t d = 0; d < dims_; ++d) sums[d] *= factors[r];
        }
      }
      addSums(tile, local, keys, valuePanels_.get() + block * valueBlockSize_, firstKey == 0, scratch);
    }
  }
  product_.leave();
}

void SoftmaxPass::addSums(const Tile& tile, int64_t local, int64_t keys, const float* panels, bool first,
                          Scratch& scratch) {
  product_.packLeft(scratch.dots.get(), kStride, tile.count, keys, scratch.weights.get());
  float* sums = sums_.get() + local * product_.rows * sumStride_;
  for (int64_t d = 0; d < dims_; d += product_.columns) {
    product_.multiply(scratch.weights.get(), panels + d * product_.rightWords(keys), keys, sums + d,
                      sumStride_, !first, false);
  }
}

RoundedLse::RoundedLse(const double* values, int64_t count, double weight, int64_t padded)
    : lse(static_cast<size_t>(padded), 0.0f), weights(static_cast<size_t>(padded), 0.0f) {
  for (int64_t i = 0; i < count; ++i) {
    const double exact = values[i] * 1.4426950408889634;
    const auto rounded = static_cast<float>(exact);
    // From here on float32 has the largest logit and nothing else, and float64's own rounding would be all there is.
    const double taken = std::fabs(exact) < 0x1p24 ? static_cast<double>(rounded) - exact : 0;
    lse[static_cast<size_t>(i)] = rounded;
    weights[static_cast<size_t>(i)] = static_cast<float>(weight * std::exp2(taken));
  }
}

}  // namespace clipcid
