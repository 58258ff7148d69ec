#include "core/kmeans_assign.h"

#include <cmath>
#include <limits>
#include <numeric>

namespace clipcid {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kWiden = 0x1p-22;
constexpr double kTiny = std::numeric_limits<float>::min();
// What the bounds of a row take, and its place in a list of rows with what is found for it.
constexpr int64_t kRowBytes = 64;
// Rows in one call of the back end, which bounds what it finds for them.
constexpr int64_t kSlice = int64_t{1} << 20;
// What the exact scores of a row that is compared with wild centres cost, and any row of a list, in comparisons.
constexpr double kExactCost = 1024, kListCost = 64;

// The share of rows that bounds leave open from which on they cost more than they spare.
constexpr double kFutile = 0.875;

double distanceOf(double square) { return square > 0 ? std::sqrt(square) : 0; }

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
    : points_(points),
      labels_(labels),
      bounded_(points.skip &&
               points.count() * kRowBytes <= points.budget(0.25, std::numeric_limits<int64_t>::max())) {
  if (!bounded_) return;
  upper_.resize(static_cast<size_t>(points.count()));
  lower_.resize(static_cast<size_t>(points.count()));
}

void Assigner::forget(int64_t row) {
  if (bounded_) upper_[static_cast<size_t>(row)] = std::numeric_limits<float>::infinity();
}

double Assigner::upperFrom(const Geometry& geometry, int64_t row, double best) const {
  const auto at = static_cast<size_t>(row);
  const double own = points_.spherical ? centres_->squares[static_cast<size_t>(labels_[row])] : 0;
  const double square = points_.rows.squares[at];
  return distanceOf(square + own - 2 * best + geometry.error(square));
}

double Assigner::lowerFrom(const Geometry& geometry, int64_t row, double others) const {
  const double square = points_.rows.squares[static_cast<size_t>(row)];
  const double least = points_.spherical ? geometry.least : 0;
  return distanceOf(square + least - 2 * others - geometry.error(square));
}

void Assigner::store(int64_t row, double upper, double lower) {
  const auto at = static_cast<size_t>(row);
  upper_[at] = static_cast<float>(upper * (1 + kWiden) + kTiny);
  lower_[at] = static_cast<float>(
      std::min(lower * (1 - kWiden) - kTiny, static_cast<double>(std::numeric_limits<float>::max())));
}

bool Assigner::stands(const Geometry& geometry, int64_t row, double upper, double lower) const {
  const double margin = 2 * geometry.error(points_.rows.squares[static_cast<size_t>(row)]) +
                        (points_.spherical ? geometry.most - geometry.least : 0);
  return lower > 0 && lower * lower - upper * upper > margin;
}

Assigner::Verdict Assigner::judge(const Geometry& geometry, const Split& split,
                                  const std::vector<double>& drift, int64_t row, double* upper,
                                  double* lower) const {
  const int32_t label = labels_[row];
  const auto at = static_cast<size_t>(row);
  const double before = static_cast<double>(lower_[at]);
  *upper = static_cast<double>(upper_[at]) + drift[static_cast<size_t>(label)];
  *lower = before - (label == split.farthestCentre ? split.second : split.farthest);
  if (stands(geometry, row, *upper, *lower)) return Verdict::kStands;
  if (split.wild.empty()) return Verdict::kOpen;
  *lower = before - split.calm;
  return stands(geometry, row, *upper, *lower) ? Verdict::kWild : Verdict::kOpen;
}

Assigner::Split Assigner::splitBy(const std::vector<double>& drift, int64_t wild) const {
  Split split;
  for (size_t j = 0; j < drift.size(); ++j) {
    if (split.farthestCentre < 0 || drift[j] > split.farthest) {
      split.second = split.farthest;
      split.farthest = drift[j];
      split.farthestCentre = static_cast<int32_t>(j);
    } else {
      split.second = std::max(split.second, drift[j]);
    }
  }
  if (wild == 0) return split;
  std::vector<int32_t> order(drift.size());
  std::iota(order.begin(), order.end(), 0);
  std::nth_element(order.begin(), order.begin() + wild, order.end(), [&](int32_t a, int32_t b) {
    return drift[static_cast<size_t>(a)] > drift[static_cast<size_t>(b)];
  });
  split.calm = drift[static_cast<size_t>(order[static_cast<size_t>(wild)])];
  split.wild.assign(order.begin(), order.begin() + wild);
  std::sort(split.wild.begin(), split.wild.end());
  return split;
}

// The split that a sample of the rows finds cheapest.
Assigner::Split Assigner::chooseSplit(const Geometry& geometry, const std::vector<double>& drift) const {
  const int64_t clusters = points_.clusters, count = points_.count();
  Split best = splitBy(drift, 0);
  if (static_cast<double>(clusters) < 2 * kExactCost) return best;
  const int64_t step = std::max<int64_t>(count / 4096, 1);
  double least = kInfinity;
  const int64_t moved = std::count_if(drift.begin(), drift.end(), [](double d) { return d > 0; });
  for (const int64_t wild : {int64_t{0}, moved, clusters / 64, clusters / 16, clusters / 8, clusters / 4}) {
    if (wild >= clusters) continue;
    Split split = splitBy(drift, wild);
    double cost = 0;
    for (int64_t row = 0; row < count; row += step) {
      double upper, lower;
      switch (judge(geometry, split, drift, row, &upper, &lower)) {
        case Verdict::kStands:
          break;
        case Verdict::kWild:
          cost += kExactCost + kListCost + static_cast<double>(wild);
          break;
        case Verdict::kOpen:
          cost += kListCost + static_cast<double>(clusters);
      }
    }
    if (cost < least) {
      least = cost;
      best = std::move(split);
    }
  }
  return best;
}

Status Assigner::assign(const float* centroids, const std::vector<double>& drift, int64_t* changed) {
  *changed = 0;
  CLIPCID_TRY(points_.backend.prepare(
      points_.context, {.rows = Rows(floatView(centroids, points_.clusters, points_.dim()))}, &centres_));
  Geometry geometry;
  geometry.factor = std::ldexp(static_cast<double>(points_.dim()) / 16 + 8, -50);
  geometry.most = *std::max_element(centres_->squares.begin(), centres_->squares.end());
  geometry.least = *std::min_element(centres_->squares.begin(), centres_->squares.end());
  if (!bounded_) return compareAll(changed);
  if (!known_) {
    if (pause_ > 0) {
      --pause_;
      return compareAll(changed);
    }
    known_ = true;
    return assignAll(geometry, changed);
  }

  const Split split = chooseSplit(geometry, drift);
  const int64_t count = points_.count(), ranges = rowRanges(count);
  struct Found {
    std::vector<int64_t> wild, open;
  };
  std::vector<Found> found(static_cast<size_t>(ranges));
  CLIPCID_TRY(parallelTry(points_.context, ranges, [&](int64_t range, int) -> Status {
    Found& here = found[static_cast<size_t>(range)];
    const int64_t end = std::min((range + 1) * kRowRange, count);
    for (int64_t row = range * kRowRange; row < end; ++row) {
      double upper, lower;
      const Verdict verdict = judge(geometry, split, drift, row, &upper, &lower);
      if (verdict == Verdict::kOpen) {
        here.open.push_back(row);
      } else {
        store(row, upper, lower);
        if (verdict == Verdict::kWild) here.wild.push_back(row);
      }
    }
    return {};
  }));
  std::vector<int64_t> wild, open;
  for (const Found& here : found) {
    wild.insert(wild.end(), here.wild.begin(), here.wild.end());
    open.insert(open.end(), here.open.begin(), here.open.end());
  }
  found.clear();
  if (static_cast<double>(open.size()) > kFutile * static_cast<double>(count)) {
    // Bounds cost more than they spare: they are done without for a while, and for longer each time.
    known_ = false;
    pauses_ *= 2;
    pause_ = pauses_;
    return compareAll(changed);
  }
  CLIPCID_TRY(compareWild(geometry, split, centroids, wild, changed));
  return assignRows(geometry, open.data(), static_cast<int64_t>(open.size()), changed);
}

Status Assigner::assignAll(const Geometry& geometry, int64_t* changed) {
  const int64_t count = points_.count();
  if (count > kSlice) {
    std::vector<int64_t> rows(static_cast<size_t>(count));
    std::iota(rows.begin(), rows.end(), 0);
    return assignRows(geometry, rows.data(), count, changed);
  }
  return assignRows(geometry, nullptr, count, changed);
}

Status Assigner::compareAll(int64_t* changed) {
  const int64_t count = points_.count();
  std::vector<int32_t> found(static_cast<size_t>(count));
  CLIPCID_TRY(points_.backend.best(points_.context, {.queries = &points_.rows,
                                                     .keys = centres_.get(),
                                                     .euclidean = !points_.spherical,
                                                     .indices = found.data()}));
  CLIPCID_TRY(points_.backend.synchronise(points_.context));
  compared_ += static_cast<double>(count) * static_cast<double>(points_.clusters);
  for (int64_t i = 0; i < count; ++i) *changed += found[static_cast<size_t>(i)] != labels_[i];
  std::copy(found.begin(), found.end(), labels_);
  return {};
}

// Of the listed rows, or of all when there is no list.
Status Assigner::assignRows(const Geometry& geometry, const int64_t* rows, int64_t count, int64_t* changed) {
  const auto most = static_cast<size_t>(std::min(count, kSlice));
  std::vector<int32_t> found(most);
  std::vector<double> below(most), above(most);
  for (int64_t from = 0; from < count; from += kSlice) {
    const int64_t number = std::min(kSlice, count - from);
    CLIPCID_TRY(points_.backend.best(points_.context, {.queries = &points_.rows,
                                                       .keys = centres_.get(),
                                                       .euclidean = !points_.spherical,
                                                       .rows = rows == nullptr ? nullptr : rows + from,
                                                       .count = number,
                                                       .indices = found.data(),
                                                       .bestBelow = below.data(),
                                                       .othersAbove = above.data()}));
    CLIPCID_TRY(points_.backend.synchronise(points_.context));
    compared_ += static_cast<double>(number) * static_cast<double>(points_.clusters);
    for (int64_t at = 0; at < number; ++at) {
      const int64_t row = rows == nullptr ? at : rows[from + at];
      const auto place = static_cast<size_t>(at);
      *changed += found[place] != labels_[row];
      labels_[row] = found[place];
      store(row, upperFrom(geometry, row, below[place]), lowerFrom(geometry, row, above[place]));
    }
  }
  return {};
}

// Rows whose label stands against the calm centres: lower_ holds the bound against those.
Status Assigner::compareWild(const Geometry& geometry, const Split& split, const float* centroids,
                             const std::vector<int64_t>& rows, int64_t* changed) {
  if (rows.empty()) return {};
  const int64_t dim = points_.dim();
  std::vector<float> gathered;
  for (const int32_t j : split.wild)
    gathered.insert(gathered.end(), centroids + j * dim, centroids + (j + 1) * dim);
  const auto wildCount = static_cast<int64_t>(split.wild.size());
  std::unique_ptr<Prepared> keys;
  CLIPCID_TRY(points_.backend.prepare(points_.context,
                                      {.rows = Rows(floatView(gathered.data(), wildCount, dim))}, &keys));
  const auto total = static_cast<int64_t>(rows.size());
  const auto most = static_cast<size_t>(std::min(total, kSlice));
  std::vector<int32_t> found(most);
  std::vector<double> scores(most), own(most), below(most), above(most);
  std::vector<Pair> pairs(most);
  for (int64_t from = 0; from < total; from += kSlice) {
    const int64_t number = std::min(kSlice, total - from);
    CLIPCID_TRY(points_.backend.best(points_.context, {.queries = &points_.rows,
                                                       .keys = keys.get(),
                                                       .euclidean = !points_.spherical,
                                                       .rows = rows.data() + from,
                                                       .count = number,
                                                       .indices = found.data(),
                                                       .scores = scores.data(),
                                                       .bestBelow = below.data(),
                                                       .othersAbove = above.data()}));
    for (int64_t at = 0; at < number; ++at) {
      const int64_t row = rows[static_cast<size_t>(from + at)];
      pairs[static_cast<size_t>(at)] = {static_cast<int32_t>(row), labels_[row]};
    }
    CLIPCID_TRY(points_.backend.pairDots(points_.context, {.queries = &points_.rows,
                                                           .keys = centres_.get(),
                                                           .pairs = pairs.data(),
                                                           .count = number,
                                                           .dots = own.data()}));
    CLIPCID_TRY(points_.backend.synchronise(points_.context));
    compared_ += static_cast<double>(number) * static_cast<double>(wildCount);
    for (int64_t at = 0; at < number; ++at) {
      const auto place = static_cast<size_t>(at);
      const int64_t row = rows[static_cast<size_t>(from + at)];
      const int32_t label = labels_[row], other = split.wild[static_cast<size_t>(found[place])];
      double best = own[place], others = above[place];
      if (!points_.spherical) best -= centres_->squares[static_cast<size_t>(label)] / 2;
      if (other != label) {
        if (scores[place] > best || (scores[place] == best && other < label)) {
          std::swap(best, scores[place]);
          labels_[row] = other;
          ++*changed;
        }
        others = std::max(others, scores[place]);
      }
      const double calm = static_cast<double>(lower_[static_cast<size_t>(row)]);
      store(row, upperFrom(geometry, row, best), std::min(calm, lowerFrom(geometry, row, others)));
    }
  }
  return {};
}

}  // namespace clipcid
