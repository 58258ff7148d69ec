// Tiles, encodings, scores and their bounds, and the join on top of them, on the emulated device: against brute force in the
// canonical arithmetic, for every kind of multiplication, shape of tile and way of the device.
#include <algorithm>
#include <limits>
#include <set>

#include "core/union_find.h"
#include "cuda/bound.cuh"
#include "cuda/join.h"
#include "cuda/launch_mainloop.cuh"
#include "cuda/plan.h"
#include "cuda/rows.h"
#include "emulated.h"
#include "store_epilogue.h"

using namespace clipcid;
using namespace clipcid::cuda;
using namespace clipcid::test;

namespace {

// Large tiles, medium tiles, and the sm_90 mainloop.
constexpr int kDevices[] = {80, 86, 90};

void schedules() {
  for (const bool triangle : {false, true}) {
    for (const auto& [columnsOfItem, rowsOfItem] :
         {std::pair<int32_t, int32_t>{1, 1}, {3, 1}, {1, 2}, {3, 2}, {1, 4}}) {
      if (triangle && columnsOfItem != 1) continue;
      Schedule schedule;
      schedule.rowBegin = 2;
      schedule.rowEnd = 9;
      schedule.columnBegin = 1;
      schedule.columnEnd = 6;
      schedule.problems = triangle ? 1 : 3;
      schedule.columnsOfItem = columnsOfItem;
      schedule.rowsOfItem = rowsOfItem;
      schedule.triangle = triangle;
      schedule.tileRows = 4;
      schedule.tileColumns = 8;
      std::multiset<std::array<int32_t, 3>> seen, wanted;
      for (const int32_t blocks : {1, 4, 500}) {
        seen.clear();
        for (int32_t block = 0; block < blocks; ++block) {
          int32_t steps = 0;
          for (Cursor at(schedule, block, blocks); at.valid(schedule); at.advance(schedule, 2, blocks)) {
            CHECK(at.depth == steps++ % 2);
            bool any = false;
            for (int32_t number = 0; number < rowsOfItem; ++number) {
              const bool has = schedule.has(at.item, number);
              any = any || has;
              if (has && at.depth == 1) seen.insert({at.item.problem, at.item.rowTile + number, at.column});
            }
            CHECK(any && at.atFirstColumn() == (at.column == at.item.firstColumn));
          }
        }
        wanted.clear();
        for (int32_t problem = 0; problem < schedule.problems; ++problem) {
          for (int32_t row = 2; row < 9; ++row) {
            for (int32_t column = 1; column < 6; ++column) {
              // Whether any key of the tile is behind a query of it.
              if (!triangle || 8 * column + 7 > 4 * row) wanted.insert({problem, row, column});
            }
          }
        }
        CHECK(seen == wanted);
      }
    }
  }
}

void layouts() {
  // Chunks of a stage's rows: each in a place of its own, and eight rows' chunks of one index in eight different banks.
  std::set<int> places;
  for (int row = 0; row < 256; ++row) {
    for (int chunk = 0; chunk < kRowChunks; ++chunk) places.insert(chunkOffset(row, chunk));
  }
  CHECK(places.size() == 256 * kRowChunks && *places.rbegin() == 256 * kDepthBytes - kChunkBytes);
  for (int row = 0; row < 256; row += 8) {
    for (int chunk = 0; chunk < kRowChunks; ++chunk) {
      std::set<int> banks;
      for (int r = 0; r < 8; ++r) banks.insert(chunkOffset(row + r, chunk) % 128);
      CHECK(banks.size() == 8);
    }
  }
  std::set<std::pair<int, int>> tensor, plain;
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 8; ++r) {
      for (int c = 0; c < 8; ++c) {
        tensor.emplace(FragmentLayout<Dealt::kMma>::row(lane, r),
                       FragmentLayout<Dealt::kMma>::column(lane, c));
        plain.emplace(FragmentLayout<Dealt::kPlain>::row(lane, r),
                      FragmentLayout<Dealt::kPlain>::column(lane, c));
        CHECK(FragmentLayout<Dealt::kMma>::row(lane, r) == FragmentLayout<Dealt::kMma>::row(lane ^ 3, r));
      }
    }
  }
  CHECK(tensor.size() == 64 * 32 && *tensor.rbegin() == std::make_pair(63, 31));
  CHECK(plain.size() == 64 * 32 && *plain.rbegin() == std::make_pair(63, 31));
  static_assert(tileShapeOf(80) == TileShape::kLarge && tileShapeOf(89) == TileShape::kMedium &&
                tileShapeOf(100) == TileShape::kLarge && tileShapeOf(121) == TileShape::kMedium);
}

// Rows that are hard on a filter: of one kind each.
enum class Kind { kClusters, kTight, kCancelling, kOutlier, kIntegers, kTiny, kRanges };
constexpr Kind kKinds[] = {Kind::kClusters, Kind::kTight, Kind::kCancelling, Kind::kOutlier,
                           Kind::kIntegers, Kind::kTiny,  Kind::kRanges};

std::vector<float> rowsOf(Kind kind, int64_t rows, int64_t dim, uint64_t stream) {
  std::vector<float> data = clusteredRows(rows, dim, 6, 0.3f, stream);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < dim; ++k) {
      float& x = data[static_cast<size_t>(i * dim + k)];
      switch (kind) {
        case Kind::kClusters:
          break;
        case Kind::kTight:
          x = noise(77, static_cast<uint64_t>(k)) + 1e-5f * x;
          break;
        case Kind::kCancelling:
          x = (k % 2 == 0 || i % 2 == 0 ? 1.0f : -1.0f) * noise(78, static_cast<uint64_t>(k / 2)) + 1e-6f * x;
          break;
        case Kind::kOutlier:
          if (k == dim / 2) x = 40;
          break;
        case Kind::kIntegers:
          x = std::round(2 * x);
          break;
        case Kind::kTiny:
          x *= 1e-41f;
          break;
        case Kind::kRanges:
          x *= std::ldexp(1.0f, static_cast<int>(i * 7 % 90) - 60);
      }
    }
  }
  return data;
}

Device& deviceAt(int index) {
  Status status;
  Device* device = Device::get(index, &status);
  CHECK_OK(status);
  return *device;
}

template <typename T>
std::vector<T> fetched(const T* from, int64_t count, Session& session) {
  std::vector<T> out(static_cast<size_t>(count));
  CHECK_OK(copyToHost(out.data(), from, out.size() * sizeof(T), session.stream()));
  CHECK_OK(session.synchronise());
  return out;
}

// What a word stands for, in units.
double valueOf(Math math, const char* row, int64_t k) {
  if (math == Math::kFloat32) return static_cast<double>(reinterpret_cast<const float*>(row)[k]);
  if (math == Math::kFloat16)
    return static_cast<double>(widenFloat16(reinterpret_cast<const uint16_t*>(row)[k]));
  return reinterpret_cast<const int8_t*>(row)[k];
}

// Encodings are as good as they say, and scores are within the bounds that follow.
void scores(int index, Kind kind, int64_t dim, Filter filter, bool unit) {
  Device& device = deviceAt(index);
  const int64_t count = 70, keyCount = 150;
  const std::vector<float> a = rowsOf(kind, count, dim, 1), b = rowsOf(kind, keyCount, dim, 2);
  std::unique_ptr<Prepared> x, y;
  Backend& backend = emulatedBackend(index);
  CHECK_OK(backend.prepare(contextOf(1), {.rows = Rows(floatView(a.data(), count, dim)), .unit = unit}, &x));
  CHECK_OK(
      backend.prepare(contextOf(1), {.rows = Rows(floatView(b.data(), keyCount, dim)), .unit = unit}, &y));
  FilterPlan plan;
  CHECK_OK(planMath(contextOf(1), cudaPrepared(x.get()), cudaPrepared(y.get()), mathOf(filter), &plan));
  Session session(&device);
  CHECK_OK(session.begin());
  EncodedRows encoded[2];
  const CudaPrepared* sides[2] = {&cudaPrepared(x.get()), &cudaPrepared(y.get())};
  const std::vector<float> compare[2] = {compared(a, dim, unit), compared(b, dim, unit)};
  std::vector<RowBound> bounds[2];
  for (int side = 0; side < 2; ++side) {
    const Encoding& encoding = side == 0 ? plan.queries : plan.keys;
    CHECK_OK(encodeRows(device, session.stream(), sides[side]->all(), encoding, &encoded[side]));
    const EncodedView view = encoded[side].view();
    bounds[side] = fetched(view.bounds, view.count, session);
    const std::vector<RowBound> maxima =
        fetched(view.maxima, (view.count + kBoundGroup - 1) / kBoundGroup, session);
    const std::vector<char> words = fetched(view.words, view.count * view.stride, session);
    const std::vector<uint32_t> signs = spreadSigns();
    for (int64_t i = 0; i < view.count; ++i) {
      const RowBound bound = bounds[side][static_cast<size_t>(i)];
      const RowBound& most = maxima[static_cast<size_t>(i / kBoundGroup)];
      CHECK(most.error >= bound.error && most.length >= bound.length);
      if (encoding.spread) continue;  // seen in the scores
      double left = 0, length = 0;
      for (int64_t k = 0; k < view.stride / elementBytes(encoding.math); ++k) {
        const double value = valueOf(encoding.math, words.data() + i * view.stride, k);
        const double exact = k < dim ? static_cast<double>(compare[side][static_cast<size_t>(i * dim + k)]) *
                                           static_cast<double>(encoding.scale)
                                     : 0;
        left += (value - exact) * (value - exact);
        length += value * value;
      }
      CHECK(std::sqrt(left) <= static_cast<double>(bound.error) &&
            std::sqrt(length) <= static_cast<double>(bound.length));
      CHECK(static_cast<double>(bound.error) <=
            1.01 * std::sqrt(left) + 0x1p-20 * std::sqrt(length) + 0x1p-70);
    }
  }
  const TileSize tile = plan.tile();
  MainloopParams params;
  params.queries = {encoded[0].view().words, encoded[0].stride, static_cast<int32_t>(count)};
  params.keys = {encoded[1].view().words, encoded[1].stride, static_cast<int32_t>(keyCount)};
  params.depths = plan.depths();
  params.schedule.rowEnd = static_cast<int32_t>((count + tile.rows - 1) / tile.rows);
  params.schedule.columnEnd = static_cast<int32_t>((keyCount + tile.columns - 1) / tile.columns);
  Buffer<double> out;
  CHECK_OK(out.allocate(count * keyCount, session.stream()));
  CHECK_OK(launchMainloop<StoreEpilogue>(device, session.stream(), plan.math(), plan.shape, params,
                                         StoreParams{out.get(), count, keyCount}));
  const std::vector<double> found = fetched(out.get(), count * keyCount, session);
  double worst = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < keyCount; ++j) {
      const double dot =
          canonicalDot(compare[0].data() + i * dim, compare[1].data() + j * dim, dim) * plan.scoreUnits();
      const auto bound = static_cast<double>(
          scoreBound(bounds[0][static_cast<size_t>(i)], bounds[1][static_cast<size_t>(j)], plan.terms()));
      const double off = std::fabs(found[static_cast<size_t>(i * keyCount + j)] - dot);
      CHECK(off <= bound);
      worst = std::max(worst, off / bound);
    }
  }
  // A bound that nothing comes near would be no good either.
  if (kind == Kind::kClusters && filter != Filter::kFloat32 && dim > 32) CHECK(worst > 0.01);
}

void allScores() {
  const emulator::Options before = emulator::options();
  for (const Rounding rounding : {Rounding::kExact, Rounding::kTruncated, Rounding::kWorst}) {
    emulator::options().rounding = rounding;
    for (const Kind kind : kKinds) {
      for (const Filter filter : {Filter::kFloat32, Filter::kBfloat16, Filter::kInt8}) {
        for (const bool unit : {true, false}) scores(1, kind, 100, filter, unit);
      }
    }
    for (const Filter filter : {Filter::kFloat32, Filter::kBfloat16, Filter::kInt8}) {
      for (const int64_t dim : {1, 3, 33, 64}) {
        scores(1, Kind::kClusters, dim, filter, true);
        scores(2, Kind::kClusters, dim, filter, true);
      }
      scores(0, Kind::kClusters, 300, filter, true);
      scores(2, Kind::kClusters, 300, filter, true);
    }
  }
  emulator::options() = before;
}

using Pairs = std::vector<std::pair<int32_t, int32_t>>;

bool faulty(const float* row, int64_t dim, bool unit) {
  const double square = canonicalDot(row, row, dim);
  return !std::isfinite(square) || (unit && square == 0);
}

// With the dots, by pair.
std::vector<std::pair<std::pair<int32_t, int32_t>, double>> bruteForce(const std::vector<float>& a,
                                                                       const std::vector<float>& b,
                                                                       int64_t dim, bool unit,
                                                                       double threshold, bool self) {
  const std::vector<float> x = compared(a, dim, unit), y = compared(b, dim, unit);
  std::vector<std::pair<std::pair<int32_t, int32_t>, double>> pairs;
  const auto rows = static_cast<int64_t>(a.size()) / dim, keys = static_cast<int64_t>(b.size()) / dim;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = self ? i + 1 : 0; j < keys; ++j) {
      if (faulty(a.data() + i * dim, dim, unit) || faulty(b.data() + j * dim, dim, unit)) continue;
      const double dot = canonicalDot(x.data() + i * dim, y.data() + j * dim, dim);
      if (dot > threshold) pairs.push_back({{static_cast<int32_t>(i), static_cast<int32_t>(j)}, dot});
    }
  }
  return pairs;
}

struct Case {
  std::vector<float> a, b;  // b empty for a self-join
  int64_t dim;
  bool unit;
  double threshold;
};

Context contextFor(Filter filter, int64_t memory) {
  Context context = contextOf(2);
  context.filter = filter;
  context.maxDeviceMemory = memory;
  return context;
}

void checkJoin(const Case& one, int index, const Context& context) {
  Backend& backend = emulatedBackend(index);
  const bool self = one.b.empty();
  const auto view = [&](const std::vector<float>& data) {
    return Rows(floatView(data.data(), static_cast<int64_t>(data.size()) / one.dim, one.dim));
  };
  const auto wanted = bruteForce(one.a, self ? one.a : one.b, one.dim, one.unit, one.threshold, self);
  std::unique_ptr<Prepared> queries, keys;
  CHECK_OK(backend.prepare(context, {.rows = view(one.a), .unit = one.unit}, &queries));
  if (!self) CHECK_OK(backend.prepare(context, {.rows = view(one.b), .unit = one.unit}, &keys));
  for (const bool withDots : {false, true}) {
    std::vector<std::pair<std::pair<int32_t, int32_t>, double>> found;
    std::string plan;
    const auto sink = [&](const Pair* pairs, const double* dots, size_t count) -> Status {
      CHECK((dots != nullptr) == withDots && count > 0);
      for (size_t at = 0; at < count; ++at)
        found.push_back({{pairs[at].first, pairs[at].second}, withDots ? dots[at] : 0});
      return {};
    };
    CHECK_OK(backend.join(context, {.queries = queries.get(),
                                    .keys = self ? queries.get() : keys.get(),
                                    .threshold = one.threshold,
                                    .dots = withDots,
                                    .sink = sink,
                                    .plan = &plan}));
    CHECK(!plan.empty());
    std::sort(found.begin(), found.end());
    CHECK(found.size() == wanted.size());
    for (size_t at = 0; at < std::min(found.size(), wanted.size()); ++at)
      CHECK(found[at].first == wanted[at].first && (!withDots || found[at].second == wanted[at].second));
  }
  if (!self) return;
  const int64_t rows = queries->rows;
  for (const bool skips : {false, true}) {
    std::vector<uint8_t> skip(static_cast<size_t>(rows), 0);
    for (int64_t i = 0; i < rows; i += 5) skip[static_cast<size_t>(i)] = skips;
    UnionFind sets(rows);
    int64_t count = 0;
    for (const auto& [pair, dot] : wanted) {
      if (skip[static_cast<size_t>(pair.first)] != 0 || skip[static_cast<size_t>(pair.second)] != 0) continue;
      sets.unite(pair.first, pair.second);
      ++count;
    }
    std::vector<int32_t> labels(static_cast<size_t>(rows), -1);
    int64_t edges = -1;
    CHECK_OK(backend.components(context, {.rows = queries.get(),
                                          .threshold = one.threshold,
                                          .skip = skips ? skip.data() : nullptr,
                                          .labels = labels.data(),
                                          .edges = &edges}));
    CHECK(edges == count);
    for (int32_t i = 0; i < rows; ++i) CHECK(labels[static_cast<size_t>(i)] == sets.find(i));
  }
}

// A threshold that is the dot of a pair, and one a float64 below.
double edgeOf(const Case& one) {
  const std::vector<float> x = compared(one.a, one.dim, one.unit);
  return canonicalDot(x.data(), x.data() + 7 * one.dim, one.dim);
}

constexpr Filter kFilters[] = {Filter::kAuto, Filter::kFloat32, Filter::kBfloat16, Filter::kInt8};

void joins() {
  for (const Filter filter : kFilters) {
    for (const Kind kind : kKinds) {
      // Of the devices each has its turn.
      const int index = (static_cast<int>(kind) + static_cast<int>(filter)) % 3;
      Case one{rowsOf(kind, 270, 40, 3), {}, 40, kind != Kind::kRanges, 0};
      one.threshold = edgeOf(one);
      checkJoin(one, index, contextFor(filter, 0));
      one.threshold = std::nextafter(one.threshold, -10);
      one.b = rowsOf(kind, 139, 40, 3);
      checkJoin(one, index, contextFor(filter, 0));
    }
  }
  // Sizes round a tile's edges, and rows of few or of many elements.
  for (const auto& [rows, dim] :
       {std::pair<int64_t, int64_t>{1, 5}, {2, 1}, {127, 17}, {128, 64}, {129, 65}, {257, 31}, {65, 600}}) {
    Case one{rowsOf(Kind::kClusters, rows, dim, 9), {}, dim, true, 0.8};
    checkJoin(one, 0, contextFor(Filter::kBfloat16, 0));
    checkJoin(one, 2, contextFor(Filter::kBfloat16, 0));
    one.b = rowsOf(Kind::kClusters, 3, dim, 9);
    one.unit = false;
    checkJoin(one, 1, contextFor(Filter::kInt8, 0));
    checkJoin(one, 2, contextFor(Filter::kInt8, 0));
  }
}

void hostileJoins() {
  Case one{rowsOf(Kind::kClusters, 260, 24, 4), {}, 24, true, 0.7};
  std::fill_n(one.a.begin() + 3 * 24, 24, 0.0f);
  one.a[5 * 24 + 23] = std::numeric_limits<float>::quiet_NaN();
  one.a[200 * 24] = std::numeric_limits<float>::infinity();
  for (size_t k = 0; k < 24; ++k) {
    one.a[6 * 24 + k] *= 1e37f;
    one.a[7 * 24 + k] *= 1e-44f;
  }
  for (const Filter filter : kFilters) {
    for (const double threshold : {-1.0, 0.0, 0.7, 0.99}) {
      one.threshold = threshold;
      checkJoin(one, 1, contextFor(filter, 0));
    }
    one.unit = false;
    for (const double threshold : {0.0, 1e-70, -1e70, 1e70}) {
      one.threshold = threshold;
      checkJoin(one, 1, contextFor(filter, 0));
    }
    one.unit = true;
  }
}

// Lists that are too short, bands of few tiles, and blocks that are brought one after the other.
void smallJoins() {
  const JoinLimits before = joinLimits();
  for (const Filter filter : {Filter::kBfloat16, Filter::kInt8}) {
    for (const Kind kind : {Kind::kClusters, Kind::kTight}) {
      Case one{rowsOf(kind, 520, 16, 6), {}, 16, true, 0};
      one.threshold = edgeOf(one);
      joinLimits() = {1, 1 << 16};
      checkJoin(one, 1, contextFor(filter, 0));
      joinLimits() = {0, 3};
      checkJoin(one, 1, contextFor(filter, 0));
      joinLimits() = before;
      checkJoin(one, 1, contextFor(filter, 1 << 17));
      one.b = rowsOf(kind, 300, 16, 6);
      checkJoin(one, 1, contextFor(filter, 1 << 17));
    }
  }
  joinLimits() = before;
}

void cancelled() {
  const std::vector<float> data = rowsOf(Kind::kClusters, 900, 16, 12);
  int32_t flag = 0;
  Context context = contextOf(2);
  context.cancel = &flag;
  double last = -1;
  context.progress = [&](double done, double total) {
    CHECK(done > last && done <= total);
    last = done;
    __atomic_store_n(&flag, 1, __ATOMIC_RELAXED);
  };
  joinLimits().bandTiles = 2;
  std::unique_ptr<Prepared> rows;
  CHECK_OK(emulatedBackend().prepare(context, {.rows = Rows(floatView(data.data(), 900, 16)), .unit = true},
                                     &rows));
  std::vector<int32_t> labels(900);
  int64_t edges;
  const Status status = emulatedBackend().components(
      context, {.rows = rows.get(), .threshold = 0.9, .labels = labels.data(), .edges = &edges});
  CHECK(status.code == Code::kAborted && last > 0);
  joinLimits() = JoinLimits();
  // A failure of the sink ends the join.
  flag = 0;
  context.progress = nullptr;
  const auto sink = [](const Pair*, const double*, size_t) { return Status(Code::kFileFormat, "no"); };
  CHECK(emulatedBackend()
            .join(context, {.queries = rows.get(), .keys = rows.get(), .threshold = 0.5, .sink = sink})
            .code == Code::kFileFormat);
}

// The widest rows that are spread: of 8.6 a block has memory for three at a time, of others for all of its warps.
void widestSpread() {
  const int64_t count = 9, dim = kWidestSpread;
  const std::vector<float> data = rowsOf(Kind::kClusters, count, dim, 4);
  std::vector<char> words[2];
  for (const int index : {0, 1}) {
    std::unique_ptr<Prepared> rows;
    CHECK_OK(emulatedBackend(index).prepare(
        contextOf(1), {.rows = Rows(floatView(data.data(), count, dim)), .unit = true}, &rows));
    Session session(&deviceAt(index));
    CHECK_OK(session.begin());
    Encoding encoding;
    encoding.math = Math::kInt8;
    encoding.spread = true;
    encoding.scale = 1000;
    EncodedRows encoded;
    CHECK_OK(
        encodeRows(deviceAt(index), session.stream(), cudaPrepared(rows.get()).all(), encoding, &encoded));
    words[index] = fetched(encoded.view().words, count * encoded.stride, session);
  }
  CHECK(words[0] == words[1]);
}

}  // namespace

int main() {
  emulator::options().devices.clear();
  for (const int architecture : kDevices)
    emulator::options().devices.push_back(emulator::deviceOf(architecture));
  schedules();
  layouts();
  allScores();
  widestSpread();
  joins();
  hostileJoins();
  smallJoins();
  inAllWays(
      [] {
        Case one{rowsOf(Kind::kClusters, 260, 70, 3), {}, 70, true, 0.85};
        checkJoin(one, 0, contextFor(Filter::kInt8, 0));
        checkJoin(one, 1, contextFor(Filter::kBfloat16, 1 << 19));
        checkJoin(one, 1, contextFor(Filter::kFloat32, 0));
        checkJoin(one, 2, contextFor(Filter::kInt8, 0));
        checkJoin(one, 2, contextFor(Filter::kBfloat16, 1 << 19));
      },
      {1, 2});
  cancelled();
  return report("cuda join");
}
