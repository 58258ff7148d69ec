// c = alpha op(a) op(b) (+ c), batched, with a chain over each block as it is made.
//
// As cpu/matmul.cpp: the right side is packed into panels, for a slab of columns and depth at a time and by all
// threads, unless it comes packed; then tasks of some rows pack their part of the left side and go through the panels.
// A task that has its block's whole sums applies the chain to it while it is in the second cache. Sums run over k in
// slabs in order, so results do not depend on the number of threads. Batches of small matrices are a task each.
//
// Best measured: not yet measured.
#include "cpu/product.h"

#include <algorithm>
#include <cstring>

#include "cpu/ops/chain.h"
#include "cpu/ops/ops.h"

namespace clipcid {
namespace {

constexpr int64_t kDepth = 1024;
constexpr int64_t kColumns = 2048;
constexpr int64_t kTaskRows = 192;

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

// The depth in even parts of at most kDepth, in whole steps of packing.
int64_t slabDepth(int64_t k) {
  constexpr int64_t kUnit = 32;
  const int64_t parts = divideUp(k, kDepth);
  return std::min(k, divideUp(divideUp(k, parts), kUnit) * kUnit);
}

struct Matrices {
  const float* a;
  const float* b;
  float* c;
};

Matrices matricesOf(const ProductArgs& args, int64_t batch) {
  const int64_t outer = batch / args.batches[1], inner = batch % args.batches[1];
  return {args.a + outer * args.batchA[0] + inner * args.batchA[1],
          args.b + outer * args.batchB[0] + inner * args.batchB[1],
          args.c + outer * args.batchC[0] + inner * args.batchC[1]};
}

struct Slab {
  int64_t column, columns;  // of c
  int64_t from, depth;      // of the sum
  bool first, last;         // of the depth
};

class Multiplication {
 public:
  Multiplication(const ProductArgs& args, const Product& product)
      : args_(args), product_(product), runner_(args.chain) {}

  void packPanel(const float* b, const Slab& slab, int64_t panel, float* out) const {
    const int64_t first = slab.column + panel * product_.columns;
    const int64_t count = std::min<int64_t>(product_.columns, slab.column + slab.columns - first);
    if (args_.transposeB) {
      product_.packRightRows(b + first * args_.rowB + slab.from, args_.rowB, count, slab.depth, out);
    } else {
      product_.packRight(b + slab.from * args_.rowB + first, args_.rowB, count, 0, slab.depth, slab.depth,
                         out);
    }
  }

  // Floats of memory for a task of so many rows.
  int64_t taskFloats(int64_t rows, int64_t depth) const {
    return tileFloats() + divideUp(rows, product_.rows) * product_.rows * product_.leftWords(depth) +
           (args_.transposeA ? product_.rows * depth : 0) + runner_.floats();
  }

  // Rows [begin, end) by the panels [firstPanel, lastPanel) of the slab.
  void task(const Matrices& matrices, const Slab& slab, const float* packed, int64_t begin, int64_t end,
            int64_t firstPanel, int64_t lastPanel, float* memory) const {
    float* tile = memory;
    float* left = tile + tileFloats();
    const int64_t tiles = divideUp(end - begin, product_.rows);
    const int64_t tileSize = product_.rows * product_.leftWords(slab.depth);
    const int64_t panelSize = product_.columns * product_.rightWords(slab.depth);
    float* transposed = left + tiles * tileSize;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = begin + t * product_.rows;
      packTile(matrices.a, slab, row, std::min<int64_t>(product_.rows, end - row), transposed,
               left + t * tileSize);
    }
    product_.enter();
    for (int64_t panel = firstPanel; panel < lastPanel; ++panel) {
      const int64_t column = panel * product_.columns;
      const int64_t columns = std::min<int64_t>(product_.columns, slab.columns - column);
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t row = begin + t * product_.rows;
        product_.multiply(left + t * tileSize, packed + panel * panelSize, slab.depth, tile, product_.columns,
                          false, false);
        addTile(matrices.c, slab, tile, row, std::min<int64_t>(product_.rows, end - row),
                slab.column + column, columns);
      }
    }
    product_.leave();
    if (!args_.chained || !slab.last) return;
    float* registers = transposed + (args_.transposeA ? product_.rows * slab.depth : 0);
    const int64_t from = slab.column + firstPanel * product_.columns;
    const int64_t to = std::min(slab.column + slab.columns, slab.column + lastPanel * product_.columns);
    for (int64_t row = begin; row < end; ++row) runner_.row(row, from, to, registers);
  }

 private:
  int64_t tileFloats() const { return kMostProductRows * kMostProductColumns; }

  void packTile(const float* a, const Slab& slab, int64_t row, int64_t rows, float* transposed,
                float* out) const {
    if (!args_.transposeA) {
      product_.packLeft(a + row * args_.rowA + slab.from, args_.rowA, rows, slab.depth, out);
      return;
    }
    constexpr int64_t kRun = 16;
    for (int64_t from = 0; from < slab.depth; from += kRun) {
      const int64_t to = std::min(slab.depth, from + kRun);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k = from; k < to; ++k)
          transposed[r * slab.depth + k] = a[(slab.from + k) * args_.rowA + row + r];
      }
    }
    product_.packLeft(transposed, slab.depth, rows, slab.depth, out);
  }

  void addTile(float* matrix, const Slab& slab, const float* tile, int64_t row, int64_t rows, int64_t column,
               int64_t columns) const {
    for (int64_t r = 0; r < rows; ++r) {
      float* c = matrix + (row + r) * args_.rowC + column;
      const float* from = tile + r * product_.columns;
      if (slab.first && !args_.accumulate) {
        for (int64_t j = 0; j < columns; ++j) c[j] = args_.alpha * from[j];
      } else {
        for (int64_t j = 0; j < columns; ++j) c[j] += args_.alpha * from[j];
      }
    }
  }

  const ProductArgs& args_;
  const Product& product_;
  const ChainRunner runner_;
};

// Many small products: each whole, by one thread.
Status runBatches(Team& team, const ProductArgs& args, const Product& product) {
  const Multiplication multiplication(args, product);
  const int64_t depth = slabDepth(args.k);
  const int64_t panels = divideUp(args.n, product.columns);
  const int64_t packedFloats = panels * product.columns * product.rightWords(depth);
  team.own(packedFloats + multiplication.taskFloats(std::min(args.m, kTaskRows), depth));
  team.each(args.batches[0] * args.batches[1], [&](int64_t batch, int worker) {
    const Matrices matrices = matricesOf(args, batch);
    float* packed = team.of(worker);
    for (int64_t from = 0; from < args.k; from += depth) {
      const Slab slab = {0, args.n, from, std::min(depth, args.k - from), from == 0, from + depth >= args.k};
      for (int64_t panel = 0; panel < panels; ++panel) {
        multiplication.packPanel(matrices.b, slab, panel,
                                 packed + panel * product.columns * product.rightWords(slab.depth));
      }
      for (int64_t row = 0; row < args.m; row += kTaskRows) {
        multiplication.task(matrices, slab, packed, row, std::min(args.m, row + kTaskRows), 0, panels,
                            packed + packedFloats);
      }
    }
  });
  return {};
}

Status runOne(Team& team, const ProductArgs& args, const Product& product, const Matrices& matrices) {
  const Multiplication multiplication(args, product);
  const int64_t depth = slabDepth(args.k);
  const int64_t widest = divideUp(std::min(args.n, kColumns), product.columns);
  // About four tasks a thread, so that a thread which is held up does not hold up the others for long; of rows first,
  // because the tasks of one group of rows pack it each.
  const int64_t wanted = team.threads() == 1 ? 1 : 4 * team.threads();
  const int64_t tiles = divideUp(args.m, product.rows);
  const int64_t taskRows =
      product.rows * std::clamp<int64_t>(divideUp(tiles, wanted), 1, divideUp(kTaskRows, product.rows));
  const int64_t groups = divideUp(args.m, taskRows);
  float* shared = args.packedB ? nullptr : team.shared(widest * product.columns * product.rightWords(depth));
  team.own(multiplication.taskFloats(taskRows, depth));
  for (int64_t column = 0; column < args.n; column += kColumns) {
    for (int64_t from = 0; from < args.k; from += depth) {
      const Slab slab = {column,    std::min(kColumns, args.n - column),
                         from,      std::min(depth, args.k - from),
                         from == 0, from + depth >= args.k};
      const int64_t panels = divideUp(slab.columns, product.columns);
      const float* packed = shared;
      if (args.packedB) {
        // Slabs of depth one after the other, each with all panels.
        packed = args.b + (divideUp(args.n, product.columns) * from +
                           column / product.columns * product.rightWords(slab.depth)) *
                              product.columns;
      } else {
        team.each(panels, [&](int64_t panel, int) {
          multiplication.packPanel(matrices.b, slab, panel,
                                   shared + panel * product.columns * product.rightWords(slab.depth));
        });
      }
      const int64_t parts = std::min(panels, divideUp(wanted, groups));
      team.each(groups * parts, [&](int64_t index, int worker) {
        const int64_t begin = index / parts * taskRows;
        const int64_t part = index % parts;
        multiplication.task(matrices, slab, packed, begin, std::min(args.m, begin + taskRows),
                            part * panels / parts, (part + 1) * panels / parts, team.of(worker));
      });
    }
  }
  return {};
}

Status wrongSize() { return {Code::kInternal, "A packed matrix has too little memory"}; }

// For many rows, since it is packed for many.
const Product& packedProduct(int64_t n, int64_t k) { return productFor(1024, n, k); }

}  // namespace

Status run(Team& team, const ProductArgs& args) {
  if (args.packedB && args.packedFloats < packedFloats(args.n, args.k)) return wrongSize();
  const Product& product = args.packedB ? packedProduct(args.n, args.k) : productFor(args.m, args.n, args.k);
  const int64_t batches = args.batches[0] * args.batches[1];
  if (batches >= 2 * team.threads() && !args.chained) return runBatches(team, args, product);
  for (int64_t batch = 0; batch < batches; ++batch)
    CLIPCID_TRY(runOne(team, args, product, matricesOf(args, batch)));
  return {};
}

int64_t packedFloats(int64_t n, int64_t k) {
  const Product& product = packedProduct(n, k);
  return divideUp(n, product.columns) * product.columns * product.rightWords(k);
}

Status run(Team& team, const PackArgs& args) {
  if (args.packedFloats < packedFloats(args.n, args.k)) return wrongSize();
  const Product& product = packedProduct(args.n, args.k);
  ProductArgs of;
  of.transposeB = args.transpose;
  of.rowB = args.row;
  const Multiplication multiplication(of, product);
  const int64_t depth = slabDepth(args.k);
  const int64_t panels = divideUp(args.n, product.columns);
  const int64_t slabs = divideUp(args.k, depth);
  team.each(slabs * panels, [&](int64_t index, int) {
    const int64_t from = index / panels * depth, panel = index % panels;
    const Slab slab = {0, args.n, from, std::min(depth, args.k - from), false, false};
    multiplication.packPanel(
        args.b, slab, panel,
        args.packed + (panels * from + panel * product.rightWords(slab.depth)) * product.columns);
  });
  return {};
}

}  // namespace clipcid
