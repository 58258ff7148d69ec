// K-means whose iterations stay on the emulated device, against the CPU's: equal to the bit.
#include <algorithm>
#include <bit>

#include "core/kmeans.h"
#include "cuda/best_pass.h"
#include "emulated.h"

using namespace clipcid;
using namespace clipcid::cuda;
using namespace clipcid::test;

namespace {

struct Outcome {
  std::vector<float> centroids;
  std::vector<int32_t> labels, counts, iterations;
  std::vector<double> inertia;
  bool operator==(const Outcome&) const = default;
};

Outcome cluster(Backend& backend, const Context& context, const Rows& rows, KmeansArgs args) {
  const int64_t centres = args.batch * args.clusters;
  Outcome out{std::vector<float>(static_cast<size_t>(centres * rows.dim())),
              std::vector<int32_t>(static_cast<size_t>(rows.count())),
              std::vector<int32_t>(static_cast<size_t>(centres)),
              std::vector<int32_t>(static_cast<size_t>(args.batch)),
              std::vector<double>(static_cast<size_t>(args.batch))};
  args.rows = rows;
  args.centroids = out.centroids.data();
  args.labels = out.labels.data();
  args.counts = out.counts.data();
  args.inertia = out.inertia.data();
  args.iterations = out.iterations.data();
  CHECK_OK(kmeans(backend, context, args));
  return out;
}

Rows viewOf(const std::vector<float>& data, int64_t dim) {
  return Rows(floatView(data.data(), static_cast<int64_t>(data.size()) / dim, dim));
}

void same(const std::vector<float>& data, int64_t dim, const KmeansArgs& args,
          Filter filter = Filter::kAuto) {
  Context context = contextOf(2, 5);
  context.filter = filter;
  const Outcome wanted = cluster(cpuBackend(), contextOf(2, 5), viewOf(data, dim), args);
  for (const int index : {0, 1}) {
    Backend& backend = emulatedBackend(index);
    CHECK(backend.iterates(context, args.batch, viewOf(data, dim).count() / args.batch, dim, args.clusters));
    CHECK(cluster(backend, context, viewOf(data, dim), args) == wanted);
  }
}

std::vector<float> someWeights(int64_t rows) {
  std::vector<float> weights(static_cast<size_t>(rows));
  for (size_t i = 0; i < weights.size(); ++i)
    weights[i] = i % 7 == 3 ? 0.0f : std::fabs(noise(81, i)) + (i % 11 == 0 ? 30.0f : 0.01f);
  return weights;
}

void plain() {
  for (const bool spherical : {true, false}) {
    for (const int64_t dim : {1, 17, 40}) {
      const std::vector<float> data = clusteredRows(330, dim, 9, 0.5f, 51);
      const std::vector<float> weights = someWeights(330);
      for (const int64_t batch : {1, 3}) {
        for (const int64_t iterations : {0, 1, 12}) {
          same(data, dim,
               {.weights = dim == 17 ? weights.data() : nullptr,
                .batch = batch,
                .clusters = 8,
                .spherical = spherical,
                .maxIterations = iterations},
               dim == 40 ? Filter::kBfloat16 : Filter::kAuto);
        }
      }
    }
  }
}

// All the ways to end: problems of a batch after different numbers of iterations, the better of several runs.
void ends() {
  const int64_t dim = 12;
  std::vector<float> data = clusteredRows(400, dim, 5, 0.3f, 52);
  const std::vector<float> wild = clusteredRows(400, dim, 90, 1.0f, 53);
  data.insert(data.end(), wild.begin(), wild.end());
  for (const bool spherical : {true, false}) {
    const KmeansArgs args{.batch = 2, .clusters = 9, .spherical = spherical, .maxIterations = 25};
    const Outcome one = cluster(emulatedBackend(), contextOf(2, 5), viewOf(data, dim), args);
    CHECK(one.iterations[0] != one.iterations[1]);
    CHECK(one == cluster(cpuBackend(), contextOf(2, 5), viewOf(data, dim), args));
    KmeansArgs other = args;
    other.tolerance = 0.03;
    same(data, dim, other);
    other = args;
    other.movement = 0.01;
    const std::vector<float> weights = someWeights(800);
    other.weights = weights.data();
    same(data, dim, other);
    other = args;
    other.runs = 3;
    other.init = KmeansInit::kRandom;
    same(data, dim, other);
  }
}

// Centres without rows: those that are filled, in one problem of a batch or in all, again and again, or never.
void empties() {
  const int64_t dim = 6;
  const std::vector<float> data = clusteredRows(300, dim, 20, 0.4f, 54);
  std::vector<float> given(data.begin(), data.begin() + 10 * dim);
  for (const int64_t far : {2, 5, 6})
    for (int64_t k = 0; k < dim; ++k)
      given[static_cast<size_t>(far * dim + k)] = 100.0f * static_cast<float>(far);
  for (const bool spherical : {true, false}) {
    same(data, dim,
         {.batch = 2,
          .clusters = 5,
          .spherical = spherical,
          .init = KmeansInit::kGiven,
          .given = given.data(),
          .maxIterations = 15});
    // Copies: all but one centre are empty, before every iteration.
    std::vector<float> copies;
    for (int i = 0; i < 40; ++i) copies.insert(copies.end(), data.begin(), data.begin() + dim);
    same(copies, dim, {.clusters = 5, .spherical = spherical, .maxIterations = 4});
    // Fewer rows of positive weight than centres.
    std::vector<float> weights(300, 0.0f);
    for (size_t i = 0; i < 300; i += 100) weights[i] = 2;
    same(data, dim,
         {.weights = weights.data(),
          .clusters = 7,
          .spherical = spherical,
          .init = KmeansInit::kRandom,
          .maxIterations = 5});
  }
  same(data, dim, {.clusters = 300, .spherical = false, .init = KmeansInit::kRandom, .maxIterations = 3});
}

// Rows of 16 bits on the host and on the device, open queries without room, lists that overflow.
void hard() {
  const int64_t dim = 24;
  std::vector<float> data = clusteredRows(260, dim, 40, 1e-3f, 55);
  for (size_t at = 0; at < data.size(); ++at) data[at] += 3;
  const BestLimits before = bestLimits();
  bestLimits().open = 3;
  bestLimits().again = 5;
  for (const bool spherical : {true, false})
    same(data, dim, {.clusters = 30, .spherical = spherical, .init = KmeansInit::kRandom, .maxIterations = 6},
         Filter::kBfloat16);
  bestLimits() = before;

  std::vector<uint16_t> bits;
  for (const float value : data) bits.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
  const Rows host(MatrixView{bits.data(), Dtype::kBfloat16, 260, dim, dim});
  std::shared_ptr<DeviceMatrix> matrix;
  CHECK_OK(emulatedBackend().upload(contextOf(2), host, &matrix));
  const KmeansArgs args{.batch = 2, .clusters = 6, .maxIterations = 9};
  const Outcome wanted = cluster(cpuBackend(), contextOf(2, 5), host, args);
  CHECK(cluster(emulatedBackend(), contextOf(2, 5), host, args) == wanted);
  CHECK(cluster(emulatedBackend(), contextOf(2, 5), Rows(matrix), args) == wanted);
}

// Without room on the device rows are streamed, and iterations are the host's; the answer stays.
void streamed() {
  const int64_t dim = 16;
  const std::vector<float> data = clusteredRows(2000, dim, 12, 0.5f, 56);
  const KmeansArgs args{.clusters = 10, .init = KmeansInit::kRandom, .maxIterations = 4};
  Context context = contextOf(2, 5);
  context.maxDeviceMemory = 1 << 16;
  CHECK(!emulatedBackend().iterates(context, 1, 2000, dim, 10));
  CHECK(cluster(emulatedBackend(), context, viewOf(data, dim), args) ==
        cluster(cpuBackend(), contextOf(2, 5), viewOf(data, dim), args));
}

void troubles() {
  const int64_t dim = 8;
  std::vector<float> data = clusteredRows(200, dim, 6, 0.5f, 57);
  Outcome out{std::vector<float>(static_cast<size_t>(5 * dim)), std::vector<int32_t>(200),
              std::vector<int32_t>(5), std::vector<int32_t>(1), std::vector<double>(1)};
  KmeansArgs args{.rows = viewOf(data, dim), .clusters = 5, .maxIterations = 50, .tolerance = -1};
  args.centroids = out.centroids.data();
  args.labels = out.labels.data();
  args.counts = out.counts.data();
  args.inertia = out.inertia.data();
  args.iterations = out.iterations.data();
  // An abort in the midst of it, and progress that only rises.
  Context context = contextOf(2);
  int32_t cancel = 0;
  double last = 0;
  context.cancel = &cancel;
  context.progress = [&](double done, double total) {
    CHECK(done > last && done <= total && total == 50);
    last = done;
    if (done >= 4) cancel = 1;
  };
  CHECK(kmeans(emulatedBackend(), context, args).code == Code::kAborted && last < 50);
  cancel = 0;
  last = 0;
  context.progress = [&](double done, double) { last = done; };
  CHECK_OK(kmeans(emulatedBackend(), context, args));
  CHECK(last == 50);
  data[7 * dim] = INFINITY;
  const Status status = kmeans(emulatedBackend(), contextOf(2), args);
  CHECK(status.code == Code::kInvalidData && status.message.find("Row 7") != std::string::npos);
}

}  // namespace

int main() {
  emulator::options().devices = {emulator::deviceOf(80), emulator::deviceOf(90)};
  plain();
  ends();
  empties();
  hard();
  streamed();
  troubles();
  inAllWays(
      [] {
        const std::vector<float> data = clusteredRows(280, 20, 30, 0.6f, 58);
        same(data, 20, {.batch = 2, .clusters = 12, .maxIterations = 6});
        same(data, 20, {.clusters = 60, .spherical = false, .init = KmeansInit::kRandom, .maxIterations = 4});
      },
      {1, 2});
  return report("cuda kmeans");
}
