// Which tile of the product a block works on, and when. Plain arithmetic, for the device and for tests on the host.
//
// Queries and keys are cut into tiles; of `problems` independent ones, each has its own. An item is a tile of queries with a
// run of tiles of keys, which a block takes through one after another; blocks take items gridDim apart. Items that follow
// each other differ in their queries first, so that the blocks of a moment share their keys' tiles, and their bands' queries,
// in the level-2 cache.
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
  int32_t rowTile;                 // of its problem
  int32_t firstColumn, columnEnd;  // tiles of keys
};

struct Schedule {
  // A band: these tiles of queries of each problem, and of keys. It has fewer than 2^31 items.
  int32_t rowBegin = 0, rowEnd = 0;
  int32_t columnBegin = 0, columnEnd = 0;
  int32_t problems = 1;
  // Tiles of keys in an item.
  int32_t columnsOfItem = 1;
  // Leaves out tiles in which no key is behind a query; then an item is one tile.
  bool triangle = false;
  int32_t tileRows = 1, tileColumns = 1;

  CLIPCID_ANYWHERE int32_t rows() const { return problems * (rowEnd - rowBegin); }
  CLIPCID_ANYWHERE int32_t items() const {
    return (columnEnd - columnBegin + columnsOfItem - 1) / columnsOfItem * rows();
  }
  CLIPCID_ANYWHERE Item item(int32_t index) const {
    const int32_t range = index / rows(), row = index % rows();
    Item item;
    item.problem = row / (rowEnd - rowBegin);
    item.rowTile = rowBegin + row % (rowEnd - rowBegin);
    item.firstColumn = columnBegin + range * columnsOfItem;
    item.columnEnd =
        item.firstColumn + columnsOfItem < columnEnd ? item.firstColumn + columnsOfItem : columnEnd;
    return item;
  }
  CLIPCID_ANYWHERE bool wanted(const Item& item) const {
    return !triangle || static_cast<int64_t>(item.columnEnd) * tileColumns - 1 >
                            static_cast<int64_t>(item.rowTile) * tileRows;
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
