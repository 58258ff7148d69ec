// The canonical dot of a unit row with y is near to that of the row as stored over its norm n: with x^ = float32(x / n),
// elements are off by 2^-24 of themselves, or 2^-150, so |x^ . y - (x / n) . y| <= 2^-24 (1 + 2^-22) |y|, twice that
// where both are unit rows; 2^-40 of |y| is more than what the dots and divisions round.
#include "cpu/dots.h"

#include <algorithm>

#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr double kOfUnit = 0x1.01p-24, kOfDots = 0x1p-40;
// Bytes of queries that are read from a file together, and rows that are asked for before they are needed.
constexpr int64_t kWindowBytes = 64 << 10;
constexpr int64_t kTogether = 16;

}  // namespace

Dots::Dots(const CpuPrepared& queries, const CpuPrepared& keys, int workers)
    : queries_(&queries), keys_(&keys), scratch_(static_cast<size_t>(workers)) {
  const int sides = (queries.unit ? 1 : 0) + (keys.unit ? 1 : 0);
  slack_ = sides == 0 ? 0 : sides * kOfUnit + kOfDots;
  const int64_t rowBytes = 4 * std::max<int64_t>(queries.dim, 1);
  window_ = queries.inMemory() ? 1 : std::clamp<int64_t>(kWindowBytes / rowBytes, 1, 64);
  for (Scratch& scratch : scratch_) {
    scratch.rows = AlignedArray<float>((2 + kTogether) * queries.dim);
    scratch.window = AlignedArray<float>(window_ * queries.dim);
  }
}

Status Dots::storedQuery(int64_t query, Scratch* scratch) {
  if (scratch->storedQuery == query) return {};
  scratch->storedQuery = -1;
  const int64_t dim = queries_->dim;
  if (window_ == 1) {
    CLIPCID_TRY(queries_->stored(query, scratch->window.get(), &scratch->stored));
  } else {
    if (query < scratch->windowBegin || query >= scratch->windowEnd) {
      scratch->windowEnd = 0;
      const int64_t count = std::min(window_, queries_->rows - query);
      CLIPCID_TRY(queries_->storedRows(query, count, scratch->window.get()));
      scratch->windowBegin = query;
      scratch->windowEnd = query + count;
    }
    scratch->stored = scratch->window.get() + (query - scratch->windowBegin) * dim;
  }
  scratch->storedQuery = query;
  return {};
}

Status Dots::exact(int64_t query, int64_t key, int worker, double* dot) {
  Scratch& scratch = scratch_[static_cast<size_t>(worker)];
  const int64_t dim = queries_->dim;
  if (scratch.query != query) {
    scratch.query = -1;
    CLIPCID_TRY(storedQuery(query, &scratch));
    scratch.row = scratch.stored;
    if (queries_->unit || queries_->isFault(query)) {
      queries_->compared(query, scratch.stored, scratch.rows.get());
      scratch.row = scratch.rows.get();
    }
    scratch.query = query;
  }
  const float* other;
  CLIPCID_TRY(keys_->row(key, scratch.rows.get() + dim, &other));
  *dot = kernels().dot(scratch.row, other, dim);
  return {};
}

Status Dots::near(int64_t query, const int32_t* keys, int64_t count, int worker, double* dots) {
  Scratch& scratch = scratch_[static_cast<size_t>(worker)];
  const int64_t dim = queries_->dim;
  if (queries_->isFault(query)) {
    std::fill(dots, dots + count, 0.0);
    return {};
  }
  CLIPCID_TRY(storedQuery(query, &scratch));
  for (int64_t from = 0; from < count; from += kTogether) {
    const int64_t here = std::min(kTogether, count - from);
    const float* rows[kTogether];
    if (here > 2) {
      for (int64_t at = 0; at < here; ++at) keys_->prefetch(keys[from + at]);
    }
    for (int64_t at = 0; at < here; ++at)
      CLIPCID_TRY(keys_->stored(keys[from + at], scratch.rows.get() + (2 + at) * dim, &rows[at]));
    kernels().dots(scratch.stored, rows, here, dim, dots + from);
    for (int64_t at = 0; at < here; ++at) {
      double& dot = dots[from + at];
      const int32_t key = keys[from + at];
      if (queries_->unit) dot /= queries_->storedNorm(query);
      if (keys_->isFault(key)) {
        dot = 0;
      } else if (keys_->unit) {
        dot /= keys_->storedNorm(key);
      }
    }
  }
  return {};
}

}  // namespace clipcid
