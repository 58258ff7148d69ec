// C = alpha op(A) op(B) + beta C.
//
// In: A, B float32 row-major, either stored transposed. Out: C [m, n]. Accuracy is that of product.h's kinds, of which
// the shape chooses one.
//
// B is packed once for each block of depth kDepth and kColumns columns, by all threads; then tasks of some tiles of
// rows, and of some of the columns where there are few rows, pack their rows and go through it a panel at a time, so
// that a panel stays near while the rows pass it. Every element's sum runs over k in order, in blocks of kDepth that
// are added in order, so results do not depend on the number of threads.
//
// Best measured, GFLOP/s by time of one thread: 383 for 1024 x 1024 x 1024 and 417 for 4096 x 512 x 256 with AMX, 158
// and 166 with AVX-512 (Xeon, two cores shared with other work, November 2026).
#include <algorithm>
#include <cstring>

#include "core/aligned.h"
#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/product.h"

namespace clipcid {
namespace {

constexpr int64_t kDepth = 512;
constexpr int64_t kColumns = 2048;
constexpr int64_t kTaskRows = 256;

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

struct Slab {
  int64_t column, columns;  // of C
  int64_t from, depth;      // of the sum
};

struct Scratch {
  AlignedArray<float> left;        // packed tiles of a task
  AlignedArray<float> transposed;  // rows of one tile, when A is transposed
};

void packPanel(const Product& product, const MatmulArgs& args, const Slab& slab, int64_t panel, float* out) {
  const int64_t first = slab.column + panel * product.columns;
  const int64_t count = std::min<int64_t>(product.columns, slab.column + slab.columns - first);
  if (args.transposeB) {
    product.packRightRows(args.b + first * args.strideB + slab.from, args.strideB, count, slab.depth, out);
  } else {
    product.packRight(args.b + slab.from * args.strideB + first, args.strideB, count, 0, slab.depth,
                      slab.depth, out);
  }
}

void packTile(const Product& product, const MatmulArgs& args, const Slab& slab, int64_t row, int64_t rows,
              float* transposed, float* out) {
  if (!args.transposeA) {
    product.packLeft(args.a + row * args.strideA + slab.from, args.strideA, rows, slab.depth, out);
    return;
  }
  constexpr int64_t kRun = 16;
  for (int64_t from = 0; from < slab.depth; from += kRun) {
    const int64_t to = std::min(slab.depth, from + kRun);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = from; k < to; ++k)
        transposed[r * slab.depth + k] = args.a[(slab.from + k) * args.strideA + row + r];
    }
  }
  product.packLeft(transposed, slab.depth, rows, slab.depth, out);
}

void addTile(const MatmulArgs& args, const Slab& slab, const float* tile, int64_t stride, int64_t row,
             int64_t rows, int64_t column, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    float* c = args.c + (row + r) * args.strideC + column;
    const float* from = tile + r * stride;
    if (slab.from > 0) {
      for (int64_t j = 0; j < columns; ++j) c[j] += args.alpha * from[j];
    } else if (args.beta == 0) {
      for (int64_t j = 0; j < columns; ++j) c[j] = args.alpha * from[j];
    } else {
      for (int64_t j = 0; j < columns; ++j) c[j] = args.alpha * from[j] + args.beta * c[j];
    }
  }
}

// Rows [begin, end) by the panels [firstPanel, lastPanel) of the slab.
void multiplyTask(const Product& product, const MatmulArgs& args, const Slab& slab, const float* packed,
                  int64_t begin, int64_t end, int64_t firstPanel, int64_t lastPanel, const Scratch& scratch) {
  alignas(64) float tile[kMostProductRows * kMostProductColumns];
  const int64_t tileSize = product.rows * product.leftWords(slab.depth);
  const int64_t panelSize = product.columns * product.rightWords(slab.depth);
  for (int64_t row = begin, t = 0; row < end; row += product.rows, ++t) {
    packTile(product, args, slab, row, std::min<int64_t>(product.rows, end - row), scratch.transposed.get(),
             scratch.left.get() + t * tileSize);
  }
  product.enter();
  for (int64_t panel = firstPanel; panel < lastPanel; ++panel) {
    const int64_t column = panel * product.columns;
    const int64_t columns = std::min<int64_t>(product.columns, slab.columns - column);
    for (int64_t row = begin, t = 0; row < end; row += product.rows, ++t) {
      product.multiply(scratch.left.get() + t * tileSize, packed + panel * panelSize, slab.depth, tile,
                       product.columns, false, false);
      addTile(args, slab, tile, product.columns, row, std::min<int64_t>(product.rows, end - row),
              slab.column + column, columns);
    }
  }
  product.leave();
}

void scaleC(const MatmulArgs& args) {
  for (int64_t i = 0; i < args.m; ++i) {
    float* row = args.c + i * args.strideC;
    for (int64_t j = 0; j < args.n; ++j) row[j] = args.beta == 0 ? 0 : args.beta * row[j];
  }
}

}  // namespace

Status CpuBackend::matmul(const Context& context, const MatmulArgs& args) {
  if (args.k == 0) scaleC(args);
  if (args.m == 0 || args.n == 0 || args.k == 0) return {};
  const Product& product = productFor(args.m, args.n, args.k);
  const int64_t depth = std::min(args.k, kDepth);
  const int64_t widest = divideUp(std::min(args.n, kColumns), product.columns);
  // About two tasks a thread, so that a thread which is held up does not hold up the others for long; of rows first,
  // because the tasks of one group of rows pack it each.
  const int64_t wanted = 2 * context.threads;
  const int64_t tiles = divideUp(args.m, product.rows);
  const int64_t taskRows =
      product.rows * std::clamp<int64_t>(divideUp(tiles, wanted), 1, divideUp(kTaskRows, product.rows));
  const int64_t groups = divideUp(args.m, taskRows);
  return guarded([&]() -> Status {
    const AlignedArray<float> packed(widest * product.columns * product.rightWords(depth));
    std::vector<Scratch> scratch(static_cast<size_t>(context.threads));
    for (Scratch& worker : scratch) {
      worker.left = AlignedArray<float>(taskRows * product.leftWords(depth));
      if (args.transposeA) worker.transposed = AlignedArray<float>(product.rows * depth);
    }
    for (int64_t column = 0; column < args.n; column += kColumns) {
      for (int64_t from = 0; from < args.k; from += kDepth) {
        const Slab slab = {column, std::min(kColumns, args.n - column), from,
                           std::min(kDepth, args.k - from)};
        const int64_t panels = divideUp(slab.columns, product.columns);
        CLIPCID_TRY(parallelTry(context, panels, [&](int64_t panel, int) -> Status {
          packPanel(product, args, slab, panel,
                    packed.get() + panel * product.columns * product.rightWords(slab.depth));
          return {};
        }));
        const int64_t parts = std::min(panels, divideUp(wanted, groups));
        CLIPCID_TRY(parallelTry(context, groups * parts, [&](int64_t index, int worker) -> Status {
          const int64_t begin = index / parts * taskRows;
          const int64_t part = index % parts;
          multiplyTask(product, args, slab, packed.get(), begin, std::min(args.m, begin + taskRows),
                       part * panels / parts, (part + 1) * panels / parts,
                       scratch[static_cast<size_t>(worker)]);
          return {};
        }));
      }
    }
    return {};
  });
}

}  // namespace clipcid
