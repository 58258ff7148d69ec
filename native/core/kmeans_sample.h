// Weighted draws of rows, and the distance of rows to the nearest of a growing set of centres; kmeans.h, "Draws".
#pragma once

#include "core/kmeans_points.h"

namespace clipcid {

// The integers P_i of a draw. They are not stored, but made from p(i) whenever they are asked for.
class Draw {
 public:
  template <typename Weight>
  static Status make(const Points& points, int64_t count, const Weight& p, Draw* out);

  uint64_t total() const { return total_; }
  double scale() const { return scale_; }
  // The smallest i with P_0 + ... + P_i > r; r is below the total.
  template <typename Weight>
  int64_t find(uint64_t r, const Weight& p) const;

 private:
  int64_t count_ = 0;
  double scale_ = 1;
  uint64_t total_ = 0;
  std::vector<uint64_t> ends_;  // sum up to the end of each range of rows
};

template <typename Weight>
Status Draw::make(const Points& points, int64_t count, const Weight& p, Draw* out) {
  const int64_t ranges = rowRanges(count);
  out->count_ = count;
  out->ends_.assign(static_cast<size_t>(ranges), 0);
  std::vector<double> most(static_cast<size_t>(ranges), 0);
  const auto each = [&](const auto& body) {
    return parallelTry(points.context, ranges, [&](int64_t range, int) -> Status {
      body(static_cast<size_t>(range), range * kRowRange, std::min((range + 1) * kRowRange, count));
      return {};
    });
  };
  CLIPCID_TRY(each([&](size_t range, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) most[range] = std::max(most[range], p(i));
  }));
  const double scale = fixedScale(*std::max_element(most.begin(), most.end()), count);
  out->scale_ = scale;
  CLIPCID_TRY(each([&](size_t range, int64_t begin, int64_t end) {
    uint64_t sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += static_cast<uint64_t>(toFixed(p(i), scale));
    out->ends_[range] = sum;
  }));
  out->total_ = 0;
  for (uint64_t& end : out->ends_) end = out->total_ += end;
  return {};
}

template <typename Weight>
int64_t Draw::find(uint64_t r, const Weight& p) const {
  const auto range = std::upper_bound(ends_.begin(), ends_.end(), r) - ends_.begin();
  uint64_t sum = range == 0 ? 0 : ends_[static_cast<size_t>(range - 1)];
  const int64_t last = std::min((range + 1) * kRowRange, count_) - 1;
  for (int64_t i = range * kRowRange; i < last; ++i) {
    sum += static_cast<uint64_t>(toFixed(p(i), scale_));
    if (sum > r) return i;
  }
  return last;
}

// The nearest centre so far of rows: of all, or of a list.
class Nearest {
 public:
  // `rows` is ascending, and must outlive this; null for all rows.
  Nearest(const Points& points, const std::vector<int64_t>* rows);

  int64_t count() const { return count_; }
  int64_t row(int64_t at) const { return rows_ == nullptr ? at : (*rows_)[static_cast<size_t>(at)]; }
  // Compares with centres [count, D], which follow those so far.
  Status add(const float* centres, int64_t count);
  // The squared distance to the nearest so far; infinite without any.
  double square(int64_t at) const { return points_.square(row(at), euclid_[static_cast<size_t>(at)]); }
  // Which of the centres so far it is; ties go to the earlier.
  int32_t nearest(int64_t at) const { return nearest_[static_cast<size_t>(at)]; }

 private:
  const Points& points_;
  const std::vector<int64_t>* rows_;
  int64_t count_;
  int32_t added_ = 0;
  std::vector<double> euclid_;
  std::vector<int32_t> nearest_;
};

}  // namespace clipcid
