#include "core/span.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/aligned.h"
#include "core/parallel.h"
#include "core/phases.h"

namespace clipcid {
namespace {

constexpr int64_t kLeastSample = 2;
constexpr int64_t kGrowth = 4;

// Sizes of the samples, ascending. A last sample of S rows costs S N filtered pairs and leaves about N^2 / (3 S) pairs to
// be decided, each some hundred times as dear, so S grows with sqrt(N); it stays small beside N.
std::vector<int64_t> sampleSizes(int64_t rows) {
  std::vector<int64_t> sizes;
  const auto most = static_cast<int64_t>(8 * std::sqrt(static_cast<double>(rows)));
  for (int64_t size = std::min(most, rows / 16); size >= kLeastSample; size /= kGrowth) sizes.push_back(size);
  std::reverse(sizes.begin(), sizes.end());
  return sizes;
}

double justBelow(double value) { return std::nextafter(value, -std::numeric_limits<double>::infinity()); }

// Rows without fault, spread evenly over all: multiples of the golden ratio fall everywhere, whatever the order of rows.
std::vector<int64_t> sampleRows(const Prepared& rows, int64_t count) {
  constexpr double kGolden = 0.6180339887498949;
  std::vector<int64_t> sample;
  for (int64_t s = 0; s < count; ++s) {
    double whole;
    const double share = std::modf(static_cast<double>(s + 1) * kGolden, &whole);
    const auto row = std::min(static_cast<int64_t>(share * static_cast<double>(rows.rows)), rows.rows - 1);
    if (!std::binary_search(rows.faults.begin(), rows.faults.end(), row)) sample.push_back(row);
  }
  std::sort(sample.begin(), sample.end());
  sample.erase(std::unique(sample.begin(), sample.end()), sample.end());
  return sample;
}

// Adds the pairs of a sample of the rows with all rows.
Status addSample(Backend& backend, const Context& context, const Prepared& rows, int64_t count,
                 double threshold, ForestBuilder* builder) {
  const std::vector<int64_t> sample = sampleRows(rows, count);
  if (sample.empty()) return {};
  const auto number = static_cast<int64_t>(sample.size());
  AlignedArray<float> gathered(number * rows.dim);
  CLIPCID_TRY(backend.gather(
      context, {.rows = &rows, .indices = sample.data(), .count = number, .out = gathered.get()}));
  CLIPCID_TRY(backend.synchronise(context));
  // They are canonical rows already, and taken as they are: their dots are those of the rows.
  std::unique_ptr<Prepared> queries;
  CLIPCID_TRY(
      backend.prepare(context, {.rows = Rows(floatView(gathered.get(), number, rows.dim))}, &queries));
  const auto sink = [&](const Pair* pairs, const double* dots, size_t found) -> Status {
    std::vector<Pair> named;
    std::vector<double> kept;
    for (size_t at = 0; at < found; ++at) {
      const auto first = static_cast<int32_t>(sample[static_cast<size_t>(pairs[at].first)]);
      if (first == pairs[at].second) continue;
      named.push_back({first, pairs[at].second});
      kept.push_back(dots[at]);
    }
    builder->add(named.data(), kept.data(), named.size());
    return {};
  };
  const auto wanted = [&](int worker, int32_t query, int32_t row, double above) {
    const auto first = static_cast<int32_t>(sample[static_cast<size_t>(query)]);
    return first != row && builder->wants(worker, first, row, above);
  };
  CLIPCID_TRY(backend.join(context, {.queries = queries.get(),
                                     .keys = &rows,
                                     .threshold = threshold,
                                     .dots = true,
                                     .wanted = wanted,
                                     .concurrent = true,
                                     .sink = sink}));
  CLIPCID_TRY(backend.synchronise(context));
  builder->finish();
  return {};
}

}  // namespace

Status collectForest(Backend& backend, const Context& context, const Prepared& rows, double floor,
                     int64_t merges, ForestBuilder* builder, std::string* plan) {
  std::vector<int64_t> samples;
  if (merges > 0) samples = sampleSizes(rows.rows);
  const auto count = static_cast<double>(rows.rows);
  double total = count * count / 2;
  for (const int64_t sample : samples) total += static_cast<double>(sample) * count;
  Phases phases(context, total);
  const auto bound = [&] { return std::max(floor, justBelow(builder->rising())); };
  for (const int64_t sample : samples) {
    const Context phase = phases.next(static_cast<double>(sample) * count);
    CLIPCID_TRY(addSample(backend, phase, rows, sample, bound(), builder));
  }
  const auto sink = [&](const Pair* pairs, const double* dots, size_t found) -> Status {
    builder->add(pairs, dots, found);
    return {};
  };
  const auto wanted = [&](int worker, int32_t first, int32_t second, double above) {
    return builder->wants(worker, first, second, above);
  };
  CLIPCID_TRY(backend.join(phases.next(count * count / 2), {.queries = &rows,
                                                            .keys = &rows,
                                                            .threshold = bound(),
                                                            .dots = true,
                                                            .wanted = wanted,
                                                            .concurrent = true,
                                                            .sink = sink,
                                                            .plan = plan}));
  CLIPCID_TRY(backend.synchronise(context));
  builder->finish();
  return {};
}

namespace {

Status span(Backend& backend, const Context& context, const ForestArgs& args, ForestResult* result) {
  std::unique_ptr<Prepared> rows;
  CLIPCID_TRY(backend.prepare(context, {.rows = args.rows, .unit = true, .squares = false}, &rows));
  for (const int64_t fault : rows->faults) result->faults.push_back(static_cast<int32_t>(fault));
  ForestBuilder builder(rows->rows, context.threads, args.merges);
  CLIPCID_TRY(collectForest(backend, context, *rows, args.floor, args.merges, &builder, &result->plan));
  result->edges = builder.finish();
  if (args.merges > 0) result->floor = std::max(args.floor, justBelow(builder.rising()));
  return {};
}

}  // namespace

Status spanningForest(Backend& backend, const Context& context, const ForestArgs& args,
                      ForestResult* result) {
  *result = {};
  result->floor = args.floor;
  if (args.rows.count() == 0) return {};
  return guarded([&] { return span(backend, context, args, result); });
}

}  // namespace clipcid
