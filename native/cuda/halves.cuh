// How halves are written: tiles of floats in shared memory to rows of halves, and to those of the transpose.
#pragma once

#include "cuda/halves.h"
#include "cuda/ptx.cuh"

namespace clipcid::cuda {

// A square tile; one more column, so that what goes down a column goes over the banks.
constexpr int kHalvesTile = 64;
constexpr int kHalvesThreads = 256;
using HalvesFloats = float[kHalvesTile][kHalvesTile + 1];
static_assert(kHalvesTile == kHalvesDepth, "a tile fills whole stages");

// Eight elements' high halves, or their low ones.
template <typename Element>
CLIPCID_DEVICE Words4 eightHalves(bool low, Element&& element) {
  uint32_t words[4];
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float x = element(2 * pair + i);
      uint16_t bits = roundToHalf(x);
      if (low) bits = roundToHalf(x - widenHalf(bits));
      word |= static_cast<uint32_t>(bits) << 16 * i;
    }
    words[pair] = word;
  }
  return {words[0], words[1], words[2], words[3]};
}

// The tile as `rows` rows of halves from element `from` of their depth on, or, transposed, its columns as rows. Called by all
// threads of the block, after a barrier behind the last write to the tile.
template <bool kTransposed>
CLIPCID_DEVICE void putHalves(const HalvesFloats& tile, const HalvesView& to, int64_t firstRow, int rows,
                              int64_t from) {
  constexpr int kChunks = kHalvesTile * 4 / kChunkBytes;  // of a row
#pragma unroll
  for (int i = 0; i < kHalvesTile * kChunks / kHalvesThreads; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kHalvesThreads;
    const int row = at / kChunks, chunk = at % kChunks;
    if (row >= rows) continue;
    const int first = chunk / kRowChunks * 16 + chunk % 2 * 8;
    const Words4 words = eightHalves(chunk % kRowChunks >= 2, [&](int k) {
      return kTransposed ? tile[first + k][row] : tile[row][first + k];
    });
    *reinterpret_cast<Words4*>(to.row(firstRow + row) + 4 * from + chunk * kChunkBytes) = words;
  }
}

}  // namespace clipcid::cuda
