// One problem of k-means as its parts share it; the rules are in kmeans.h.
#pragma once

#include <algorithm>
#include <vector>

#include "clipcid/backend.h"
#include "clipcid/canonical.h"
#include "core/parallel.h"

namespace clipcid {

struct Points {
  Backend& backend;
  const Context& context;  // without progress
  const Prepared& rows;
  const float* weights;  // [rows], or null for 1
  double heaviest;       // largest weight
  bool spherical;
  bool skip;
  int64_t clusters;
  int64_t element;  // index of the problem in its batch

  int64_t count() const { return rows.rows; }
  int64_t dim() const { return rows.dim; }
  double weight(int64_t i) const { return weights == nullptr ? 1 : static_cast<double>(weights[i]); }
  double weightScale() const { return fixedScale(heaviest, count()); }
  double square(int64_t i, double euclid) const {
    return std::max(0.0, rows.squares[static_cast<size_t>(i)] - 2 * euclid);
  }
  // The distance that re-seeding and the inertia go by.
  double distance(int64_t i, double score) const {
    return spherical ? std::max(0.0, 1 - score) : square(i, score);
  }
  // What may be held for `share` of the memory limit, in bytes.
  int64_t budget(double share, int64_t otherwise) const {
    if (context.maxMemory <= 0) return otherwise;
    return static_cast<int64_t>(static_cast<double>(context.maxMemory) * share);
  }
};

// Told how much of something long is done, 0 to 1.
using Share = std::function<void(double)>;

// Rows that one task of a loop over all rows takes.
constexpr int64_t kRowRange = 8192;

inline int64_t rowRanges(int64_t count) { return (count + kRowRange - 1) / kRowRange; }

// Canonical scores of rows [begin, begin + count) with the centres of their labels.
Status labelScores(const Points& points, const Prepared& centres, const int32_t* labels, int64_t begin,
                   int64_t count, double* scores);

// The rows for which `chosen(i)`, ascending; on all threads.
template <typename Chosen>
Status selectRows(const Points& points, const Chosen& chosen, std::vector<int64_t>* out) {
  const int64_t count = points.count(), ranges = rowRanges(count);
  std::vector<std::vector<int64_t>> found(static_cast<size_t>(ranges));
  CLIPCID_TRY(parallelTry(points.context, ranges, [&](int64_t range, int) -> Status {
    std::vector<int64_t>& here = found[static_cast<size_t>(range)];
    const int64_t end = std::min((range + 1) * kRowRange, count);
    for (int64_t i = range * kRowRange; i < end; ++i) {
      if (chosen(i)) here.push_back(i);
    }
    return {};
  }));
  out->clear();
  for (const std::vector<int64_t>& here : found) out->insert(out->end(), here.begin(), here.end());
  return {};
}

}  // namespace clipcid
