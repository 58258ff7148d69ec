// In: pairs with their canonical dots, in any order, from any thread. Out: the maximum spanning forest.
// Memory: two buffers of 2 N edges (at least kLeast) and two forests, 16 bytes an edge, beside 12 bytes a row.
// Best measured: not yet measured.
#include "core/forest.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace clipcid {
namespace {

constexpr int64_t kLeast = int64_t{1} << 16;
constexpr int32_t kRoot = std::numeric_limits<int32_t>::max();
// Just over the largest threshold: cosines of equal rows may be rounded to over 1, and then no threshold parts them.
constexpr double kMostRising = 1 + std::numeric_limits<double>::epsilon();

}  // namespace

ForestBuilder::ForestBuilder(int64_t rows, int threads, int64_t merges)
    : rows_(rows),
      merges_(merges),
      capacity_(static_cast<size_t>(std::max(2 * rows, kLeast))),
      views_(static_cast<size_t>(std::max(threads, 1))) {
  auto forest = std::make_shared<Forest>();
  forest->links.assign(static_cast<size_t>(rows), {0, kRoot});
  forest->rising = -std::numeric_limits<double>::infinity();
  forest_ = std::move(forest);
}

bool ForestBuilder::Forest::drops(const Edge& edge) const {
  if (edge.dot < rising) return true;
  int32_t a = edge.first, b = edge.second, weakest = -1;
  while (a != b) {
    const Link up = links[static_cast<size_t>(a)], other = links[static_cast<size_t>(b)];
    if (up.edge < other.edge) {
      weakest = up.edge;
      a = up.parent;
    } else if (other.edge != kRoot) {
      weakest = other.edge;
      b = other.parent;
    } else {
      return false;  // two trees
    }
  }
  return edges[static_cast<size_t>(weakest)].before(edge);
}

std::shared_ptr<const ForestBuilder::Forest> ForestBuilder::current() const {
  const std::lock_guard<std::mutex> lock(currentMutex_);
  return forest_;
}

double ForestBuilder::rising() const { return current()->rising; }

bool ForestBuilder::wants(int worker, int32_t first, int32_t second, double above) {
  View& view = views_[static_cast<size_t>(worker)];
  const int64_t version = version_.load(std::memory_order_acquire);
  if (view.version != version) {
    view.forest = current();
    view.version = version;
  }
  return !view.forest->drops({above, std::min(first, second), std::max(first, second)});
}

void ForestBuilder::add(const Pair* pairs, const double* dots, size_t count) {
  const std::shared_ptr<const Forest> forest = current();
  std::vector<Edge> fresh;
  for (size_t at = 0; at < count; ++at) {
    const auto [low, high] = std::minmax(pairs[at].first, pairs[at].second);
    const Edge edge{dots[at], low, high};
    if (!forest->drops(edge)) fresh.push_back(edge);
  }
  if (fresh.empty()) return;
  std::unique_lock<std::mutex> lock(bufferMutex_);
  if (buffer_.capacity() < capacity_) buffer_.reserve(capacity_);
  buffer_.insert(buffer_.end(), fresh.begin(), fresh.end());
  if (buffer_.size() < capacity_) return;
  // Waits, and the other threads with it, while the buffer before this one is still being reduced.
  const std::lock_guard<std::mutex> reducing(reduceMutex_);
  std::vector<Edge> full;
  full.swap(buffer_);
  lock.unlock();
  reduce(std::move(full));
}

const std::vector<Edge>& ForestBuilder::finish() {
  const std::lock_guard<std::mutex> lock(bufferMutex_);
  const std::lock_guard<std::mutex> reducing(reduceMutex_);
  std::vector<Edge> rest;
  rest.swap(buffer_);
  reduce(std::move(rest));
  return forest_->edges;
}

void ForestBuilder::reduce(std::vector<Edge> fresh) {
  const std::shared_ptr<const Forest> old = current();
  // The forest may have grown since these edges were looked at.
  fresh.erase(std::remove_if(fresh.begin(), fresh.end(), [&](const Edge& edge) { return old->drops(edge); }),
              fresh.end());
  if (fresh.empty()) return;
  const auto before = [](const Edge& a, const Edge& b) { return a.before(b); };
  std::sort(fresh.begin(), fresh.end(), before);

  auto forest = std::make_shared<Forest>();
  forest->rising = old->rising;
  forest->links.assign(static_cast<size_t>(rows_), {0, kRoot});
  std::vector<int32_t> sets(static_cast<size_t>(rows_)), sizes(static_cast<size_t>(rows_), 1);
  std::iota(sets.begin(), sets.end(), 0);
  const auto find = [&](int32_t row) {
    auto at = static_cast<size_t>(row);
    while (sets[at] != static_cast<int32_t>(at)) {
      sets[at] = sets[static_cast<size_t>(sets[at])];
      at = static_cast<size_t>(sets[at]);
    }
    return static_cast<int32_t>(at);
  };
  std::vector<Edge>& edges = forest->edges;
  auto one = old->edges.begin();
  auto other = fresh.cbegin();
  while (one != old->edges.end() || other != fresh.cend()) {
    const bool fromOld = other == fresh.cend() || (one != old->edges.end() && before(*one, *other));
    const Edge& edge = fromOld ? *one++ : *other++;
    if (merges_ > 0 && static_cast<int64_t>(edges.size()) >= merges_ && edge.dot < forest->rising) break;
    int32_t a = find(edge.first), b = find(edge.second);
    if (a == b) continue;
    if (sizes[static_cast<size_t>(a)] < sizes[static_cast<size_t>(b)]) std::swap(a, b);
    sizes[static_cast<size_t>(a)] += sizes[static_cast<size_t>(b)];
    sets[static_cast<size_t>(b)] = a;
    forest->links[static_cast<size_t>(b)] = {a, static_cast<int32_t>(edges.size())};
    edges.push_back(edge);
    if (static_cast<int64_t>(edges.size()) == merges_) forest->rising = std::min(edge.dot, kMostRising);
  }
  const std::lock_guard<std::mutex> lock(currentMutex_);
  forest_ = std::move(forest);
  version_.fetch_add(1, std::memory_order_release);
}

}  // namespace clipcid
