#include "core/kmeans.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>

#include "clipcid/philox.h"
#include "core/faults.h"
#include "core/kmeans_assign.h"
#include "core/kmeans_init.h"
#include "core/kmeans_means.h"

namespace clipcid {
namespace {

// A problem up to this size, in bytes of float32 rows, leaves all threads but one idle for much of its time.
constexpr int64_t kSmallProblem = int64_t{16} << 20;

// Progress over all problems, from whichever thread.
class Progress {
 public:
  // `alone`: problems are solved one after the other, so that parts of an iteration can be told.
  Progress(const Context& context, const KmeansArgs& args, bool alone)
      : context_(context), total_(args.runs * args.maxIterations * args.batch), alone_(alone) {}

  // Iterations of a run; those that it was spared count too.
  void iterations(int64_t by) {
    std::lock_guard<std::mutex> lock(mutex_);
    done_ += by;
    report(static_cast<double>(done_));
  }
  // How much of the iteration at hand is done, 0 to 1. The first includes the start.
  void within(double share) {
    if (!alone_) return;
    std::lock_guard<std::mutex> lock(mutex_);
    report(static_cast<double>(done_) + share);
  }

 private:
  void report(double done) {
    if (!context_.progress || !(done > reported_) || done > static_cast<double>(total_)) return;
    reported_ = done;
    context_.progress(done, static_cast<double>(total_));
  }

  const Context& context_;
  const int64_t total_;
  const bool alone_;
  std::mutex mutex_;
  int64_t done_ = 0;
  double reported_ = 0;
};

struct Result {
  float* centroids;
  int32_t* labels;
  int64_t iterations = 0;
  double inertia = 0;
};

// One batch element.
class Problem {
 public:
  // `context` is without progress.
  Problem(Backend& backend, const Context& context, const KmeansArgs& args, int64_t element,
          Progress* progress)
      : backend_(backend),
        context_(context),
        args_(args),
        element_(element),
        count_(args.rows.count() / args.batch),
        dim_(args.rows.dim()),
        weights_(args.weights == nullptr ? nullptr : args.weights + element * count_),
        progress_(progress) {}

  // Before everything else: the rows.
  Status begin() {
    double heaviest = 1;
    CLIPCID_TRY(checkWeights(&heaviest));
    CLIPCID_TRY(backend_.prepare(
        context_, {.rows = args_.rows, .begin = element_ * count_, .count = count_, .unit = args_.spherical},
        &rows_));
    CLIPCID_TRY(requireSound(*rows_, "rows", element_ * count_));
    points_.reset(new Points{backend_, context_, *rows_, weights_, heaviest, args_.spherical, args_.skip,
                             args_.clusters, element_});
    return args_.movement > 0 ? rowVariance(*points_, &variance_) : Status();
  }
  const Points& points() const { return *points_; }
  const Prepared& rows() const { return *rows_; }
  double variance() const { return variance_; }

  // Where the caller wants the results.
  Result best() const {
    return {args_.centroids + element_ * args_.clusters * dim_, args_.labels + element_ * count_};
  }
  // The seed of a run.
  uint64_t seedOf(int64_t run) const {
    return run == 0 ? context_.seed : philox64(context_.seed, kPhiloxKmeansRun, static_cast<uint64_t>(run));
  }

  Status run() {
    Result best = this->best();
    CLIPCID_TRY(solve(seedOf(0), &best));
    std::vector<float> centroids(static_cast<size_t>(args_.runs > 1 ? args_.clusters * dim_ : 0));
    std::vector<int32_t> labels(static_cast<size_t>(args_.runs > 1 ? count_ : 0));
    for (int64_t run = 1; run < args_.runs; ++run) {
      Result next{centroids.data(), labels.data()};
      CLIPCID_TRY(solve(seedOf(run), &next));
      takeBetter(next, &best);
    }
    finish(best);
    return {};
  }

  void takeBetter(const Result& next, Result* best) const {
    if (!(next.inertia < best->inertia)) return;
    std::copy_n(next.centroids, args_.clusters * dim_, best->centroids);
    std::copy_n(next.labels, count_, best->labels);
    best->iterations = next.iterations;
    best->inertia = next.inertia;
  }

  void finish(const Result& best) const {
    args_.iterations[element_] = static_cast<int32_t>(best.iterations);
    args_.inertia[element_] = best.inertia;
    int32_t* counts = args_.counts + element_ * args_.clusters;
    std::fill(counts, counts + args_.clusters, 0);
    for (int64_t i = 0; i < count_; ++i) ++counts[best.labels[i]];
  }

  Status start(uint64_t seed, const Share& share, float* centroids) const {
    switch (args_.init) {
      case KmeansInit::kRandom:
        return chooseRandom(points(), seed, centroids);
      case KmeansInit::kPlusPlus:
        return choosePlusPlus(points(), seed, share, centroids);
      case KmeansInit::kParallel:
        return chooseParallel(points(), seed, share, centroids);
      case KmeansInit::kGiven:
        break;
    }
    const float* given = args_.given + element_ * args_.clusters * dim_;
    std::unique_ptr<Prepared> prepared;
    CLIPCID_TRY(backend_.prepare(
        context_, {.rows = Rows(floatView(given, args_.clusters, dim_)), .unit = args_.spherical},
        &prepared));
    CLIPCID_TRY(requireSound(*prepared, "centroids", element_ * args_.clusters));
    std::vector<int64_t> all(static_cast<size_t>(args_.clusters));
    std::iota(all.begin(), all.end(), 0);
    CLIPCID_TRY(backend_.gather(
        context_,
        {.rows = prepared.get(), .indices = all.data(), .count = args_.clusters, .out = centroids}));
    return backend_.synchronise(context_);
  }

  // The two below, of centroids on the host.
  Status reseed(int32_t* labels, const float* centroids) const {
    std::unique_ptr<Prepared> centres;
    CLIPCID_TRY(prepareCentres(centroids, &centres));
    return reseed(points(), labels, *centres);
  }
  Status sumInertia(Result* result) const {
    std::unique_ptr<Prepared> centres;
    CLIPCID_TRY(prepareCentres(result->centroids, &centres));
    return sumInertia(points(), *centres, result);
  }

 private:
  Status checkWeights(double* heaviest) const {
    if (weights_ == nullptr) return {};
    *heaviest = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const auto weight = static_cast<double>(weights_[i]);
      if (!(weight >= 0) || !std::isfinite(weight)) {
        return {Code::kInvalidArgument, "Expected a finite number of at least 0 for weights[" +
                                            std::to_string(element_ * count_ + i) + "] but received " +
                                            std::to_string(weight)};
      }
      *heaviest = std::max(*heaviest, weight);
    }
    if (*heaviest > 0) return {};
    return {Code::kInvalidArgument, "Expected a number over 0 among the weights of problem " +
                                        std::to_string(element_) + " but received zeros"};
  }

  Status prepareCentres(const float* centroids, std::unique_ptr<Prepared>* out) const {
    return backend_.prepare(context_, {.rows = Rows(floatView(centroids, args_.clusters, dim_))}, out);
  }

  Status solve(uint64_t seed, Result* result) const {
    // The start and its assignment take about as long as an iteration each, at most.
    const auto part = [this](double from, double to) -> Share {
      return [this, from, to](double share) { progress_->within(from + (to - from) * share); };
    };
    CLIPCID_TRY(start(seed, part(0, 1.0 / 3), result->centroids));
    Assigner assigner(points(), result->labels);
    Means means(points());
    std::vector<double> drift;
    int64_t changed;
    CLIPCID_TRY(assigner.assign(result->centroids, drift, part(1.0 / 3, 2.0 / 3), &changed));
    while (result->iterations < args_.maxIterations) {
      CLIPCID_TRY(reseed(points(), result->labels, assigner.centres()));
      double moved = 0;
      CLIPCID_TRY(
          means.update(result->labels, result->centroids, &drift, args_.movement > 0 ? &moved : nullptr));
      ++result->iterations;
      const double from = result->iterations == 1 ? 2.0 / 3 : 0;
      CLIPCID_TRY(assigner.assign(result->centroids, drift, part(from, 1), &changed));
      progress_->iterations(1);
      if (static_cast<double>(changed) <= args_.tolerance * static_cast<double>(count_)) break;
      if (args_.movement > 0 && moved <= args_.movement * variance_) break;
    }
    progress_->iterations(args_.maxIterations - result->iterations);
    return sumInertia(points(), assigner.centres(), result);
  }

  // Moves the farthest rows to centres without any.
  static Status reseed(const Points& points, int32_t* labels, const Prepared& centres) {
    std::vector<int64_t> sizes(static_cast<size_t>(points.clusters));
    for (int64_t i = 0; i < points.count(); ++i)
      sizes[static_cast<size_t>(labels[i])] += points.weight(i) > 0;
    std::vector<int32_t> empty;
    for (size_t j = 0; j < sizes.size(); ++j) {
      if (sizes[j] == 0) empty.push_back(static_cast<int32_t>(j));
    }
    if (empty.empty()) return {};
    std::vector<double> scores(static_cast<size_t>(points.count()));
    CLIPCID_TRY(labelScores(points, centres, labels, 0, points.count(), scores.data()));
    std::vector<std::pair<double, int64_t>> heap;  // the top is the farthest row, the first of equals
    heap.reserve(scores.size());
    for (int64_t i = 0; i < points.count(); ++i) {
      if (points.weight(i) > 0) heap.emplace_back(points.distance(i, scores[static_cast<size_t>(i)]), -i);
    }
    std::make_heap(heap.begin(), heap.end());
    for (size_t filled = 0; filled < empty.size() && !heap.empty();) {
      std::pop_heap(heap.begin(), heap.end());
      const int64_t row = -heap.back().second;
      heap.pop_back();
      int64_t& from = sizes[static_cast<size_t>(labels[row])];
      if (from == 1) continue;
      --from;
      labels[row] = empty[filled++];
      sizes[static_cast<size_t>(labels[row])] = 1;
    }
    return {};
  }

  static Status sumInertia(const Points& points, const Prepared& centres, Result* result) {
    const int64_t count = points.count();
    std::vector<double> distances(static_cast<size_t>(count));
    CLIPCID_TRY(labelScores(points, centres, result->labels, 0, count, distances.data()));
    double most = points.spherical ? 2 * points.heaviest : 0;
    for (int64_t i = 0; i < count; ++i) {
      double& distance = distances[static_cast<size_t>(i)];
      distance = points.weight(i) * points.distance(i, distance);
      if (!points.spherical) most = std::max(most, distance);
    }
    const double scale = fixedScale(most, count);
    int64_t sum = 0;
    for (const double distance : distances) sum += toFixed(distance, scale);
    result->inertia = static_cast<double>(sum) / scale;
    return {};
  }

  Backend& backend_;
  const Context context_;
  const KmeansArgs& args_;
  const int64_t element_, count_, dim_;
  const float* const weights_;
  Progress* const progress_;
  std::unique_ptr<Prepared> rows_;
  std::unique_ptr<const Points> points_;
  double variance_ = 0;
};

// Whether problems are solved several at a time.
bool together(const Context& context, int64_t batch, int64_t problemBytes) {
  return context.threads > 1 && batch >= 2 * context.threads && problemBytes <= kSmallProblem;
}

// Runs body(element, context) for every problem: several small ones at a time, each on one thread, or one after
// the other. The failure returned is that of the first problem that fails.
Status eachProblem(const Context& context, int64_t batch, int64_t problemBytes,
                   const std::function<Status(int64_t, const Context&)>& body) {
  Context inner = context;
  inner.progress = nullptr;
  if (!together(context, batch, problemBytes)) {
    for (int64_t element = 0; element < batch; ++element) CLIPCID_TRY(body(element, inner));
    return {};
  }
  inner.threads = 1;
  inner.maxMemory = context.maxMemory / context.threads;
  std::mutex mutex;
  Status failure;
  std::atomic<int64_t> failed{batch};
  parallelFor(context.threads, batch, [&](int64_t element, int) {
    if (element > failed.load()) return;
    Status status = context.cancelled() ? Status::aborted() : guarded([&] { return body(element, inner); });
    if (status.ok()) return;
    std::lock_guard<std::mutex> lock(mutex);
    if (element > failed.load()) return;
    failed = element;
    failure = std::move(status);
  });
  return failure;
}

Status checkShape(const Rows& rows, int64_t batch, int64_t clusters) {
  const int64_t total = rows.count();
  if (batch < 1 || total % batch != 0) {
    return {Code::kInvalidArgument, "Expected a divisor of the number of rows, " + std::to_string(total) +
                                        ", for batch but received " + std::to_string(batch)};
  }
  if (clusters >= 1) return {};
  return {Code::kInvalidArgument,
          "Expected an integer of at least 1 for clusters but received " + std::to_string(clusters)};
}

int64_t problemBytes(const Rows& rows, int64_t batch) { return rows.count() / batch * rows.dim() * 4; }

// Where the back end iterates by itself: runs of all problems at a time, side by side, their rows on the device.
Status kmeansOnDevice(Backend& backend, const Context& context, const KmeansArgs& given, Progress* progress) {
  KmeansArgs args = given;
  const int64_t batch = args.batch, dim = args.rows.dim(), bytes = problemBytes(args.rows, batch);
  const int64_t rowsOfProblem = args.rows.count() / batch;
  Context quiet = context;
  quiet.progress = nullptr;
  if (!args.rows.device) {
    std::shared_ptr<DeviceMatrix> matrix;
    CLIPCID_TRY(backend.upload(quiet, args.rows, &matrix));
    args.rows = Rows(std::move(matrix));
  }
  std::vector<std::unique_ptr<Problem>> problems(static_cast<size_t>(batch));
  CLIPCID_TRY(eachProblem(context, batch, bytes, [&](int64_t element, const Context& inner) {
    auto& problem = problems[static_cast<size_t>(element)];
    problem = std::make_unique<Problem>(backend, inner, args, element, progress);
    return problem->begin();
  }));
  std::unique_ptr<Prepared> all;
  if (batch > 1)
    CLIPCID_TRY(backend.prepare(quiet, {.rows = args.rows, .unit = args.spherical, .squares = false}, &all));
  std::vector<double> sumScales, weightScales, variances;
  std::vector<Result> best;
  for (const auto& problem : problems) {
    sumScales.push_back(sumScale(problem->points()));
    weightScales.push_back(problem->points().weightScale());
    variances.push_back(problem->variance());
    best.push_back(problem->best());
  }
  std::vector<float> centroids(static_cast<size_t>(args.runs > 1 ? batch * args.clusters * dim : 0));
  std::vector<int32_t> labels(static_cast<size_t>(args.runs > 1 ? batch * rowsOfProblem : 0));
  std::vector<int32_t> iterations(static_cast<size_t>(batch));
  for (int64_t run = 0; run < args.runs; ++run) {
    const auto resultOf = [&](int64_t element) {
      if (run == 0) return problems[static_cast<size_t>(element)]->best();
      return Result{centroids.data() + element * args.clusters * dim,
                    labels.data() + element * rowsOfProblem};
    };
    CLIPCID_TRY(eachProblem(context, batch, bytes, [&](int64_t element, const Context&) {
      const Problem& problem = *problems[static_cast<size_t>(element)];
      return problem.start(
          problem.seedOf(run), [&](double share) { progress->within(share / 3); },
          resultOf(element).centroids);
    }));
    int64_t told = 0;
    IterateArgs iterate{.rows = all ? all.get() : &problems[0]->rows(),
                        .batch = batch,
                        .clusters = args.clusters,
                        .spherical = args.spherical,
                        .weights = args.weights,
                        .sumScales = sumScales.data(),
                        .weightScales = weightScales.data(),
                        .maxIterations = args.maxIterations,
                        .tolerance = args.tolerance,
                        .movement = args.movement,
                        .variances = variances.data(),
                        .centroids = resultOf(0).centroids,
                        .labels = resultOf(0).labels,
                        .iterations = iterations.data()};
    iterate.reseed = [&](int64_t problem, int32_t* own, const float* centres) {
      return problems[static_cast<size_t>(problem)]->reseed(own, centres);
    };
    iterate.progress = [&](int64_t done) {
      progress->iterations(done - told);
      told = done;
    };
    CLIPCID_TRY(backend.iterate(quiet, iterate));
    progress->iterations(batch * args.maxIterations - told);
    CLIPCID_TRY(eachProblem(context, batch, bytes, [&](int64_t element, const Context&) -> Status {
      const auto at = static_cast<size_t>(element);
      Result result = resultOf(element);
      result.iterations = iterations[at];
      CLIPCID_TRY(problems[at]->sumInertia(&result));
      if (run == 0) {
        best[at] = result;
      } else {
        problems[at]->takeBetter(result, &best[at]);
      }
      return {};
    }));
  }
  for (size_t at = 0; at < problems.size(); ++at) problems[at]->finish(best[at]);
  return {};
}

}  // namespace

Status kmeans(Backend& backend, const Context& context, const KmeansArgs& args) {
  CLIPCID_TRY(checkShape(args.rows, args.batch, args.clusters));
  const int64_t total = args.rows.count();
  if (args.clusters > total / args.batch) {
    return {Code::kInvalidArgument, "Expected an integer from 1 to " + std::to_string(total / args.batch) +
                                        ", the rows of a problem, for clusters but received " +
                                        std::to_string(args.clusters)};
  }
  const int64_t bytes = problemBytes(args.rows, args.batch);
  Progress progress(context, args, !together(context, args.batch, bytes));
  if (backend.iterates(context, args.batch, total / args.batch, args.rows.dim(), args.clusters))
    return kmeansOnDevice(backend, context, args, &progress);
  return eachProblem(context, args.batch, bytes, [&](int64_t element, const Context& inner) -> Status {
    Problem problem(backend, inner, args, element, &progress);
    CLIPCID_TRY(problem.begin());
    return problem.run();
  });
}

Status predict(Backend& backend, const Context& context, const PredictArgs& args) {
  CLIPCID_TRY(checkShape(args.rows, args.batch, args.clusters));
  const int64_t count = args.rows.count() / args.batch, dim = args.rows.dim();
  if (count == 0) return {};
  return eachProblem(
      context, args.batch, problemBytes(args.rows, args.batch),
      [&](int64_t element, const Context& inner) -> Status {
        std::unique_ptr<Prepared> rows, centres;
        CLIPCID_TRY(backend.prepare(
            inner, {.rows = args.rows, .begin = element * count, .count = count, .unit = args.spherical},
            &rows));
        CLIPCID_TRY(requireSound(*rows, "rows", element * count));
        const float* centroids = args.centroids + element * args.clusters * dim;
        CLIPCID_TRY(
            backend.prepare(inner, {.rows = Rows(floatView(centroids, args.clusters, dim))}, &centres));
        CLIPCID_TRY(requireSound(*centres, "centroids", element * args.clusters));
        std::vector<double> scores(static_cast<size_t>(count));
        CLIPCID_TRY(backend.best(inner, {.queries = rows.get(),
                                         .keys = centres.get(),
                                         .euclidean = !args.spherical,
                                         .indices = args.labels + element * count,
                                         .scores = scores.data()}));
        CLIPCID_TRY(backend.synchronise(inner));
        const Points points{backend, inner, *rows, nullptr, 1, args.spherical, false, args.clusters, element};
        for (int64_t i = 0; i < count; ++i)
          args.distances[element * count + i] =
              static_cast<float>(points.distance(i, scores[static_cast<size_t>(i)]));
        return {};
      });
}

}  // namespace clipcid
