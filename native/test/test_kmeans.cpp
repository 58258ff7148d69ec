// Selection (best, topK), nearest, sums, products and k-means against brute force in the canonical
// arithmetic.
#include <algorithm>
#include <cstring>
#include <limits>

#include "check.h"
#include "core/kmeans.h"
#include "core/nearest.h"
#include "cpu/prepared.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

Rows viewOf(const std::vector<float>& data, int64_t dim) {
  return Rows(floatView(data.data(), static_cast<int64_t>(data.size()) / dim, dim));
}

using Entry = std::pair<double, int32_t>;  // (-score, index)

std::vector<Entry> ranked(const float* query, const std::vector<float>& keys, int64_t dim, bool euclidean) {
  std::vector<Entry> entries;
  for (size_t j = 0; j < keys.size() / static_cast<size_t>(dim); ++j) {
    const float* key = keys.data() + j * static_cast<size_t>(dim);
    double score = canonicalDot(query, key, dim);
    if (euclidean) score -= canonicalDot(key, key, dim) / 2;
    entries.emplace_back(-score, static_cast<int32_t>(j));
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

void checkSelection(const std::vector<float>& q, const std::vector<float>& k, int64_t dim, bool unit) {
  const auto queries = static_cast<int64_t>(q.size()) / dim, keys = static_cast<int64_t>(k.size()) / dim;
  const std::vector<float> x = compared(q, dim, unit), y = compared(k, dim, unit);
  const int64_t most = std::min<int64_t>(keys, 7);
  for (const int threads : {1, 2, 7}) {
    const Context context = contextOf(threads);
    std::unique_ptr<Prepared> a, b;
    CHECK_OK(cpuBackend().prepare(context, {.rows = viewOf(q, dim), .unit = unit}, &a));
    CHECK_OK(cpuBackend().prepare(context, {.rows = viewOf(k, dim), .unit = unit}, &b));
    std::vector<int32_t> dotBest(static_cast<size_t>(queries)), squareBest(dotBest),
        top(static_cast<size_t>(queries * most));
    std::vector<double> dotScore(dotBest.size()), squareScore(dotBest.size()), topScore(top.size());
    CHECK_OK(cpuBackend().best(
        context,
        {.queries = a.get(), .keys = b.get(), .indices = dotBest.data(), .scores = dotScore.data()}));
    CHECK_OK(cpuBackend().best(context, {.queries = a.get(),
                                         .keys = b.get(),
                                         .euclidean = true,
                                         .indices = squareBest.data(),
                                         .scores = squareScore.data()}));
    CHECK_OK(cpuBackend().topK(
        context,
        {.queries = a.get(), .keys = b.get(), .k = most, .indices = top.data(), .scores = topScore.data()}));
    for (int64_t i = 0; i < queries; ++i) {
      const auto at = static_cast<size_t>(i);
      const std::vector<Entry> byDot = ranked(x.data() + i * dim, y, dim, false);
      const std::vector<Entry> bySquare = ranked(x.data() + i * dim, y, dim, true);
      CHECK(dotBest[at] == byDot[0].second && dotScore[at] == -byDot[0].first);
      CHECK(squareBest[at] == bySquare[0].second && squareScore[at] == -bySquare[0].first);
      for (int64_t n = 0; n < most; ++n) {
        const auto place = static_cast<size_t>(i * most + n), rank = static_cast<size_t>(n);
        CHECK(top[place] == byDot[rank].second && topScore[place] == -byDot[rank].first);
      }
    }
  }
}

void selection() {
  for (const int64_t dim : {1, 5, 32, 70}) {
    for (const int64_t keys : {1, 2, 40, 700}) {
      checkSelection(clusteredRows(65, dim, 8, 0.3f, 21), clusteredRows(keys, dim, 8, 0.3f, 21), dim, true);
      checkSelection(clusteredRows(65, dim, 8, 0.3f, 21), clusteredRows(keys, dim, 8, 0.3f, 21), dim, false);
    }
  }
  // Copies, which tie, and near-copies, which only the canonical score tells apart.
  std::vector<float> copies = clusteredRows(300, 16, 1, 0.0f, 22);
  checkSelection(copies, copies, 16, true);
  for (size_t i = 0; i < copies.size(); ++i) copies[i] *= 1 + static_cast<float>(i % 7) * 6e-8f;
  checkSelection(copies, copies, 16, true);
  checkSelection(copies, copies, 16, false);
  // Float32 overflows, and everything is far from the origin.
  std::vector<float> huge = clusteredRows(80, 16, 5, 0.5f, 23);
  for (size_t i = 0; i < huge.size(); ++i) huge[i] *= i % 2 == 0 ? 3e37f : 1.0f;
  checkSelection(huge, huge, 16, false);
  std::vector<float> far = clusteredRows(80, 16, 5, 0.5f, 24);
  for (float& value : far) value += 1e6f;
  checkSelection(far, far, 16, false);
  const PreparedLimits before = preparedLimits();
  preparedLimits() = {20000, 64, 3000};
  checkSelection(clusteredRows(65, 32, 8, 0.3f, 21), clusteredRows(333, 32, 8, 0.3f, 21), 32, true);
  preparedLimits() = before;
}

void nearestRows() {
  const int64_t dim = 12;
  std::vector<float> data = clusteredRows(50, dim, 5, 0.3f, 31);
  std::vector<int32_t> indices(50 * 50);
  std::vector<float> scores(50 * 50);
  CHECK_OK(nearest(cpuBackend(), contextOf(2),
                   {viewOf(data, dim), viewOf(data, dim), 50, true, indices.data(), scores.data()}));
  for (int32_t i = 0; i < 50; ++i) CHECK(indices[static_cast<size_t>(i) * 50] == i);
  CHECK(nearest(cpuBackend(), contextOf(2),
                {viewOf(data, dim), viewOf(data, dim), 51, true, indices.data(), scores.data()})
            .code == Code::kInvalidArgument);
  std::fill_n(data.begin() + 7 * dim, dim, 0.0f);
  const Status status =
      nearest(cpuBackend(), contextOf(2),
              {viewOf(data, dim), viewOf(data, dim), 1, true, indices.data(), scores.data()});
  CHECK(status.code == Code::kInvalidData && status.message.find("Row 7 of queries") != std::string::npos);
  CHECK_OK(nearest(cpuBackend(), contextOf(2),
                   {viewOf(data, dim), viewOf(data, dim), 1, false, indices.data(), scores.data()}));
}

void products() {
  for (const int64_t m : {1, 13, 200}) {
    for (const int64_t n : {1, 33, 150}) {
      for (const int64_t k : {0, 1, 300}) {
        for (int form = 0; form < 8; ++form) {
          const bool ta = form & 1, tb = form & 2;
          const float beta = form & 4 ? 0.5f : 0;
          const int64_t strideA = (ta ? m : k) + 2, strideB = (tb ? k : n) + 1, strideC = n + 3;
          std::vector<float> a(static_cast<size_t>((ta ? k : m) * strideA + 1)),
              b(static_cast<size_t>((tb ? n : k) * strideB + 1));
          std::vector<float> c(static_cast<size_t>(m * strideC));
          for (size_t i = 0; i < a.size(); ++i) a[i] = noise(41, i);
          for (size_t i = 0; i < b.size(); ++i) b[i] = noise(42, i);
          for (size_t i = 0; i < c.size(); ++i)
            c[i] = beta == 0 ? std::numeric_limits<float>::quiet_NaN() : noise(43, i);
          const std::vector<float> old = c;
          std::vector<float> again = c;
          const auto args = [&](float* out) {
            return MatmulArgs{a.data(), b.data(), out, m,  n,    k,   strideA,
                              strideB,  strideC,  ta,  tb, 2.0f, beta};
          };
          CHECK_OK(cpuBackend().matmul(contextOf(2), args(c.data())));
          CHECK_OK(cpuBackend().matmul(contextOf(1), args(again.data())));
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < strideC; ++j) {
              const auto at = static_cast<size_t>(i * strideC + j);
              if (j >= n) {
                CHECK(memcmp(&c[at], &old[at], 4) == 0);
                continue;
              }
              double sum = 0;
              for (int64_t t = 0; t < k; ++t) {
                sum += static_cast<double>(a[static_cast<size_t>(ta ? t * strideA + i : i * strideA + t)]) *
                       static_cast<double>(b[static_cast<size_t>(tb ? j * strideB + t : t * strideB + j)]);
              }
              const double expected = 2 * sum + (beta == 0 ? 0 : 0.5 * static_cast<double>(old[at]));
              CHECK(std::fabs(static_cast<double>(c[at]) - expected) < 1e-3 && c[at] == again[at]);
            }
          }
        }
      }
    }
  }
}

// Only keys over a number of the query's own count.
void cutoffs() {
  const int64_t dim = 33, rows = 300, keyRows = 90;
  const std::vector<float> x = clusteredRows(rows, dim, 12, 0.4f, 71);
  const std::vector<float> y = clusteredRows(keyRows, dim, 12, 0.4f, 71);
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < rows; i += 3) chosen.push_back(i);
  for (const bool euclidean : {true, false}) {
    for (const bool some : {true, false}) {
      const auto count = some ? static_cast<int64_t>(chosen.size()) : rows;
      std::vector<double> above, scores(static_cast<size_t>(count));
      std::vector<int32_t> wanted, indices(static_cast<size_t>(count));
      std::vector<double> wantedScores;
      for (int64_t at = 0; at < count; ++at) {
        const int64_t i = some ? chosen[static_cast<size_t>(at)] : at;
        const std::vector<Entry> order = ranked(x.data() + i * dim, y, dim, euclidean);
        const double best = -order[0].first, infinity = std::numeric_limits<double>::infinity();
        // Just under the best, the best itself, among the others, none and all.
        const double cuts[] = {std::nextafter(best, -infinity), best, -order[5].first, infinity, -infinity};
        above.push_back(cuts[at % 5]);
        wanted.push_back(best > above.back() ? order[0].second : -1);
        wantedScores.push_back(best);
      }
      for (const int threads : {1, 2, 7}) {
        const Context context = contextOf(threads);
        std::unique_ptr<Prepared> queries, keys;
        CHECK_OK(cpuBackend().prepare(context, {.rows = viewOf(x, dim)}, &queries));
        CHECK_OK(cpuBackend().prepare(context, {.rows = viewOf(y, dim)}, &keys));
        CHECK_OK(cpuBackend().best(context, {.queries = queries.get(),
                                             .keys = keys.get(),
                                             .euclidean = euclidean,
                                             .rows = some ? chosen.data() : nullptr,
                                             .count = count,
                                             .indices = indices.data(),
                                             .scores = scores.data(),
                                             .above = above.data()}));
        CHECK(indices == wanted);
        for (size_t at = 0; at < wanted.size(); ++at) CHECK(wanted[at] < 0 || scores[at] == wantedScores[at]);
      }
    }
  }
}

struct Outcome {
  std::vector<float> centroids;
  std::vector<int32_t> labels, counts, iterations;
  std::vector<double> inertia;
  bool operator==(const Outcome&) const = default;
};

Outcome cluster(const std::vector<float>& data, int64_t dim, KmeansArgs args, int threads, uint64_t seed = 5,
                int64_t maxMemory = 0) {
  const int64_t rows = static_cast<int64_t>(data.size()) / dim, centres = args.batch * args.clusters;
  Outcome out{std::vector<float>(static_cast<size_t>(centres * dim)),
              std::vector<int32_t>(static_cast<size_t>(rows)),
              std::vector<int32_t>(static_cast<size_t>(centres)),
              std::vector<int32_t>(static_cast<size_t>(args.batch)),
              std::vector<double>(static_cast<size_t>(args.batch))};
  args.rows = viewOf(data, dim);
  args.centroids = out.centroids.data();
  args.labels = out.labels.data();
  args.counts = out.counts.data();
  args.inertia = out.inertia.data();
  args.iterations = out.iterations.data();
  Context context = contextOf(threads, seed);
  context.maxMemory = maxMemory;
  CHECK_OK(kmeans(cpuBackend(), context, args));
  return out;
}

// Many centres that stay, and a few that wander far along a line: those are split from the others.
void strays() {
  const int64_t dim = 4, places = 2100, line = 200;
  const std::vector<float> centres = clusteredRows(places, dim, places, 0, 64);
  std::vector<float> data, given;
  for (int64_t i = 0; i < 2 * places; ++i) {
    const int64_t place = i % places;
    for (int64_t k = 0; k < dim; ++k)
      data.push_back(centres[static_cast<size_t>(place * dim + k)] +
                     1e-3f * noise(65, static_cast<uint64_t>(i * dim + k)));
  }
  given.assign(data.begin(), data.begin() + places * dim);
  // Seen from the origin, the line is an arc: the wanderers wander on the sphere too.
  for (int64_t i = 0; i < line; ++i) {
    const float along = static_cast<float>(i) / static_cast<float>(line);
    data.insert(data.end(), {20.0f, 20.0f * along, 20.0f - 30.0f * along, 5.0f * along * along});
    if (i < 3) given.insert(given.end(), data.end() - dim, data.end());
  }
  for (const bool spherical : {true, false}) {
    KmeansArgs args{.clusters = places + 3,
                    .spherical = spherical,
                    .init = KmeansInit::kGiven,
                    .given = given.data(),
                    .maxIterations = 12,
                    .skip = false};
    const Outcome plain = cluster(data, dim, args, 1);
    args.skip = true;
    CHECK(cluster(data, dim, args, 2) == plain);
  }
}

// Rows that bounds spare would not have moved, and sums kept by differences are those made anew.
void sparing() {
  struct Case {
    int64_t rows, dim, clusters, iterations, centres;
    float spread;
  };
  const Case cases[] = {
      {3000, 24, 40, 40, 30, 0.6f}, {3000, 3, 60, 60, 20, 0.5f}, {2000, 40, 7, 30, 5, 0.1f},
      {500, 1, 30, 50, 9, 0.4f},    {900, 6, 900, 4, 9, 0.4f},   {4500, 4, 2100, 8, 900, 0.05f},
  };
  for (const Case& one : cases) {
    const std::vector<float> data = clusteredRows(one.rows, one.dim, one.centres, one.spread, 61);
    std::vector<float> weights(static_cast<size_t>(one.rows));
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i % 5) * 0.7f;
    for (const bool spherical : {true, false}) {
      for (const bool weighted : {true, false}) {
        KmeansArgs args{.weights = weighted ? weights.data() : nullptr,
                        .clusters = one.clusters,
                        .spherical = spherical,
                        .init = KmeansInit::kRandom,
                        .maxIterations = one.iterations,
                        .skip = false};
        const Outcome plain = cluster(data, one.dim, args, 1);
        args.skip = true;
        CHECK(cluster(data, one.dim, args, 2) == plain);
        // Too little for bounds, and for the sums of all centres.
        CHECK(cluster(data, one.dim, args, 2, 5, 40000) == plain);
      }
    }
  }
  strays();
  // Far from the origin, float64 leaves the distances few digits.
  for (const float offset : {1e3f, 1e5f, 1e7f}) {
    std::vector<float> data = clusteredRows(1500, 5, 12, 0.3f, 62);
    for (float& value : data) value += offset;
    KmeansArgs args{.clusters = 12, .spherical = false, .maxIterations = 25, .skip = false};
    const Outcome plain = cluster(data, 5, args, 2);
    args.skip = true;
    CHECK(cluster(data, 5, args, 2) == plain);
  }
}

// Assignments with a memory are those without, whatever way the centres went: still, a little, far, onto one another and
// back; and whatever labels they begin from.
void remembered() {
  struct Case {
    int64_t rows, dim, clusters;
    float spread, offset;
    uint64_t calls = 14;
  };
  // The last: more calls than a byte can count.
  const Case cases[] = {{700, 24, 90, 0.3f, 0},     {900, 3, 200, 0.5f, 0},    {600, 40, 65, 0.05f, 0},
                        {300, 1, 64, 0.4f, 0},      {400, 130, 1, 0.4f, 0},    {500, 8, 130, 0, 0},
                        {600, 16, 100, 0.3f, 1e4f}, {600, 7, 100, 0.3f, 1e7f}, {150, 2, 20, 0.5f, 0, 300}};
  const PreparedLimits before = preparedLimits();
  for (const Case& one : cases) {
    std::vector<float> data = clusteredRows(one.rows, one.dim, one.clusters / 2 + 3, one.spread, 91);
    for (float& value : data) value += one.offset;
    const auto size = static_cast<size_t>(one.clusters * one.dim);
    const std::vector<float> start(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(size));
    for (const bool unit : {false, true}) {
      for (const auto& [threads, filter] :
           {std::pair(1, Filter::kAuto), std::pair(2, Filter::kInt8), std::pair(7, Filter::kBfloat16),
            std::pair(2, Filter::kFloat32)}) {
        Context context = contextOf(threads);
        context.filter = filter;
        // Gaps of single centres, and of as few groups as there can be; tried on some of the rows first, or not.
        if (threads == 2) preparedLimits().gapBytes = 64 * one.rows;
        if (filter == Filter::kInt8 || threads == 1) preparedLimits().gapBytesUntried = 0;
        std::unique_ptr<Prepared> rows;
        CHECK_OK(cpuBackend().prepare(context, {.rows = viewOf(data, one.dim), .unit = unit}, &rows));
        std::vector<float> centres = start;
        std::vector<int32_t> labels(static_cast<size_t>(one.rows), -1);
        std::unique_ptr<AssignMemory> memory;
        for (uint64_t call = 0; call < one.calls; ++call) {
          std::vector<float> next = centres;
          for (int64_t j = 0; j < one.clusters && call > 0; ++j) {
            const uint64_t word = philox64(5, 92, call * 4096 + static_cast<uint64_t>(j));
            // Still, a little, more, far; copies of another; and all still in some calls.
            const float steps[] = {0, 1e-4f, 1e-3f, 1e-2f, 0, 1e-3f, 1e-2f, word % 97 == 7 ? 2.0f : 0.03f};
            const float step = call % 5 == 4 ? 0 : steps[word % 8];
            for (int64_t k = 0; k < one.dim; ++k) {
              const auto at = static_cast<size_t>(j * one.dim + k);
              next[at] += step * noise(93, call * 1000003 + at);
              if (word % 61 == 5 && call % 3 == 2) next[at] = start[at % static_cast<size_t>(one.dim)];
            }
          }
          std::vector<double> drift;
          for (int64_t j = 0; j < one.clusters; ++j) {
            double square = 0;
            for (size_t at = static_cast<size_t>(j * one.dim); at < static_cast<size_t>((j + 1) * one.dim);
                 ++at)
              square += std::pow(static_cast<double>(next[at]) - static_cast<double>(centres[at]), 2);
            drift.push_back(std::sqrt(square) * (1 + 1e-12));
          }
          centres = next;
          std::unique_ptr<Prepared> keys;
          CHECK_OK(cpuBackend().prepare(context, {.rows = viewOf(centres, one.dim)}, &keys));
          std::vector<int32_t> wanted(labels.size());
          CHECK_OK(cpuBackend().best(
              context,
              {.queries = rows.get(), .keys = keys.get(), .euclidean = !unit, .indices = wanted.data()}));
          // As re-seeding may leave them.
          for (size_t i = call; call > 0 && i < labels.size(); i += 37)
            labels[i] = static_cast<int32_t>(i % static_cast<size_t>(one.clusters));
          CHECK_OK(cpuBackend().assign(context, {.rows = rows.get(),
                                                 .centres = keys.get(),
                                                 .euclidean = !unit,
                                                 .labels = labels.data(),
                                                 .memory = &memory,
                                                 .drift = call == 0 ? nullptr : drift.data()}));
          CHECK(labels == wanted);
          std::fill(wanted.begin(), wanted.end(), -1);
          CHECK_OK(cpuBackend().assign(
              context,
              {.rows = rows.get(), .centres = keys.get(), .euclidean = !unit, .labels = wanted.data()}));
          CHECK(labels == wanted);
        }
        preparedLimits() = before;
      }
    }
  }
}

// Lloyd's iterations in plain float64 from the same start.
double plainInertia(const std::vector<float>& rows, int64_t dim, const std::vector<float>& start,
                    bool spherical, int64_t iterations) {
  const auto width = static_cast<size_t>(dim);
  const size_t count = rows.size() / width, clusters = start.size() / width;
  std::vector<double> x(rows.begin(), rows.end()), centres(start.begin(), start.end());
  const auto normalise = [&](std::vector<double>& values) {
    for (size_t at = 0; spherical && at < values.size(); at += width) {
      double square = 0;
      for (size_t k = 0; k < width; ++k) square += values[at + k] * values[at + k];
      for (size_t k = 0; k < width; ++k) values[at + k] /= std::sqrt(square);
    }
  };
  normalise(x);
  normalise(centres);
  for (int64_t iteration = 0;; ++iteration) {
    std::vector<double> sums(centres.size()), sizes(clusters);
    double inertia = 0;
    for (size_t i = 0; i < count; ++i) {
      double least = std::numeric_limits<double>::infinity();
      size_t label = 0;
      for (size_t j = 0; j < clusters; ++j) {
        double square = 0;
        for (size_t k = 0; k < width; ++k) {
          const double step = x[i * width + k] - centres[j * width + k];
          square += step * step;
        }
        if (square < least) {
          least = square;
          label = j;
        }
      }
      inertia += spherical ? least / 2 : least;
      sizes[label] += 1;
      for (size_t k = 0; k < width; ++k) sums[label * width + k] += x[i * width + k];
    }
    if (iteration == iterations) return inertia;
    for (size_t at = 0; at < sums.size(); ++at) centres[at] = sums[at] / sizes[at / width];
    normalise(centres);
  }
}

void likeFloat64() {
  for (const bool spherical : {true, false}) {
    for (const int64_t dim : {3, 20, 64}) {
      const std::vector<float> data = clusteredRows(1200, dim, 25, 0.7f, 63);
      const std::vector<float> start(data.begin(), data.begin() + 25 * dim);
      const KmeansArgs args{.clusters = 25,
                            .spherical = spherical,
                            .init = KmeansInit::kGiven,
                            .given = start.data(),
                            .maxIterations = 10,
                            .tolerance = -1};
      const Outcome ours = cluster(data, dim, args, 2);
      const double wanted = plainInertia(data, dim, start, spherical, ours.iterations[0]);
      CHECK(std::fabs(ours.inertia[0] / wanted - 1) < 1e-6);
    }
  }
}

void clustering() {
  const int64_t dim = 10, rows = 240;
  const std::vector<float> data = clusteredRows(rows, dim, 6, 0.2f, 51);
  for (const bool spherical : {true, false}) {
    for (const KmeansInit init : {KmeansInit::kPlusPlus, KmeansInit::kParallel, KmeansInit::kRandom}) {
      for (const int64_t batch : {1, 3}) {
        const KmeansArgs args{
            .batch = batch, .clusters = 6, .spherical = spherical, .init = init, .maxIterations = 30};
        const Outcome one = cluster(data, dim, args, 1);
        CHECK(cluster(data, dim, args, 2) == one && cluster(data, dim, args, 7) == one);
        // The labels are the nearest of the returned centroids.
        const std::vector<float> x = compared(data, dim, spherical);
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t element = i / (rows / batch);
          const std::vector<float> own(one.centroids.begin() + element * 6 * dim,
                                       one.centroids.begin() + (element + 1) * 6 * dim);
          CHECK(one.labels[static_cast<size_t>(i)] ==
                ranked(x.data() + i * dim, own, dim, !spherical)[0].second);
        }
      }
    }
  }
  // As many centres as rows: each row is one, so nothing is left over.
  const Outcome all = cluster(data, dim, {.clusters = rows, .spherical = false, .maxIterations = 3}, 2);
  CHECK(all.inertia[0] < 1e-9);
  // Copies only: k-means++ has no weight to draw by, and all but one centre stay empty.
  const std::vector<float> copies(static_cast<size_t>(40 * dim), 0.25f);
  const Outcome same = cluster(copies, dim, {.clusters = 5, .spherical = true, .maxIterations = 4}, 2);
  CHECK(same.counts[0] == 40 && same.inertia[0] < 1e-5);
  // A given centre that no row is near gets the farthest row.
  std::vector<float> given(static_cast<size_t>(2 * dim), 0);
  for (int64_t k = 0; k < dim; ++k) {
    given[static_cast<size_t>(k)] = data[static_cast<size_t>(k)];
    given[static_cast<size_t>(dim + k)] = 1000;
  }
  const KmeansArgs far{.clusters = 2,
                       .spherical = false,
                       .init = KmeansInit::kGiven,
                       .given = given.data(),
                       .maxIterations = 10};
  const Outcome moved = cluster(data, dim, far, 2);
  CHECK(moved.counts[0] > 0 && moved.counts[1] > 0);
  CHECK(cluster(data, dim, {.clusters = 3, .init = KmeansInit::kRandom}, 1, 1) !=
        cluster(data, dim, {.clusters = 3, .init = KmeansInit::kRandom}, 1, 2));

  std::vector<float> bad = data;
  bad[static_cast<size_t>(200 * dim)] = std::numeric_limits<float>::quiet_NaN();
  KmeansArgs args{.rows = viewOf(bad, dim), .batch = 2, .clusters = 2};
  std::vector<float> centroids(static_cast<size_t>(4 * dim));
  std::vector<int32_t> labels(static_cast<size_t>(rows)), counts(4), iterations(2);
  std::vector<double> inertia(2);
  args.centroids = centroids.data();
  args.labels = labels.data();
  args.counts = counts.data();
  args.inertia = inertia.data();
  args.iterations = iterations.data();
  const Status status = kmeans(cpuBackend(), contextOf(2), args);
  CHECK(status.code == Code::kInvalidData && status.message.find("Row 200") != std::string::npos);
  args.clusters = rows;
  CHECK(kmeans(cpuBackend(), contextOf(2), args).code == Code::kInvalidArgument);
}

}  // namespace

int main() {
  selection();
  cutoffs();
  nearestRows();
  products();
  clustering();
  sparing();
  remembered();
  likeFloat64();
  return report("kmeans");
}
