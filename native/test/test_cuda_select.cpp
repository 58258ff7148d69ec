// Best and topK on the emulated device with all that they can be asked for, against brute force in the canonical arithmetic.
#include <algorithm>
#include <limits>

#include "cuda/best_pass.h"
#include "cuda/top_k.h"
#include "emulated.h"

using namespace clipcid;
using namespace clipcid::cuda;
using namespace clipcid::test;

namespace {

constexpr int kDevices[] = {80, 86, 90};

struct Case {
  std::vector<float> queries, keys;
  int64_t dim;
  bool unit;

  int64_t queryCount() const { return static_cast<int64_t>(queries.size()) / dim; }
  int64_t keyCount() const { return static_cast<int64_t>(keys.size()) / dim; }
};

Case clusters(int64_t queries, int64_t keys, int64_t dim, bool unit, uint64_t stream) {
  return {clusteredRows(queries, dim, 9, 0.3f, stream), clusteredRows(keys, dim, 9, 0.3f, stream), dim, unit};
}

// Scores that float16 cannot tell apart, and that some are equal.
Case tight(int64_t queries, int64_t keys, int64_t dim, bool unit) {
  Case one = clusters(queries, keys, dim, unit, 4);
  for (std::vector<float>* rows : {&one.queries, &one.keys}) {
    for (size_t at = 0; at < rows->size(); ++at)
      (*rows)[at] = noise(50, at % static_cast<size_t>(dim)) + 1e-5f * (*rows)[at];
  }
  for (int64_t j = 5; j + 7 < keys; j += 9)
    std::copy_n(one.keys.begin() + j * dim, dim, one.keys.begin() + (j + 7) * dim);
  return one;
}

// Lengths from tiny to huge.
Case ranges(int64_t queries, int64_t keys, int64_t dim) {
  Case one = clusters(queries, keys, dim, false, 6);
  for (size_t at = 0; at < one.keys.size(); ++at)
    one.keys[at] *= std::ldexp(1.0f, static_cast<int>(at / static_cast<size_t>(dim) * 7 % 100) - 60);
  return one;
}

std::unique_ptr<Prepared> prepared(int index, const Context& context, const std::vector<float>& data,
                                   int64_t dim, bool unit) {
  std::unique_ptr<Prepared> out;
  CHECK_OK(emulatedBackend(index).prepare(
      context,
      {.rows = Rows(floatView(data.data(), static_cast<int64_t>(data.size()) / dim, dim)), .unit = unit},
      &out));
  return out;
}

// [queries][keys]
std::vector<std::vector<double>> dotsOf(const Case& one) {
  const std::vector<float> x = compared(one.queries, one.dim, one.unit),
                           y = compared(one.keys, one.dim, one.unit);
  std::vector<std::vector<double>> dots(static_cast<size_t>(one.queryCount()));
  for (int64_t i = 0; i < one.queryCount(); ++i) {
    for (int64_t j = 0; j < one.keyCount(); ++j)
      dots[static_cast<size_t>(i)].push_back(
          canonicalDot(x.data() + i * one.dim, y.data() + j * one.dim, one.dim));
  }
  return dots;
}

using Entry = std::pair<double, int32_t>;  // (-score, index)

std::vector<Entry> sorted(const std::vector<double>& scores, int64_t without = -1) {
  std::vector<Entry> entries;
  for (size_t j = 0; j < scores.size(); ++j) {
    if (static_cast<int64_t>(j) != without) entries.emplace_back(-scores[j], static_cast<int32_t>(j));
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

Context contextFor(Filter filter, int64_t memory = 0) {
  Context context = contextOf(2);
  context.filter = filter;
  context.maxDeviceMemory = memory;
  return context;
}

void checkBest(const Case& one, int index, const Context& context) {
  Backend& backend = emulatedBackend(index);
  const auto a = prepared(index, context, one.queries, one.dim, one.unit);
  const auto b = prepared(index, context, one.keys, one.dim, one.unit);
  std::vector<int64_t> some;
  for (int64_t i = 0; i < a->rows; ++i) {
    if (i % 3 == 1 || i + 1 == a->rows) some.push_back(i);
  }
  const std::vector<std::vector<double>> dots = dotsOf(one);
  const std::vector<float> keys = compared(one.keys, one.dim, one.unit);
  for (const bool euclidean : {false, true}) {
    // Unit keys give squares where they are asked for only.
    if (euclidean && one.unit) continue;
    std::vector<std::vector<Entry>> order;
    for (const std::vector<double>& row : dots) {
      std::vector<double> scores = row;
      for (size_t j = 0; j < scores.size() && euclidean; ++j) {
        const float* key = keys.data() + static_cast<int64_t>(j) * one.dim;
        scores[j] -= canonicalDot(key, key, one.dim) / 2;
      }
      order.push_back(sorted(scores));
    }
    for (const bool subset : {false, true}) {
      const size_t count = subset ? some.size() : static_cast<size_t>(a->rows);
      const auto queryOf = [&](size_t at) { return subset ? static_cast<size_t>(some[at]) : at; };
      std::vector<int32_t> indices(count, -7);
      std::vector<double> scores(count), above(count);
      std::string plan;
      BestArgs args{.queries = a.get(),
                    .keys = b.get(),
                    .euclidean = euclidean,
                    .indices = indices.data(),
                    .plan = &plan};
      if (subset) {
        args.rows = some.data();
        args.count = static_cast<int64_t>(some.size());
      }
      CHECK_OK(backend.best(context, args));
      CHECK(!plan.empty());
      for (size_t at = 0; at < count; ++at) CHECK(indices[at] == order[queryOf(at)][0].second);
      args.scores = scores.data();
      CHECK_OK(backend.best(context, args));
      for (size_t at = 0; at < count; ++at) {
        const std::vector<Entry>& row = order[queryOf(at)];
        CHECK(indices[at] == row[0].second && scores[at] == -row[0].first);
        // Just below its score, at it, and over it; or anything.
        above[at] = at % 4 == 0   ? std::nextafter(scores[at], -1e300)
                    : at % 4 == 1 ? scores[at]
                    : at % 4 == 2 ? scores[at] + 1
                                  : -1e300;
      }
      args.above = above.data();
      CHECK_OK(backend.best(context, args));
      for (size_t at = 0; at < count; ++at) {
        const Entry& best = order[queryOf(at)][0];
        const bool over = -best.first > above[at];
        CHECK(indices[at] == (over ? best.second : -1) && (!over || scores[at] == -best.first));
      }
    }
  }
}

void checkTopK(const Case& one, int index, const Context& context, const std::vector<int64_t>& ks) {
  const auto a = prepared(index, context, one.queries, one.dim, one.unit);
  const auto b = prepared(index, context, one.keys, one.dim, one.unit);
  const std::vector<std::vector<double>> dots = dotsOf(one);
  for (const bool skip : {false, true}) {
    const int64_t most = b->rows - (skip ? 1 : 0);
    for (int64_t k : ks) {
      k = std::min(k, most);
      // A part of the queries, or all.
      const int64_t begin = skip ? a->rows / 3 : 0, count = skip ? a->rows / 2 : -1;
      const int64_t queries = count < 0 ? a->rows : count;
      if (queries == 0 || k < 1) continue;
      std::vector<int32_t> indices(static_cast<size_t>(queries * k), -7);
      std::vector<double> scores(indices.size());
      CHECK_OK(emulatedBackend(index).topK(context, {.queries = a.get(),
                                                     .keys = b.get(),
                                                     .skipSelf = skip,
                                                     .begin = begin,
                                                     .count = count,
                                                     .k = k,
                                                     .indices = indices.data(),
                                                     .scores = scores.data()}));
      for (int64_t i = 0; i < queries; ++i) {
        const std::vector<Entry> order = sorted(dots[static_cast<size_t>(begin + i)], skip ? begin + i : -1);
        for (int64_t rank = 0; rank < k; ++rank) {
          const auto at = static_cast<size_t>(i * k + rank);
          CHECK(indices[at] == order[static_cast<size_t>(rank)].second &&
                scores[at] == -order[static_cast<size_t>(rank)].first);
        }
      }
    }
  }
}

void checkProducts(const Case& one, const Case& two, int index, const Context& context, double cutoff,
                   int64_t k) {
  const auto a = prepared(index, context, one.queries, one.dim, one.unit);
  const auto b = prepared(index, context, one.keys, one.dim, one.unit);
  const auto c = prepared(index, context, two.queries, two.dim, two.unit);
  const auto d = prepared(index, context, two.keys, two.dim, two.unit);
  const std::vector<std::vector<double>> x = dotsOf(one), y = dotsOf(two);
  k = std::min(k, b->rows - 1);
  std::vector<int32_t> indices(static_cast<size_t>(a->rows * k), -7);
  std::vector<double> scores(indices.size());
  std::string plan;
  CHECK_OK(emulatedBackend(index).topK(context, {.queries = a.get(),
                                                 .keys = b.get(),
                                                 .secondQueries = c.get(),
                                                 .secondKeys = d.get(),
                                                 .cutoff = cutoff,
                                                 .skipSelf = true,
                                                 .k = k,
                                                 .indices = indices.data(),
                                                 .scores = scores.data(),
                                                 .plan = &plan}));
  CHECK(plan.find("; ") != std::string::npos);
  for (int64_t i = 0; i < a->rows; ++i) {
    std::vector<double> products;
    for (size_t j = 0; j < x[static_cast<size_t>(i)].size(); ++j) {
      const double first = x[static_cast<size_t>(i)][j], second = y[static_cast<size_t>(i)][j];
      products.push_back(first > cutoff || second > cutoff ? 0 : first * second);
    }
    const std::vector<Entry> order = sorted(products, i);
    for (int64_t rank = 0; rank < k; ++rank) {
      const auto at = static_cast<size_t>(i * k + rank);
      CHECK(indices[at] == order[static_cast<size_t>(rank)].second &&
            scores[at] == -order[static_cast<size_t>(rank)].first);
    }
  }
}

constexpr Filter kFilters[] = {Filter::kAuto, Filter::kFloat32, Filter::kBfloat16, Filter::kInt8};

void best() {
  for (const Filter filter : kFilters) {
    const int index = static_cast<int>(filter) % 3;
    for (const bool unit : {true, false}) {
      checkBest(clusters(150, 300, 40, unit, 2), index, contextFor(filter));
      checkBest(tight(60, 70, 24, unit), (index + 1) % 3, contextFor(filter));
      checkBest(clusters(400, 300, 70, unit, 2), 2, contextFor(filter));
    }
    checkBest(ranges(40, 200, 20), 1, contextFor(filter));
  }
  for (const auto& [queries, keys, dim] :
       {std::array<int64_t, 3>{1, 1, 1}, {3, 2, 17}, {129, 5, 64}, {2, 257, 33}, {64, 128, 300}})
    for (const int index : {0, 2})
      checkBest(clusters(queries, keys, dim, true, 8), index, contextFor(Filter::kBfloat16));
  std::vector<int32_t> index(1);
  const auto one = prepared(0, contextOf(1), {1, 2}, 2, false),
             none = prepared(0, contextOf(1), {}, 2, false);
  CHECK(emulatedBackend()
            .best(contextOf(1), {.queries = one.get(), .keys = none.get(), .indices = index.data()})
            .code == Code::kInvalidArgument);
}

// Lists that overflow, no room for open queries, several blocks of either side.
void smallBest() {
  const BestLimits before = bestLimits();
  for (const Filter filter : {Filter::kFloat32, Filter::kBfloat16}) {
    for (const int index : {1, 2}) {
      bestLimits() = {50, 3, 5};
      checkBest(tight(130, 60, 20, true), index, contextFor(filter));
      bestLimits() = {1 << 20, 1, 1};
      checkBest(clusters(130, 90, 20, false, 3), index, contextFor(filter));
    }
    bestLimits() = before;
    checkBest(clusters(600, 700, 12, false, 3), 1, contextFor(filter, 1 << 16));
  }
}

void topK() {
  for (const Filter filter : kFilters) {
    const int index = static_cast<int>(filter) % 3;
    checkTopK(clusters(40, 700, 40, true, 2), index, contextFor(filter), {1, 10, 300});
    checkTopK(tight(20, 90, 24, false), (index + 1) % 3, contextFor(filter), {3, 90});
    checkTopK(clusters(300, 700, 70, true, 2), 2, contextFor(filter), {10});
    checkTopK(ranges(20, 200, 20), 1, contextFor(filter), {5, 200});
  }
  checkTopK(clusters(3, 2, 1, false, 8), 0, contextFor(Filter::kAuto), {1, 2});
  const TopKLimits before = topKLimits();
  // Many ranges and queries in turns; rows whose order is the worst; several blocks.
  topKLimits() = {7, 1};
  Case rising = clusters(16, 3000, 16, false, 5);
  for (int64_t j = 0; j < 3000; ++j) {
    for (int64_t d = 0; d < 16; ++d)
      rising.keys[static_cast<size_t>(j * 16 + d)] =
          std::fabs(noise(3, static_cast<uint64_t>(d))) * static_cast<float>(j + 1) / 100;
  }
  for (float& value : rising.queries) value = std::fabs(value);
  checkTopK(rising, 1, contextFor(Filter::kBfloat16), {2, 40});
  topKLimits() = before;
  checkTopK(clusters(300, 900, 12, true, 5), 1, contextFor(Filter::kInt8, 1 << 16), {7});
  checkTopK(tight(30, 2600, 8, true), 1, contextFor(Filter::kInt8), {4});
}

void products() {
  for (const Filter filter : kFilters) {
    const Case one = clusters(60, 60, 30, true, 2), two = clusters(60, 60, 70, true, 3);
    for (const double cutoff : {0.98, 0.3, 2.0}) checkProducts(one, two, 1, contextFor(filter), cutoff, 20);
    checkProducts(one, two, 2, contextFor(filter), 0.3, 20);
    checkProducts(tight(40, 40, 16, true), clusters(40, 40, 16, true, 3), 0, contextFor(filter), 0.5, 30);
  }
  checkProducts(clusters(700, 700, 10, true, 2), clusters(700, 700, 20, true, 3), 1,
                contextFor(Filter::kBfloat16, 1 << 17), 0.9, 3);
  checkProducts(ranges(50, 50, 12), ranges(50, 50, 9), 1, contextFor(Filter::kBfloat16), 1e10, 9);
}

}  // namespace

int main() {
  emulator::options().devices.clear();
  for (const int architecture : kDevices)
    emulator::options().devices.push_back(emulator::deviceOf(architecture));
  best();
  smallBest();
  topK();
  products();
  const emulator::Options before = emulator::options();
  for (const Rounding rounding : {Rounding::kTruncated, Rounding::kWorst}) {
    emulator::options().rounding = rounding;
    for (const int index : {1, 2}) checkBest(tight(40, 70, 64, true), index, contextFor(Filter::kBfloat16));
    checkTopK(clusters(10, 200, 64, false, 7), 1, contextFor(Filter::kBfloat16), {8});
    checkProducts(clusters(40, 40, 30, true, 2), clusters(40, 40, 70, true, 3), 1,
                  contextFor(Filter::kBfloat16), 0.9, 9);
  }
  emulator::options() = before;
  inAllWays(
      [] {
        checkBest(clusters(140, 150, 70, true, 2), 0, contextFor(Filter::kBfloat16));
        checkTopK(clusters(20, 500, 33, true, 2), 1, contextFor(Filter::kInt8), {6});
        checkProducts(clusters(40, 40, 30, true, 2), clusters(40, 40, 50, true, 3), 1,
                      contextFor(Filter::kBfloat16), 0.9, 5);
        checkBest(clusters(140, 300, 70, true, 2), 2, contextFor(Filter::kBfloat16));
        checkTopK(clusters(20, 500, 33, true, 2), 2, contextFor(Filter::kInt8), {6});
        checkProducts(clusters(140, 140, 30, true, 2), clusters(140, 140, 50, true, 3), 2,
                      contextFor(Filter::kInt8), 0.9, 5);
      },
      {1, 2});
  return report("cuda select");
}
