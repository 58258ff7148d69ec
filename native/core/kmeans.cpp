#include "core/kmeans.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "clipcid/canonical.h"
#include "core/faults.h"
#include "core/kmeans_init.h"

namespace clipcid {
namespace {

// One batch element.
class Problem {
 public:
  Problem(Backend& backend, const Context& context, const KmeansArgs& args, int64_t element)
      : backend_(backend),
        context_(context),
        args_(args),
        element_(element),
        count_(args.rows.count() / args.batch),
        dim_(args.rows.dim()),
        centroids_(args.centroids + element * args.clusters * dim_),
        labels_(args.labels + element * count_),
        counts_(args.counts + element * args.clusters),
        scores_(static_cast<size_t>(count_)) {}

  Status run() {
    CLIPCID_TRY(backend_.prepare(
        context_, {.rows = args_.rows, .begin = element_ * count_, .count = count_, .unit = args_.spherical},
        &rows_));
    CLIPCID_TRY(requireSound(*rows_, "rows", element_ * count_));
    Context quiet = context_;
    quiet.progress = nullptr;
    CLIPCID_TRY(start(quiet));
    CLIPCID_TRY(assign(quiet));
    int64_t iterations = 0;
    std::vector<int32_t> before(static_cast<size_t>(count_));
    while (iterations < args_.maxIterations) {
      reseed();
      CLIPCID_TRY(update(quiet));
      ++iterations;
      std::copy(labels_, labels_ + count_, before.begin());
      CLIPCID_TRY(assign(quiet));
      int64_t changed = 0;
      for (int64_t i = 0; i < count_; ++i) changed += labels_[i] != before[static_cast<size_t>(i)];
      if (context_.progress) {
        context_.progress(static_cast<double>(element_ * args_.maxIterations + iterations),
                          static_cast<double>(args_.batch * args_.maxIterations));
      }
      if (static_cast<double>(changed) <= args_.tolerance * static_cast<double>(count_)) break;
    }
    args_.iterations[element_] = static_cast<int32_t>(iterations);
    args_.inertia[element_] = inertia();
    return {};
  }

 private:
  Status start(const Context& context) {
    switch (args_.init) {
      case KmeansInit::kRandom:
        return chooseRandom(backend_, context, *rows_, args_.clusters, element_, centroids_);
      case KmeansInit::kPlusPlus:
        return choosePlusPlus(backend_, context, *rows_, args_.clusters, element_, centroids_);
      case KmeansInit::kGiven:
        break;
    }
    const float* given = args_.given + element_ * args_.clusters * dim_;
    std::unique_ptr<Prepared> prepared;
    CLIPCID_TRY(backend_.prepare(
        context, {.rows = Rows(floatView(given, args_.clusters, dim_)), .unit = args_.spherical}, &prepared));
    CLIPCID_TRY(requireSound(*prepared, "centroids", element_ * args_.clusters));
    std::vector<int64_t> all(static_cast<size_t>(args_.clusters));
    std::iota(all.begin(), all.end(), 0);
    return backend_.gather(
        context, {.rows = prepared.get(), .indices = all.data(), .count = args_.clusters, .out = centroids_});
  }

  Status assign(const Context& context) {
    std::unique_ptr<Prepared> centres;
    CLIPCID_TRY(
        backend_.prepare(context, {.rows = Rows(floatView(centroids_, args_.clusters, dim_))}, &centres));
    CLIPCID_TRY(backend_.best(context, {.queries = rows_.get(),
                                        .keys = centres.get(),
                                        .euclidean = !args_.spherical,
                                        .indices = labels_,
                                        .scores = scores_.data()}));
    CLIPCID_TRY(backend_.synchronise(context));
    std::fill(counts_, counts_ + args_.clusters, 0);
    for (int64_t i = 0; i < count_; ++i) ++counts_[labels_[i]];
    return {};
  }

  double distance(int64_t i) const {
    const double score = scores_[static_cast<size_t>(i)];
    return std::max(0.0, args_.spherical ? 1 - score : rows_->squares[static_cast<size_t>(i)] - 2 * score);
  }

  // Moves the farthest rows to centres without any.
  void reseed() {
    std::vector<int32_t> empty;
    for (int64_t j = 0; j < args_.clusters; ++j) {
      if (counts_[j] == 0) empty.push_back(static_cast<int32_t>(j));
    }
    if (empty.empty()) return;
    std::vector<std::pair<double, int64_t>> order(static_cast<size_t>(count_));
    for (int64_t i = 0; i < count_; ++i) order[static_cast<size_t>(i)] = {-distance(i), i};
    std::sort(order.begin(), order.end());
    size_t filled = 0;
    for (size_t at = 0; filled < empty.size() && at < order.size(); ++at) {
      int32_t& label = labels_[order[at].second];
      if (counts_[label] == 1) continue;
      --counts_[label];
      label = empty[filled++];
      counts_[label] = 1;
    }
  }

  Status update(const Context& context) {
    const double scale = fixedScale(rows_->largest, count_);
    std::vector<int64_t> sums(static_cast<size_t>(args_.clusters * dim_));
    CLIPCID_TRY(backend_.segmentSum(context, {.rows = rows_.get(),
                                              .segments = labels_,
                                              .segmentCount = args_.clusters,
                                              .scale = scale,
                                              .sums = sums.data()}));
    CLIPCID_TRY(backend_.synchronise(context));
    std::vector<float> mean(static_cast<size_t>(dim_));
    for (int64_t j = 0; j < args_.clusters; ++j) {
      const int64_t* sum = sums.data() + j * dim_;
      float* centroid = centroids_ + j * dim_;
      for (int64_t k = 0; k < dim_; ++k) mean[static_cast<size_t>(k)] = fixedMean(sum[k], scale, counts_[j]);
      if (args_.spherical) {
        const double norm = canonicalNorm(mean.data(), dim_);
        if (norm > 0) canonicalRow(mean.data(), dim_, norm, centroid);
      } else {
        std::copy(mean.begin(), mean.end(), centroid);
      }
    }
    return {};
  }

  double inertia() const {
    double most = args_.spherical ? 2 : 0;
    if (!args_.spherical) {
      for (int64_t i = 0; i < count_; ++i) most = std::max(most, distance(i));
    }
    const double scale = fixedScale(most, count_);
    int64_t sum = 0;
    for (int64_t i = 0; i < count_; ++i) sum += toFixed(distance(i), scale);
    return static_cast<double>(sum) / scale;
  }

  Backend& backend_;
  const Context& context_;
  const KmeansArgs& args_;
  const int64_t element_, count_, dim_;
  float* const centroids_;
  int32_t* const labels_;
  int32_t* const counts_;
  std::vector<double> scores_;  // of a row and its centre
  std::unique_ptr<Prepared> rows_;
};

}  // namespace

Status kmeans(Backend& backend, const Context& context, const KmeansArgs& args) {
  const int64_t total = args.rows.count();
  if (args.batch < 1 || total % args.batch != 0) {
    return {Code::kInvalidArgument, "Expected a divisor of the number of rows, " + std::to_string(total) +
                                        ", for batch but received " + std::to_string(args.batch)};
  }
  if (args.clusters < 1 || args.clusters > total / args.batch) {
    return {Code::kInvalidArgument, "Expected an integer from 1 to " + std::to_string(total / args.batch) +
                                        ", the rows of a problem, for clusters but received " +
                                        std::to_string(args.clusters)};
  }
  for (int64_t element = 0; element < args.batch; ++element) {
    CLIPCID_TRY(Problem(backend, context, args, element).run());
  }
  return {};
}

}  // namespace clipcid
