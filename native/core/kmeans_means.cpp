#include "core/kmeans_means.h"

#include <cmath>

namespace clipcid {
namespace {

constexpr int64_t kKeptBytes = int64_t{1} << 30;
constexpr double kKeptShare = 0.25;
constexpr int64_t kCentreRange = 64;

int64_t fittingCentres(const Points& points) {
  const int64_t bytes = std::max<int64_t>(points.budget(kKeptShare, kKeptBytes), 1 << 20);
  return std::clamp<int64_t>(bytes / (8 * points.dim()), 1, points.clusters);
}

// The weights of listed rows, or null when all are 1.
const float* gatherWeights(const Points& points, const std::vector<int64_t>& rows, std::vector<float>* out) {
  if (points.weights == nullptr) return nullptr;
  out->resize(rows.size());
  for (size_t at = 0; at < rows.size(); ++at) (*out)[at] = points.weights[rows[at]];
  return out->data();
}

}  // namespace

double sumScale(const Points& points) {
  return fixedScale(points.rows.largest * points.heaviest, points.count());
}

Means::Means(const Points& points)
    : points_(points),
      scale_(sumScale(points)),
      weightScale_(points.weightScale()),
      kept_(fittingCentres(points) == points.clusters),
      before_(static_cast<size_t>(points.count())),
      sums_(static_cast<size_t>(fittingCentres(points) * points.dim())),
      weights_(static_cast<size_t>(points.clusters)) {}

Status Means::sumAll(const int32_t* labels) {
  std::fill(weights_.begin(), weights_.end(), 0);
  for (int64_t i = 0; i < points_.count(); ++i)
    weights_[static_cast<size_t>(labels[i])] += toFixed(points_.weight(i), weightScale_);
  if (!kept_) return {};
  return points_.backend.segmentSum(points_.context, {.rows = &points_.rows,
                                                      .segments = labels,
                                                      .segmentCount = points_.clusters,
                                                      .weights = points_.weights,
                                                      .scale = scale_,
                                                      .sums = sums_.data()});
}

Status Means::sumMoved(const int32_t* labels, const std::vector<int64_t>& movers) {
  std::vector<int32_t> from, to;
  from.reserve(movers.size());
  to.reserve(movers.size());
  for (const int64_t i : movers) {
    from.push_back(before_[static_cast<size_t>(i)]);
    to.push_back(labels[i]);
    const int64_t weight = toFixed(points_.weight(i), weightScale_);
    weights_[static_cast<size_t>(from.back())] -= weight;
    weights_[static_cast<size_t>(to.back())] += weight;
  }
  if (!kept_ || movers.empty()) return {};
  std::vector<float> gathered;
  SegmentSumArgs args{.rows = &points_.rows,
                      .indices = movers.data(),
                      .count = static_cast<int64_t>(movers.size()),
                      .segments = from.data(),
                      .segmentCount = points_.clusters,
                      .weights = gatherWeights(points_, movers, &gathered),
                      .scale = scale_,
                      .mode = SegmentSumArgs::Mode::kSubtract,
                      .sums = sums_.data()};
  CLIPCID_TRY(points_.backend.segmentSum(points_.context, args));
  args.segments = to.data();
  args.mode = SegmentSumArgs::Mode::kAdd;
  return points_.backend.segmentSum(points_.context, args);
}

// Sums of touched[begin .. end), into sums_[0 .. end - begin).
Status Means::sumRange(const int32_t* labels, const std::vector<int32_t>& touched, size_t begin, size_t end,
                       std::vector<int32_t>* segmentOf) {
  for (size_t at = begin; at < end; ++at)
    (*segmentOf)[static_cast<size_t>(touched[at])] = static_cast<int32_t>(at - begin);
  std::vector<int64_t> rows;
  CLIPCID_TRY(selectRows(
      points_, [&](int64_t i) { return (*segmentOf)[static_cast<size_t>(labels[i])] >= 0; }, &rows));
  std::vector<int32_t> segments;
  segments.reserve(rows.size());
  for (const int64_t i : rows) segments.push_back((*segmentOf)[static_cast<size_t>(labels[i])]);
  for (size_t at = begin; at < end; ++at) (*segmentOf)[static_cast<size_t>(touched[at])] = -1;
  std::vector<float> gathered;
  return points_.backend.segmentSum(points_.context, {.rows = &points_.rows,
                                                      .indices = rows.data(),
                                                      .count = static_cast<int64_t>(rows.size()),
                                                      .segments = segments.data(),
                                                      .segmentCount = static_cast<int64_t>(end - begin),
                                                      .weights = gatherWeights(points_, rows, &gathered),
                                                      .scale = scale_,
                                                      .sums = sums_.data()});
}

void Means::place(const int64_t* sum, int32_t centre, float* centroid, float* mean, double* drift,
                  double* moved) const {
  const int64_t dim = points_.dim();
  *drift = 0;
  *moved = 0;
  const int64_t fixed = weights_[static_cast<size_t>(centre)];
  if (fixed == 0) return;
  const double weight = static_cast<double>(fixed) / weightScale_;
  for (int64_t k = 0; k < dim; ++k)
    mean[k] = static_cast<float>(static_cast<double>(sum[k]) / scale_ / weight);
  if (points_.spherical) {
    const double norm = canonicalNorm(mean, dim);
    if (norm == 0) return;
    canonicalRow(mean, dim, norm, mean);
  }
  double square = 0;
  for (int64_t k = 0; k < dim; ++k) {
    const double step = static_cast<double>(mean[k]) - static_cast<double>(centroid[k]);
    square += step * step;
  }
  // Each operation above rounds by at most 2^-53 of its result.
  *drift = std::sqrt(square) * (1 + std::ldexp(static_cast<double>(dim + 16), -53));
  for (int64_t k = 0; k < dim; ++k) {
    const float next = mean[k];
    mean[k] = next - centroid[k];
    centroid[k] = next;
  }
  *moved = canonicalDot(mean, mean, dim);
}

Status Means::placeAll(const std::vector<int32_t>& touched, size_t begin, size_t end, bool dense,
                       float* centroids, std::vector<double>* drift, std::vector<double>* squares) {
  const int64_t dim = points_.dim();
  const auto count = static_cast<int64_t>(end - begin);
  return parallelTry(
      points_.context, (count + kCentreRange - 1) / kCentreRange, [&](int64_t range, int) -> Status {
        std::vector<float> mean(static_cast<size_t>(dim));
        const int64_t last = std::min((range + 1) * kCentreRange, count);
        for (int64_t at = range * kCentreRange; at < last; ++at) {
          const int32_t centre = touched[begin + static_cast<size_t>(at)];
          place(sums_.data() + (dense ? centre : at) * dim, centre, centroids + centre * dim, mean.data(),
                &(*drift)[static_cast<size_t>(centre)], &(*squares)[static_cast<size_t>(centre)]);
        }
        return {};
      });
}

Status Means::update(const int32_t* labels, float* centroids, std::vector<double>* drift, double* moved) {
  const int64_t count = points_.count();
  const auto clusters = static_cast<size_t>(points_.clusters);
  std::vector<bool> isTouched(clusters, !summed_);
  if (summed_) {
    std::vector<int64_t> movers;
    CLIPCID_TRY(selectRows(
        points_, [&](int64_t i) { return labels[i] != before_[static_cast<size_t>(i)]; }, &movers));
    for (const int64_t i : movers) {
      isTouched[static_cast<size_t>(before_[static_cast<size_t>(i)])] = true;
      isTouched[static_cast<size_t>(labels[i])] = true;
    }
    // A mover is added and subtracted.
    if (2 * static_cast<int64_t>(movers.size()) < count) {
      CLIPCID_TRY(sumMoved(labels, movers));
    } else {
      CLIPCID_TRY(sumAll(labels));
    }
  } else {
    CLIPCID_TRY(sumAll(labels));
  }
  CLIPCID_TRY(points_.backend.synchronise(points_.context));
  summed_ = true;
  std::copy(labels, labels + count, before_.begin());

  std::vector<int32_t> touched;
  for (size_t j = 0; j < clusters; ++j) {
    if (isTouched[j]) touched.push_back(static_cast<int32_t>(j));
  }
  drift->assign(clusters, 0);
  std::vector<double> squares(clusters, 0);
  if (kept_) {
    CLIPCID_TRY(placeAll(touched, 0, touched.size(), true, centroids, drift, &squares));
  } else {
    std::vector<int32_t> segmentOf(clusters, -1);
    const size_t step = sums_.size() / static_cast<size_t>(points_.dim());
    for (size_t begin = 0; begin < touched.size(); begin += step) {
      const size_t end = std::min(begin + step, touched.size());
      CLIPCID_TRY(sumRange(labels, touched, begin, end, &segmentOf));
      CLIPCID_TRY(points_.backend.synchronise(points_.context));
      CLIPCID_TRY(placeAll(touched, begin, end, false, centroids, drift, &squares));
    }
  }
  if (moved != nullptr) {
    *moved = 0;
    for (const double square : squares) *moved += square;
  }
  return {};
}

Status rowVariance(const Points& points, double* variance) {
  const int64_t count = points.count(), dim = points.dim();
  const std::vector<int32_t> labels(static_cast<size_t>(count), 0);
  std::vector<int64_t> sums(static_cast<size_t>(dim));
  const double scale = sumScale(points), weightScale = points.weightScale();
  CLIPCID_TRY(points.backend.segmentSum(points.context, {.rows = &points.rows,
                                                         .segments = labels.data(),
                                                         .segmentCount = 1,
                                                         .weights = points.weights,
                                                         .scale = scale,
                                                         .sums = sums.data()}));
  CLIPCID_TRY(points.backend.synchronise(points.context));
  int64_t fixed = 0;
  for (int64_t i = 0; i < count; ++i) fixed += toFixed(points.weight(i), weightScale);
  const double weight = static_cast<double>(fixed) / weightScale;
  std::vector<float> mean(static_cast<size_t>(dim));
  for (size_t k = 0; k < mean.size(); ++k)
    mean[k] = static_cast<float>(static_cast<double>(sums[k]) / scale / weight);

  std::unique_ptr<Prepared> centre;
  CLIPCID_TRY(
      points.backend.prepare(points.context, {.rows = Rows(floatView(mean.data(), 1, dim))}, &centre));
  std::vector<double> deviations(static_cast<size_t>(count));
  CLIPCID_TRY(labelScores(points, *centre, labels.data(), 0, count, deviations.data()));
  const double half = points.spherical ? centre->squares[0] / 2 : 0;
  double most = 0;
  for (int64_t i = 0; i < count; ++i) {
    double& deviation = deviations[static_cast<size_t>(i)];
    deviation = points.weight(i) * points.square(i, deviation - half);
    most = std::max(most, deviation);
  }
  const double deviationScale = fixedScale(most, count);
  int64_t sum = 0;
  for (const double deviation : deviations) sum += toFixed(deviation, deviationScale);
  *variance = static_cast<double>(sum) / deviationScale / weight / static_cast<double>(dim);
  return {};
}

}  // namespace clipcid
