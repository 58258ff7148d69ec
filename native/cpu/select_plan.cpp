// In: a few queries with some keys. Out: a filter.
//
// A filter of bound b leaves for each query the keys whose score is within kBand b of its k-th best, and some more, as
// that is not known at first: n of them. The sample tells n directly when it holds all keys, each with its own bound;
// otherwise its best scores are taken for the tail of an exponential distribution of rate r, and n = k exp(kBand b r) as
// long as that stays inside the tail. About n (1 + ln(K / n)) keys become candidates while keys stream by. So the cost of a filter is, in
// cycles a query,
//   K D / speed + K kScan + n (1 + ln(K / n)) kCandidate + (n - k) (kJudge + D / 2).
#include "cpu/select_plan.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.h"

namespace clipcid {
namespace {

// Products of elements below which float32 is done before a sample would be.
constexpr double kSmall = 1e9;
constexpr int64_t kSampleQueries = 16;
constexpr int64_t kSampleKeys = 2048;
// Cycles, about: to look at a score; to take a key in as a candidate; to judge one. A single best key's floor has no error;
// where several are sought it is that of a filtered score, made better in between.
constexpr double kBandOfOne = 1, kBand = 1.3;
constexpr double kScan = 0.25, kCandidate = 60, kJudge = 300;
// Cycles to encode an element.
constexpr double kEncode = 1;

struct Scores {
  std::vector<std::vector<float>> rows;  // a query's scores with the sampled keys, descending
  double share = 1;                      // all keys over the sampled ones
  double queryNorm = 0, keyNorm = 0;     // mean
  double queryStep = 0, keyStep = 0;     // mean, of int8
  // Of the sampled keys, in the order of `byKey`, where they are all of them.
  std::vector<double> keyNorms, keySteps;
  std::vector<std::vector<float>> byKey;
};

Status sampleScores(const Context& context, const SelectPlanArgs& args, Scores* out) {
  const int64_t dim = args.queries->dim;
  RowSample queries, keys;
  CLIPCID_TRY(sampleRows(context, *args.queries, kSampleQueries, &queries));
  CLIPCID_TRY(sampleRows(context, *args.keys, kSampleKeys, &keys));
  out->share = static_cast<double>(args.keys->rows) / static_cast<double>(keys.count);
  const Kernels& kernel = kernels();
  const int panel = kernel.panel, tileRows = kernel.tileRows;
  const int64_t padded = (queries.count + tileRows - 1) / tileRows * tileRows;
  const int64_t panels = (keys.count + panel - 1) / panel, stride = panels * panel;
  std::vector<float> scores(static_cast<size_t>(padded * stride));
  CLIPCID_TRY(parallelTry(context, panels, [&](int64_t at, int) -> Status {
    const AlignedArray<float> packed(dim * panel);
    for (int64_t j = 0; j < panel; ++j) {
      const int64_t row = std::min(at * panel + j, keys.count - 1);
      for (int64_t d = 0; d < dim; ++d) packed.get()[d * panel + j] = keys.row(row)[d];
    }
    for (int64_t r = 0; r < padded; r += tileRows)
      kernel.tile({.a = queries.row(r),
                   .strideA = queries.stride,
                   .b = packed.get(),
                   .strideB = panel,
                   .depth = dim,
                   .c = scores.data() + r * stride + at * panel,
                   .strideC = stride,
                   .rows = static_cast<int>(tileRows)});
    return {};
  }));
  const auto place = [](int64_t at, int64_t count, int64_t of) { return of * (2 * at + 1) / (2 * count); };
  for (int64_t r = 0; r < queries.count; ++r) {
    const float* row = scores.data() + r * stride;
    std::vector<float>& sorted = out->rows.emplace_back(row, row + keys.count);
    if (args.euclidean) {
      for (int64_t j = 0; j < keys.count; ++j) {
        const auto key = static_cast<size_t>(place(j, keys.count, args.keys->rows));
        sorted[static_cast<size_t>(j)] -= static_cast<float>(args.keys->squares[key] / 2);
      }
    }
    if (out->share == 1) out->byKey.push_back(sorted);
    std::sort(sorted.begin(), sorted.end(), std::greater<float>());
    out->queryStep += sampleStep(queries, r, dim);
    out->queryNorm += args.queries->normBound(place(r, queries.count, args.queries->rows));
  }
  for (int64_t j = 0; j < keys.count; ++j) {
    out->keyNorms.push_back(args.keys->normBound(place(j, keys.count, args.keys->rows)));
    out->keySteps.push_back(sampleStep(keys, j, dim));
    out->keyNorm += out->keyNorms.back();
    out->keyStep += out->keySteps.back();
  }
  out->queryNorm /= static_cast<double>(queries.count);
  out->queryStep /= static_cast<double>(queries.count);
  out->keyNorm /= static_cast<double>(keys.count);
  out->keyStep /= static_cast<double>(keys.count);
  return {};
}

// Keys within `band` of the k-th best.
double within(const std::vector<float>& sorted, double share, int64_t k, double band) {
  const auto count = static_cast<int64_t>(sorted.size());
  const auto reaching = [&](double score) {
    const auto end = std::partition_point(sorted.begin(), sorted.end(),
                                          [&](float one) { return static_cast<double>(one) >= score; });
    return share * static_cast<double>(end - sorted.begin());
  };
  const auto rank = static_cast<int64_t>(static_cast<double>(k) / share);
  if (rank >= 8 || share == 1)
    return reaching(static_cast<double>(sorted[static_cast<size_t>(std::max<int64_t>(rank, 1) - 1)]) - band);
  const int64_t tail = std::max<int64_t>(std::min<int64_t>(count - 1, 8), count / 64);
  if (tail >= count) return static_cast<double>(count) * share;
  const auto edge = static_cast<double>(sorted[static_cast<size_t>(tail)]);
  double excess = 0;
  for (int64_t i = 0; i < tail; ++i) excess += static_cast<double>(sorted[static_cast<size_t>(i)]) - edge;
  excess /= static_cast<double>(tail);
  const double kth = edge + excess * std::log(static_cast<double>(tail) * share / static_cast<double>(k));
  if (kth - band >= edge && excess > 0) return static_cast<double>(k) * std::exp(band / excess);
  return std::max(reaching(kth - band), static_cast<double>(k));
}

// About how far a row of this norm and this int8 step is from its encoding.
double likelyError(const FilterPlan& plan, double norm, double step) {
  if (plan.queries.filter == Filter::kInt8) return step * std::sqrt(static_cast<double>(plan.dim) / 12);
  return plan.queries.filter == Filter::kBfloat16 ? 0x1p-9 * 0.85 * norm : 0x1p-22 * norm;
}

// Keys that a filter leaves open for the sampled queries, on average.
double openKeys(const SelectPlanArgs& args, const FilterPlan& plan, const Scores& scores, size_t query) {
  const double error = likelyError(plan, scores.queryNorm, scores.queryStep);
  const std::vector<float>& sorted = scores.rows[query];
  if (args.k == 1 && scores.share == 1) {
    const auto floor = static_cast<double>(sorted[0]);
    double open = 0;
    for (size_t j = 0; j < sorted.size(); ++j) {
      const double keyError = likelyError(plan, scores.keyNorms[j], scores.keySteps[j]);
      const double bound = plan.bound(error, scores.queryNorm, keyError, scores.keyNorms[j]);
      open += static_cast<double>(scores.byKey[query][j]) + kBandOfOne * bound >= floor;
    }
    return open;
  }
  const double bound =
      plan.bound(error, scores.queryNorm, likelyError(plan, scores.keyNorm, scores.keyStep), scores.keyNorm);
  return within(sorted, scores.share, args.k, (args.k == 1 ? kBandOfOne : kBand) * bound);
}

double cost(const SelectPlanArgs& args, const FilterPlan& plan, const Scores& scores) {
  const auto keys = static_cast<double>(args.keys->rows), k = static_cast<double>(args.k);
  const auto dim = static_cast<double>(plan.dim);
  double cycles = keys * (dim / plan.kernel->speed + kScan);
  double candidates = 0, judged = 0;
  for (size_t query = 0; query < scores.rows.size(); ++query) {
    const double left = std::clamp(openKeys(args, plan, scores, query), std::min(k, keys), keys);
    candidates += left * (1 + std::log(keys / left));
    judged += left - std::min(k, keys);
  }
  const auto sampled = static_cast<double>(scores.rows.size());
  cycles += candidates / sampled * kCandidate + judged / sampled * (kJudge + dim / 2);
  cycles *= static_cast<double>(args.count);
  if (!args.queries->hasEncoded(plan.queries))
    cycles += static_cast<double>(args.queries->rows) * dim * kEncode;
  return cycles;
}

}  // namespace

Status planSelect(const Context& context, const SelectPlanArgs& args, FilterPlan* out) {
  if (context.filter != Filter::kAuto)
    return planFilter(context, *args.queries, *args.keys, context.filter, true, out);
  CLIPCID_TRY(planFilter(context, *args.queries, *args.keys, Filter::kFloat32, true, out));
  const double work = static_cast<double>(args.count) * static_cast<double>(args.keys->rows) *
                      static_cast<double>(args.queries->dim);
  if (kernels().bfloat16 == nullptr && kernels().int8 == nullptr) return {};
  // What is encoded for a large selection serves small ones of the same rows too.
  const Filter kept = args.queries->keptFilter();
  if (kept != Filter::kAuto && args.count < args.queries->rows / 4)
    return planFilter(context, *args.queries, *args.keys, kept, true, out);
  if (work < kSmall) return {};
  Scores scores;
  CLIPCID_TRY(sampleScores(context, args, &scores));
  double least = cost(args, *out, scores);
  for (const Filter filter : {Filter::kBfloat16, Filter::kInt8}) {
    FilterPlan plan;
    CLIPCID_TRY(planFilter(context, *args.queries, *args.keys, filter, true, &plan));
    if (plan.queries.filter != filter) continue;
    const double cycles = cost(args, plan, scores);
    if (!(cycles < least)) continue;
    least = cycles;
    *out = std::move(plan);
  }
  return {};
}

}  // namespace clipcid
