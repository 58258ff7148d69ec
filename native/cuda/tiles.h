// Shapes of tiles, what of them lies where, and which of them a GPU gets.
//
// A stage of the mainloop holds 64 bytes of each row of a tile of queries and of a tile of keys: 32 elements of float16, 64 of
// int8, 16 of float32 or of halves. Rows are four chunks of 16 bytes, which are permuted within the row so that eight rows' chunks of one
// index, which ldmatrix reads at once, lie in eight different sixteens of bytes of 128.
#pragma once

#include <cstdint>

#include "cuda/schedule.h"

namespace clipcid::cuda {

constexpr int kDepthBytes = 64;
constexpr int kChunkBytes = 16;
constexpr int kRowChunks = kDepthBytes / kChunkBytes;

// What a stage of any mainloop has of a row at most.
constexpr int kMostDepthBytes = 128;

// Where chunk `chunk` of row `row` lies in its tile's part of a stage.
CLIPCID_ANYWHERE constexpr int chunkOffset(int row, int chunk) {
  return row * kDepthBytes + ((chunk ^ (row >> 1 & (kRowChunks - 1))) * kChunkBytes);
}

// kHalves: products as good as float32's, by tensor cores (halves.h).
enum class Math : uint8_t { kFloat32, kFloat16, kInt8, kHalves };

CLIPCID_ANYWHERE constexpr int elementBytes(Math math) {
  return math == Math::kFloat16 ? 2 : math == Math::kInt8 ? 1 : 4;
}
constexpr const char* mathName(Math math) {
  return math == Math::kFloat32   ? "float32"
         : math == Math::kFloat16 ? "float16"
         : math == Math::kInt8    ? "int8"
                                  : "halves";
}

// How a tile's scores are dealt out to threads (fragment.cuh): without tensor cores, or by the instruction that multiplies.
enum class Dealt : uint8_t { kPlain, kMma, kWgmma };

// Of halves: stages whose products a tensor core adds up by itself. Then they go over into sums that are rounded to nearest.
constexpr int kPromotedStages = 4;

template <Math kMath_, int kRows_, int kColumns_, int kWarpRows_, int kWarpColumns_, int kStages_,
          int kBlocks_>
struct Tile {
  static constexpr Math kMath = kMath_;
  static constexpr Dealt kDealt = kMath == Math::kFloat32 ? Dealt::kPlain : Dealt::kMma;
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
  // Halves of a stage whose instructions are mixed: one where an epilogue keeps as many values again, or some of them spill.
  static constexpr int kHalvesAtOnce = kBlocks == 1 && kOwnRows * kOwnColumns <= 64 ? 1 : 2;

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
// Two sums of each score in registers.
using HalvesTile = Tile<Math::kHalves, 128, 128, 64, 32, 4, 1>;
using RoomySmallTile = Tile<Math::kFloat32, 64, 64, 32, 16, 3, 1>;

static_assert(MediumTile<Math::kFloat16>::kRingBytes == 48 << 10,
              "two blocks in the 100 KB of 8.6, 8.9 and 12.0");
static_assert(LargeTile<Math::kInt8>::kRingBytes == 96 << 10);
static_assert(HalvesTile::kRingBytes == 64 << 10);

// Of the sm_90 mainloop. A warpgroup copies and two multiply, each 64 rows of the tile by all of its columns, one wgmma wide. A
// stage has 128 bytes of each row, in the order that TMA and wgmma call the 128-byte swizzle; as many stages as there is
// room for beside an epilogue.
template <Math kMath_, int kColumns_>
struct HopperTile {
  static constexpr Math kMath = kMath_;
  static constexpr Dealt kDealt = Dealt::kWgmma;
  static constexpr int kConsumers = 2;
  static constexpr int kRowsOfConsumer = 64;
  static constexpr int kRows = kConsumers * kRowsOfConsumer, kColumns = kColumns_;
  static constexpr int kDepthBytes = 128;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kQueryBytes = kRows * kDepthBytes, kKeyBytes = kColumns * kDepthBytes;
  static constexpr int kStageBytes = kQueryBytes + kKeyBytes;
  static constexpr int kOwnRows = kRowsOfConsumer / 32, kOwnColumns = kColumns / 4;
  // Keys are copied in as many boxes as the largest cluster has blocks.
  static constexpr int kKeyBoxes = 2, kKeysOfBox = kColumns / kKeyBoxes;
  // Two barriers for each stage.
  static constexpr int kBarrierBytes = 128;
  static constexpr int kMostStages = 6;
  static constexpr int kSharedOfBlock = 227 << 10;
  static constexpr int stages(int epilogueBytes) {
    const int fit = (kSharedOfBlock - kBarrierBytes - epilogueBytes) / kStageBytes;
    return fit < kMostStages ? fit : kMostStages;
  }

  static_assert(kMath != Math::kFloat32 && kDepthBytes <= kMostDepthBytes);
  static_assert(kColumns == 128 || kColumns == 256, "a wgmma that ptx.cuh has");
  static_assert(kOwnRows * kOwnColumns <= 128, "half of a thread's registers");
  static_assert(2 * kMostStages * 8 <= kBarrierBytes);
};
// Registers of a thread of a warpgroup that copies, and of one that multiplies: of 65,536, and what setmaxnreg takes.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
static_assert(128 * (kProducerRegisters + 2 * kConsumerRegisters) <= 65536);
// Blocks of a cluster take tiles of queries next to each other and share the copies of their keys, which halves what has to come
// from the level-2 cache: a stage of 128 x 256 takes 48 KB for 1,024 cycles of wgmma, as its published rate has it, and 32 KB where two share their keys.
// A pair is worth having unless its second tile is often missing.
constexpr int clusterOf(int rowTiles) { return rowTiles >= 8 || rowTiles % 2 == 0 ? 2 : 1; }

// Which of them stands for a tile on 9.0: of the same size, so that it makes no difference to what the host plans. Void where
// there is none.
template <typename Tile>
struct HopperTileFor {
  using Type = void;
};
template <Math kMath>
requires(kMath == Math::kFloat16 || kMath == Math::kInt8) struct HopperTileFor<LargeTile<kMath>> {
  using Type = HopperTile<kMath, LargeTile<kMath>::kColumns>;
};
template <Math kMath>
requires(kMath == Math::kFloat16 || kMath == Math::kInt8) struct HopperTileFor<RoomyTile<kMath>> {
  using Type = HopperTile<kMath, RoomyTile<kMath>::kColumns>;
};
template <>
struct HopperTileFor<HalvesTile> {
  using Type = HopperTile<Math::kHalves, HalvesTile::kColumns>;
};
static_assert(HopperTile<Math::kHalves, HalvesTile::kColumns>::kRows == HalvesTile::kRows);
static_assert(HopperTile<Math::kInt8, 256>::kRows == LargeTile<Math::kInt8>::kRows &&
              HopperTile<Math::kInt8, 128>::kRows == RoomyTile<Math::kInt8>::kRows);
static_assert(HopperTile<Math::kInt8, 256>::stages(18 << 10) == 4);

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

enum class Mainloop : uint8_t { kSm80, kSm90 };

struct TileRule {
  int architecture;  // this one and up, to the next
  TileShape shape;
  Mainloop mainloop;
};
// Much shared memory and tensor cores that outrun it: large tiles. The others have 100 KB, and more blocks hide more. The
// instructions of 9.0 for tensor cores are of no other architecture.
constexpr TileRule kTileRules[] = {{80, TileShape::kLarge, Mainloop::kSm80},
                                   {86, TileShape::kMedium, Mainloop::kSm80},
                                   {90, TileShape::kLarge, Mainloop::kSm90},
                                   {91, TileShape::kLarge, Mainloop::kSm80},
                                   {120, TileShape::kMedium, Mainloop::kSm80}};

// Of a GPU that is not listed: that of the newest one before it.
constexpr TileRule tileRuleOf(int architecture) {
  TileRule found = {0, TileShape::kMedium, Mainloop::kSm80};
  for (const TileRule& rule : kTileRules) {
    if (rule.architecture <= architecture) found = rule;
  }
  return found;
}
constexpr TileShape tileShapeOf(int architecture) { return tileRuleOf(architecture).shape; }

}  // namespace clipcid::cuda
