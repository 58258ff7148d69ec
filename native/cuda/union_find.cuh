// Disjoint sets on a device: the representative of a set is its smallest member, whatever the order of unions.
//
// A root is hooked below a smaller one by compare-and-swap; every other write only moves an item's parent to one of its
// ancestors. So parents only get smaller, whatever is read is or was an ancestor, and a find that ends at what is no root any
// more is set right by the swap that fails. A `find` is final once the unions are done.
#pragma once

#include "cuda/ptx.cuh"

namespace clipcid::cuda {

CLIPCID_DEVICE int32_t findRoot(int32_t* parents, int32_t item) {
  int32_t parent = loadRelaxed(parents + item);
  while (parent != item) {
    const int32_t grandparent = loadRelaxed(parents + parent);
    if (grandparent != parent) storeRelaxed(parents + item, grandparent);
    item = grandparent;
    parent = loadRelaxed(parents + item);
  }
  return item;
}

CLIPCID_DEVICE void uniteSets(int32_t* parents, int32_t first, int32_t second) {
  for (;;) {
    first = findRoot(parents, first);
    second = findRoot(parents, second);
    if (first == second) return;
    const int32_t low = first < second ? first : second, high = first < second ? second : first;
    if (atomicCAS(parents + high, high, low) == high) return;
    first = low;
    second = high;
  }
}

}  // namespace clipcid::cuda
