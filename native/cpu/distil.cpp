// A student's and its teacher's softmax over keys, forward and backward, each logit made once (clipcid/backend.h,
// DistilArgs).
//
// In: student q, teacher t [B, D], keys k [K, D]. Out: by query the log-sum-exp, the target's logit, the divergence of P
// from Q and the sum over the keys with the weights g = u Q - v P; by key, where asked for, the sum of the queries with them.
//
// Queries go by in strips of some lanes. The logits of a strip with all keys are kept, lanes side by side: a block of
// kBlockKeys keys by the strip's lanes is a product with the keys on the left, which are read where they lie. Exponentials
// of a block are taken over its own maximum, so that blocks are independent. When all blocks are done the softmaxes'
// sums are known, and one product of the keys, transposed, with the difference of both softmaxes gives the sums: three
// products, where two softmaxes that are summed up apart, as in attention, take four.
//
// A pass does the second product of one strip and, in the same memory, the first one of the next: what it reads of a
// block of keys from memory it uses for both. The next block is asked for meanwhile (TileArgs::ahead). A thread takes a
// chunk of blocks at a time; sums of chunks are added in order. Chunks depend on the number of keys alone, so neither
// threads nor the width of the strips change a bit.
//
// Keys by index are copied a block at a time, and so are, over their norms, those of a block where a norm is far from 1.
// All others are divided by their norms in the logits and in the weights.
//
// Memory: (P and Q, the difference, and for each of kChunks chunks sums) times the lanes of a strip, which are as many as
// fit a quarter of what keys and queries themselves are, or kLeastBytes where that is more; never less than one panel.
//
// Products are made in float32, or, where that is twice as fast, in fixed point (distil_fixed.cpp).
//
// Best measured, two threads, 1,024 x 512 with 20,000 keys: in float32 140 ms with a teacher (450 of 512 GFLOP/s) and 95 ms
// without; the whole loss with all its terms then takes 157 and 112 ms, and in fixed point, contrast and all, 116 and 81 ms (AMD Zen 5,
// AVX-512, November 2026).
#include "cpu/distil.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/distil_fixed.h"
#include "cpu/product.h"

namespace clipcid {
namespace {

constexpr int64_t kBlockBytes = 400 << 10;  // of keys
constexpr int64_t kLeastBlockKeys = 96, kMostBlockKeys = 192;
constexpr int64_t kChunks = 16;
constexpr int64_t kMostLanes = 256;
constexpr int64_t kLeastBytes = 30 << 20, kMostBytes = 256 << 20;  // of a strip
constexpr int64_t kFloatBytes = sizeof(float);
constexpr double kMostNorm = 0x1p20;  // of keys that are read where they lie
constexpr double kLn2 = 0.69314718055994531;
constexpr double kLog2e = 1.4426950408889634;

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
int64_t roundUp(int64_t value, int64_t unit) { return divideUp(value, unit) * unit; }

}  // namespace

Distil::Distil(const Context& context, const DistilArgs& args)
    : context_(context), args_(args), kernel_(kernels()), rows_(softmaxRows()) {
  sides_.push_back({args.student, args.scale * kLog2e, args.studentWeight});
  if (args.teacher != nullptr)
    sides_.push_back({args.teacher, args.teacherScale * kLog2e, -args.teacherWeight});
  plan();
  for (Strip& strip : strips_) {
    for (size_t side = 0; side < sides_.size(); ++side) {
      strip.z[side] = AlignedArray<float>((args.keys.count + kMostTileRows) * lanes_);
      strip.largest[side].resize(static_cast<size_t>(lanes_));
      strip.weights[side].resize(static_cast<size_t>(lanes_));
      strip.sum[side].resize(static_cast<size_t>(lanes_));
      strip.maxima[side] = AlignedArray<float>(blocks_ * lanes_);
      strip.sums[side] = AlignedArray<float>(blocks_ * lanes_);
    }
    if (sides_.size() > 1) strip.differences = AlignedArray<float>(blocks_ * lanes_);
    strip.difference.resize(static_cast<size_t>(lanes_));
    strip.totals = AlignedArray<float>(chunks_ * totalRows_ * lanes_);
    if (args.keySums != nullptr) strip.queries = AlignedArray<float>(lanes_ * paddedDim_);
  }
  const auto workers =
      static_cast<size_t>(std::min<int64_t>(context.threads, chunks_ * static_cast<int64_t>(strips_.size())));
  scratch_.resize(workers);
  const auto keys = static_cast<size_t>(blockKeys_);
  for (Scratch& scratch : scratch_) {
    // Whether keys need be copied shows when their norms are measured.
    scratch.keys = AlignedArray<float>(blockKeys_ * args.dim);
    scratch.weights = AlignedArray<float>(blockKeys_ * lanes_);
    if (args.keySums != nullptr) scratch.keySums = AlignedArray<float>(blockKeys_ * paddedDim_);
    for (size_t side = 0; side < sides_.size(); ++side) {
      scratch.scales[side].resize(keys);
      scratch.factors[side].resize(static_cast<size_t>(lanes_));
    }
    scratch.inverses.resize(keys);
    scratch.norms.resize(keys);
  }
}

void Distil::allocate() {
  for (Strip& strip : strips_) {
    for (size_t side = 0; side < sides_.size(); ++side)
      strip.panels[side] = AlignedArray<float>(lanes_ * args_.dim);
  }
}

void Distil::plan() {
  const int64_t dim = args_.dim, keys = args_.keys.count, sides = static_cast<int64_t>(sides_.size());
  paddedDim_ = roundUp(dim, kernel_.panel);
  totalRows_ = roundUp(dim, kernel_.tileRows);
  const int64_t fits = kBlockBytes / (dim * kFloatBytes);
  blockKeys_ = std::clamp(fits / kernel_.tileRows * kernel_.tileRows, kLeastBlockKeys, kMostBlockKeys);
  blocks_ = divideUp(keys, blockKeys_);
  chunks_ = std::min(blocks_, kChunks);
  int64_t bytes = std::clamp((keys + args_.rows) * dim * kFloatBytes / 4, kLeastBytes, kMostBytes);
  if (context_.maxMemory > 0) bytes = std::min(bytes, context_.maxMemory);
  const int64_t unit = std::max<int64_t>(kRowLanes, kernel_.panel);
  const int64_t laneBytes = (sides * (keys + dim) + chunks_ * dim) * kFloatBytes;
  const int64_t most = std::clamp(bytes / laneBytes / unit * unit, unit, kMostLanes);
  lanes_ = roundUp(divideUp(args_.rows, divideUp(args_.rows, most)), unit);
  stripCount_ = divideUp(args_.rows, lanes_);
  // More threads than chunks take several strips side by side; unless these would add to the same sums.
  const int64_t beside = args_.keySums != nullptr ? 1 : divideUp(context_.threads, chunks_);
  strips_.resize(static_cast<size_t>(std::min(stripCount_, beside)));
}

Status Distil::run() {
  allocate();
  const auto beside = static_cast<int64_t>(strips_.size());
  for (int64_t pass = 0; (pass - 1) * beside < stripCount_; ++pass) {
    for (int64_t i = 0; i < beside; ++i) {
      Strip& strip = strips_[static_cast<size_t>(i)];
      strip.values = strip.logits;
      strip.logits = pass * beside + i < stripCount_ ? pass * beside + i : -1;
    }
    const int64_t units = lanes_ / kRowLanes;
    parallelFor(context_.threads, beside * units, [&](int64_t index, int) {
      load(strips_[static_cast<size_t>(index / units)], index % units * kRowLanes);
    });
    parallelFor(context_.threads, beside * chunks_, [&](int64_t index, int worker) {
      chunk(strips_[static_cast<size_t>(index / chunks_)], index % chunks_,
            scratch_[static_cast<size_t>(worker)]);
    });
    if (context_.cancelled()) return Status::aborted();
    measured_ = true;
    constexpr int64_t kRun = 64;
    const int64_t runs = divideUp(args_.dim, kRun);
    parallelFor(context_.threads, beside * (runs + 1), [&](int64_t index, int) {
      Strip& strip = strips_[static_cast<size_t>(index / (runs + 1))];
      const int64_t run = index % (runs + 1);
      if (run < runs) {
        if (strip.values >= 0) finishValues(strip, run * kRun, std::min(args_.dim, (run + 1) * kRun));
      } else if (strip.logits >= 0) {
        mergeLogits(strip);
      }
    });
    CLIPCID_TRY(refine());
    for (Strip& strip : strips_) {
      if (strip.logits >= 0) finishLogits(strip);
    }
  }
  return {};
}

void Distil::load(Strip& strip, int64_t lane) {
  const int64_t dim = args_.dim;
  if (strip.logits >= 0) loadLanes(strip, lane);
  if (args_.keySums == nullptr || strip.values < 0) return;
  for (int64_t i = lane; i < lane + kRowLanes; ++i) {
    const int64_t query = strip.values * lanes_ + i;
    float* to = strip.queries.get() + i * paddedDim_;
    const int64_t length = query < args_.rows ? dim : 0;
    if (length > 0) memcpy(to, args_.student + query * dim, static_cast<size_t>(dim * kFloatBytes));
    std::fill(to + length, to + paddedDim_, 0.0f);
  }
}

void Distil::loadLanes(Strip& strip, int64_t lane) {
  const Product& product = floatProduct();
  const int64_t dim = args_.dim;
  for (int64_t i = lane; i < lane + kRowLanes; i += product.columns) {
    const int64_t first = strip.logits * lanes_ + i;
    const int64_t count = std::clamp<int64_t>(args_.rows - first, 0, product.columns);
    for (size_t side = 0; side < sides_.size(); ++side) {
      product.packRightRows(sides_[side].rows + first * dim, dim, count, dim,
                            strip.panels[side].get() + i * dim);
    }
  }
}

void Distil::chunk(Strip& strip, int64_t index, Scratch& scratch) {
  if (strip.values < 0 && strip.logits < 0) return;
  const int64_t end = firstBlock(index + 1);
  for (int64_t at = firstBlock(index); at < end; ++at) {
    if (context_.cancelled()) return;
    const Block keys = block(at, end, strip.logits == 0, scratch);
    prepare(strip, keys, scratch);
    if (strip.values >= 0) addValues(strip, keys, index, scratch);
    if (strip.logits >= 0) makeLogits(strip, keys, scratch);
  }
}

Distil::Block Distil::block(int64_t index, int64_t end, bool writesNorms, Scratch& scratch) {
  const SoftmaxSide& keys = args_.keys;
  const int64_t dim = args_.dim;
  Block block = {index, index * blockKeys_, keysOf(index), nullptr, nullptr};
  const auto row = [&](int64_t j) { return keyRow(block.first + j); };
  bool wild = false;
  for (int64_t j = 0; j < block.count; ++j) {
    double norm = 1;
    if (keys.norms != nullptr) {
      norm = keys.norms[block.first + j];
    } else if (keys.measured != nullptr) {
      norm = measured_ ? keys.measured[block.first + j] : std::sqrt(kernel_.dot(row(j), row(j), dim));
      if (writesNorms) keys.measured[block.first + j] = norm;
    }
    scratch.norms[static_cast<size_t>(j)] = norm;
    wild |= !(norm <= kMostNorm && norm >= 1 / kMostNorm);
  }
  float* copy = scratch.keys.get();
  if (wild) {
    for (int64_t j = 0; j < block.count; ++j)
      rows_.scaled(row(j), dim, 1 / scratch.norms[static_cast<size_t>(j)], copy + j * dim);
  } else if (keys.indices != nullptr) {
    for (int64_t j = 0; j < block.count; ++j)
      memcpy(copy + j * dim, row(j), static_cast<size_t>(dim * kFloatBytes));
  } else {
    block.rows = row(0);
    if (index + 1 < end) block.next = block.rows + block.count * dim;
  }
  if (block.rows == nullptr) block.rows = copy;
  for (int64_t j = 0; j < block.count; ++j) {
    const auto at = static_cast<size_t>(j);
    const double inverse = wild ? 1 : 1 / scratch.norms[at];
    scratch.inverses[at] = static_cast<float>(inverse);
    for (size_t side = 0; side < sides_.size(); ++side)
      scratch.scales[side][at] = static_cast<float>(sides_[side].scale * inverse);
  }
  return block;
}

void Distil::makeLogits(Strip& strip, const Block& block, Scratch& scratch) {
  makeDots(strip, block, scratch);
  const int64_t at = block.index * lanes_;
  const LaneBlock first = {strip.z[0].get() + block.first * lanes_, scratch.scales[0].data()};
  if (sides_.size() == 1) {
    rows_.lanes(first, lanes_, block.count, lanes_, strip.maxima[0].get() + at, strip.sums[0].get() + at);
    return;
  }
  const LaneBlock second = {strip.z[1].get() + block.first * lanes_, scratch.scales[1].data()};
  rows_.twoLanes(first, second, lanes_, block.count, lanes_, strip.maxima[0].get() + at,
                 strip.maxima[1].get() + at, strip.sums[0].get() + at, strip.sums[1].get() + at,
                 strip.differences.get() + at);
}

void Distil::makeDots(Strip& strip, const Block& block, Scratch& scratch) {
  const int64_t dim = args_.dim, width = kernel_.panel, height = kernel_.tileRows;
  Ahead ahead(block.next, block.next != nullptr ? keysOf(block.index + 1) * dim : 0,
              static_cast<int64_t>(sides_.size()) * (lanes_ / width) * divideUp(block.count, height),
              block.rows);
  for (size_t side = 0; side < sides_.size(); ++side) {
    float* z = strip.z[side].get() + block.first * lanes_;
    for (int64_t lane = 0; lane < lanes_; lane += width) {
      for (int64_t j = 0; j < block.count; j += height) {
        TileArgs tile = {.a = block.rows + j * dim,
                         .strideA = dim,
                         .b = strip.panels[side].get() + lane * dim,
                         .strideB = width,
                         .depth = dim,
                         .c = z + j * lanes_ + lane,
                         .strideC = lanes_,
                         .rows = static_cast<int>(std::min(height, block.count - j))};
        ahead.next(&tile);
        kernel_.tile(tile);
      }
    }
  }
  if (args_.targets == nullptr) return;
  // The targets' logits as the softmax takes them.
  const int64_t query = strip.logits * lanes_;
  for (int64_t lane = 0; lane < queriesOf(strip.logits); ++lane) {
    const int64_t j = args_.targets[query + lane] - block.first;
    if (j < 0 || j >= block.count) continue;
    const float logit =
        strip.z[0].get()[(block.first + j) * lanes_ + lane] * scratch.scales[0][static_cast<size_t>(j)];
    args_.targetLogit[query + lane] = static_cast<double>(logit) * kLn2;
  }
}

void Distil::addValues(Strip& strip, const Block& block, int64_t chunk, Scratch& scratch) {
  const int64_t at = block.index * lanes_, offset = block.first * lanes_;
  for (size_t side = 0; side < sides_.size(); ++side) {
    const float* softmax = strip.maxima[side].get() + at;
    for (int64_t lane = 0; lane < lanes_; ++lane) {
      const auto i = static_cast<size_t>(lane);
      scratch.factors[side][i] = softmax[lane] * strip.weights[side][i];
    }
  }
  const bool two = sides_.size() > 1;
  rows_.weighLanes(strip.z[0].get() + offset, two ? strip.z[1].get() + offset : nullptr, lanes_, block.count,
                   lanes_, scratch.factors[0].data(), two ? scratch.factors[1].data() : nullptr,
                   scratch.weights.get());
  patchWeights(strip, block, scratch);
  if (args_.keySums != nullptr) addKeySums(strip, block, scratch);
  addProducts(strip, block, chunk, scratch);
}

void Distil::addProducts(Strip& strip, const Block& block, int64_t chunk, Scratch& scratch) {
  const int64_t dim = args_.dim, width = kernel_.panel, height = kernel_.tileRows;
  const auto sides = static_cast<int64_t>(sides_.size());
  float* weights = scratch.weights.get();
  rows_.scaleKeys(weights, lanes_, block.count, lanes_, scratch.inverses.data());
  const int64_t tiles = divideUp(dim, height) * (lanes_ / width);
  // The exponentials of the next block.
  const bool more = block.index + 1 < firstBlock(chunk + 1);
  const int64_t next = (block.first + block.count) * lanes_;
  const int64_t count = more ? keysOf(block.index + 1) * lanes_ : 0;
  Ahead ahead(more ? strip.z[0].get() + next : nullptr, count, divideUp(tiles, sides), weights);
  Ahead second(more && sides > 1 ? strip.z[1].get() + next : nullptr, count, divideUp(tiles, sides), weights);
  float* totals = strip.totals.get() + chunk * totalRows_ * lanes_;
  int64_t done = 0;
  for (int64_t lane = 0; lane < lanes_; lane += width) {
    for (int64_t d = 0; d < dim; d += height) {
      TileArgs tile = {.a = block.rows + d,
                       .strideA = dim,
                       .b = weights + lane,
                       .strideB = lanes_,
                       .depth = block.count,
                       .c = totals + d * lanes_ + lane,
                       .strideC = lanes_,
                       .rows = static_cast<int>(std::min(height, dim - d)),
                       .transposedA = true,
                       .add = block.index != firstBlock(chunk)};
      (done++ * sides < tiles ? ahead : second).next(&tile);
      kernel_.tile(tile);
    }
  }
}

void Distil::addKeySums(const Strip& strip, const Block& block, Scratch& scratch) {
  const int64_t dim = args_.dim, width = kernel_.panel, height = kernel_.tileRows;
  for (int64_t d = 0; d < dim; d += width) {
    for (int64_t j = 0; j < block.count; j += height) {
      kernel_.tile({.a = scratch.weights.get() + j * lanes_,
                    .strideA = lanes_,
                    .b = strip.queries.get() + d,
                    .strideB = paddedDim_,
                    .depth = lanes_,
                    .c = scratch.keySums.get() + j * paddedDim_ + d,
                    .strideC = paddedDim_,
                    .rows = static_cast<int>(std::min(height, block.count - j)),
                    .ahead = strip.queries.get()});
    }
  }
  for (int64_t j = 0; j < block.count; ++j) {
    const int64_t key = block.first + j;
    const float* from = scratch.keySums.get() + j * paddedDim_;
    float* out = args_.keySums + (args_.keys.indices != nullptr ? args_.keys.indices[key] : key) * dim;
    if (strip.values == 0) {
      memcpy(out, from, static_cast<size_t>(dim * kFloatBytes));
    } else {
      for (int64_t d = 0; d < dim; ++d) out[d] += from[d];
    }
  }
}

void Distil::mergeLogits(Strip& strip) {
  for (size_t side = 0; side < sides_.size(); ++side) {
    rows_.mergeLanes(strip.maxima[side].get(), strip.sums[side].get(),
                     side == 1 ? strip.differences.get() : nullptr, blocks_, lanes_, 1,
                     strip.largest[side].data(), strip.sum[side].data(), strip.difference.data());
    std::fill(strip.weights[side].begin(), strip.weights[side].end(),
              static_cast<float>(sides_[side].weight));
  }
}

void Distil::finishLogits(Strip& strip) {
  for (int64_t lane = 0; lane < queriesOf(strip.logits); ++lane) {
    const auto at = static_cast<size_t>(lane);
    const int64_t query = strip.logits * lanes_ + lane;
    const double lse = static_cast<double>(strip.largest[0][at]) + std::log2(strip.sum[0][at]);
    args_.lse[query] = lse * kLn2;
    if (sides_.size() == 1 || args_.divergence == nullptr) continue;
    const double teacherLse = static_cast<double>(strip.largest[1][at]) + std::log2(strip.sum[1][at]);
    args_.divergence[query] = (strip.difference[at] / strip.sum[1][at] - teacherLse + lse) * kLn2;
  }
}

// Elements [begin, end) of every query's sums.
void Distil::finishValues(const Strip& strip, int64_t begin, int64_t end) {
  const int64_t count = queriesOf(strip.values);
  std::vector<float> sums(static_cast<size_t>((end - begin) * lanes_));
  for (int64_t d = begin; d < end; ++d)
    rows_.sumLanes(strip.totals.get() + d * lanes_, totalRows_ * lanes_, chunks_, lanes_,
                   sums.data() + (d - begin) * lanes_);
  for (int64_t lane = 0; lane < count; ++lane) {
    float* to = args_.sums + (strip.values * lanes_ + lane) * args_.dim;
    const float* from = sums.data() + lane;
    for (int64_t d = begin; d < end; ++d, from += lanes_) to[d] = *from;
    for (int64_t chunk = 0; chunk < chunks_ && !strip.rest.empty(); ++chunk) {
      rows_.add(strip.rest.get() + (chunk * lanes_ + lane) * args_.dim + begin, 1, end - begin, to + begin);
    }
  }
}

Status CpuBackend::distil(const Context& context, const DistilArgs& args) {
  if (args.rows < 1 || args.keys.count < 1 || args.dim < 1)
    return {Code::kInvalidArgument, "A distillation of no rows, over no keys or of no width"};
  // Where operands must be packed anyway, strips would pack the keys again and again.
  if (!productFor(kMostProductRows, kMostProductRows, args.dim).direct) return Backend::distil(context, args);
  return guarded([&] {
    return DistilFixed::serves(args) ? DistilFixed(context, args).run() : Distil(context, args).run();
  });
}

}  // namespace clipcid
