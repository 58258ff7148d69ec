#include "core/kmeans_assign.h"

namespace clipcid {
namespace {

// Rows in one call of the back end, which bounds the list of their pairs.
constexpr int64_t kSlice = int64_t{1} << 20;

}  // namespace

Status labelScores(const Points& points, const Prepared& centres, const int32_t* labels, int64_t begin,
                   int64_t count, double* scores) {
  std::vector<Pair> pairs;
  for (int64_t from = 0; from < count; from += kSlice) {
    const int64_t to = std::min(from + kSlice, count);
    pairs.resize(static_cast<size_t>(to - from));
    for (int64_t at = from; at < to; ++at) {
      pairs[static_cast<size_t>(at - from)] = {static_cast<int32_t>(begin + at), labels[begin + at]};
    }
    CLIPCID_TRY(points.backend.pairDots(points.context, {.queries = &points.rows,
                                                         .keys = &centres,
                                                         .pairs = pairs.data(),
                                                         .count = to - from,
                                                         .dots = scores + from}));
  }
  CLIPCID_TRY(points.backend.synchronise(points.context));
  if (points.spherical) return {};
  for (int64_t at = 0; at < count; ++at)
    scores[at] -= centres.squares[static_cast<size_t>(labels[begin + at])] / 2;
  return {};
}

Assigner::Assigner(const Points& points, int32_t* labels)
    : points_(points), labels_(labels), before_(static_cast<size_t>(points.count()), -1) {
  std::copy(before_.begin(), before_.end(), labels);
}

Status Assigner::assign(const float* centroids, const std::vector<double>& drift, const Share& share,
                        int64_t* changed) {
  const bool first = centres_ == nullptr;
  CLIPCID_TRY(points_.backend.prepare(
      points_.context, {.rows = Rows(floatView(centroids, points_.clusters, points_.dim()))}, &centres_));
  const int64_t count = points_.count();
  std::copy(labels_, labels_ + count, before_.begin());
  if (!points_.skip) std::fill(labels_, labels_ + count, -1);
  Context told = points_.context;
  told.progress = [&share](double done, double total) { share(done / total); };
  CLIPCID_TRY(points_.backend.assign(told, {.rows = &points_.rows,
                                            .centres = centres_.get(),
                                            .euclidean = !points_.spherical,
                                            .labels = labels_,
                                            .memory = points_.skip ? &memory_ : nullptr,
                                            .drift = first ? nullptr : drift.data()}));
  CLIPCID_TRY(points_.backend.synchronise(points_.context));
  *changed = 0;
  for (int64_t i = 0; i < count; ++i) *changed += labels_[i] != before_[static_cast<size_t>(i)];
  return {};
}

}  // namespace clipcid
