// The primitives of every usable CUDA device against those of the CPU, equal to the bit where the contract says so, and the
// loss's against float64: what runs under compute-sanitizer, and on the emulated device among the other tests. Sizes are small
// and odd.
//
// Exit codes: 0 equal, 1 not, 77 there is no usable device.
#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>

#include "core/balance.h"
#include "core/kmeans.h"
#include "cuda/devices.h"
#include "loss_checks.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

constexpr int kNoDevice = 77;
constexpr Filter kFilters[] = {Filter::kFloat32, Filter::kBfloat16, Filter::kInt8};

Rows viewOf(const std::vector<float>& data, int64_t dim) {
  return Rows(floatView(data.data(), static_cast<int64_t>(data.size()) / dim, dim));
}

Context contextFor(Filter filter, int64_t deviceMemory = 0) {
  Context context = contextOf(2, 3);
  context.filter = filter;
  context.maxDeviceMemory = deviceMemory;
  return context;
}

std::unique_ptr<Prepared> prepared(Backend& backend, const Context& context, const std::vector<float>& data,
                                   int64_t dim, bool unit) {
  std::unique_ptr<Prepared> out;
  CHECK_OK(backend.prepare(context, {.rows = viewOf(data, dim), .unit = unit}, &out));
  return out;
}

// Both back ends with the same rows.
struct Sides {
  Sides(Backend& device, const Context& context, const std::vector<float>& queries,
        const std::vector<float>& keys, int64_t dim, bool unit) {
    Backend* backends[] = {&device, &cpuBackend()};
    for (int at = 0; at < 2; ++at) {
      backend[at] = backends[at];
      x[at] = prepared(*backends[at], context, queries, dim, unit);
      y[at] = prepared(*backends[at], context, keys, dim, unit);
    }
    CHECK(x[0]->squares == x[1]->squares && x[0]->faults == x[1]->faults && x[0]->largest == x[1]->largest);
  }
  Backend* backend[2];
  std::unique_ptr<Prepared> x[2], y[2];
};

using Edge = std::tuple<int32_t, int32_t, double>;

void joins(Backend& device, const Context& context, const std::vector<float>& data, int64_t dim, bool unit,
           double threshold) {
  const Sides sides(device, context, data, data, dim, unit);
  std::vector<Edge> edges[2];
  std::vector<int32_t> labels[2];
  int64_t count[2] = {0, 0};
  for (int at = 0; at < 2; ++at) {
    const auto collect = [&](const Pair* pairs, const double* dots, size_t number) -> Status {
      for (size_t i = 0; i < number; ++i) edges[at].emplace_back(pairs[i].first, pairs[i].second, dots[i]);
      return {};
    };
    const JoinArgs args{.queries = sides.x[at].get(),
                        .keys = sides.x[at].get(),
                        .threshold = threshold,
                        .dots = true,
                        .sink = collect};
    CHECK_OK(sides.backend[at]->join(context, args));
    std::sort(edges[at].begin(), edges[at].end());
    labels[at].resize(static_cast<size_t>(sides.x[at]->rows));
    CHECK_OK(sides.backend[at]->components(context, {.rows = sides.x[at].get(),
                                                     .threshold = threshold,
                                                     .labels = labels[at].data(),
                                                     .edges = &count[at]}));
  }
  CHECK(!edges[1].empty());
  CHECK(edges[0] == edges[1] && labels[0] == labels[1] && count[0] == count[1]);
}

void selections(Backend& device, const Context& context, const std::vector<float>& queries,
                const std::vector<float>& keys, int64_t dim, bool unit, int64_t k) {
  const Sides sides(device, context, queries, keys, dim, unit);
  const auto rows = static_cast<size_t>(sides.x[0]->rows);
  std::vector<int32_t> best[2], top[2];
  std::vector<double> bestScores[2], topScores[2];
  for (int at = 0; at < 2; ++at) {
    best[at].resize(rows);
    bestScores[at].resize(rows);
    CHECK_OK(sides.backend[at]->best(context, {.queries = sides.x[at].get(),
                                               .keys = sides.y[at].get(),
                                               .euclidean = !unit,
                                               .indices = best[at].data(),
                                               .scores = bestScores[at].data()}));
    top[at].resize(rows * static_cast<size_t>(k));
    topScores[at].resize(top[at].size());
    CHECK_OK(sides.backend[at]->topK(context, {.queries = sides.x[at].get(),
                                               .keys = sides.y[at].get(),
                                               .k = k,
                                               .indices = top[at].data(),
                                               .scores = topScores[at].data()}));
  }
  CHECK(best[0] == best[1] && bestScores[0] == bestScores[1]);
  CHECK(top[0] == top[1] && topScores[0] == topScores[1]);
}

// Rows whose products cancel, one of them huge: what tensor cores lose in their sums must be within the bound, or a wrong
// pair is ruled in or out.
std::vector<float> cancelling(int64_t rows, int64_t dim) {
  std::vector<float> data(static_cast<size_t>(rows * dim));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < dim; ++k) {
      const auto at = static_cast<size_t>(i * dim + k);
      data[at] = 1e-3f * noise(31, at) + ((k + i) % 2 == 0 ? 1.0f : -1.0f) * (k == i % dim ? 1000.0f : 0.3f);
    }
  }
  return data;
}

void sums(Backend& device, const Context& context) {
  const int64_t dim = 37, rows = 190, segments = 11;
  const std::vector<float> data = clusteredRows(rows, dim, 5, 0.4f, 5);
  for (const bool unit : {true, false}) {
    const Sides sides(device, context, data, data, dim, unit);
    std::vector<int32_t> segmentOf(static_cast<size_t>(rows));
    std::vector<Pair> pairs;
    std::vector<int64_t> some;
    for (int32_t i = 0; i < rows; ++i) {
      segmentOf[static_cast<size_t>(i)] = i * 7 % segments;
      pairs.push_back({i, (i * 13 + 5) % static_cast<int32_t>(rows)});
      if (i % 3 == 0) some.push_back(rows - 1 - i);
    }
    std::vector<int64_t> sums[2];
    std::vector<double> dots[2];
    std::vector<float> gathered[2];
    for (int at = 0; at < 2; ++at) {
      sums[at].resize(static_cast<size_t>(segments * dim));
      dots[at].resize(pairs.size());
      gathered[at].resize(some.size() * static_cast<size_t>(dim));
      CHECK_OK(sides.backend[at]->segmentSum(context, {.rows = sides.x[at].get(),
                                                       .segments = segmentOf.data(),
                                                       .segmentCount = segments,
                                                       .scale = 0x1p40,
                                                       .sums = sums[at].data()}));
      CHECK_OK(sides.backend[at]->pairDots(context, {.queries = sides.x[at].get(),
                                                     .keys = sides.y[at].get(),
                                                     .pairs = pairs.data(),
                                                     .count = static_cast<int64_t>(pairs.size()),
                                                     .dots = dots[at].data()}));
      CHECK_OK(sides.backend[at]->gather(context, {.rows = sides.x[at].get(),
                                                   .indices = some.data(),
                                                   .count = static_cast<int64_t>(some.size()),
                                                   .out = gathered[at].data()}));
    }
    CHECK(sums[0] == sums[1] && dots[0] == dots[1] && gathered[0] == gathered[1]);
  }
}

void clusterings(Backend& device, const Context& context, int64_t batch, bool spherical) {
  const int64_t dim = 20, rows = 420, clusters = 7;
  const std::vector<float> data = clusteredRows(rows, dim, 30, 0.6f, 9);
  std::vector<float> centroids[2];
  std::vector<int32_t> labels[2], counts[2], iterations[2];
  std::vector<double> inertia[2];
  Backend* backends[] = {&device, &cpuBackend()};
  for (int at = 0; at < 2; ++at) {
    centroids[at].resize(static_cast<size_t>(batch * clusters * dim));
    labels[at].resize(static_cast<size_t>(rows));
    counts[at].resize(static_cast<size_t>(batch * clusters));
    iterations[at].resize(static_cast<size_t>(batch));
    inertia[at].resize(static_cast<size_t>(batch));
    CHECK_OK(kmeans(*backends[at], context,
                    {.rows = viewOf(data, dim),
                     .batch = batch,
                     .clusters = clusters,
                     .spherical = spherical,
                     .maxIterations = 9,
                     .centroids = centroids[at].data(),
                     .labels = labels[at].data(),
                     .counts = counts[at].data(),
                     .inertia = inertia[at].data(),
                     .iterations = iterations[at].data()}));
  }
  CHECK(centroids[0] == centroids[1] && labels[0] == labels[1] && counts[0] == counts[1]);
  CHECK(iterations[0] == iterations[1] && inertia[0] == inertia[1]);
}

void training(Backend& device) {
  const Context context = contextOf(2);
  const int64_t m = 70, n = 131, k = 33;
  std::vector<float> a(static_cast<size_t>(m * k)), b(static_cast<size_t>(k * n));
  for (size_t i = 0; i < a.size(); ++i) a[i] = noise(41, i);
  for (size_t i = 0; i < b.size(); ++i) b[i] = noise(42, i);
  std::vector<float> c[2];
  Backend* backends[] = {&device, &cpuBackend()};
  for (int at = 0; at < 2; ++at) {
    c[at].assign(static_cast<size_t>(m * n), std::numeric_limits<float>::quiet_NaN());
    CHECK_OK(backends[at]->matmul(context, {.a = a.data(),
                                            .b = b.data(),
                                            .c = c[at].data(),
                                            .m = m,
                                            .n = n,
                                            .k = k,
                                            .strideA = k,
                                            .strideB = n,
                                            .strideC = n}));
  }
  for (size_t i = 0; i < c[0].size(); ++i) CHECK(std::fabs(c[0][i] - c[1][i]) < 1e-4f);

  const int64_t length = 5000;
  std::vector<float> values[2][4];
  double norms[2];
  for (int at = 0; at < 2; ++at) {
    for (uint64_t which = 0; which < 4; ++which) {
      for (int64_t i = 0; i < length; ++i) {
        const float value = noise(50 + which, static_cast<uint64_t>(i));
        values[at][which].push_back(which == 3 ? value * value : value);
      }
    }
    CHECK_OK(backends[at]->adamw(context, {.parameters = values[at][0].data(),
                                           .gradients = values[at][1].data(),
                                           .first = values[at][2].data(),
                                           .second = values[at][3].data(),
                                           .length = length,
                                           .step = 3,
                                           .rate = 1e-3,
                                           .decay = 0.1,
                                           .groups = {{3000, 1, 1}, {2000, 0.5, 0}},
                                           .gradientNorm = &norms[at]}));
  }
  CHECK(std::fabs(norms[0] / norms[1] - 1) < 1e-12);
  for (int which = 0; which < 4; ++which) CHECK(values[0][which] == values[1][which]);
}

// Round the edges of tiles, and over several parts of sums; runs are compared to the bit.
void losses(Backend& device) {
  primitive(device, 70, 133, 35, 10, 2);
  contrast(device, 131, 66, 14, true, true, 2);
  contrast(device, 65, 20, 30, false, false, 2);
  distil(device, {67, 140, 20, 50, true, true, true, true}, 2);
  distil(device, {5, 1100, 64, 20, true, false, false, false}, 2);
  distil(device, {40, 60, 130, 20, false, false, true, false}, 2);
  loss(device, 30, 33, 20, 70, true, Pairing::kBoth, 2);
}

void all(Backend& device) {
  for (const Filter filter : kFilters) {
    for (const bool unit : {true, false}) {
      const Context context = contextFor(filter);
      joins(device, context, clusteredRows(300, 40, 9, 0.3f, 2), 40, unit, unit ? 0.9 : 30);
      joins(device, context, cancelling(150, 96), 96, unit, unit ? 0.2 : 10);
      selections(device, context, clusteredRows(150, 40, 9, 0.3f, 2), clusteredRows(333, 40, 9, 0.3f, 3), 40,
                 unit, 6);
      selections(device, context, cancelling(70, 64), cancelling(90, 64), 64, unit, 3);
    }
  }
  // Streamed from the host, block by block.
  const Context small = contextFor(Filter::kBfloat16, 1 << 17);
  joins(device, small, clusteredRows(700, 24, 30, 0.3f, 4), 24, true, 0.9);
  selections(device, small, clusteredRows(300, 24, 9, 0.3f, 2), clusteredRows(700, 24, 9, 0.3f, 3), 24, true,
             4);
  for (const Context& context : {contextFor(Filter::kAuto), small}) {
    sums(device, context);
    for (const int64_t batch : {1, 3}) {
      clusterings(device, context, batch, true);
      clusterings(device, context, batch, false);
    }
  }
  losses(device);
  training(device);
}

}  // namespace

int main() {
  const CudaDevices found = cudaDevices();
  int usable = 0;
  for (size_t index = 0; index < found.devices.size(); ++index) {
    if (!found.devices[index].usable) continue;
    Status status;
    Backend* backend = cudaBackend(static_cast<int>(index), &status);
    CHECK_OK(status);
    if (backend == nullptr) continue;
    std::printf("device: cuda:%zu, %s\n", index, found.devices[index].name.c_str());
    all(*backend);
    ++usable;
  }
  if (usable > 0) return report("device");
  const std::string& reason = found.devices.empty() ? found.reason : found.devices[0].reason;
  std::printf("device: there is no usable CUDA device (%s)\n", reason.c_str());
  return kNoDevice;
}
