// Strips of a student's and its teacher's softmax over keys (distil.cpp), with products in float32. DistilFixed makes most of
// them in fixed point (distil_fixed.cpp).
#pragma once

#include <vector>

#include "clipcid/backend.h"
#include "core/aligned.h"
#include "cpu/kernels.h"
#include "cpu/softmax_loss_rows.h"

namespace clipcid {

// What is asked for during some tiles: a stretch of memory, a part in each (TileArgs::ahead).
class Ahead {
 public:
  // `data` may be null; `near` is what may be asked for then.
  Ahead(const float* data, int64_t elements, int64_t tiles, const float* near)
      : data_(data), near_(near), part_(data != nullptr ? (elements + tiles - 1) / tiles : 0) {}

  template <typename Tile>
  void next(Tile* tile) {
    tile->ahead = data_ != nullptr ? data_ + part_ * at_++ : near_;
    tile->aheadStep = (part_ + tile->depth - 1) / tile->depth;
  }

 private:
  const float* data_;
  const float* near_;
  int64_t part_;
  int64_t at_ = 0;
};

class Distil {
 public:
  Distil(const Context& context, const DistilArgs& args);
  virtual ~Distil() = default;
  Status run();

 protected:
  // One of the two softmaxes.
  struct Side {
    const float* rows;
    double scale;   // of logits in units of ln(2)
    double weight;  // with its sign
  };

  // Memory of a strip: its logits, which become exponentials, and what belongs to them. Pairs are by side.
  struct Strip {
    // Numbers of the strips whose logits are made and whose values are summed up, or -1.
    int64_t logits = -1, values = -1;
    AlignedArray<float> z[2];  // [keys, lanes], and some rows more
    AlignedArray<float>
        maxima[2];  // [blocks, lanes]; then what exponentials are multiplied with to be the softmax
    AlignedArray<float> sums[2];      // [blocks, lanes]
    AlignedArray<float> differences;  // [blocks, lanes]
    AlignedArray<float> totals;       // [chunks, totalRows_, lanes] sums of values
    AlignedArray<float> rest;       // [chunks, lanes, dim] sums of values that are no part of these; or empty
    AlignedArray<float> panels[2];  // packed queries, [lanes / panel] of [dim, panel]
    AlignedArray<float> queries;    // [lanes, paddedDim_] of `values`, for the keys' sums
    // By lane, of all keys: the largest logit, the sum of exponentials over it, the sum of the second's times (its logit -
    // the first's), and the softmax's weight.
    std::vector<float> largest[2], weights[2];
    std::vector<double> sum[2], difference;
  };

  // Keys [first, first + count), and their rows as they are multiplied.
  struct Block {
    int64_t index, first, count;
    const float* rows;  // [count, dim]
    const float* next;  // those of the next block of the chunk, where they are asked for ahead, or null
  };

  // Of a thread.
  struct Scratch {
    AlignedArray<float> keys;       // [block, dim], copied
    AlignedArray<float> weights;    // [block, lanes]
    AlignedArray<float> keySums;    // [block, paddedDim_]
    std::vector<float> factors[2];  // [lanes]
    std::vector<float> scales[2],
        inverses;               // [block] what makes a dot a logit, by side, and what the rows are to be over
    std::vector<double> norms;  // [block]
  };

  // Memory that is not Distil's own.
  virtual void allocate();
  // Queries [lane, lane + kRowLanes) of the strip `logits`.
  virtual void loadLanes(Strip& strip, int64_t lane);
  // Before a block is multiplied, for values or logits or both.
  virtual void prepare(const Strip&, const Block&, Scratch&) {}
  // z = dots of the strip `logits` with a block of keys, which scratch.scales makes logits.
  virtual void makeDots(Strip& strip, const Block& block, Scratch& scratch);
  // Of scratch.weights, [block, lanes] of the strip `values`, those that are better known.
  virtual void patchWeights(const Strip&, const Block&, Scratch&) {}
  // Adds the sums of a block's keys with scratch.weights, which may be overwritten, to the strip `values`.
  virtual void addProducts(Strip& strip, const Block& block, int64_t chunk, Scratch& scratch);
  // Between logits and values, when the sums over all keys are known.
  virtual Status refine() { return {}; }

  int64_t firstBlock(int64_t chunk) const { return chunk * blocks_ / chunks_; }
  int64_t keysOf(int64_t block) const {
    return block * blockKeys_ + blockKeys_ < args_.keys.count ? blockKeys_
                                                              : args_.keys.count - block * blockKeys_;
  }
  int64_t queriesOf(int64_t strip) const {
    return strip * lanes_ + lanes_ < args_.rows ? lanes_ : args_.rows - strip * lanes_;
  }
  const float* keyRow(int64_t key) const {
    return args_.keys.data + (args_.keys.indices != nullptr ? args_.keys.indices[key] : key) * args_.dim;
  }
  double normOf(int64_t key) const {
    if (args_.keys.norms != nullptr) return args_.keys.norms[key];
    return args_.keys.measured != nullptr ? args_.keys.measured[key] : 1;
  }

  const Context& context_;
  const DistilArgs& args_;
  const Kernels& kernel_;
  const SoftmaxRows& rows_;
  std::vector<Side> sides_;
  int64_t blockKeys_, blocks_, chunks_, lanes_, stripCount_, paddedDim_, totalRows_;
  std::vector<Strip> strips_;
  std::vector<Scratch> scratch_;  // by worker
  bool measured_ = false;         // whether keys.measured has been written

 private:
  void plan();
  void load(Strip& strip, int64_t lane);
  void chunk(Strip& strip, int64_t index, Scratch& scratch);
  Block block(int64_t index, int64_t end, bool writesNorms, Scratch& scratch);
  void makeLogits(Strip& strip, const Block& block, Scratch& scratch);
  void addValues(Strip& strip, const Block& block, int64_t chunk, Scratch& scratch);
  void addKeySums(const Strip& strip, const Block& block, Scratch& scratch);
  void mergeLogits(Strip& strip);
  void finishLogits(Strip& strip);
  void finishValues(const Strip& strip, int64_t begin, int64_t end);
};

}  // namespace clipcid
