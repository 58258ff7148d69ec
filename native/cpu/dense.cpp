#include "cpu/dense.h"

#include <algorithm>

#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kMostSlots = 64;

int64_t paddedRows(int64_t rows) {
  const int64_t tile = kernels().tileRows;
  return (rows + tile - 1) / tile * tile;
}

Status loadRow(const CpuPrepared& rows, int64_t index, int64_t stride, float* to) {
  const float* row;
  CLIPCID_TRY(rows.row(index, to, &row));
  if (row != to) std::copy(row, row + rows.dim, to);
  std::fill(to + rows.dim, to + stride, 0.0f);
  return {};
}

}  // namespace

Status DenseStrip::loadKeys(const Strip& strip) {
  if (strip.key == key_ && strip.columns == columns_) return {};
  const int64_t dim = keys_.dim, width = kernels().panel;
  const int64_t padded = (strip.columns + width - 1) / width * width;
  if (padded > columnsHeld_) {
    keyRows_ = AlignedArray<float>(padded * stride_);
    panels_ = AlignedArray<float>(padded * dim);
    strideScores_ = padded;
    scores_ = AlignedArray<float>(paddedRows(kMostTileRows) * strideScores_);
    columnsHeld_ = padded;
  }
  key_ = -1;
  for (int64_t j = 0; j < strip.columns; ++j)
    CLIPCID_TRY(loadRow(keys_, strip.key + j, stride_, keyRows_.get() + j * stride_));
  std::fill(keyRows_.get() + strip.columns * stride_, keyRows_.get() + padded * stride_, 0.0f);
  for (int64_t first = 0; first < padded; first += width) {
    float* panel = panels_.get() + first * dim;
    for (int64_t k = 0; k < dim; ++k) {
      for (int64_t j = 0; j < width; ++j) panel[k * width + j] = keyRows_.get()[(first + j) * stride_ + k];
    }
  }
  key_ = strip.key;
  columns_ = strip.columns;
  return {};
}

Status DenseStrip::loadQueries(const Strip& strip) {
  const int64_t rows = paddedRows(kMostTileRows);
  if (tiles_.empty()) {
    const int64_t slots = std::clamp<int64_t>(memory_ / (rows * stride_ * 4), 1, kMostSlots);
    tiles_.resize(static_cast<size_t>(slots));
    tileQuery_.assign(static_cast<size_t>(slots), -1);
    tileRows_.assign(static_cast<size_t>(slots), 0);
  }
  const auto found = std::find(tileQuery_.begin(), tileQuery_.end(), strip.query);
  // The triangle cuts the rows of a tile for early keys.
  const bool held =
      found != tileQuery_.end() && tileRows_[static_cast<size_t>(found - tileQuery_.begin())] >= strip.rows;
  const auto slot = found != tileQuery_.end() ? static_cast<size_t>(found - tileQuery_.begin()) : next_;
  if (tiles_[slot].empty()) {
    tiles_[slot] = AlignedArray<float>(rows * stride_);
    std::fill(tiles_[slot].get(), tiles_[slot].get() + rows * stride_, 0.0f);
  }
  tile_ = tiles_[slot].get();
  if (held) return {};
  if (slot == next_) next_ = (next_ + 1) % tiles_.size();
  tileQuery_[slot] = -1;
  for (int r = 0; r < strip.rows; ++r)
    CLIPCID_TRY(loadRow(queries_, strip.query + r, stride_, tiles_[slot].get() + r * stride_));
  tileQuery_[slot] = strip.query;
  tileRows_[slot] = strip.rows;
  return {};
}

Status DenseStrip::run(const Strip& strip) {
  // Not a power of two apart: the rows of a tile would meet in a few sets of the first-level cache.
  stride_ = (keys_.dim + 15) / 16 * 16 + 16;
  CLIPCID_TRY(loadKeys(strip));
  CLIPCID_TRY(loadQueries(strip));
  const Kernels& kernel = kernels();
  uint64_t done = 0;  // panels of this kernel
  for (uint64_t hits = strip.hits; hits != 0; hits &= hits - 1) {
    const int64_t from = __builtin_ctzll(hits) * strip.panel;
    const int64_t to = std::min<int64_t>(from + strip.panel, strip.columns);
    for (int64_t panel = from / kernel.panel; panel * kernel.panel < to; ++panel) {
      if ((done >> panel & 1) != 0) continue;
      done |= uint64_t{1} << panel;
      const int64_t column = panel * kernel.panel;
      for (int64_t r = 0; r < strip.rows; r += kernel.tileRows) {
        kernel.tile({.a = tile_ + r * stride_,
                     .strideA = stride_,
                     .b = panels_.get() + column * keys_.dim,
                     .strideB = kernel.panel,
                     .depth = keys_.dim,
                     .c = scores_.get() + r * strideScores_ + column,
                     .strideC = strideScores_,
                     .rows = kernel.tileRows});
      }
    }
  }
  return {};
}

void DenseStrip::dots(int64_t r, const int64_t* columns, int64_t count, double* out) const {
  const float* rows[kMostPanel];
  for (int64_t at = 0; at < count; ++at) rows[at] = keyRows_.get() + columns[at] * stride_;
  kernels().dots(tile_ + r * stride_, rows, count, keys_.dim, out);
}

}  // namespace clipcid
