// What a thread holds of a tile of scores.
#pragma once

#include "cuda/platform.cuh"
#include "cuda/tiles.h"

namespace clipcid::cuda {

// Where a thread's values lie in its warp's part of a tile, by their place r < kOwnRows, c < kOwnColumns. Four lanes that follow
// each other share their rows, eight lanes four apart their columns. mma deals out tiles of 16 rows, which follow each other.
// wgmma deals out tiles of 64, of which a warp has 16 like those of mma; the next tile's are 64 rows on. Without tensor cores
// the same lanes have rows eight and columns four apart.
template <Dealt kDealt>
struct FragmentLayout {
  static constexpr int kLanesOfRow = 4;

  CLIPCID_BOTH static constexpr int row(int lane, int r) {
    constexpr int kNext = kDealt == Dealt::kWgmma ? 64 : 16;
    return kDealt == Dealt::kPlain ? r * 8 + lane / 4 : r / 2 * kNext + r % 2 * 8 + lane / 4;
  }
  CLIPCID_BOTH static constexpr int column(int lane, int c) {
    return kDealt == Dealt::kPlain ? c * 4 + lane % 4 : c / 2 * 8 + lane % 4 * 2 + c % 2;
  }
};

template <Dealt kDealt, typename T_, int kRows_, int kColumns_>
struct Fragment {
  using T = T_;
  using Layout = FragmentLayout<kDealt>;
  static constexpr int kRows = kRows_, kColumns = kColumns_;

  // [r / 2][c / 2][r % 2 * 2 + c % 2]: of mma four registers, of wgmma those of a tile of 64 rows, in order.
  T values[kRows / 2][kColumns / 2][4];
  int lane;
  int warpRow, warpColumn;  // of the warp's part, in the tile

  // r and c must be known when this is compiled, or the values leave their registers.
  CLIPCID_DEVICE T& at(int r, int c) { return values[r / 2][c / 2][r % 2 * 2 + c % 2]; }
  CLIPCID_DEVICE const T& at(int r, int c) const { return values[r / 2][c / 2][r % 2 * 2 + c % 2]; }
  // In the tile; of any r and c.
  CLIPCID_DEVICE int row(int r) const { return warpRow + Layout::row(lane, r); }
  CLIPCID_DEVICE int column(int c) const { return warpColumn + Layout::column(lane, c); }

  CLIPCID_DEVICE void add(const Fragment& other) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) at(r, c) += other.at(r, c);
    }
  }
  CLIPCID_DEVICE void clear() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) at(r, c) = 0;
    }
  }
};

template <typename Tile>
using FragmentOf = Fragment<Tile::kDealt, std::conditional_t<Tile::kMath == Math::kInt8, int, float>,
                            Tile::kOwnRows, Tile::kOwnColumns>;

}  // namespace clipcid::cuda
