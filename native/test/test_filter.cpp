// The filters' bounds against canonical dots, and joins that every filter must decide alike.
#include <algorithm>
#include <cstring>
#include <limits>

#include "check.h"
#include "cpu/planner.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

using Pairs = std::vector<std::pair<int32_t, int32_t>>;

struct Data {
  const char* name;
  std::vector<float> rows;
  int64_t dim;
};

Rows viewOf(const std::vector<float>& data, int64_t dim) {
  return Rows(floatView(data.data(), static_cast<int64_t>(data.size()) / dim, dim));
}

// Rows that filters find hard.
std::vector<Data> adversaries(int64_t rows, int64_t dim) {
  std::vector<Data> list;
  const auto at = [dim](int64_t row, int64_t k) { return static_cast<size_t>(row * dim + k); };
  list.push_back({"clustered", clusteredRows(rows, dim, 9, 0.3f, 61), dim});
  std::vector<float> data = clusteredRows(rows, dim, 3, 1e-4f, 62);
  list.push_back({"nearly equal", data, dim});
  data = clusteredRows(rows, dim, 9, 0.3f, 63);
  for (int64_t i = 0; i < rows; i += 3) data[at(i, i % dim)] = 1000;
  list.push_back({"one huge element", data, dim});
  std::fill(data.begin(), data.end(), 0.0f);
  for (int64_t i = 0; i < rows; ++i) {
    data[at(i, i * 7 % dim)] = 1;
    data[at(i, i * 5 % dim)] += 0.5f;
  }
  list.push_back({"sparse", data, dim});
  data = clusteredRows(rows, dim, 9, 0.3f, 64);
  for (size_t i = 0; i < data.size(); ++i)
    data[i] *= std::ldexp(1.0f, static_cast<int>(i / static_cast<size_t>(dim) % 60) - 30);
  list.push_back({"lengths far apart", data, dim});
  data = clusteredRows(rows, dim, 9, 0.3f, 65);
  for (size_t i = 0; i < data.size(); ++i) data[i] *= std::ldexp(1.0f, static_cast<int>(i * 11 % 40) - 35);
  list.push_back({"elements far apart", data, dim});
  data = clusteredRows(rows, dim, 9, 0.3f, 66);
  for (float& value : data) value *= 1e-42f;
  list.push_back({"denormal", data, dim});
  data = clusteredRows(rows, dim, 9, 0.3f, 67);
  for (float& value : data) value *= 5e37f;
  list.push_back({"huge", data, dim});
  data = clusteredRows(rows, dim, 9, 0.3f, 68);
  std::fill_n(data.begin(), dim, 0.0f);
  data[at(rows / 2, 0)] = std::numeric_limits<float>::quiet_NaN();
  list.push_back({"faults", data, dim});
  return list;
}

std::unique_ptr<Prepared> prepared(const Rows& rows, bool unit) {
  std::unique_ptr<Prepared> out;
  CHECK_OK(cpuBackend().prepare(contextOf(2), {.rows = rows, .unit = unit, .squares = false}, &out));
  return out;
}

Context contextWith(Filter filter, int64_t prefix, int threads = 2) {
  Context context = contextOf(threads);
  context.filter = filter;
  context.prefix = prefix;
  return context;
}

// Every score of a plan is as near to the canonical dot as its bound says.
double checkBounds(const Data& data, bool unit, Filter filter, int64_t prefix) {
  const auto owner = prepared(viewOf(data.rows, data.dim), unit);
  const CpuPrepared& rows = cpuPrepared(owner.get());
  const Context context = contextWith(filter, prefix);
  FilterPlan plan;
  CHECK_OK(planJoin(context, rows, rows, 0.5, false, &plan));
  CHECK(plan.oneSided == (plan.queries.basis != nullptr));
  EncodedRows encoded;
  CHECK_OK(rows.encode(context, plan.queries, 0, rows.rows, &encoded));
  const FilterKernel& kernel = *plan.kernel;
  const std::vector<float> compare = compared(data.rows, data.dim, unit);
  const AlignedArray<uint32_t> panel(kernel.panel * plan.queries.words);
  std::vector<float> scores(static_cast<size_t>(kernel.tileRows * kernel.panel));
  if (kernel.enter != nullptr) kernel.enter();
  double widest = 0;
  const float scale = plan.queries.step * plan.keys.step;
  for (int64_t first = 0; first < rows.rows; first += kernel.panel) {
    const int64_t columns = std::min<int64_t>(kernel.panel, rows.rows - first);
    packPanel(kernel, encoded, plan.queries.words, first, columns, panel.get());
    for (int64_t row = 0; row < rows.rows; row += kernel.tileRows) {
      const int64_t here = std::min<int64_t>(kernel.tileRows, rows.rows - row);
      CHECK(kernel.tile(encoded.row(row), encoded.stride, encoded.sums.get() + row, panel.get(),
                        plan.queries.words, scale, -std::numeric_limits<float>::infinity(), scores.data(),
                        kernel.panel));
      for (int64_t r = 0; r < here; ++r) {
        for (int64_t j = 0; j < columns; ++j) {
          const double exact = canonicalDot(compare.data() + (row + r) * data.dim,
                                            compare.data() + (first + j) * data.dim, data.dim);
          const auto score = static_cast<double>(scores[static_cast<size_t>(r * kernel.panel + j)]);
          const double bound = plan.bound(static_cast<double>(encoded.errors.get()[row + r]),
                                          static_cast<double>(encoded.lengths.get()[row + r]),
                                          static_cast<double>(encoded.errors.get()[first + j]),
                                          static_cast<double>(encoded.lengths.get()[first + j]));
          CHECK(!std::isnan(bound) && !std::isnan(encoded.errors.get()[row + r]) &&
                !std::isnan(encoded.lengths.get()[row + r]));
          if (std::isinf(bound)) continue;
          const bool below = exact <= score + bound, above = exact >= score - bound;
          if (!below || (!above && !plan.oneSided))
            std::fprintf(stderr, "%s, %s: dot %.17g, score %.17g, bound %.3g\n", data.name,
                         plan.text().c_str(), exact, score, bound);
          CHECK(below && (above || plan.oneSided));
          widest = std::max(widest, bound);
        }
      }
    }
  }
  if (kernel.leave != nullptr) kernel.leave();
  return widest;
}

constexpr Filter kFilters[] = {Filter::kFloat32, Filter::kBfloat16, Filter::kInt8};

void bounds() {
  for (const int64_t dim : {1, 2, 5, 33, 100}) {
    for (const Data& data : adversaries(70, dim)) {
      for (const bool unit : {true, false}) {
        for (const Filter filter : kFilters) {
          for (const int64_t prefix : {int64_t{0}, int64_t{1}, dim / 3, dim - 1})
            checkBounds(data, unit, filter, prefix);
        }
      }
    }
  }
  // Not so wide that they are of no use.
  const Data plain = {"clustered", clusteredRows(150, 512, 20, 0.3f, 71), 512};
  const Data wide = {"clustered", clusteredRows(40, 2000, 20, 0.3f, 72), 2000};
  CHECK(checkBounds(plain, true, Filter::kFloat32, 0) < 1e-4);
  CHECK(checkBounds(wide, true, Filter::kFloat32, 0) < 4e-4);
  if (availableFilter(Filter::kBfloat16) == Filter::kBfloat16)
    CHECK(checkBounds(plain, true, Filter::kBfloat16, 0) < 0.01);
  if (availableFilter(Filter::kInt8) == Filter::kInt8) {
    CHECK(checkBounds(plain, true, Filter::kInt8, 0) < 0.04);
    // Clipped or spread, whatever is better for rows with a hot coordinate.
    Data hot = plain;
    for (size_t at = 7; at < hot.rows.size(); at += 512) hot.rows[at] = 30;
    CHECK(checkBounds(hot, true, Filter::kInt8, 0) < 0.08);
  }
  CHECK(checkBounds(plain, true, Filter::kFloat32, 100) < 2e-3);
}

// The rotation leaves dots as they are, to within what it says.
void rotation() {
  for (const int64_t dim : {1, 2, 3, 15, 16, 17, 100, 256, 700, 1024}) {
    std::vector<float> x, y;
    for (int64_t k = 0; k < dim; ++k) {
      x.push_back(noise(81, static_cast<uint64_t>(k)));
      y.push_back(k == 0 ? 1.0f : 0.0f);
    }
    const double dot = canonicalDot(x.data(), y.data(), dim), square = canonicalDot(x.data(), x.data(), dim);
    std::vector<float> a = x, b = y;
    spreadRow(a.data(), dim);
    spreadRow(b.data(), dim);
    const double allowed = 3 * spreadError(dim) * std::sqrt(square);
    CHECK(std::fabs(canonicalDot(a.data(), b.data(), dim) - dot) <= allowed);
    CHECK(std::fabs(std::sqrt(canonicalDot(a.data(), a.data(), dim)) - std::sqrt(square)) <= allowed);
    float most = 0;
    for (const float value : b) most = std::max(most, std::fabs(value));
    if (dim >= 16) CHECK(most < 4 / std::sqrt(static_cast<float>(dim)));
  }
}

Pairs bruteForce(const Data& data, bool unit, double threshold) {
  const std::vector<float> x = compared(data.rows, data.dim, unit);
  const auto rows = static_cast<int64_t>(x.size()) / data.dim;
  std::vector<bool> faulty;
  for (int64_t i = 0; i < rows; ++i) {
    const double square =
        canonicalDot(data.rows.data() + i * data.dim, data.rows.data() + i * data.dim, data.dim);
    faulty.push_back(!std::isfinite(square) || (unit && square == 0));
  }
  Pairs pairs;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i + 1; j < rows; ++j) {
      if (faulty[static_cast<size_t>(i)] || faulty[static_cast<size_t>(j)]) continue;
      if (canonicalDot(x.data() + i * data.dim, x.data() + j * data.dim, data.dim) > threshold)
        pairs.emplace_back(i, j);
    }
  }
  return pairs;
}

Pairs joined(const Prepared& rows, const Context& context, double threshold, bool dots,
             const std::vector<float>& x) {
  Pairs pairs;
  std::string plan;
  const auto sink = [&](const Pair* found, const double* values, size_t count) -> Status {
    CHECK((values != nullptr) == dots);
    for (size_t at = 0; at < count; ++at) {
      pairs.emplace_back(found[at].first, found[at].second);
      if (dots)
        CHECK(values[at] == canonicalDot(x.data() + found[at].first * rows.dim,
                                         x.data() + found[at].second * rows.dim, rows.dim));
    }
    return {};
  };
  CHECK_OK(cpuBackend().join(
      context,
      {.queries = &rows, .keys = &rows, .threshold = threshold, .dots = dots, .sink = sink, .plan = &plan}));
  CHECK(!plan.empty());
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

void checkJoins(const Data& data, bool unit, double threshold) {
  const Pairs expected = bruteForce(data, unit, threshold);
  const std::vector<float> x = compared(data.rows, data.dim, unit);
  const PreparedLimits before = preparedLimits();
  for (const bool small : {false, true}) {
    // Blocks of both sides, and one that keeps its queries.
    if (small) preparedLimits() = {60000, 96, 3000};
    const auto rows = prepared(viewOf(data.rows, data.dim), unit);
    for (const Filter filter : kFilters) {
      for (const int64_t prefix : {int64_t{0}, data.dim / 4}) {
        for (const int threads : {1, 7}) {
          const bool dots = threads == 1;
          const Pairs pairs = joined(*rows, contextWith(filter, prefix, threads), threshold, dots, x);
          if (pairs != expected)
            std::fprintf(stderr, "%s: %zu pairs of %zu at %g\n", data.name, pairs.size(), expected.size(),
                         threshold);
          CHECK(pairs == expected);
        }
      }
    }
    CHECK(joined(*rows, contextOf(2), threshold, false, x) == expected);
  }
  preparedLimits() = before;
}

// Pairs whose cosine is within 1e-7 of the threshold, on both sides.
Data planted(int64_t rows, int64_t dim, double threshold) {
  Data data = {"planted", clusteredRows(rows, dim, rows, 0.5f, 91), dim};
  for (int64_t i = 0; i + 1 < rows; i += 2) {
    float* x = data.rows.data() + i * dim;
    float* y = x + dim;
    // The part of y that is orthogonal to x, and then the angle.
    const double xx = canonicalDot(x, x, dim), xy = canonicalDot(x, y, dim);
    std::vector<double> rest(static_cast<size_t>(dim));
    double square = 0;
    for (int64_t k = 0; k < dim; ++k) {
      const double value = static_cast<double>(y[k]) - xy / xx * static_cast<double>(x[k]);
      rest[static_cast<size_t>(k)] = value;
      square += value * value;
    }
    const double cosine = threshold + 1e-7 * (static_cast<double>(i % 41) / 20 - 1);
    const double sine = std::sqrt(1 - cosine * cosine);
    for (int64_t k = 0; k < dim; ++k) {
      y[k] = static_cast<float>(cosine * static_cast<double>(x[k]) / std::sqrt(xx) +
                                sine * rest[static_cast<size_t>(k)] / std::sqrt(square));
    }
  }
  return data;
}

void joins() {
  for (const int64_t dim : {8, 48, 130}) checkJoins(planted(240, dim, 0.9), true, 0.9);
  checkJoins(planted(240, 64, -0.25), true, -0.25);
  for (const Data& data : adversaries(130, 40)) {
    for (const double threshold : {0.9, 0.0}) checkJoins(data, true, threshold);
    checkJoins(data, false, data.name == std::string("huge") ? 1e70 : 3.0);
  }
  for (const double threshold : {-1.0, 1.0}) checkJoins(adversaries(60, 20).back(), true, threshold);
  // All pairs within every bound: of rows that are equal but for their last bits, at a dot of two of them.
  Data same = {"equal", std::vector<float>(static_cast<size_t>(300 * 40), 0.3f), 40};
  for (size_t at = 0; at < same.rows.size(); ++at)
    same.rows[at] *= 1 + static_cast<float>(at * 31 % 7) * 6e-8f;
  const std::vector<float> x = compared(same.rows, 40, true);
  checkJoins(same, true, canonicalDot(x.data(), x.data() + 40, 40));
  // And many copies.
  Data copies = {"copies", clusteredRows(300, 40, 5, 0, 92), 40};
  checkJoins(copies, true, 0.95);
  for (const int64_t rows : {1, 2, 31, 32, 33, 64, 65, 511, 513}) {
    const Data data = {"edges", clusteredRows(rows, 24, 6, 0.3f, 93), 24};
    const Pairs expected = bruteForce(data, true, 0.9);
    const auto owner = prepared(viewOf(data.rows, 24), true);
    for (const Filter filter : kFilters) {
      CHECK(joined(*owner, contextWith(filter, 0), 0.9, false, {}) == expected);
      CHECK(joined(*owner, contextWith(filter, 5), 0.9, false, {}) == expected);
    }
  }
}

}  // namespace

int main() {
  rotation();
  bounds();
  joins();
  return report("filter");
}
