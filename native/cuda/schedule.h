// Which tile of the product a block works on, and when. Plain arithmetic, for the device and for tests on the host.
//
// Queries and keys are cut into tiles; of `problems` independent ones, each has its own. An item is a tile of queries with a
// run of tiles of keys, which a block takes through one after another; blocks take items gridDim apart. Items that follow
// each other differ in their queries first, so that the blocks of a moment share their keys' tiles, and their bands' queries,
// in the level-2 cache.
//
// Blocks of a cluster work on one item together: it has as many tiles of queries, next to each other, as the cluster has
// blocks, each block takes one of them, and all go through the same tiles of keys at the same time. Then "block" in what
// follows is the cluster. The last tiles of an item may not exist, or not be wanted, which is for the block to see (`has`).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CLIPCID_ANYWHERE __host__ __device__
#else
#define CLIPCID_ANYWHERE
#endif

namespace clipcid::cuda {

struct Item {
  int32_t problem;
  int32_t rowTile;                 // of its problem; the first of them
  int32_t firstColumn, columnEnd;  // tiles of keys
};

struct Schedule {
  // A band: these tiles of queries of each problem, and of keys. It has fewer than 2^31 items.
  int32_t rowBegin = 0, rowEnd = 0;
  int32_t columnBegin = 0, columnEnd = 0;
  int32_t problems = 1;
  // Tiles of keys in an item.
  int32_t columnsOfItem = 1;
  // Tiles of queries in an item: blocks of a cluster.
  int32_t rowsOfItem = 1;
  // Leaves out tiles in which no key is behind a query; then an item has one tile of keys.
  bool triangle = false;
  int32_t tileRows = 1, tileColumns = 1;

  // Items of a run of tiles of keys, of a problem and of all.
  CLIPCID_ANYWHERE int32_t rowsOfProblem() const { return (rowEnd - rowBegin + rowsOfItem - 1) / rowsOfItem; }
  CLIPCID_ANYWHERE int32_t rows() const { return problems * rowsOfProblem(); }
  CLIPCID_ANYWHERE int32_t items() const {
    return (columnEnd - columnBegin + columnsOfItem - 1) / columnsOfItem * rows();
  }
  CLIPCID_ANYWHERE Item item(int32_t index) const {
    const int32_t range = index / rows(), row = index % rows();
    Item item;
    item.problem = row / rowsOfProblem();
    item.rowTile = rowBegin + row % rowsOfProblem() * rowsOfItem;
    item.firstColumn = columnBegin + range * columnsOfItem;
    item.columnEnd =
        item.firstColumn + columnsOfItem < columnEnd ? item.firstColumn + columnsOfItem : columnEnd;
    return item;
  }
  // Of an item's tiles of queries the first has the most keys behind it.
  CLIPCID_ANYWHERE bool wanted(const Item& item) const { return has(item, 0); }
  // Whether there is anything to do for the item's tile of queries of this number.
  CLIPCID_ANYWHERE bool has(const Item& item, int32_t number) const {
    const int32_t rowTile = item.rowTile + number;
    return rowTile < rowEnd && (!triangle || static_cast<int64_t>(item.columnEnd) * tileColumns - 1 >
                                                 static_cast<int64_t>(rowTile) * tileRows);
  }
};

// A block's way through its items, a step of `depths` a tile at a time.
struct Cursor {
  int32_t index, column = 0, depth = 0;
  Item item;

  CLIPCID_ANYWHERE Cursor(const Schedule& schedule, int32_t block, int32_t blocks) : index(block), item() {
    settle(schedule, blocks);
  }
  CLIPCID_ANYWHERE bool valid(const Schedule& schedule) const { return index < schedule.items(); }
  CLIPCID_ANYWHERE bool atFirstColumn() const { return column == item.firstColumn; }
  CLIPCID_ANYWHERE bool atLastColumn() const { return column + 1 == item.columnEnd; }
  CLIPCID_ANYWHERE void advance(const Schedule& schedule, int32_t depths, int32_t blocks) {
    if (++depth < depths) return;
    depth = 0;
    if (++column < item.columnEnd) return;
    index += blocks;
    settle(schedule, blocks);
  }

 private:
  CLIPCID_ANYWHERE void settle(const Schedule& schedule, int32_t blocks) {
    for (; index < schedule.items(); index += blocks) {
      item = schedule.item(index);
      if (schedule.wanted(item)) break;
    }
    column = item.firstColumn;
  }
};

}  // namespace clipcid::cuda
