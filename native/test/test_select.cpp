// Best and topK with all they can be asked for: chosen queries, bounds, products, cut-offs and the self pair, against
// brute force in the canonical arithmetic.
#include <algorithm>
#include <limits>

#include "check.h"
#include "core/nearest.h"
#include "cpu/prepared.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

Rows viewOf(const std::vector<float>& data, int64_t dim) {
  return Rows(floatView(data.data(), static_cast<int64_t>(data.size()) / dim, dim));
}

// With a filter, which the machine may lack and replace by the next.
Context contextWith(int threads, Filter filter) {
  Context context = contextOf(threads);
  context.filter = filter;
  return context;
}
constexpr std::pair<int, Filter> kWays[] = {
    {1, Filter::kFloat32}, {2, Filter::kBfloat16}, {7, Filter::kInt8}, {1, Filter::kAuto}};

std::unique_ptr<Prepared> prepared(const std::vector<float>& data, int64_t dim, bool unit) {
  std::unique_ptr<Prepared> out;
  CHECK_OK(cpuBackend().prepare(contextOf(2), {.rows = viewOf(data, dim), .unit = unit}, &out));
  return out;
}

struct Case {
  const char* name;
  std::vector<float> queries, keys;
  int64_t dim;
  bool unit;
};

// Sorted: larger score first, ties to the smaller index.
using Entry = std::pair<double, int32_t>;  // (-score, index)

// [queries][keys]
std::vector<std::vector<double>> scoresOf(const Case& one, bool euclidean) {
  const std::vector<float> x = compared(one.queries, one.dim, one.unit);
  const std::vector<float> y = compared(one.keys, one.dim, one.unit);
  const auto dim = static_cast<size_t>(one.dim);
  std::vector<std::vector<double>> scores;
  for (size_t i = 0; i < x.size(); i += dim) {
    std::vector<double>& row = scores.emplace_back();
    for (size_t j = 0; j < y.size(); j += dim) {
      double score = canonicalDot(x.data() + i, y.data() + j, one.dim);
      if (euclidean) score -= canonicalDot(y.data() + j, y.data() + j, one.dim) / 2;
      row.push_back(score);
    }
  }
  return scores;
}

std::vector<Entry> sorted(const std::vector<double>& scores, int64_t without = -1) {
  std::vector<Entry> entries;
  for (size_t j = 0; j < scores.size(); ++j) {
    if (static_cast<int64_t>(j) != without) entries.emplace_back(-scores[j], static_cast<int32_t>(j));
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

void checkBest(const Case& one) {
  const auto a = prepared(one.queries, one.dim, one.unit), b = prepared(one.keys, one.dim, one.unit);
  std::vector<int64_t> some;
  for (int64_t i = 0; i < a->rows; ++i) {
    if (i % 3 == 1 || i + 1 == a->rows) some.push_back(i);
  }
  for (const bool euclidean : {false, true}) {
    const std::vector<std::vector<double>> scores = scoresOf(one, euclidean);
    for (const auto& [threads, filter] : kWays) {
      const Context context = contextWith(threads, filter);
      for (const bool subset : {false, true}) {
        for (const bool scored : {false, true}) {
          const size_t count = subset ? some.size() : static_cast<size_t>(a->rows);
          std::vector<int32_t> indices(count, -1);
          std::vector<double> best(count);
          std::string plan;
          BestArgs args{.queries = a.get(),
                        .keys = b.get(),
                        .euclidean = euclidean,
                        .indices = indices.data(),
                        .scores = scored ? best.data() : nullptr,
                        .plan = &plan};
          if (subset) {
            args.rows = some.data();
            args.count = static_cast<int64_t>(some.size());
          }
          CHECK_OK(cpuBackend().best(context, args));
          CHECK(!plan.empty());
          for (size_t at = 0; at < count; ++at) {
            const size_t query = subset ? static_cast<size_t>(some[at]) : at;
            const std::vector<Entry> order = sorted(scores[query]);
            CHECK(indices[at] == order[0].second);
            if (scored) CHECK(best[at] == -order[0].first);
          }
        }
      }
    }
  }
}

void checkTopK(const Case& one) {
  const auto a = prepared(one.queries, one.dim, one.unit), b = prepared(one.keys, one.dim, one.unit);
  const std::vector<std::vector<double>> scores = scoresOf(one, false);
  for (const bool skip : {false, true}) {
    const int64_t most = b->rows - (skip ? 1 : 0);
    for (const int64_t wanted : {int64_t{1}, int64_t{2}, int64_t{9}, int64_t{256}, most}) {
      const int64_t k = std::min(wanted, most);
      if (k < 1) continue;
      for (const auto& [threads, filter] : kWays) {
        std::vector<int32_t> indices(static_cast<size_t>(a->rows * k), -1);
        std::vector<double> best(indices.size());
        CHECK_OK(cpuBackend().topK(contextWith(threads, filter), {.queries = a.get(),
                                                                  .keys = b.get(),
                                                                  .skipSelf = skip,
                                                                  .k = k,
                                                                  .indices = indices.data(),
                                                                  .scores = best.data()}));
        for (int64_t i = 0; i < a->rows; ++i) {
          const std::vector<Entry> order = sorted(scores[static_cast<size_t>(i)], skip ? i : -1);
          for (int64_t rank = 0; rank < k; ++rank) {
            const auto at = static_cast<size_t>(i * k + rank);
            const Entry& entry = order[static_cast<size_t>(rank)];
            CHECK(indices[at] == entry.second && best[at] == -entry.first);
          }
        }
      }
    }
  }
}

// Rows of a second matrix as those of the first; the cut-offs include the canonical cosine of a pair itself.
void checkProducts(const Case& first, const Case& second) {
  const auto a = prepared(first.queries, first.dim, first.unit),
             b = prepared(first.keys, first.dim, first.unit);
  const auto c = prepared(second.queries, second.dim, second.unit),
             d = prepared(second.keys, second.dim, second.unit);
  CHECK(a->rows == c->rows && b->rows == d->rows);
  const std::vector<std::vector<double>> x = scoresOf(first, false), y = scoresOf(second, false);
  for (const double cutoff : {2.0, 0.9, 0.0, x[0][0]}) {
    for (const int64_t wanted : {int64_t{1}, int64_t{7}, b->rows}) {
      const int64_t k = std::min(wanted, b->rows - 1);
      if (k < 1) continue;
      for (const auto& [threads, filter] : kWays) {
        std::vector<int32_t> indices(static_cast<size_t>(a->rows * k), -1);
        std::vector<double> best(indices.size());
        CHECK_OK(cpuBackend().topK(contextWith(threads, filter), {.queries = a.get(),
                                                                  .keys = b.get(),
                                                                  .secondQueries = c.get(),
                                                                  .secondKeys = d.get(),
                                                                  .cutoff = cutoff,
                                                                  .skipSelf = true,
                                                                  .k = k,
                                                                  .indices = indices.data(),
                                                                  .scores = best.data()}));
        for (int64_t i = 0; i < a->rows; ++i) {
          std::vector<double> product;
          for (size_t j = 0; j < static_cast<size_t>(b->rows); ++j) {
            const double u = x[static_cast<size_t>(i)][j], v = y[static_cast<size_t>(i)][j];
            product.push_back(u > cutoff || v > cutoff ? 0 : u * v);
          }
          const std::vector<Entry> order = sorted(product, i);
          for (int64_t rank = 0; rank < k; ++rank) {
            const auto at = static_cast<size_t>(i * k + rank);
            const Entry& entry = order[static_cast<size_t>(rank)];
            CHECK(indices[at] == entry.second && best[at] == -entry.first);
          }
        }
      }
    }
  }
}

Case clustered(int64_t queries, int64_t keys, int64_t dim, float spread, bool unit, uint64_t stream) {
  // The same stream: keys begin with the queries, so that there are copies and near-copies.
  return {"clustered", clusteredRows(queries, dim, 8, spread, stream),
          clusteredRows(keys, dim, 8, spread, stream), dim, unit};
}

std::vector<Case> hostile() {
  std::vector<Case> cases;
  const int64_t dim = 24;
  // All equal: every score ties.
  const std::vector<float> same(static_cast<size_t>(90 * dim), 0.3f);
  cases.push_back({"equal", same, same, dim, true});
  // Equal but for the last bits: only the canonical score tells.
  std::vector<float> near = same;
  for (size_t at = 0; at < near.size(); ++at) near[at] *= 1 + static_cast<float>(at % 7) * 6e-8f;
  cases.push_back({"nearly equal", near, near, dim, true});
  cases.push_back({"nearly equal, as stored", near, near, dim, false});
  // One huge key and one huge query.
  Case huge = clustered(70, 600, dim, 0.3f, false, 3);
  for (int64_t k = 0; k < dim; ++k) {
    huge.keys[static_cast<size_t>(300 * dim + k)] *= 1e30f;
    huge.queries[static_cast<size_t>(5 * dim + k)] *= 1e20f;
  }
  cases.push_back(huge);
  // Float32 overflows here and there.
  Case over = clustered(60, 100, dim, 0.3f, false, 4);
  for (size_t at = 0; at < over.keys.size(); ++at) over.keys[at] *= at % 2 == 0 ? 3e37f : 1.0f;
  for (size_t at = 0; at < over.queries.size(); ++at) over.queries[at] *= at % 2 == 0 ? 3e37f : 1.0f;
  cases.push_back(over);
  // Far from the origin, and denormal.
  Case far = clustered(60, 100, dim, 0.3f, false, 5);
  for (float& value : far.keys) value += 1e5f;
  for (float& value : far.queries) value += 1e5f;
  cases.push_back(far);
  Case tiny = clustered(60, 100, dim, 0.3f, false, 6);
  for (float& value : tiny.keys) value *= 1e-40f;
  cases.push_back(tiny);
  // Rows of zeros, as faults of others are.
  Case zeros = clustered(40, 100, dim, 0.3f, false, 7);
  std::fill_n(zeros.keys.begin(), 50 * dim, 0.0f);
  std::fill_n(zeros.queries.begin(), 10 * dim, 0.0f);
  cases.push_back(zeros);
  return cases;
}

void selections() {
  for (const bool unit : {true, false}) {
    for (const int64_t dim : {1, 5, 33}) {
      for (const int64_t keys : {1, 2, 40, 700}) checkBest(clustered(65, keys, dim, 0.3f, unit, 21));
    }
    // One query: the keys are cut into parts.
    for (const int64_t queries : {1, 11, 13}) {
      checkBest(clustered(queries, 2100, 16, 0.3f, unit, 22));
      checkTopK(clustered(queries, 2100, 16, 0.3f, unit, 22));
    }
    checkTopK(clustered(50, 700, 33, 0.3f, unit, 23));
    checkTopK(clustered(50, 2, 7, 0.3f, unit, 23));
  }
  for (const Case& one : hostile()) {
    checkBest(one);
    checkTopK(one);
  }
}

void productsOfDots() {
  for (const bool unit : {true, false}) {
    checkProducts(clustered(30, 300, 20, 0.5f, unit, 31), clustered(30, 300, 37, 0.5f, unit, 32));
    checkProducts(clustered(1, 1500, 20, 0.5f, unit, 31), clustered(1, 1500, 5, 0.5f, unit, 32));
    checkProducts(clustered(13, 13, 3, 0.5f, unit, 31), clustered(13, 13, 3, 0.5f, unit, 32));
  }
  for (const Case& one : hostile()) {
    checkProducts(one, clustered(static_cast<int64_t>(one.queries.size()) / one.dim,
                                 static_cast<int64_t>(one.keys.size()) / one.dim, 9, 0.4f, true, 33));
    checkProducts(one, one);
  }
}

// Blocks of a few rows, made anew each time, of two widths.
void smallBlocks() {
  const PreparedLimits before = preparedLimits();
  preparedLimits() = {20000, 64, 3000};
  checkBest(clustered(65, 333, 32, 0.3f, true, 41));
  checkTopK(clustered(65, 333, 32, 0.3f, true, 41));
  checkProducts(clustered(30, 333, 32, 0.5f, true, 42), clustered(30, 333, 7, 0.5f, true, 43));
  preparedLimits() = before;
}

void badRequests() {
  const Case one = clustered(5, 4, 3, 0.3f, true, 51);
  const auto a = prepared(one.queries, 3, true), b = prepared(one.keys, 3, true);
  int32_t indices[25];
  double scores[25];
  for (const int64_t k : {0, 5}) {
    CHECK(cpuBackend()
              .topK(contextOf(1),
                    {.queries = a.get(), .keys = b.get(), .k = k, .indices = indices, .scores = scores})
              .code == Code::kInvalidArgument);
  }
  CHECK(cpuBackend()
            .topK(contextOf(1), {.queries = a.get(),
                                 .keys = b.get(),
                                 .skipSelf = true,
                                 .k = 4,
                                 .indices = indices,
                                 .scores = scores})
            .code == Code::kInvalidArgument);
  const int32_t cancel = 1;
  Context context = contextOf(2);
  context.cancel = &cancel;
  CHECK(cpuBackend()
            .best(context, {.queries = a.get(), .keys = b.get(), .indices = indices, .scores = scores})
            .code == Code::kAborted);
}

// Enough work that the filter is chosen from a sample, of fewer queries than tiles take.
void sampled() {
  constexpr int64_t kQueries = 33, kKeys = 30000, kDim = 1024, kNearest = 2;
  const Context any = contextWith(2, Filter::kAuto), exact = contextWith(2, Filter::kFloat32);
  std::vector<float> x(kQueries * kDim), y(kKeys * kDim);
  for (size_t i = 0; i < x.size(); ++i) x[i] = noise(501, i);
  for (size_t i = 0; i < y.size(); ++i) y[i] = noise(502, i);
  std::vector<int32_t> found[2];
  for (const Context* context : {&any, &exact}) {
    std::unique_ptr<Prepared> queries, keys;
    CHECK_OK(cpuBackend().prepare(*context, {.rows = viewOf(x, kDim), .unit = true}, &queries));
    CHECK_OK(cpuBackend().prepare(*context, {.rows = viewOf(y, kDim), .unit = true}, &keys));
    std::vector<double> scores(kQueries * kNearest);
    std::vector<int32_t>& indices = found[context == &exact];
    indices.resize(kQueries * kNearest);
    std::string plan;
    CHECK_OK(cpuBackend().topK(*context, {.queries = queries.get(),
                                          .keys = keys.get(),
                                          .k = kNearest,
                                          .indices = indices.data(),
                                          .scores = scores.data(),
                                          .plan = &plan}));
    CHECK(!plan.empty());
  }
  CHECK(found[0] == found[1]);
}

// Rows whose roundings all point the same way, so that filtered scores are off by nearly all of their bounds: the best keys
// are rounded to themselves, others up to scores far over theirs.
void wrongGuesses() {
  constexpr int64_t kDim = 512, kHalf = kDim / 2, kKeys = 300, kNearest = 10;
  constexpr float kStep = 1.0f / 127;
  std::vector<float> x, y;
  const auto add = [&](std::vector<float>& rows, float first, auto second) {
    for (int64_t d = 0; d < kHalf; ++d) rows.push_back(first);
    for (int64_t d = 0; d < kHalf; ++d) rows.push_back(kStep * second(d));
  };
  for (int q = 0; q < 3; ++q) add(x, 0, [](int64_t) { return 127.0f; });
  for (int64_t j = 0; j < kKeys; ++j) {
    const auto more = static_cast<float>(j) * 1e-4f;
    if (j >= 20 && j < 60) {
      add(y, 1, [&](int64_t) { return 60.51f + more; });
    } else if (j >= 200 && j < 220) {
      add(y, 1, [&](int64_t d) { return d % 10 < 7 || d < j - 200 ? 61.0f : 60.0f; });
    } else {
      add(y, -1, [&](int64_t d) { return -60.0f + more * static_cast<float>(d % 3); });
    }
  }
  checkTopK({"rounded up", x, y, kDim, false});
  const auto a = prepared(x, kDim, false), b = prepared(y, kDim, false);
  std::vector<int32_t> indices(static_cast<size_t>(3 * kNearest));
  std::vector<double> scores(indices.size());
  CHECK_OK(cpuBackend().topK(contextWith(1, Filter::kInt8), {.queries = a.get(),
                                                             .keys = b.get(),
                                                             .k = kNearest,
                                                             .indices = indices.data(),
                                                             .scores = scores.data()}));
  for (const int32_t index : indices) CHECK(index >= 200 && index < 220);
}

}  // namespace

int main() {
  wrongGuesses();
  sampled();
  selections();
  productsOfDots();
  smallBlocks();
  badRequests();
  return report("select");
}
