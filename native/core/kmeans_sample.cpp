#include "core/kmeans_sample.h"

#include <limits>

namespace clipcid {

Nearest::Nearest(const Points& points, const std::vector<int64_t>* rows)
    : points_(points),
      rows_(rows),
      count_(rows == nullptr ? points.count() : static_cast<int64_t>(rows->size())),
      euclid_(static_cast<size_t>(count_), -std::numeric_limits<double>::infinity()),
      nearest_(static_cast<size_t>(count_), 0) {}

Status Nearest::add(const float* centres, int64_t count) {
  std::unique_ptr<Prepared> keys;
  CLIPCID_TRY(points_.backend.prepare(points_.context,
                                      {.rows = Rows(floatView(centres, count, points_.dim()))}, &keys));
  std::vector<int32_t> found(static_cast<size_t>(count_));
  std::vector<double> scores(static_cast<size_t>(count_));
  CLIPCID_TRY(points_.backend.best(points_.context, {.queries = &points_.rows,
                                                     .keys = keys.get(),
                                                     .euclidean = true,
                                                     .rows = rows_ == nullptr ? nullptr : rows_->data(),
                                                     .count = count_,
                                                     .indices = found.data(),
                                                     .scores = scores.data(),
                                                     .above = euclid_.data()}));
  CLIPCID_TRY(points_.backend.synchronise(points_.context));
  for (size_t at = 0; at < scores.size(); ++at) {
    if (found[at] < 0) continue;
    euclid_[at] = scores[at];
    nearest_[at] = added_ + found[at];
  }
  added_ += static_cast<int32_t>(count);
  return {};
}

}  // namespace clipcid
