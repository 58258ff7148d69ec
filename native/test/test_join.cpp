// Join and balance against every pair decided canonically.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include "check.h"
#include "core/balance.h"
#include "core/union_find.h"
#include "cpu/prepared.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

using Pairs = std::vector<std::pair<int32_t, int32_t>>;

bool faulty(const float* row, int64_t dim, bool unit) {
  const double square = canonicalDot(row, row, dim);
  return !std::isfinite(square) || (unit && square == 0);
}

Pairs bruteForce(const std::vector<float>& a, const std::vector<float>& b, int64_t dim, bool unit,
                 double threshold, bool self) {
  const std::vector<float> x = compared(a, dim, unit), y = compared(b, dim, unit);
  Pairs pairs;
  const auto rows = static_cast<int64_t>(a.size()) / dim, keys = static_cast<int64_t>(b.size()) / dim;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = self ? i + 1 : 0; j < keys; ++j) {
      if (faulty(a.data() + i * dim, dim, unit) || faulty(b.data() + j * dim, dim, unit)) continue;
      if (canonicalDot(x.data() + i * dim, y.data() + j * dim, dim) > threshold) pairs.emplace_back(i, j);
    }
  }
  return pairs;
}

Pairs joined(const Rows& a, const Rows& b, bool unit, double threshold, bool self, int threads) {
  Backend& backend = cpuBackend();
  const Context context = contextOf(threads);
  std::unique_ptr<Prepared> queries, keys;
  CHECK_OK(backend.prepare(context, {.rows = a, .unit = unit}, &queries));
  if (!self) CHECK_OK(backend.prepare(context, {.rows = b, .unit = unit}, &keys));
  Pairs pairs;
  const auto sink = [&](const Pair* found, const double*, size_t count) -> Status {
    for (size_t at = 0; at < count; ++at) pairs.emplace_back(found[at].first, found[at].second);
    return {};
  };
  CHECK_OK(backend.join(context, {.queries = queries.get(),
                                  .keys = self ? queries.get() : keys.get(),
                                  .threshold = threshold,
                                  .sink = sink}));
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

Rows viewOf(const std::vector<float>& data, int64_t dim) {
  return Rows(floatView(data.data(), static_cast<int64_t>(data.size()) / dim, dim));
}

void randomRows() {
  for (const int64_t dim : {1, 3, 16, 33, 100}) {
    for (const int64_t rows : {1, 2, 31, 200, 333}) {
      const std::vector<float> a = clusteredRows(rows, dim, 20, 0.1f, static_cast<uint64_t>(dim));
      const std::vector<float> b = clusteredRows(57, dim, 20, 0.1f, static_cast<uint64_t>(dim));
      for (const bool unit : {true, false}) {
        const double threshold = unit ? 0.9 : 2.0;
        const Pairs self = bruteForce(a, a, dim, unit, threshold, true);
        const Pairs cross = bruteForce(a, b, dim, unit, threshold, false);
        for (const int threads : {1, 2, 7}) {
          CHECK(joined(viewOf(a, dim), {}, unit, threshold, true, threads) == self);
          CHECK(joined(viewOf(a, dim), viewOf(b, dim), unit, threshold, false, threads) == cross);
        }
      }
    }
  }
}

// Thresholds that are the canonical dot of a pair: strictly over, so that pair is out and one step lower it
// is in.
void edges() {
  const int64_t dim = 48;
  const std::vector<float> data = clusteredRows(60, dim, 3, 0.2f, 5);
  const std::vector<float> x = compared(data, dim, true);
  for (int64_t i = 0; i < 59; ++i) {
    const double dot = canonicalDot(x.data() + i * dim, x.data() + (i + 1) * dim, dim);
    const std::pair<int32_t, int32_t> pair(i, i + 1);
    const Pairs at = joined(viewOf(data, dim), {}, true, dot, true, 2);
    const Pairs below = joined(viewOf(data, dim), {}, true, std::nextafter(dot, -2), true, 2);
    CHECK(std::find(at.begin(), at.end(), pair) == at.end());
    CHECK(std::find(below.begin(), below.end(), pair) != below.end());
    CHECK(at == bruteForce(data, data, dim, true, dot, true));
  }
}

// Everything is within the bound of the threshold; and float32 overflows.
void hostile() {
  const int64_t dim = 20, rows = 120;
  std::vector<float> same(static_cast<size_t>(rows * dim), 0.5f);
  for (int64_t i = 0; i < rows; ++i)
    same[static_cast<size_t>(i * dim + i % dim)] += static_cast<float>(i) * 1e-8f;
  const std::vector<float> unit = compared(same, dim, true);
  const double threshold = canonicalDot(unit.data(), unit.data() + dim, dim);
  CHECK(joined(viewOf(same, dim), {}, true, threshold, true, 2) ==
        bruteForce(same, same, dim, true, threshold, true));

  std::vector<float> huge = clusteredRows(90, dim, 9, 0.5f, 8);
  for (size_t i = 0; i < huge.size(); ++i) huge[i] *= i % 3 == 0 ? 1e38f : 1e-38f;
  for (const double limit : {0.0, 1e70, -1e70, 1e-70}) {
    CHECK(joined(viewOf(huge, dim), {}, false, limit, true, 2) ==
          bruteForce(huge, huge, dim, false, limit, true));
  }
  std::vector<float> tiny = clusteredRows(90, dim, 9, 0.5f, 9);
  for (float& value : tiny) value *= 1e-42f;
  CHECK(joined(viewOf(tiny, dim), {}, false, 1e-84, true, 2) ==
        bruteForce(tiny, tiny, dim, false, 1e-84, true));
  CHECK(joined(viewOf(tiny, dim), {}, true, 0.5, true, 2) == bruteForce(tiny, tiny, dim, true, 0.5, true));

  std::vector<float> bad = clusteredRows(40, dim, 2, 0.1f, 10);
  std::fill_n(bad.begin() + 3 * dim, dim, 0.0f);
  bad[static_cast<size_t>(7 * dim)] = std::numeric_limits<float>::quiet_NaN();
  bad[static_cast<size_t>(9 * dim + 4)] = -std::numeric_limits<float>::infinity();
  for (const double limit : {0.9, -0.5}) {
    CHECK(joined(viewOf(bad, dim), {}, true, limit, true, 2) == bruteForce(bad, bad, dim, true, limit, true));
  }
}

uint16_t halfBits(float value) {
  // Only for values of few bits, which a half holds exactly.
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (value == 0) return static_cast<uint16_t>(bits >> 16);
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | (((bits >> 23 & 0xff) - 112) << 10) |
                               (bits >> 13 & 0x3ff));
}

// The same rows as halves, as bfloat16, in a file, in chunks, strided, and in small blocks that are not kept.
void storage() {
  const int64_t dim = 37, rows = 300;
  std::vector<float> data = clusteredRows(rows, dim, 12, 0.3f, 6);
  std::vector<uint16_t> half, brain;
  for (float& value : data) {
    value = std::round(value * 16) / 16;
    half.push_back(halfBits(value));
    uint32_t bits;
    memcpy(&bits, &value, 4);
    brain.push_back(static_cast<uint16_t>(bits >> 16));
  }
  std::vector<float> strided(static_cast<size_t>(rows * (dim + 3)), 99);
  for (int64_t i = 0; i < rows; ++i) std::copy_n(data.data() + i * dim, dim, strided.data() + i * (dim + 3));
  char path[] = "/tmp/clipcid-join-XXXXXX";
  const int descriptor = mkstemp(path);
  CHECK(descriptor >= 0);
  const size_t bytes = half.size() * 2;
  CHECK(write(descriptor, "12345678", 8) == 8 &&
        write(descriptor, half.data(), bytes) == static_cast<ssize_t>(bytes));

  const Pairs expected = bruteForce(data, data, dim, true, 0.8, true);
  CHECK(!expected.empty());
  const PreparedLimits before = preparedLimits();
  for (const bool small : {false, true}) {
    if (small) preparedLimits() = {20000, 64, 3000};
    Rows chunks;
    chunks.chunks.push_back({{half.data(), Dtype::kFloat16, 100, dim, dim}, {}});
    chunks.chunks.push_back({{}, {path, 8 + 100 * dim * 2, Dtype::kFloat16, 77, dim}});
    chunks.chunks.push_back({{brain.data(), Dtype::kBfloat16, 0, dim, dim}, {}});
    chunks.chunks.push_back({{brain.data() + 177 * dim, Dtype::kBfloat16, 100, dim, dim}, {}});
    chunks.chunks.push_back({{strided.data() + 277 * (dim + 3), Dtype::kFloat32, 23, dim, dim + 3}, {}});
    CHECK(joined(chunks, {}, true, 0.8, true, 2) == expected);
    Rows file;
    file.chunks.push_back({{}, {path, 8, Dtype::kFloat16, rows, dim}});
    CHECK(joined(file, {}, true, 0.8, true, 3) == expected);
    CHECK(joined(file, viewOf(data, dim), true, 0.8, false, 2) ==
          bruteForce(data, data, dim, true, 0.8, false));
    std::shared_ptr<DeviceMatrix> uploaded;
    CHECK_OK(cpuBackend().upload(contextOf(1), chunks, &uploaded));
    CHECK(uploaded->dtype == Dtype::kFloat32 && joined(Rows(uploaded), {}, true, 0.8, true, 2) == expected);
    CHECK_OK(cpuBackend().upload(contextOf(1), file, &uploaded));
    CHECK(uploaded->dtype == Dtype::kFloat16 && joined(Rows(uploaded), {}, true, 0.8, true, 2) == expected);
  }
  preparedLimits() = before;

  Rows file;
  file.chunks.push_back({{}, {path, 8, Dtype::kFloat16, rows, dim}});
  // A file that becomes shorter is told whenever it is read again, and where it ends.
  std::unique_ptr<Prepared> prepared;
  CHECK_OK(cpuBackend().prepare(contextOf(2), {.rows = file, .unit = true}, &prepared));
  CHECK(ftruncate(descriptor, 1000) == 0);
  const auto ignore = [](const Pair*, const double*, size_t) { return Status(); };
  const Status shorter = cpuBackend().join(
      contextOf(2), {.queries = prepared.get(), .keys = prepared.get(), .threshold = 0.8, .sink = ignore});
  CHECK(shorter.code == Code::kFileFormat && shorter.message.find(path) != std::string::npos &&
        shorter.message.find("byte") != std::string::npos);
  CHECK(cpuBackend().prepare(contextOf(2), {.rows = file, .unit = true}, &prepared).code ==
        Code::kFileFormat);
  close(descriptor);
  unlink(path);
  CHECK(cpuBackend().prepare(contextOf(2), {.rows = file, .unit = true}, &prepared).code ==
        Code::kFileNotFound);
}

void sets() {
  for (int turn = 0; turn < 20; ++turn) {
    UnionFind sets(50);
    std::vector<int> label(50);
    for (int i = 0; i < 50; ++i) label[static_cast<size_t>(i)] = i;
    for (uint64_t edge = 0; edge < 30; ++edge) {
      const uint64_t draw = philox64(9, static_cast<uint64_t>(turn), edge);
      const auto a = static_cast<int32_t>(draw % 50), b = static_cast<int32_t>(draw / 50 % 50);
      sets.unite(a, b);
      const int first = label[static_cast<size_t>(a)], second = label[static_cast<size_t>(b)];
      for (int& value : label) value = value == first || value == second ? std::min(first, second) : value;
    }
    for (int i = 0; i < 50; ++i) CHECK(sets.find(i) == label[static_cast<size_t>(i)]);
  }
}

void groups() {
  const int64_t dim = 24, rows = 400;
  std::vector<float> data = clusteredRows(rows, dim, 60, 0.2f, 11);
  std::fill_n(data.begin() + 5 * dim, dim, 0.0f);
  std::vector<int32_t> labels(rows), first;
  std::vector<uint8_t> keep(rows);
  std::vector<float> centrality(rows);
  UnionFind sets(rows);
  for (const auto& [a, b] : bruteForce(data, data, dim, true, 0.95, true)) sets.unite(a, b);
  for (const int threads : {1, 2, 7}) {
    BalanceResult result;
    CHECK_OK(balance(cpuBackend(), contextOf(threads),
                     {.rows = viewOf(data, dim),
                      .threshold = 0.95,
                      .labels = labels.data(),
                      .keep = keep.data(),
                      .centrality = centrality.data()},
                     &result));
    std::set<int32_t> kept, all;
    for (int32_t i = 0; i < rows; ++i) {
      CHECK(labels[static_cast<size_t>(i)] == sets.find(i));
      all.insert(sets.find(i));
      if (keep[static_cast<size_t>(i)]) CHECK(kept.insert(sets.find(i)).second);
    }
    CHECK(kept == all && result.groups == static_cast<int64_t>(all.size()) && result.groups < rows);
    CHECK(result.faults == std::vector<int32_t>{5} && keep[5] == 1 && centrality[5] == 0);
  }
  BalanceResult empty;
  CHECK_OK(balance(cpuBackend(), contextOf(1), {.rows = Rows(floatView(nullptr, 0, dim)), .threshold = 0.9},
                   &empty));
  CHECK(empty.groups == 0);
}

void cancelled() {
  const int64_t dim = 64;
  const std::vector<float> data = clusteredRows(3000, dim, 10, 0.5f, 12);
  int32_t flag = 0;
  Context context = contextOf(2);
  context.cancel = &flag;
  double last = -1;
  context.progress = [&](double done, double total) {
    CHECK(done > last && done <= total);
    last = done;
    __atomic_store_n(&flag, 1, __ATOMIC_RELAXED);
  };
  std::vector<int32_t> labels(3000);
  std::vector<uint8_t> keep(3000);
  std::vector<float> centrality(3000);
  BalanceResult result;
  const Status status = balance(cpuBackend(), context,
                                {.rows = viewOf(data, dim),
                                 .threshold = 0.9,
                                 .labels = labels.data(),
                                 .keep = keep.data(),
                                 .centrality = centrality.data()},
                                &result);
  CHECK(status.code == Code::kAborted && last > 0);
}

}  // namespace

int main() {
  sets();
  randomRows();
  edges();
  hostile();
  storage();
  groups();
  cancelled();
  return report("join");
}
