// Disjoint sets whose representative is their smallest member, whatever the order of unions.
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace clipcid {

class UnionFind {
 public:
  explicit UnionFind(int64_t count) : parent_(static_cast<size_t>(count)) {
    std::iota(parent_.begin(), parent_.end(), 0);
  }

  int32_t find(int32_t item) {
    while (at(item) != item) {
      at(item) = at(at(item));
      item = at(item);
    }
    return item;
  }

  void unite(int32_t first, int32_t second) {
    first = find(first);
    second = find(second);
    if (first == second) return;
    if (second < first) std::swap(first, second);
    at(second) = first;
  }

 private:
  int32_t& at(int32_t item) { return parent_[static_cast<size_t>(item)]; }
  std::vector<int32_t> parent_;
};

}  // namespace clipcid
