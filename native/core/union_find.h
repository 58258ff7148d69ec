// Disjoint sets whose representative is their smallest member, whatever the order of unions. Any number of threads
// may call at the same time: a root is hooked below a smaller one by compare-and-swap, and every other write only
// moves an item's parent to one of its ancestors. A `find` is final once the unions are done.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace clipcid {

class UnionFind {
 public:
  explicit UnionFind(int64_t count) : parent_(new std::atomic<int32_t>[static_cast<size_t>(count)]) {
    for (int64_t i = 0; i < count; ++i)
      parent_[static_cast<size_t>(i)].store(static_cast<int32_t>(i), kOrder);
  }

  int32_t find(int32_t item) {
    int32_t parent = at(item).load(kOrder);
    while (parent != item) {
      const int32_t grandparent = at(parent).load(kOrder);
      if (grandparent != parent) at(item).store(grandparent, kOrder);
      item = grandparent;
      parent = at(item).load(kOrder);
    }
    return item;
  }

  // Whether they were apart.
  bool unite(int32_t first, int32_t second) {
    for (;;) {
      first = find(first);
      second = find(second);
      if (first == second) return false;
      if (second < first) std::swap(first, second);
      // Fails when another thread hooked `second` meanwhile: it is no root any more.
      int32_t root = second;
      if (at(second).compare_exchange_weak(root, first, kOrder)) return true;
    }
  }

 private:
  // Nothing but the parents themselves is handed from thread to thread.
  static constexpr std::memory_order kOrder = std::memory_order_relaxed;
  std::atomic<int32_t>& at(int32_t item) { return parent_[static_cast<size_t>(item)]; }
  std::unique_ptr<std::atomic<int32_t>[]> parent_;
};

}  // namespace clipcid
