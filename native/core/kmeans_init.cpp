#include "core/kmeans_init.h"

#include <algorithm>
#include <limits>

#include "clipcid/canonical.h"
#include "clipcid/philox.h"

namespace clipcid {
namespace {

Status gatherRows(Backend& backend, const Context& context, const Prepared& rows,
                  const std::vector<int64_t>& indices, float* out) {
  return backend.gather(
      context,
      {.rows = &rows, .indices = indices.data(), .count = static_cast<int64_t>(indices.size()), .out = out});
}

// The row that a draw weighted by `weights` falls on; the smallest row not chosen yet when all weights are
// zero.
int64_t sample(const std::vector<double>& weights, const std::vector<bool>& chosen, uint64_t draw) {
  const double most = *std::max_element(weights.begin(), weights.end());
  const double scale = fixedScale(most, static_cast<int64_t>(weights.size()));
  uint64_t total = 0;
  for (const double weight : weights) total += static_cast<uint64_t>(toFixed(weight, scale));
  if (total == 0) return std::find(chosen.begin(), chosen.end(), false) - chosen.begin();
  const uint64_t target = scaleDraw(draw, total);
  uint64_t sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += static_cast<uint64_t>(toFixed(weights[i], scale));
    if (sum > target) return static_cast<int64_t>(i);
  }
  return static_cast<int64_t>(weights.size()) - 1;  // not reached: target < total
}

}  // namespace

Status chooseRandom(Backend& backend, const Context& context, const Prepared& rows, int64_t clusters,
                    int64_t element, float* centroids) {
  std::vector<std::pair<uint64_t, int64_t>> draws(static_cast<size_t>(rows.rows));
  for (int64_t i = 0; i < rows.rows; ++i) {
    const auto index = static_cast<uint64_t>(element * rows.rows + i);
    draws[static_cast<size_t>(i)] = {philox64(context.seed, kPhiloxKmeansRandom, index), i};
  }
  std::partial_sort(draws.begin(), draws.begin() + clusters, draws.end());
  std::vector<int64_t> indices;
  for (int64_t j = 0; j < clusters; ++j) indices.push_back(draws[static_cast<size_t>(j)].second);
  return gatherRows(backend, context, rows, indices, centroids);
}

Status choosePlusPlus(Backend& backend, const Context& context, const Prepared& rows, int64_t clusters,
                      int64_t element, float* centroids) {
  const auto count = static_cast<size_t>(rows.rows);
  const auto drawOf = [&](int64_t step) {
    return philox64(context.seed, kPhiloxKmeansPlusPlus, static_cast<uint64_t>(element * clusters + step));
  };
  std::vector<Pair> pairs(count);  // every row with the newest centre
  for (size_t i = 0; i < count; ++i) pairs[i] = {static_cast<int32_t>(i), 0};
  std::vector<double> dots(count);
  std::vector<double> weights(count, std::numeric_limits<double>::infinity());
  std::vector<bool> chosen(count, false);
  int64_t next = static_cast<int64_t>(scaleDraw(drawOf(0), count));
  for (int64_t step = 0;; ++step) {
    float* centre = centroids + step * rows.dim;
    chosen[static_cast<size_t>(next)] = true;
    CLIPCID_TRY(gatherRows(backend, context, rows, {next}, centre));
    if (step + 1 == clusters) return {};

    std::unique_ptr<Prepared> prepared;
    CLIPCID_TRY(backend.prepare(context, {.rows = Rows(floatView(centre, 1, rows.dim))}, &prepared));
    CLIPCID_TRY(backend.pairDots(context, {.queries = &rows,
                                           .keys = prepared.get(),
                                           .pairs = pairs.data(),
                                           .count = rows.rows,
                                           .dots = dots.data()}));
    const double half = prepared->squares[0] / 2;
    for (size_t i = 0; i < count; ++i) {
      const double square = std::max(0.0, rows.squares[i] - 2 * (dots[i] - half));
      weights[i] = std::min(weights[i], square);
    }
    next = sample(weights, chosen, drawOf(step + 1));
  }
}

}  // namespace clipcid
