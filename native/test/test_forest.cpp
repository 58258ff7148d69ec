// Sets and forests that several threads fill at once, against one thread.
#include <algorithm>

#include "check.h"
#include "core/forest.h"
#include "core/parallel.h"
#include "core/union_find.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

constexpr int64_t kRows = 2000;
constexpr int64_t kBatches = 400;
constexpr int64_t kBatch = 1000;

struct Batch {
  std::vector<Pair> pairs;
  std::vector<double> dots;
};

// Few distinct dots, so that many tie; pairs come twice, in either order.
Batch batchOf(int64_t index, int64_t rows) {
  Batch batch;
  for (int64_t at = 0; at < kBatch; ++at) {
    const uint64_t draw = philox64(3, 7, static_cast<uint64_t>((index / 2) * kBatch + at));
    const auto first = static_cast<int32_t>(draw % static_cast<uint64_t>(rows));
    const auto second = static_cast<int32_t>((draw >> 24) % static_cast<uint64_t>(rows));
    if (first == second) continue;
    batch.pairs.push_back(index % 2 == 0 ? Pair{first, second} : Pair{second, first});
    batch.dots.push_back(static_cast<double>((draw >> 48) % 1000) / 900);
  }
  return batch;
}

void sets() {
  UnionFind one(kRows), many(kRows);
  const auto fill = [](UnionFind* sets, int threads) {
    parallelFor(threads, 40, [&](int64_t index, int) {
      const Batch batch = batchOf(index, 100000);
      for (const Pair& pair : batch.pairs) {
        if (pair.first < kRows && pair.second < kRows) sets->unite(pair.first, pair.second);
      }
      // A flood: everything of one residue is joined, again and again.
      for (int32_t i = 0; i + 700 < kRows; ++i) sets->unite(i + 700, i);
    });
  };
  fill(&one, 1);
  fill(&many, 8);
  for (int32_t i = 0; i < kRows; ++i) {
    CHECK(one.find(i) == many.find(i));
    CHECK(one.find(i) <= i);
  }
}

std::vector<Edge> collect(int threads, int64_t merges, bool asked) {
  ForestBuilder builder(kRows, threads, merges);
  parallelFor(threads, kBatches, [&](int64_t index, int worker) {
    Batch batch = batchOf(index, kRows);
    if (asked) {
      Batch wanted;
      for (size_t at = 0; at < batch.pairs.size(); ++at) {
        const Pair pair = batch.pairs[at];
        if (!builder.wants(worker, pair.first, pair.second, batch.dots[at] + 1e-3)) continue;
        wanted.pairs.push_back(pair);
        wanted.dots.push_back(batch.dots[at]);
      }
      batch = std::move(wanted);
    }
    builder.add(batch.pairs.data(), batch.dots.data(), batch.pairs.size());
  });
  return builder.finish();
}

std::vector<Edge> kruskal() {
  std::vector<Edge> edges;
  for (int64_t index = 0; index < kBatches; ++index) {
    const Batch batch = batchOf(index, kRows);
    for (size_t at = 0; at < batch.pairs.size(); ++at) {
      const auto [low, high] = std::minmax(batch.pairs[at].first, batch.pairs[at].second);
      edges.push_back({batch.dots[at], low, high});
    }
  }
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.before(b); });
  UnionFind sets(kRows);
  std::vector<Edge> forest;
  for (const Edge& edge : edges) {
    if (sets.unite(edge.first, edge.second)) forest.push_back(edge);
  }
  return forest;
}

bool same(const std::vector<Edge>& a, const std::vector<Edge>& b, size_t count) {
  if (a.size() < count || b.size() < count) return false;
  for (size_t at = 0; at < count; ++at) {
    if (a[at].before(b[at]) || b[at].before(a[at])) return false;
  }
  return true;
}

// More pairs than several buffers hold.
void forests() {
  const std::vector<Edge> wanted = kruskal();
  CHECK(wanted.size() == kRows - 1);
  for (const int threads : {1, 8}) {
    for (const bool asked : {false, true}) {
      const std::vector<Edge> all = collect(threads, 0, asked);
      CHECK(all.size() == wanted.size() && same(all, wanted, wanted.size()));
      for (const int64_t merges : {1, 300, 1500, 1999, 5000}) {
        const std::vector<Edge> cut = collect(threads, merges, asked);
        const auto least = static_cast<size_t>(std::min<int64_t>(merges, kRows - 1));
        CHECK(cut.size() >= least && same(cut, wanted, cut.size()));
        // Nothing is left out that ties with the last, or that no threshold parts.
        if (cut.size() < wanted.size())
          CHECK(wanted[cut.size()].dot < std::min(wanted[least - 1].dot, 1 + 1e-15));
      }
    }
  }
}

}  // namespace

int main() {
  sets();
  forests();
  return report("forest");
}
