// Distil with products in fixed point of 16 bits, which many machines multiply twice as fast as float32.
//
// Logits: a query's element is rint(x sx) / sx, with sx as large as |x sx| <= 32,767 allows and the sum of squares of any
// part_ elements under kQueryRoot^2; a key's likewise under kKeyRoot^2. So a sum over part_ elements is less than 2^31 by
// Cauchy and Schwarz, the products' sums are exact, and parts are added in float32. Rounding a query moves it by less than
// 2^-16 of its largest element, as if it had been given so. Rounding the keys moves a query's logits by numbers as good
// as independent, of which the sums average most out, but not where a few weights hold much of a softmax. So these are
// found when the softmax's sum is known, as all over a limit, their logits are computed in float64, and the sum is put
// right: limit = min(kMostLarge, (kError / (scale kUnitError))^2), with which the root of the sum over the other weights
// of (weight * error of its logit)^2 is at most kError.
//
// Values: a block's weights without the large ones, which are added up apart in float32, are scaled by query, so that
// the sum of their absolute values times the largest element of the keys is under 2^31; then a block is one exact sum.
// The weights' errors are 2^-17 of their sum over a block, and as good as independent.
//
// Against float64, widths of 64 to 512 and temperatures of 1 to 0.01: the largest error of the loss's gradient is 7e-7 to 3e-5 of
// its largest element; in float32 2e-7 to 2e-5. The bounds that the tests state for the loss are one for both.
//
// At most 1 / limit weights of a softmax are over the limit. Where that could be a good part of all keys, as with few keys that lie
// together, or more than memory is for, which is over a scale of kMostScale, products are left to float32.
//
// Best measured: see distil.cpp.
#include "cpu/distil_fixed.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "cpu/fixed_point.h"

namespace clipcid {
namespace {

constexpr double kLn2 = 0.69314718055994531;

// Whether it is so for few of the keys at most.
bool leavesFew(const DistilArgs& args, int64_t part) {
  const double scale = std::max(args.scale, args.teacher != nullptr ? args.teacherScale : 0);
  return static_cast<double>(args.keys.count) * limitOf(scale, part) >= kLeastKeys;
}

}  // namespace

bool DistilFixed::serves(const DistilArgs& args) {
  const Kernels& kernel = kernels();
  const double scale = std::max(args.scale, args.teacher != nullptr ? args.teacherScale : 0);
  return !args.keeps && kernel.int16 != nullptr && kernel.int16->tileRows == kernel.tileRows &&
         kernel.int16->panel == kernel.panel && args.dim >= kLeastDim && scale <= kMostScale &&
         leavesFew(args, kShortPart);
}

DistilFixed::DistilFixed(const Context& context, const DistilArgs& args)
    : Distil(context, args),
      fixed_(*kernel_.int16),
      part_(leavesFew(args, kLongPart) ? kLongPart : kShortPart) {
  words_ = fixedWords(args.dim);
  rowWords_ = fixedStride(words_);
  columnWords_ = fixedStride(std::max(2 * words_, totalRows_));
  const double scales[] = {args.scale, args.teacherScale};
  for (size_t side = 0; side < sides_.size(); ++side)
    limits_[side] = static_cast<float>(limitOf(scales[side], part_));
}

void DistilFixed::allocate() {
  keyScales_.resize(static_cast<size_t>(args_.keys.count));
  keyMost_.resize(static_cast<size_t>(blocks_));
  fixedStrips_.resize(strips_.size());
  const auto lanes = static_cast<size_t>(lanes_), block = static_cast<size_t>(blockKeys_);
  for (size_t i = 0; i < strips_.size(); ++i) {
    FixedStrip& strip = fixedStrips_[i];
    strips_[i].rest = AlignedArray<float>(chunks_ * lanes_ * args_.dim);
    strip.large.resize(static_cast<size_t>(blocks_));
    for (size_t side = 0; side < sides_.size(); ++side) {
      strip.panels[side] = AlignedArray<uint32_t>(lanes_ * words_);
      strip.units[side].resize(lanes);
      strip.sums[side].resize(static_cast<size_t>(chunks_) * lanes);
    }
    strip.differences.resize(static_cast<size_t>(chunks_) * lanes);
  }
  fixedScratch_.resize(scratch_.size());
  for (FixedScratch& scratch : fixedScratch_) {
    const int64_t rows = (blockKeys_ + kMostTileRows) * rowWords_, pairs = (blockKeys_ + 1) / 2;
    const int64_t columns = pairs * columnWords_;
    scratch.rows = AlignedArray<uint32_t>(rows);
    scratch.columns = AlignedArray<uint32_t>(columns);
    // A last tile reads more rows and columns than there are; what comes of them isn't used.
    std::fill(scratch.rows.get(), scratch.rows.get() + rows, 0u);
    std::fill(scratch.columns.get(), scratch.columns.get() + columns, 0u);
    scratch.weights = AlignedArray<uint32_t>(pairs * lanes_);
    scratch.keyScales.resize(block);
    scratch.factors.resize(block);
    scratch.units.resize(lanes);
    scratch.limits[0].resize(lanes);
    scratch.limits[1].resize(lanes);
    scratch.ratios.resize(lanes);
    scratch.positions.resize(lanes);
    scratch.queries.resize(lanes);
    scratch.dots[0].resize(lanes);
    scratch.dots[1].resize(lanes);
  }
}

void DistilFixed::loadLanes(Strip& strip, int64_t lane) {
  FixedStrip& fixed = of(strip);
  std::vector<uint32_t> row(static_cast<size_t>(words_));
  for (size_t side = 0; side < sides_.size(); ++side) {
    for (int64_t i = lane; i < lane + kRowLanes; ++i) {
      const int64_t query = strip.logits * lanes_ + i;
      float unit = 0;
      if (query < args_.rows) {
        const float* x = sides_[side].rows + query * args_.dim;
        float largest = 0, square = 0;
        rows_.extent(x, args_.dim, part_, &largest, &square);
        const float scale = scaleOf(largest, square, kQueryRoot);
        rows_.fixRow(x, args_.dim, scale, row.data());
        unit = 1 / scale;
      } else {
        std::fill(row.begin(), row.end(), 0u);
      }
      fixed.units[side][static_cast<size_t>(i)] = unit;
      const int64_t width = fixed_.panel;
      uint32_t* to = fixed.panels[side].get() + i / width * width * words_ + i % width;
      for (int64_t word = 0; word < words_; ++word) to[word * width] = row[static_cast<size_t>(word)];
    }
  }
}

// The scales of a block's keys, and the keys as both products take them.
void DistilFixed::prepare(const Strip& strip, const Block& block, Scratch& scratch) {
  FixedScratch& fixed = of(scratch);
  const int64_t dim = args_.dim;
  float* scales = fixed.keyScales.data();
  if (measured_) {
    std::copy_n(keyScales_.begin() + block.first, block.count, scales);
    fixed.most = keyMost_[static_cast<size_t>(block.index)];
  } else {
    fixed.most = 1;
    for (int64_t j = 0; j < block.count; ++j) {
      float largest = 0, square = 0;
      rows_.extent(block.rows + j * dim, dim, part_, &largest, &square);
      scales[j] = scaleOf(largest, square, kKeyRoot);
      fixed.most = std::max(fixed.most, largest * scales[j] + 1);
    }
    if (strip.logits == 0) {
      std::copy_n(scales, block.count, keyScales_.begin() + block.first);
      keyMost_[static_cast<size_t>(block.index)] = fixed.most;
    }
  }
  for (int64_t j = 0; j < block.count; j += 2) {
    const bool both = j + 1 < block.count;
    const float* row = block.rows + j * dim;
    uint32_t* out = fixed.rows.get() + j * rowWords_;
    rows_.fixRows(row, both ? row + dim : nullptr, dim, scales[j], both ? scales[j + 1] : 0, out,
                  out + rowWords_, fixed.columns.get() + j / 2 * columnWords_);
  }
}

void DistilFixed::makeDots(Strip& strip, const Block& block, Scratch& scratch) {
  FixedStrip& own = of(strip);
  FixedScratch& fixed = of(scratch);
  for (size_t side = 0; side < sides_.size(); ++side) {
    for (size_t j = 0; j < static_cast<size_t>(block.count); ++j)
      scratch.scales[side][j] /= fixed.keyScales[j];
  }
  const int64_t width = fixed_.panel, height = fixed_.tileRows, partWords = part_ / 2;
  const int64_t tiles = static_cast<int64_t>(sides_.size()) * (lanes_ / width) *
                        ((block.count + height - 1) / height) * ((words_ + partWords - 1) / partWords);
  Ahead ahead(block.next, block.next != nullptr ? keysOf(block.index + 1) * args_.dim : 0, tiles, block.rows);
  for (size_t side = 0; side < sides_.size(); ++side) {
    float* z = strip.z[side].get() + block.first * lanes_;
    for (int64_t lane = 0; lane < lanes_; lane += width) {
      const uint32_t* panel = own.panels[side].get() + lane * words_;
      for (int64_t j = 0; j < block.count; j += height) {
        for (int64_t word = 0; word < words_; word += partWords) {
          FixedTile tile = {.a = fixed.rows.get() + j * rowWords_ + word,
                            .strideA = rowWords_,
                            .b = panel + word * width,
                            .strideB = width,
                            .depth = std::min(partWords, words_ - word),
                            .c = z + j * lanes_ + lane,
                            .strideC = lanes_,
                            .scales = own.units[side].data() + lane,
                            .add = word > 0};
          ahead.next(&tile);
          fixed_.tile(tile);
        }
      }
    }
  }
}

Status DistilFixed::refine() {
  const auto beside = static_cast<int64_t>(strips_.size());
  CLIPCID_TRY(parallelTry(context_, beside * chunks_, [&](int64_t at, int worker) -> Status {
    Strip& strip = strips_[static_cast<size_t>(at / chunks_)];
    if (strip.logits < 0) return {};
    FixedStrip& own = of(strip);
    const int64_t chunk = at % chunks_;
    const auto zero = [&](std::vector<double>& sums) {
      std::fill_n(sums.begin() + chunk * lanes_, lanes_, 0.0);
    };
    for (size_t side = 0; side < sides_.size(); ++side) zero(own.sums[side]);
    zero(own.differences);
    for (int64_t block = firstBlock(chunk); block < firstBlock(chunk + 1); ++block)
      refineBlock(strip, block, chunk, fixedScratch_[static_cast<size_t>(worker)]);
    return {};
  }));
  for (Strip& strip : strips_) {
    if (strip.logits >= 0) mergeLarge(strip);
  }
  return {};
}

void DistilFixed::refineBlock(Strip& strip, int64_t index, int64_t chunk, FixedScratch& fixed) {
  of(strip).large[static_cast<size_t>(index)].clear();
  const int64_t count = queriesOf(strip.logits);
  for (size_t side = 0; side < sides_.size(); ++side) {
    const float* softmax = strip.maxima[side].get() + index * lanes_;
    for (int64_t lane = 0; lane < lanes_; ++lane)
      fixed.limits[side][static_cast<size_t>(lane)] = lane < count ? softmax[lane] / limits_[side] : 0;
  }
  const bool two = sides_.size() > 1;
  const int64_t first = index * blockKeys_, keys = keysOf(index);
  fixed.found.clear();
  for (int64_t j = 0; j < keys; ++j) {
    const int64_t row = (first + j) * lanes_;
    rows_.ratios(strip.z[0].get() + row, two ? strip.z[1].get() + row : nullptr, lanes_,
                 fixed.limits[0].data(), fixed.limits[1].data(), fixed.ratios.data());
    const int64_t count = kernel_.notBelow(fixed.ratios.data(), lanes_, 1, fixed.positions.data());
    for (int64_t i = 0; i < count; ++i)
      fixed.found.push_back({static_cast<int32_t>(j), fixed.positions[static_cast<size_t>(i)], {0, 0}});
  }
  for (size_t at = 0; at < fixed.found.size();) {
    size_t end = at + 1;
    while (end < fixed.found.size() && fixed.found[end].key == fixed.found[at].key) ++end;
    const float* next = keyRow(first + fixed.found[end < fixed.found.size() ? end : at].key);
    refineRow(strip, index, chunk, &fixed.found[at], static_cast<int64_t>(end - at), next, fixed);
    at = end;
  }
  if (args_.targets != nullptr) refineTargets(strip, first, keys);
}

// `count` large weights of one key of a block; `next` is the row after it.
void DistilFixed::refineRow(Strip& strip, int64_t block, int64_t chunk, Large* found, int64_t count,
                            const float* next, FixedScratch& fixed) {
  FixedStrip& own = of(strip);
  const int64_t key = block * blockKeys_ + found->key, query = strip.logits * lanes_;
  const double inverse = 1 / normOf(key);
  for (size_t side = 0; side < sides_.size(); ++side) {
    for (int64_t i = 0; i < count; ++i)
      fixed.queries[static_cast<size_t>(i)] = sides_[side].rows + (query + found[i].lane) * args_.dim;
    rows_.dots(keyRow(key), fixed.queries.data(), count, args_.dim, next, fixed.dots[side].data());
  }
  for (int64_t i = 0; i < count; ++i) {
    Large& large = found[i];
    const auto at = static_cast<size_t>(large.lane), sum = static_cast<size_t>(chunk * lanes_ + large.lane);
    double exact[2] = {}, before[2] = {}, logitsBefore[2] = {};
    for (size_t side = 0; side < sides_.size(); ++side) {
      const double largest = static_cast<double>(strip.largest[side][at]);
      const float exponential = strip.z[side].get()[key * lanes_ + large.lane];
      large.logits[side] =
          static_cast<double>(fixed.dots[side][static_cast<size_t>(i)]) * inverse * sides_[side].scale;
      exact[side] = std::exp2(large.logits[side] - largest);
      before[side] = static_cast<double>(exponential) *
                     static_cast<double>(strip.maxima[side].get()[block * lanes_ + large.lane]) *
                     strip.sum[side][at];
      own.sums[side][sum] += exact[side] - before[side];
      // An exponential at its lower end does not tell the logit; of this one the error does not matter.
      logitsBefore[side] = exponential > 0x1p-99f ? std::log2(before[side]) + largest : large.logits[side];
    }
    if (sides_.size() > 1) {
      own.differences[sum] +=
          exact[1] * (large.logits[1] - large.logits[0]) - before[1] * (logitsBefore[1] - logitsBefore[0]);
    }
    own.large[static_cast<size_t>(block)].push_back(large);
  }
}

// The logits of targets among the keys [first, first + count), in float64.
void DistilFixed::refineTargets(const Strip& strip, int64_t first, int64_t count) {
  const int64_t query = strip.logits * lanes_;
  for (int64_t lane = 0; lane < queriesOf(strip.logits); ++lane) {
    const int64_t key = args_.targets[query + lane];
    if (key < first || key >= first + count) continue;
    const double dot = kernel_.dot(keyRow(key), args_.student + (query + lane) * args_.dim, args_.dim);
    args_.targetLogit[query + lane] = dot / normOf(key) * sides_[0].scale * kLn2;
  }
}

void DistilFixed::mergeLarge(Strip& strip) {
  const FixedStrip& own = of(strip);
  for (int64_t lane = 0; lane < lanes_; ++lane) {
    const auto at = static_cast<size_t>(lane);
    for (size_t side = 0; side < sides_.size(); ++side) {
      const double before = strip.sum[side][at];
      for (int64_t chunk = 0; chunk < chunks_; ++chunk)
        strip.sum[side][at] += own.sums[side][static_cast<size_t>(chunk * lanes_ + lane)];
      strip.weights[side][at] = static_cast<float>(sides_[side].weight * before / strip.sum[side][at]);
    }
    if (sides_.size() == 1) continue;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk)
      strip.difference[at] += own.differences[static_cast<size_t>(chunk * lanes_ + lane)];
  }
}

void DistilFixed::patchWeights(const Strip& strip, const Block& block, Scratch& scratch) {
  for (const Large& large : of(strip).large[static_cast<size_t>(block.index)]) {
    const auto at = static_cast<size_t>(large.lane);
    double weight = 0;
    for (size_t side = 0; side < sides_.size(); ++side) {
      const double exponential = std::exp2(large.logits[side] - static_cast<double>(strip.largest[side][at]));
      weight += sides_[side].weight * exponential / strip.sum[side][at];
    }
    scratch.weights.get()[large.key * lanes_ + large.lane] = static_cast<float>(weight);
  }
}

// Moves the large weights to sums of their own.
void DistilFixed::takeLarge(Strip& strip, const Block& block, int64_t chunk, Scratch& scratch) {
  float* sums = strip.rest.get() + chunk * lanes_ * args_.dim;
  if (block.index == firstBlock(chunk)) std::fill(sums, sums + lanes_ * args_.dim, 0.0f);
  for (const Large& large : of(strip).large[static_cast<size_t>(block.index)]) {
    float& weight = scratch.weights.get()[large.key * lanes_ + large.lane];
    rows_.add(block.rows + large.key * args_.dim, weight * scratch.inverses[static_cast<size_t>(large.key)],
              args_.dim, sums + large.lane * args_.dim);
    weight = 0;
  }
}

void DistilFixed::addProducts(Strip& strip, const Block& block, int64_t chunk, Scratch& scratch) {
  FixedScratch& fixed = of(scratch);
  takeLarge(strip, block, chunk, scratch);
  for (size_t j = 0; j < static_cast<size_t>(block.count); ++j)
    fixed.factors[j] = scratch.inverses[j] / fixed.keyScales[j];
  rows_.fixLanes(scratch.weights.get(), lanes_, block.count, lanes_, fixed.factors.data(), fixed.most,
                 fixed.weights.get(), fixed.units.data());
  const int64_t width = fixed_.panel, height = fixed_.tileRows;
  const auto sides = static_cast<int64_t>(sides_.size());
  const int64_t tiles = totalRows_ / height * (lanes_ / width);
  // The exponentials of the next block.
  const bool more = block.index + 1 < firstBlock(chunk + 1);
  const int64_t next = (block.first + block.count) * lanes_;
  const int64_t count = more ? keysOf(block.index + 1) * lanes_ : 0;
  const float* near = scratch.weights.get();
  Ahead ahead(more ? strip.z[0].get() + next : nullptr, count, (tiles + sides - 1) / sides, near);
  Ahead second(more && sides > 1 ? strip.z[1].get() + next : nullptr, count, (tiles + sides - 1) / sides,
               near);
  float* totals = strip.totals.get() + chunk * totalRows_ * lanes_;
  int64_t done = 0;
  for (int64_t lane = 0; lane < lanes_; lane += width) {
    for (int64_t d = 0; d < totalRows_; d += height) {
      FixedTile tile = {.a = fixed.columns.get() + d,
                        .strideA = columnWords_,
                        .b = fixed.weights.get() + lane,
                        .strideB = lanes_,
                        .depth = (block.count + 1) / 2,
                        .c = totals + d * lanes_ + lane,
                        .strideC = lanes_,
                        .scales = fixed.units.data() + lane,
                        .transposedA = true,
                        .add = block.index != firstBlock(chunk)};
      (done++ * sides < tiles ? ahead : second).next(&tile);
      fixed_.tile(tile);
    }
  }
}

}  // namespace clipcid
