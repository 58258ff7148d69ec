// Distil with products in fixed point, and large weights apart from them (distil_fixed.cpp).
#pragma once

#include <cstdint>

#include "cpu/distil.h"

namespace clipcid {

class DistilFixed final : public Distil {
 public:
  // Whether this machine gains by it, and the errors are within what the loss promises.
  static bool serves(const DistilArgs& args);

  DistilFixed(const Context& context, const DistilArgs& args);

 private:
  // A key of a block and a lane whose softmax, or whose teacher's, is too large for the error of fixed point, with its
  // logits in float64.
  struct Large {
    int32_t key, lane;
    double logits[2];
  };
  // What belongs to a Strip.
  struct FixedStrip {
    AlignedArray<uint32_t> panels[2];          // packed queries, [lanes / panel] of [words_, panel]
    std::vector<float> units[2];               // [lanes] of these
    std::vector<std::vector<Large>> large;     // by block
    std::vector<double> sums[2], differences;  // [chunks, lanes] what `large` adds to those of the strip
  };
  // What belongs to a Scratch.
  struct FixedScratch {
    AlignedArray<uint32_t> rows;     // [block, rowWords_], pairs along the rows
    AlignedArray<uint32_t> columns;  // [block / 2, columnWords_], pairs of rows
    AlignedArray<uint32_t> weights;  // [block / 2, lanes], pairs of rows
    std::vector<float> keyScales;    // [block]
    float most = 1;                  // no element of the block is larger
    std::vector<float> factors;      // [block]
    std::vector<float> units;        // [lanes] of the weights
    // Of a row whose large weights are sought.
    std::vector<float> limits[2], ratios;  // [lanes]
    std::vector<int32_t> positions;        // [lanes]
    std::vector<const float*> queries;     // [lanes]
    std::vector<float> dots[2];            // [lanes]
    std::vector<Large> found;
  };

  void allocate() override;
  void loadLanes(Strip& strip, int64_t lane) override;
  void prepare(const Strip& strip, const Block& block, Scratch& scratch) override;
  void makeDots(Strip& strip, const Block& block, Scratch& scratch) override;
  void patchWeights(const Strip& strip, const Block& block, Scratch& scratch) override;
  void addProducts(Strip& strip, const Block& block, int64_t chunk, Scratch& scratch) override;
  Status refine() override;

  void takeLarge(Strip& strip, const Block& block, int64_t chunk, Scratch& scratch);
  void refineBlock(Strip& strip, int64_t index, int64_t chunk, FixedScratch& fixed);
  void refineRow(Strip& strip, int64_t block, int64_t chunk, Large* found, int64_t count, const float* next,
                 FixedScratch& fixed);
  void refineTargets(const Strip& strip, int64_t first, int64_t count);
  void mergeLarge(Strip& strip);
  FixedStrip& of(const Strip& strip) { return fixedStrips_[static_cast<size_t>(&strip - strips_.data())]; }
  FixedScratch& of(const Scratch& scratch) {
    return fixedScratch_[static_cast<size_t>(&scratch - scratch_.data())];
  }

  const FixedKernel& fixed_;
  const int64_t part_;  // elements of a row whose products are summed exactly
  int64_t words_, rowWords_, columnWords_;
  float limits_[2];               // of the softmax of a side
  std::vector<float> keyScales_;  // [keys]
  std::vector<float> keyMost_;    // [blocks] FixedScratch::most
  std::vector<FixedStrip> fixedStrips_;
  std::vector<FixedScratch> fixedScratch_;
};

}  // namespace clipcid
