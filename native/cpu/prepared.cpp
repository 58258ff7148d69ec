#include "cpu/prepared.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "clipcid/canonical.h"
#include "core/parallel.h"
#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kRange = 64;  // rows that one task reads

int64_t roundUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// A row of 2 KiB would put every row of a tile into the same few sets of the first-level cache.
int64_t paddedStride(int64_t dim) { return roundUp(dim, 16) + 16; }

void packPanel(const Block& block, int64_t dim, int64_t panel, int width, float* out) {
  const int64_t first = panel * width;
  for (int j = 0; j < width; ++j) {
    if (first + j >= block.count) {
      for (int64_t k = 0; k < dim; ++k) out[k * width + j] = 0;
      continue;
    }
    const float* row = block.rows.get() + (first + j) * block.stride;
    for (int64_t k = 0; k < dim; ++k) out[k * width + j] = row[k];
  }
}

Status packPanels(const Context& context, int64_t dim, Block* block) {
  const int width = kernels().panel;
  const int64_t panels = (block->count + width - 1) / width;
  block->panels = AlignedArray<float>(panels * dim * width);
  return parallelTry(context, panels, [&](int64_t panel, int) -> Status {
    packPanel(*block, dim, panel, width, block->panels.get() + panel * dim * width);
    return {};
  });
}

}  // namespace

PreparedLimits& preparedLimits() {
  static PreparedLimits limits;
  return limits;
}

CpuPrepared::CpuPrepared(const PrepareArgs& args) : source_(args.rows), offset_(args.begin) {
  rows = args.count < 0 ? source_.count() - offset_ : args.count;
  dim = source_.dim();
  unit = args.unit;
  const int64_t rowBytes = paddedStride(dim) * 4;
  blockRows_ = std::clamp<int64_t>(preparedLimits().blockBytes / rowBytes, 16, 16384);
  keepBlocks_ = rows <= preparedLimits().keepBytes / rowBytes;
}

Status CpuPrepared::scan(const Context& context) {
  const Kernels& kernel = kernels();
  faulty_.assign(static_cast<size_t>(rows), 0);
  squares.assign(static_cast<size_t>(rows), 0);
  if (unit) norms_.assign(static_cast<size_t>(rows), 0);
  if (keepBlocks_) {
    for (int64_t index = 0; index < blockCount(); ++index) {
      auto block = std::make_shared<Block>();
      allocate(index, block.get());
      kept_.push_back(std::move(block));
    }
  }
  std::mutex mutex;
  const int64_t perBlock = (blockRows_ + kRange - 1) / kRange;
  CLIPCID_TRY(parallelTry(context, blockCount() * perBlock, [&](int64_t task, int) -> Status {
    const int64_t begin = task / perBlock * blockRows_ + task % perBlock * kRange;
    const int64_t end = std::min({begin + kRange, (task / perBlock + 1) * blockRows_, rows});
    if (begin >= end) return {};
    const int64_t stride = paddedStride(dim);
    AlignedArray<float> scratch;
    float* to;
    if (keepBlocks_) {
      Block& block = *kept_[static_cast<size_t>(task / perBlock)];
      to = block.rows.get() + (begin - block.begin) * stride;
    } else {
      scratch = AlignedArray<float>((end - begin) * stride);
      to = scratch.get();
    }
    CLIPCID_TRY(readRows(source_, offset_ + begin, end - begin, to, stride));
    double most = 0;
    for (int64_t i = begin; i < end; ++i, to += stride) {
      const auto at = static_cast<size_t>(i);
      const double square = kernel.dot(to, to, dim);
      if (!std::isfinite(square) || (unit && square == 0)) {
        faulty_[at] = 1;
        std::fill(to, to + dim, 0.0f);
        continue;
      }
      if (unit) {
        norms_[at] = std::sqrt(square);
        kernel.unitRow(to, dim, norms_[at]);
        squares[at] = kernel.dot(to, to, dim);
      } else {
        squares[at] = square;
        for (int64_t k = 0; k < dim; ++k) most = std::max(most, static_cast<double>(std::fabs(to[k])));
      }
    }
    std::lock_guard<std::mutex> lock(mutex);
    largest = std::max(largest, most);
    return {};
  }));
  if (unit) largest = 1;
  for (int64_t i = 0; i < rows; ++i) {
    if (isFault(i)) faults.push_back(i);
  }
  return {};
}

void CpuPrepared::allocate(int64_t index, Block* block) const {
  block->begin = index * blockRows_;
  block->count = std::min(blockRows_, rows - block->begin);
  block->stride = paddedStride(dim);
  const int64_t padded = roundUp(block->count, kernels().tileRows);
  block->rows = AlignedArray<float>(padded * block->stride);
  std::fill(block->rows.get() + block->count * block->stride, block->rows.get() + padded * block->stride,
            0.0f);
}

void CpuPrepared::asCompared(int64_t index, float* row) const {
  if (isFault(index)) {
    std::fill(row, row + dim, 0.0f);
  } else if (unit) {
    kernels().unitRow(row, dim, norms_[static_cast<size_t>(index)]);
  }
}

Status CpuPrepared::block(const Context& context, int64_t index, bool panels,
                          std::shared_ptr<const Block>* out) const {
  std::shared_ptr<Block> block;
  if (keepBlocks_) {
    block = kept_[static_cast<size_t>(index)];
  } else {
    block = std::make_shared<Block>();
    allocate(index, block.get());
    CLIPCID_TRY(parallelTry(context, (block->count + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
      const int64_t begin = block->begin + range * kRange;
      const int64_t end = std::min(begin + kRange, block->begin + block->count);
      float* to = block->rows.get() + (begin - block->begin) * block->stride;
      CLIPCID_TRY(readRows(source_, offset_ + begin, end - begin, to, block->stride));
      for (int64_t i = begin; i < end; ++i, to += block->stride) asCompared(i, to);
      return {};
    }));
  }
  if (panels && block->panels.empty()) CLIPCID_TRY(packPanels(context, dim, block.get()));
  *out = std::move(block);
  return {};
}

Status CpuPrepared::row(int64_t index, float* scratch, const float** out) const {
  if (keepBlocks_) {
    *out = kept_[static_cast<size_t>(index / blockRows_)]->row(index);
    return {};
  }
  CLIPCID_TRY(readRows(source_, offset_ + index, 1, scratch, dim));
  asCompared(index, scratch);
  *out = scratch;
  return {};
}

double CpuPrepared::normBound(int64_t index) const {
  return std::sqrt(squares[static_cast<size_t>(index)]) * (1 + 1e-6);
}

double CpuPrepared::normBound(int64_t begin, int64_t end) const {
  double most = 0;
  for (int64_t i = begin; i < end; ++i) most = std::max(most, squares[static_cast<size_t>(i)]);
  return std::sqrt(most) * (1 + 1e-6);
}

const CpuPrepared& cpuPrepared(const Prepared* prepared) {
  return static_cast<const CpuPrepared&>(*prepared);
}

}  // namespace clipcid
