// Matrix products (gemm.h).
//
// The threads take parts of C, of some rows by some panels of B. Within a part the depth goes by in blocks, and a panel of
// B stays near while the rows of A pass it. A is multiplied where it lies. B is packed, by all threads, in slabs of about
// kSlabBytes, unless A is transposed and B is not, as for the gradient of a layer's weights, and B is aligned to lines:
// then both are multiplied where they lie, in blocks of so few rows that they stay in the caches whatever their stride;
// the next block's are asked for meanwhile. Operands of the split and the bfloat16 product are packed on both sides.
//
// Best measured, two threads, 512 GFLOP/s being the peak: 3,200 or 16,000 rows by the shapes of layers 192 to 3,072 wide,
// A B and A B^T 0.91 to 0.95 of it, A^T B 0.82 to 0.91; 0.66 to 0.86 where B is not aligned (AMD Zen 5, AVX-512, November
// 2026).
#include "cpu/gemm.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "cpu/kernels.h"

namespace clipcid {
namespace {

constexpr int64_t kSlabBytes = 8 << 20;

// How far a block of the depth goes at most, and about how many rows and columns a part has: as much as lets rows of A, a
// panel and the part of C stay in the second cache.
struct Extent {
  int64_t depth, rows, columns;
};
constexpr Extent kExtent = {768, 96, 512}, kExtentTransposed = {160, 264, 512},
                 kExtentSplit = {512, 256, 2048}, kExtentBfloat16 = {2048, 96, 2048};

const Extent& extentOf(const Product& product, bool transposedA) {
  if (product.direct) return transposedA ? kExtentTransposed : kExtent;
  return product.elements == 1 ? kExtentSplit : kExtentBfloat16;
}

constexpr int64_t kPackRows = 32;  // product.h: parts of a panel begin at multiples of it
constexpr int64_t kLine = 16;      // elements

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
int64_t roundUp(int64_t value, int64_t unit) { return divideUp(value, unit) * unit; }

// The right operand of some columns of C: packed, or where it lies but for a last panel that is not full.
struct Right {
  const Product* product = nullptr;
  int64_t panels = 0, blockDepth = 0;
  const PackedRight* packed = nullptr;
  Operand inPlace = {};
  const float* rest = nullptr;  // [k, product->columns]
  int64_t whole = 0;            // panels that are full

  const float* panel(int64_t from, int64_t index) const {
    if (packed != nullptr) return packed->panel(from / blockDepth, index);
    return index < whole ? inPlace.at(from, index * product->columns) : rest + from * product->columns;
  }
  int64_t stride(int64_t index) const {
    return packed == nullptr && index < whole ? inPlace.stride : product->columns;
  }
};

struct Part {
  int64_t rowBegin, rowEnd, panelBegin, panelEnd;
};

// One product or a slab of it, whose first column is `column`.
struct Task {
  const GemmArgs& args;
  const Right& right;
  int64_t column, columns;

  // Whether sums go straight into C, but for tiles that are cut off.
  bool straight() const {
    return (right.product->direct || right.product->elements == 2) && args.epilogue == nullptr &&
           args.alpha == 1 && (args.beta == 0 || args.beta == 1);
  }
};

void finishTile(const GemmArgs& args, const GemmTile& tile, int worker) {
  if (args.epilogue != nullptr) return (*args.epilogue)(tile, worker);
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float* from = tile.values + r * tile.stride;
    float* c = args.c + (tile.row + r) * args.strideC + tile.column;
    if (args.beta == 0) {
      for (int64_t j = 0; j < tile.columns; ++j) c[j] = args.alpha * from[j];
    } else {
      for (int64_t j = 0; j < tile.columns; ++j) c[j] = args.alpha * from[j] + args.beta * c[j];
    }
  }
}

// A part's rows of A for products that don't take it where it lies, one block of the depth: tiles of packed rows.
class PackedLeft {
 public:
  // `memory` has length(product, ...) floats.
  PackedLeft(const Product& product, int64_t rows, int64_t depth, float* memory)
      : product_(product), size_(tileSize(product, depth)), tiles_(memory) {
    turned_ = tiles_ + divideUp(rows, product.rows) * size_;
  }

  static int64_t length(const Product& product, int64_t rows, int64_t depth, bool transposed) {
    const bool turned = transposed && product.packLeftTurned == nullptr;
    return divideUp(rows, product.rows) * tileSize(product, depth) + (turned ? product.rows * depth : 0);
  }

  void pack(const Operand& a, int64_t begin, int64_t end, int64_t from, int64_t depth) {
    size_ = tileSize(product_, depth);
    if (a.transposed && product_.packLeftTurned != nullptr)
      return product_.packLeftTurned(a.at(begin, from), a.stride, end - begin, depth, tiles_);
    float* out = tiles_;
    for (int64_t row = begin; row < end; row += product_.rows, out += size_) {
      const int64_t rows = std::min<int64_t>(product_.rows, end - row);
      if (a.transposed) {
        turn(a, row, rows, from, depth);
        product_.packLeft(turned_, depth, rows, depth, out);
      } else {
        product_.packLeft(a.at(row, from), a.stride, rows, depth, out);
      }
    }
  }

  const float* tile(int64_t index) const { return tiles_ + index * size_; }

 private:
  static int64_t tileSize(const Product& product, int64_t depth) {
    return product.rows * product.leftWords(depth);
  }

  void turn(const Operand& a, int64_t row, int64_t rows, int64_t from, int64_t depth) {
    constexpr int64_t kRun = 16;
    for (int64_t begin = 0; begin < depth; begin += kRun) {
      const int64_t end = std::min(depth, begin + kRun);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k = begin; k < end; ++k) turned_[r * depth + k] = *a.at(row + r, from + k);
      }
    }
  }

  const Product& product_;
  int64_t size_;
  float* tiles_;
  float* turned_;
};

// What is asked for while the tiles of a block are multiplied: the rows of both operands in the next block, a column of
// lines a tile, as many tiles apart as there are for each.
class Ahead {
 public:
  Ahead(const Task& task, const Part& part, int64_t from, int64_t depth)
      : task_(task), part_(part), from_(from) {
    if (from >= depth) return;
    const Product& product = *task.right.product;
    linesB_ = (part.panelEnd - part.panelBegin) * product.columns / kLine;
    lines_ = linesB_ + divideUp(part.rowEnd - part.rowBegin, kLine);
    const int64_t tiles =
        divideUp(part.rowEnd - part.rowBegin, product.rows) * (part.panelEnd - part.panelBegin);
    every_ = std::max<int64_t>(1, tiles / lines_);
  }

  void next(TileArgs* tile) {
    // Something that is near, and not the panel.
    tile->ahead = tile->b;
    tile->aheadStep = 0;
    const int64_t at = tile_++;
    const int64_t line = at / every_;
    if (at % every_ != 0 || line >= lines_) return;
    const Operand& a = task_.args.a;
    if (line >= linesB_) {
      tile->ahead = a.at(part_.rowBegin + (line - linesB_) * kLine, from_);
      tile->aheadStep = a.stride;
      return;
    }
    const int64_t column = line * kLine, width = task_.right.product->columns;
    const int64_t panel = part_.panelBegin + column / width;
    tile->ahead = task_.right.panel(from_, panel) + column % width;
    tile->aheadStep = task_.right.stride(panel);
  }

 private:
  const Task& task_;
  const Part& part_;
  const int64_t from_;  // of the next block
  int64_t lines_ = 0, linesB_ = 0, every_ = 1;
  int64_t tile_ = 0;
};

// Sums that don't go straight into C: of all the part, or of a tile when there is a single block of the depth.
struct PartSums {
  PartSums(const Task& task, const Part& part) : single(task.right.blockDepth >= task.args.k) {
    const Product& product = *task.right.product;
    stride = single ? product.columns : (part.panelEnd - part.panelBegin) * product.columns + kLine;
    const int64_t rows = single ? product.rows : roundUp(part.rowEnd - part.rowBegin, product.rows);
    const bool cut = part.panelEnd * product.columns > task.columns ||
                     (!product.direct && task.args.m % product.rows != 0);
    const bool any = !task.straight() || cut;
    length = any ? rows * stride : 0;
  }

  bool single;
  int64_t stride, length;
};

// `scratch` is as large as `reserve` makes it.
void multiplyPart(const Task& task, const Part& part, GemmMemory::Scratch& scratch, int worker) {
  const GemmArgs& args = task.args;
  const Right& right = task.right;
  const Product& product = *right.product;
  const int64_t rows = part.rowEnd - part.rowBegin;
  const int64_t width = product.columns;
  const bool straight = task.straight();
  const auto multiply =
      args.a.transposed && product.multiplyTurned != nullptr ? product.multiplyTurned : product.multiply;
  const PartSums sums(task, part);
  PackedLeft left(product, product.direct ? 0 : rows, right.blockDepth, scratch.left.get());
  for (int64_t from = 0; from < args.k; from += right.blockDepth) {
    const int64_t depth = std::min(right.blockDepth, args.k - from);
    const bool last = from + depth == args.k;
    if (!product.direct) left.pack(args.a, part.rowBegin, part.rowEnd, from, depth);
    Ahead ahead(task, part, from + depth, right.packed == nullptr ? args.k : 0);
    product.enter();
    for (int64_t index = part.panelBegin; index < part.panelEnd; ++index) {
      const float* panel = right.panel(from, index);
      const int64_t columns = std::min(width, task.columns - index * width);
      const int64_t column = task.column + index * width;
      for (int64_t r = 0; r < rows; r += product.rows) {
        const int64_t row = part.rowBegin + r;
        const int64_t count = std::min<int64_t>(product.rows, rows - r);
        const bool inC = straight && columns == width && (product.direct || count == product.rows);
        float* c = inC ? args.c + row * args.strideC + column
                       : scratch.sums.get() +
                             (sums.single ? 0 : r * sums.stride + (index - part.panelBegin) * width);
        const int64_t strideC = inC ? args.strideC : sums.stride;
        const bool add = from > 0 || (inC && args.beta == 1);
        if (product.direct) {
          TileArgs tile = {.a = args.a.at(row, from),
                           .strideA = args.a.stride,
                           .b = panel,
                           .strideB = right.stride(index),
                           .depth = depth,
                           .c = c,
                           .strideC = strideC,
                           .rows = static_cast<int>(count),
                           .transposedA = args.a.transposed,
                           .add = add};
          if (right.packed == nullptr) ahead.next(&tile);
          kernels().tile(tile);
        } else {
          multiply(left.tile(r / product.rows), panel, depth, c, strideC, add, false);
        }
        if (last && !inC) finishTile(args, {c, strideC, row, count, column, columns}, worker);
      }
    }
    product.leave();
  }
}

// So that nothing need be allocated, and can fail, on the threads.
void reserve(const GemmTeam& team, const Task& task, const Part& largest, GemmMemory& memory) {
  const Product& product = *task.right.product;
  const int64_t left = product.direct ? 0
                                      : PackedLeft::length(product, largest.rowEnd - largest.rowBegin,
                                                           task.right.blockDepth, task.args.a.transposed);
  const int64_t sums = PartSums(task, largest).length;
  const auto workers = static_cast<size_t>(team.threads);
  if (memory.scratch.size() < workers) memory.scratch.resize(workers);
  for (size_t worker = 0; worker < workers; ++worker) {
    memory.scratch[worker].left.sized(left);
    memory.scratch[worker].sums.sized(sums);
  }
}

void runParts(const GemmTeam& team, const Task& task, GemmMemory& memory) {
  const Product& product = *task.right.product;
  const int64_t tiles = divideUp(task.args.m, product.rows), panels = task.right.panels;
  const Extent& extent = extentOf(product, task.args.a.transposed);
  int64_t down = divideUp(tiles, std::max<int64_t>(1, extent.rows / product.rows));
  int64_t across = divideUp(panels, std::max<int64_t>(1, extent.columns / product.columns));
  // As many for each thread, or so many that it does not matter.
  const int64_t threads = std::min<int64_t>(team.threads, tiles * panels);
  while (down * across < 8 * threads && down * across % threads != 0) {
    const bool byRows = across == panels ||
                        (down < tiles && tiles * product.rows * across >= panels * product.columns * down);
    ++(byRows ? down : across);
  }
  const int64_t partTiles = divideUp(tiles, down), partPanels = divideUp(panels, across);
  across = divideUp(panels, partPanels);
  reserve(team, task, {0, partTiles * product.rows, panels - partPanels, panels}, memory);
  team.each(divideUp(tiles, partTiles) * across, [&](int64_t index, int worker) {
    const int64_t tile = index / across * partTiles, panel = index % across * partPanels;
    const Part part = {tile * product.rows, std::min(task.args.m, (tile + partTiles) * product.rows), panel,
                       std::min(panels, panel + partPanels)};
    multiplyPart(task, part, memory.scratch[static_cast<size_t>(worker)], worker);
    if (task.args.finish != nullptr) {
      const int64_t column = panel * product.columns;
      const int64_t end = std::min(task.columns, part.panelEnd * product.columns);
      (*task.args.finish)({part.rowBegin, part.rowEnd - part.rowBegin, task.column + column, end - column},
                          worker);
    }
  });
}

void scaleC(const GemmArgs& args) {
  for (int64_t i = 0; i < args.m; ++i) {
    float* row = args.c + i * args.strideC;
    for (int64_t j = 0; j < args.n; ++j) row[j] = args.beta == 0 ? 0 : args.beta * row[j];
  }
}

// Whether B is multiplied where it lies, and the rest of it that can't be.
bool multipliesInPlace(const GemmArgs& args, const Product& product) {
  constexpr uintptr_t kAlignment = kLine * sizeof(float);
  return product.direct && args.a.transposed && !args.b.transposed &&
         (reinterpret_cast<uintptr_t>(args.b.data) | static_cast<uintptr_t>(args.b.stride) * sizeof(float)) %
                 kAlignment ==
             0;
}

Right inPlace(const GemmArgs& args, const Product& product, GrowingArray& memory) {
  Right right = {.product = &product,
                 .panels = divideUp(args.n, product.columns),
                 .blockDepth = gemmDepth(product, args.k, true),
                 .inPlace = args.b,
                 .whole = args.n / product.columns};
  const int64_t rest = args.n % product.columns;
  if (rest == 0) return right;
  float* panel = memory.sized(args.k * product.columns);
  product.packRight(args.b.at(0, args.n - rest), args.b.stride, rest, 0, args.k, args.k, panel);
  right.rest = panel;
  return right;
}

Right packed(const PackedRight& b) {
  return {.product = &b.product(), .panels = b.panels(), .blockDepth = b.blockDepth(), .packed = &b};
}

}  // namespace

int64_t gemmDepth(const Product& product, int64_t depth, bool transposedA) {
  const int64_t most = extentOf(product, transposedA).depth;
  if (depth <= most) return depth;
  return roundUp(divideUp(depth, divideUp(depth, most)), kPackRows);
}

void PackedRight::pack(const GemmTeam& team, const Operand& b, const Product& product, int64_t depth,
                       int64_t columns, int64_t blockDepth) {
  shape(product, depth, columns, blockDepth);
  memory_ = data_.sized(divideUp(depth, blockDepth) * panels_ * panelSize_);
  pack(team, b);
}

void PackedRight::shape(const Product& product, int64_t depth, int64_t columns, int64_t blockDepth) {
  product_ = &product;
  depth_ = depth;
  columns_ = columns;
  blockDepth_ = blockDepth;
  panels_ = divideUp(columns, product.columns);
  panelSize_ = product.columns * product.rightWords(blockDepth);
}

PackedRight PackedRight::in(float* memory, const Product& product, int64_t depth, int64_t columns) {
  PackedRight packed;
  packed.shape(product, depth, columns, gemmDepth(product, depth, false));
  packed.memory_ = memory;
  return packed;
}

int64_t PackedRight::length(const Product& product, int64_t depth, int64_t columns) {
  const PackedRight packed = in(nullptr, product, depth, columns);
  return divideUp(depth, packed.blockDepth_) * packed.panels_ * packed.panelSize_;
}

void PackedRight::pack(const GemmTeam& team, const Operand& b) {
  // Along the rows in which B is stored.
  if (b.transposed) {
    team.each(panels_, [&](int64_t index, int) { packPanel(b, index); });
  } else {
    team.each(divideUp(depth_, kPackRows), [&](int64_t run, int) { packRows(b, run * kPackRows); });
  }
}

void PackedRight::packPanel(const Operand& b, int64_t index) {
  const int64_t column = index * product_->columns;
  for (int64_t from = 0, block = 0; from < depth_; from += blockDepth_, ++block) {
    product_->packRightRows(b.at(from, column), b.stride,
                            std::min<int64_t>(product_->columns, columns_ - column),
                            std::min(blockDepth_, depth_ - from), place(block, index));
  }
}

void PackedRight::packRows(const Operand& b, int64_t begin) {
  const int64_t block = begin / blockDepth_, from = block * blockDepth_;
  const int64_t depth = std::min(blockDepth_, depth_ - from);
  for (int64_t index = 0, column = 0; index < panels_; ++index, column += product_->columns) {
    product_->packRight(b.at(begin, column), b.stride,
                        std::min<int64_t>(product_->columns, columns_ - column), begin - from,
                        std::min(kPackRows, depth_ - begin), depth, place(block, index));
  }
}

void gemm(const GemmTeam& team, const GemmArgs& args, GemmMemory& memory) {
  if (args.k == 0) scaleC(args);
  if (args.m == 0 || args.n == 0 || args.k == 0) return;
  if (args.packed != nullptr) return runParts(team, {args, packed(*args.packed), 0, args.n}, memory);
  const Product& product = productFor(args.m, args.n, args.k, args.precision);
  if (multipliesInPlace(args, product))
    return runParts(team, {args, inPlace(args, product, memory.rest), 0, args.n}, memory);
  const int64_t bytes = product.columns * product.rightWords(args.k) * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::max<int64_t>(1, kSlabBytes / bytes);
  const int64_t panels = divideUp(args.n, product.columns);
  const int64_t columns = divideUp(panels, divideUp(panels, most)) * product.columns;
  for (int64_t column = 0; column < args.n; column += columns) {
    const int64_t count = std::min(columns, args.n - column);
    const Operand b = {args.b.at(0, column), args.b.stride, args.b.transposed};
    memory.right.pack(team, b, product, args.k, count, gemmDepth(product, args.k, args.a.transposed));
    runParts(team, {args, packed(memory.right), column, count}, memory);
  }
}

Status gemm(const Context& context, const GemmArgs& args) {
  return guarded([&]() -> Status {
    Status status;
    const GemmTeam team = {context.threads, [&](int64_t count, const GemmTeam::Body& body) {
                             if (!status.ok()) return;
                             status = parallelTry(context, count, [&](int64_t index, int worker) -> Status {
                               body(index, worker);
                               return {};
                             });
                           }};
    GemmMemory memory;
    gemm(team, args, memory);
    return status;
  });
}

}  // namespace clipcid
