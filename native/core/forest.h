// The maximum spanning forest of pairs that stream by: N - 1 edges at most answer every threshold.
//
// Edges are totally ordered: canonical dot descending, then `first`, then `second` ascending (first < second). The forest
// is what Kruskal's algorithm takes in that order, so it is unique, and does not depend on the order in which pairs arrive.
// The components of the pairs with a dot over t are those of the forest's edges with a dot over t.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "clipcid/backend.h"

namespace clipcid {

struct Edge {
  double dot;
  int32_t first;
  int32_t second;

  bool before(const Edge& other) const {
    if (dot != other.dot) return dot > other.dot;
    return first != other.first ? first < other.first : second < other.second;
  }
};

// Collects edges from any number of threads at once.
//
// Edges go into a buffer; a full one is reduced, with the forest so far, to the forest of both, while the other threads
// fill the next. An edge whose ends that forest joins already by edges before it is dropped on arrival: Kruskal's unions,
// by size and never compressed, are a tree of depth log2 N whose links get weaker upward, so the weakest edge between two
// rows is found by climbing from both.
class ForestBuilder {
 public:
  // With `merges` over 0 only the first so many edges of the forest are wanted, those equal to the last of them in weight,
  // and all with a dot over 1. `threads` is how many workers may ask `wants`.
  explicit ForestBuilder(int64_t rows, int threads, int64_t merges = 0);

  void add(const Pair* pairs, const double* dots, size_t count);
  // Whether a pair with a dot not over `above` may be in the forest, as far as is known by now.
  bool wants(int worker, int32_t first, int32_t second, double above);
  // Edges that are in the forest of all that was added, in order. Valid until more is added.
  const std::vector<Edge>& finish();
  // Once there are as many merges as wanted: the dot of the last of them, or the float64 just over 1 if that is less; edges
  // of a smaller dot are not wanted any more. -infinity before.
  double rising() const;

 private:
  struct Link {
    int32_t parent;
    int32_t edge;  // by which it is linked: its place in the forest; kRoot at the top
  };
  struct Forest {
    std::vector<Edge> edges;
    std::vector<Link> links;  // [rows]
    double rising;

    bool drops(const Edge& edge) const;
  };

  std::shared_ptr<const Forest> current() const;
  void reduce(std::vector<Edge> fresh);

  // What a worker asks, without a lock as long as it is the newest.
  struct alignas(64) View {
    std::shared_ptr<const Forest> forest;
    int64_t version = -1;
  };

  const int64_t rows_;
  const int64_t merges_;
  const size_t capacity_;
  mutable std::mutex currentMutex_;  // of forest_
  std::mutex bufferMutex_;           // of buffer_
  std::mutex reduceMutex_;           // taken after bufferMutex_
  std::vector<Edge> buffer_;
  std::shared_ptr<const Forest> forest_;
  std::atomic<int64_t> version_{0};  // of forest_, raised after it
  std::vector<View> views_;
};

}  // namespace clipcid
