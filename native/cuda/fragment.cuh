// What a thread holds of a tile of scores.
#pragma once

#include "cuda/platform.cuh"
#include "cuda/tiles.h"

namespace clipcid::cuda {

// Where a thread's values lie in a tile, by their place r < kOwnRows, c < kOwnColumns. Four lanes that follow each other share
// their rows, eight lanes four apart their columns. With tensor cores this is how mma and wgmma deal them out (ptx.cuh); without
// them the same lanes have rows eight and columns four apart.
template <bool kTensorCores>
struct FragmentLayout {
  static constexpr int kLanesOfRow = 4;

  CLIPCID_BOTH static constexpr int row(int lane, int r) {
    return kTensorCores ? r / 2 * 16 + r % 2 * 8 + lane / 4 : r * 8 + lane / 4;
  }
  CLIPCID_BOTH static constexpr int column(int lane, int c) {
    return kTensorCores ? c / 2 * 8 + lane % 4 * 2 + c % 2 : c * 4 + lane % 4;
  }
};

template <bool kTensorCores, typename T_, int kRows_, int kColumns_>
struct Fragment {
  using T = T_;
  using Layout = FragmentLayout<kTensorCores>;
  static constexpr int kRows = kRows_, kColumns = kColumns_;

  // [r / 2][c / 2][r % 2 * 2 + c % 2], as the registers of mma.
  T values[kRows / 2][kColumns / 2][4];
  int lane;
  int warpRow, warpColumn;  // of the warp's part, in the tile

  // r and c must be known when this is compiled, or the values leave their registers.
  CLIPCID_DEVICE T& at(int r, int c) { return values[r / 2][c / 2][r % 2 * 2 + c % 2]; }
  CLIPCID_DEVICE const T& at(int r, int c) const { return values[r / 2][c / 2][r % 2 * 2 + c % 2]; }
  // In the tile; of any r and c.
  CLIPCID_DEVICE int row(int r) const { return warpRow + Layout::row(lane, r); }
  CLIPCID_DEVICE int column(int c) const { return warpColumn + Layout::column(lane, c); }

  CLIPCID_DEVICE void clear() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) at(r, c) = 0;
    }
  }
};

template <typename Tile>
using FragmentOf =
    Fragment<Tile::kMath != Math::kFloat32, std::conditional_t<Tile::kMath == Math::kInt8, int, float>,
             Tile::kOwnRows, Tile::kOwnColumns>;

}  // namespace clipcid::cuda
