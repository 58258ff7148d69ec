// Shapes of tiles, what of them lies where, and which of them a GPU gets.
//
// A stage of the mainloop holds 64 bytes of each row of a tile of queries and of a tile of keys: 32 elements of float16, 64 of
// int8, 16 of float32. Rows are four chunks of 16 bytes, which are permuted within the row so that eight rows' chunks of one
// index, which ldmatrix reads at once, lie in eight different sixteens of bytes of 128.
#pragma once

#include <cstdint>

#include "cuda/schedule.h"

namespace clipcid::cuda {

constexpr int kDepthBytes = 64;
constexpr int kChunkBytes = 16;
constexpr int kRowChunks = kDepthBytes / kChunkBytes;

// Where chunk `chunk` of row `row` lies in its tile's part of a stage.
CLIPCID_ANYWHERE constexpr int chunkOffset(int row, int chunk) {
  return row * kDepthBytes + ((chunk ^ (row >> 1 & (kRowChunks - 1))) * kChunkBytes);
}

enum class Math : uint8_t { kFloat32, kFloat16, kInt8 };

CLIPCID_ANYWHERE constexpr int elementBytes(Math math) {
  return math == Math::kFloat32 ? 4 : math == Math::kFloat16 ? 2 : 1;
}
constexpr const char* mathName(Math math) {
  return math == Math::kFloat32 ? "float32" : math == Math::kFloat16 ? "float16" : "int8";
}

template <Math kMath_, int kRows_, int kColumns_, int kWarpRows_, int kWarpColumns_, int kStages_,
          int kBlocks_>
struct Tile {
  static constexpr Math kMath = kMath_;
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kWarpRows = kWarpRows_, kWarpColumns = kWarpColumns_;
  static constexpr int kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;  // at least, on a multiprocessor at the same time
  static constexpr int kWarpsAcross = kColumns / kWarpColumns;
  static constexpr int kThreads = kRows / kWarpRows * kWarpsAcross * 32;
  static constexpr int kStageBytes = (kRows + kColumns) * kDepthBytes;
  static constexpr int kRingBytes = kStages * kStageBytes;
  // Rows and columns of the tile that a thread has, and so its accumulators.
  static constexpr int kOwnRows = kWarpRows / 8, kOwnColumns = kWarpColumns / 4;

  static_assert(kRows % kWarpRows == 0 && kColumns % kWarpColumns == 0);
  static_assert(kMath == Math::kFloat32 || (kWarpRows % 16 == 0 && kWarpColumns % 16 == 0));
  static_assert(kOwnRows * kOwnColumns <= 128, "half of a thread's registers");
  static_assert((kRows + kColumns) * kRowChunks % kThreads == 0, "every thread copies as many chunks");
  static_assert(kStages >= 2);
};

// A shape is compiled for each kind of multiplication; which one a launch takes is data, below.
enum class TileShape : uint8_t {
  kSmall,  // 64 x 64 in float32, without tensor cores: for rows of a few elements and for few rows
  kMedium,
  kLarge,
};

template <Math kMath>
using MediumTile = Tile<kMath, 128, 128, 64, 32, 3, 2>;
template <Math kMath>
using LargeTile = Tile<kMath, 128, 256, 64, 64, 4, 1>;
// As the medium and the small one, for epilogues that keep as many values again.
template <Math kMath>
using RoomyTile = Tile<kMath, 128, 128, 64, 32, 3, 1>;
using SmallTile = Tile<Math::kFloat32, 64, 64, 32, 16, 3, 2>;
using RoomySmallTile = Tile<Math::kFloat32, 64, 64, 32, 16, 3, 1>;

static_assert(MediumTile<Math::kFloat16>::kRingBytes == 48 << 10,
              "two blocks in the 100 KB of 8.6, 8.9 and 12.0");
static_assert(LargeTile<Math::kInt8>::kRingBytes == 96 << 10);

// Of the tile that is compiled for both, in rows and columns.
struct TileSize {
  int rows, columns;
};
constexpr TileSize tileSizeOf(Math math, TileShape shape) {
  if (math == Math::kFloat32) return {SmallTile::kRows, SmallTile::kColumns};
  return shape == TileShape::kLarge
             ? TileSize{LargeTile<Math::kInt8>::kRows, LargeTile<Math::kInt8>::kColumns}
             : TileSize{MediumTile<Math::kInt8>::kRows, MediumTile<Math::kInt8>::kColumns};
}

struct TileRule {
  int architecture;  // this one and up, to the next
  TileShape shape;
};
// Much shared memory and tensor cores that outrun it: large tiles. The others have 100 KB, and more blocks hide more.
constexpr TileRule kTileRules[] = {
    {80, TileShape::kLarge}, {86, TileShape::kMedium}, {90, TileShape::kLarge}, {120, TileShape::kMedium}};

// Of a GPU that is not listed: that of the newest one before it.
constexpr TileShape tileShapeOf(int architecture) {
  TileShape shape = TileShape::kMedium;
  for (const TileRule& rule : kTileRules) {
    if (rule.architecture <= architecture) shape = rule.shape;
  }
  return shape;
}

}  // namespace clipcid::cuda
