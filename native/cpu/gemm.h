// Matrix products on the CPU: C = alpha op(A) op(B) + beta C, or what an epilogue makes of every finished tile.
//
// The threads are those of a context, the calling one alone, or whatever runs a GemmTeam. A right operand that several
// products share, such as a layer's weights, is packed once (PackedRight). Results depend neither on the number of threads
// nor on whether B was packed before. Accuracy is that of product.h's kinds; sums run over blocks of gemmDepth, which are
// added in order.
#pragma once

#include <functional>
#include <vector>

#include "clipcid/types.h"
#include "core/aligned.h"
#include "cpu/product.h"

namespace clipcid {

// Threads that are there already: `each` runs body(index, worker) for every index in [0, count), and returns when all are
// done. A worker's number is below `threads` and belongs to one thread meanwhile.
struct GemmTeam {
  using Body = std::function<void(int64_t index, int worker)>;
  int threads;
  std::function<void(int64_t count, const Body& body)> each;

  // The calling thread, which may be one of many that multiply something of their own.
  static GemmTeam alone() {
    return {1, [](int64_t count, const Body& body) {
              for (int64_t index = 0; index < count; ++index) body(index, 0);
            }};
  }
};

// A matrix [rows, columns] in memory: element (i, j) is data[i * stride + j], or transposed data[j * stride + i].
struct Operand {
  const float* data = nullptr;
  int64_t stride = 0;
  bool transposed = false;

  const float* at(int64_t row, int64_t column) const {
    return data + (transposed ? column * stride + row : row * stride + column);
  }
};

// A multiple of 32, or all of the depth.
int64_t gemmDepth(const Product& product, int64_t depth, bool transposedA);

// Memory that is kept from one use to the next; its contents are not.
class GrowingArray {
 public:
  // Throws std::bad_alloc.
  float* sized(int64_t count) {
    if (count > size_) {
      data_ = {};
      size_ = 0;
      data_ = AlignedArray<float>(count);
      size_ = count;
    }
    return data_.get();
  }
  float* get() const { return data_.get(); }

 private:
  AlignedArray<float> data_;
  int64_t size_ = 0;
};

// op(B), [depth, columns], in panels as products read them. It may be packed again, as another matrix too.
class PackedRight {
 public:
  // Throws std::bad_alloc. `rows` is about how many the left operands will have: it chooses the kind of product.
  void pack(const GemmTeam& team, const Operand& b, int64_t rows, int64_t depth, int64_t columns,
            Precision precision = Precision::kFloat32) {
    const Product& product = productFor(rows, columns, depth, precision);
    pack(team, b, product, depth, columns, gemmDepth(product, depth, false));
  }
  void pack(const GemmTeam& team, const Operand& b, const Product& product, int64_t depth, int64_t columns,
            int64_t blockDepth);

  // One in memory of the caller's, of length() floats and 64-byte aligned, which outlives it.
  static PackedRight in(float* memory, const Product& product, int64_t depth, int64_t columns);
  static int64_t length(const Product& product, int64_t depth, int64_t columns);
  // Packs such a one.
  void pack(const GemmTeam& team, const Operand& b);

  const Product& product() const { return *product_; }
  int64_t panels() const { return panels_; }
  int64_t blockDepth() const { return blockDepth_; }
  // The part of a panel that is in one block of the depth.
  const float* panel(int64_t block, int64_t index) const { return place(block, index); }

 private:
  float* place(int64_t block, int64_t index) const {
    return memory_ + (block * panels_ + index) * panelSize_;
  }
  void packRows(const Operand& b, int64_t begin);
  void packPanel(const Operand& b, int64_t index);

  const Product* product_ = nullptr;
  void shape(const Product& product, int64_t depth, int64_t columns, int64_t blockDepth);

  int64_t depth_ = 0, columns_ = 0, panels_ = 0, blockDepth_ = 0, panelSize_ = 0;
  float* memory_ = nullptr;
  GrowingArray data_;  // its own memory
};

// A finished tile: the elements [row, row + rows) by [column, column + columns) of op(A) op(B), `stride` apart and
// 64-byte aligned. An epilogue may write to them.
struct GemmTile {
  float* values;
  int64_t stride;
  int64_t row, rows, column, columns;
};
using GemmEpilogue = std::function<void(const GemmTile& tile, int worker)>;

// A part of C that is finished, and in the second cache.
struct GemmPart {
  int64_t row, rows, column, columns;
};
using GemmFinish = std::function<void(const GemmPart& part, int worker)>;

struct GemmArgs {
  int64_t m = 0, n = 0, k = 0;
  Operand a;                            // [m, k]
  Operand b;                            // [k, n]
  const PackedRight* packed = nullptr;  // instead of b; then A is not transposed
  // C is not read when beta is 0.
  float* c = nullptr;
  int64_t strideC = 0;
  float alpha = 1, beta = 0;
  Precision precision = Precision::kFloat32;  // where B is not packed
  // Instead of C, alpha and beta: receives every tile once, from any thread. k is at least 1 then.
  const GemmEpilogue* epilogue = nullptr;
  // With C: told of every part of it, from any thread.
  const GemmFinish* finish = nullptr;
};

// Kept from one product to the next.
struct GemmMemory {
  struct Scratch {
    GrowingArray left, sums;
  };

  PackedRight right;
  GrowingArray rest;
  std::vector<Scratch> scratch;  // by worker
};

// Throws std::bad_alloc; on the calling thread alone.
void gemm(const GemmTeam& team, const GemmArgs& args, GemmMemory& memory);
Status gemm(const Context& context, const GemmArgs& args);

}  // namespace clipcid
