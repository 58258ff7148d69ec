// The streaming pass that both softmax primitives are made of: every tile of dots of queries with keys, what an
// epilogue makes of it, and sums over values with the weights that the epilogue left.
//
// Tiles are rows of one set of queries. Queries go by in runs of tiles whose packed rows and sums fit kRunBytes, and
// for each run the keys in groups of kGroupBytes, packed once by all threads: k for the dots, v for the sums, both
// while their rows are in the cache. Then tasks of tiles take blocks of kKeyBlock keys: dots, epilogue, sums.
//
// Invariants: a query's arithmetic depends on the keys alone, whose blocks begin at multiples of kKeyBlock. So neither
// the number of threads nor the split into tasks, runs and groups changes a bit. Memory: a run, a group, and a tile by
// a block for each thread; nothing grows with queries times keys.
#pragma once

#include <vector>

#include "clipcid/backend.h"
#include "core/aligned.h"
#include "cpu/product.h"

namespace clipcid {

class SoftmaxPass {
 public:
  struct Shape {
    std::vector<SoftmaxSide> queries;
    SoftmaxSide keys;
    SoftmaxSide values;  // `data` null: the keys
    int64_t dim = 0;
    bool sums = false;
    bool mirrored = false;
    int64_t taskRows = 1;  // a task takes whole multiples of so many rows, counted from the first query
  };

  SoftmaxPass(const Context& context, Shape shape);
  virtual ~SoftmaxPass() = default;
  Status run();

 protected:
  static constexpr int64_t kKeyBlock = 256;
  // Of rows of dots: a stride of a power of two would put all rows of a tile into the same few sets of a cache.
  static constexpr int64_t kStride = kKeyBlock + 16;

  struct Tile {
    size_t set;
    int64_t first, count;  // rows of the set
    int64_t place;         // of the tile among all
  };

  // Turns the dots z, [tile.count, keys] with stride kStride, into weights; each row may be written up to the next
  // multiple of 16. factors[r] is what the row's sums so far are multiplied with; false when all are 1.
  virtual bool epilogue(const Tile& tile, int64_t firstKey, int64_t keys, float* z, float* factors) = 0;
  // After the last key. Row r of the sums is at r * stride; null without sums.
  virtual void finish(const Tile& tile, const float* sums, int64_t stride) = 0;

  const Context& context_;
  const Shape shape_;
  const Product& product_;
  int64_t unit_;  // tiles of Shape::taskRows

 private:
  struct Scratch {
    AlignedArray<float> rows, values, dots, weights;
  };

  void packQueries(const Tile& tile, int64_t local, Scratch& scratch);
  void packKeys(int64_t first, int64_t count, int64_t run, Scratch& scratch);
  void task(int64_t begin, int64_t end, int64_t first, int64_t count, Scratch& scratch);
  void addSums(const Tile& tile, int64_t local, int64_t keys, const float* panels, bool first,
               Scratch& scratch);
  int64_t keysOfBlock(int64_t block, int64_t count) const;

  std::vector<Tile> tiles_;
  size_t runBegin_ = 0;  // first tile of the run
  int64_t runTiles_, taskTiles_;
  int64_t keyRun_;  // keys that are packed at a time
  int64_t groupKeys_, dims_, sumStride_, leftSize_, keyBlockSize_, valueBlockSize_;
  AlignedArray<float> left_, sums_, keyPanels_, valuePanels_;
  std::vector<Scratch> scratch_;  // by worker
};

// What log-sum-exps become for the exponentials: units of ln(2), rounded, with what the rounding took in the weight.
struct RoundedLse {
  std::vector<float> lse, weights;

  RoundedLse(const double* values, int64_t count, double weight, int64_t padded);
};

}  // namespace clipcid
