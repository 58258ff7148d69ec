// Mainloop of GPUs from 8.0 on: scores of tiles of queries and keys, each handed to an epilogue in registers.
//
// In: encoded rows (encode.h). A ring of stages in shared memory is filled with cp.async, kStages - 1 ahead of the warps that
// multiply; the copies of a block's next tile begin while the one before is still multiplied, so that the ring never runs dry
// between tiles. Warps read their operands with ldmatrix and multiply with mma; SmallTile multiplies float32 without tensor
// cores. A block is persistent: it takes items gridDim apart (schedule.h).
//
// Invariants: a stage is overwritten only after the barrier behind its last read; every thread commits one group of copies a
// step, empty or not, so that "all but kStages - 2" is always the stage about to be read. Not yet measured.
#pragma once

#include "cuda/fragment.cuh"
#include "cuda/launch.cuh"
#include "cuda/mainloop.h"
#include "cuda/ptx.cuh"

namespace clipcid::cuda {

// All threads of a block.
template <int kThreads_>
struct BlockTeam {
  static constexpr int kThreads = kThreads_;
  CLIPCID_DEVICE int rank() const { return static_cast<int>(threadIdx.x); }
  CLIPCID_DEVICE void synchronise() const { __syncthreads(); }
};

// Copies a block's stages, in order. A thread copies one chunk of some rows of the queries, and of some of the keys, kRowsAtOnce apart.
template <typename Tile>
class StageLoader {
 public:
  CLIPCID_DEVICE StageLoader(const MainloopParams& params, int32_t queryCount, int thread)
      : params_(params), queryCount_(queryCount), chunk_(thread % kRowChunks), row_(thread / kRowChunks) {}

  CLIPCID_DEVICE void copy(const Cursor& at, char* stage) {
    const bool second = at.depth >= params_.depths;
    const Operand& queries = second ? params_.secondQueries : params_.queries;
    const Operand& keys = second ? params_.secondKeys : params_.keys;
    const int depth = second ? at.depth - params_.depths : at.depth;
    if (depth == 0) {
      const int64_t ofProblem = params_.partsOfDepth ? int64_t{params_.depths} * kDepthBytes : 0;
      query_ = place(queries, ofProblem, at.item.problem, at.item.rowTile * Tile::kRows + row_);
      key_ = place(keys, ofProblem, at.item.problem, at.column * Tile::kColumns + row_);
    }
    const int offset = depth * kDepthBytes + chunk_ * kChunkBytes;
    copyRows<Tile::kRows>(queries, query_ + offset, queryCount_ - at.item.rowTile * Tile::kRows, stage);
    copyRows<Tile::kColumns>(keys, key_ + offset, params_.keys.rows - at.column * Tile::kColumns,
                             stage + Tile::kRows * kDepthBytes);
  }

 private:
  static constexpr int kRowsAtOnce = Tile::kThreads / kRowChunks;
  static_assert(Tile::kRows % kRowsAtOnce == 0 && Tile::kColumns % kRowsAtOnce == 0);

  CLIPCID_DEVICE static const char* place(const Operand& operand, int64_t partBytes, int32_t problem,
                                          int32_t row) {
    const int64_t ofProblem = partBytes != 0 ? partBytes : operand.rows * operand.stride;
    return operand.words + problem * ofProblem + row * operand.stride;
  }
  // Rows that do not exist are zeros.
  template <int kCount>
  CLIPCID_DEVICE void copyRows(const Operand& operand, const char* from, int32_t count, char* to) {
#pragma unroll
    for (int i = 0; i < kCount; i += kRowsAtOnce) {
      const bool there = row_ + i < count;
      copyAsync16(to + chunkOffset(row_ + i, chunk_), there ? from + i * operand.stride : operand.words,
                  there ? 16 : 0);
    }
  }

  const MainloopParams& params_;
  const int32_t queryCount_;
  const int chunk_, row_;
  const char* query_ = nullptr;
  const char* key_ = nullptr;
};

// The same of halves: high high, high low, low high, of which the first two chunks of a row hold the high ones.
template <typename Tile>
CLIPCID_DEVICE void multiplyHalves(FragmentOf<Tile>& fragment, const char* queries, const char* keys) {
  constexpr int kDown = Tile::kWarpRows / 16, kAcross = Tile::kWarpColumns / 16;
  const int lane = fragment.lane;
  const char* a = queries + (fragment.warpRow + lane % 16) * kDepthBytes;
  const char* b = keys + (fragment.warpColumn + lane / 16 * 8 + lane % 8) * kDepthBytes;
  const int turn = lane % 8 / 2;
  uint32_t left[2][kDown][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kDown; ++i)
      loadMatrices(left[half][i], a + i * 16 * kDepthBytes + ((2 * half + lane / 16) ^ turn) * kChunkBytes);
  }
#pragma unroll
  for (int j = 0; j < kAcross; ++j) {
    uint32_t right[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      loadMatrices(right[half], b + j * 16 * kDepthBytes + ((2 * half + lane / 8 % 2) ^ turn) * kChunkBytes);
#pragma unroll
    for (int product = 0; product < 3; ++product) {
      const auto& x = left[product == 2];
      const auto& y = right[product == 1];
      const uint32_t first[2] = {y[0], y[1]}, second[2] = {y[2], y[3]};
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
        multiplyAdd(fragment.values[i][2 * j], x[i], first);
        multiplyAdd(fragment.values[i][2 * j + 1], x[i], second);
      }
    }
  }
}

// fragment += queries keys', of one stage; `queries` and `keys` are the tile's parts of it.
template <typename Tile>
CLIPCID_DEVICE void multiplyStage(FragmentOf<Tile>& fragment, const char* queries, const char* keys) {
  const int lane = fragment.lane;
  if constexpr (Tile::kMath == Math::kHalves) {
    multiplyHalves<Tile>(fragment, queries, keys);
  } else if constexpr (Tile::kMath != Math::kFloat32) {
    constexpr int kDown = Tile::kWarpRows / 16, kAcross = Tile::kWarpColumns / 16;
    const char* a = queries + (fragment.warpRow + lane % 16) * kDepthBytes;
    const char* b = keys + (fragment.warpColumn + lane / 16 * 8 + lane % 8) * kDepthBytes;
    // Of rows sixteen apart the chunks are permuted alike.
    const int turn = lane % 8 / 2;
#pragma unroll Tile::kHalvesAtOnce
    for (int half = 0; half < 2; ++half) {
      uint32_t left[kDown][4];
#pragma unroll
      for (int i = 0; i < kDown; ++i)
        loadMatrices(left[i], a + i * 16 * kDepthBytes + ((2 * half + lane / 16) ^ turn) * kChunkBytes);
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
        uint32_t right[4];
        loadMatrices(right, b + j * 16 * kDepthBytes + ((2 * half + lane / 8 % 2) ^ turn) * kChunkBytes);
        const uint32_t low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
#pragma unroll
        for (int i = 0; i < kDown; ++i) {
          multiplyAdd(fragment.values[i][2 * j], left[i], low);
          multiplyAdd(fragment.values[i][2 * j + 1], left[i], high);
        }
      }
    }
  } else {
#pragma unroll
    for (int chunk = 0; chunk < kRowChunks; ++chunk) {
      Floats4 x[Tile::kOwnRows], y[Tile::kOwnColumns];
#pragma unroll
      for (int r = 0; r < Tile::kOwnRows; ++r)
        x[r] = *reinterpret_cast<const Floats4*>(queries + chunkOffset(fragment.row(r), chunk));
#pragma unroll
      for (int c = 0; c < Tile::kOwnColumns; ++c)
        y[c] = *reinterpret_cast<const Floats4*>(keys + chunkOffset(fragment.column(c), chunk));
#pragma unroll
      for (int r = 0; r < Tile::kOwnRows; ++r) {
#pragma unroll
        for (int c = 0; c < Tile::kOwnColumns; ++c) {
          float& sum = fragment.at(r, c);
          sum = fmaf(x[r].x, y[c].x, sum);
          sum = fmaf(x[r].y, y[c].y, sum);
          sum = fmaf(x[r].z, y[c].z, sum);
          sum = fmaf(x[r].w, y[c].w, sum);
        }
      }
    }
  }
}

template <typename Tile>
CLIPCID_DEVICE TileAt tileAt(const MainloopParams& params, int32_t queryCount, const Cursor& at) {
  TileAt tile;
  tile.problem = at.item.problem;
  tile.row = at.item.rowTile * Tile::kRows;
  tile.column = at.column * Tile::kColumns;
  tile.rows = queryCount - tile.row < Tile::kRows ? queryCount - tile.row : Tile::kRows;
  tile.columns =
      params.keys.rows - tile.column < Tile::kColumns ? params.keys.rows - tile.column : Tile::kColumns;
  return tile;
}

template <typename Tile, template <typename, typename> typename EpilogueOf>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    mainloopSm80(const __grid_constant__ MainloopParams params, const __grid_constant__
                 typename EpilogueOf<FragmentOf<Tile>, BlockTeam<Tile::kThreads>>::Params epilogueParams) {
  using Team = BlockTeam<Tile::kThreads>;
  using Epilogue = EpilogueOf<FragmentOf<Tile>, Team>;
  constexpr bool kTwoProducts = requires(Epilogue & one, FragmentOf<Tile> & scores, const TileAt& at) {
    one.between(scores, at);
  };
  const int32_t depths = kTwoProducts ? params.depths + params.secondDepths : params.depths;
  char* ring = sharedMemory();
  const int thread = static_cast<int>(threadIdx.x);
  if (params.stop != nullptr && *params.stop != 0) return;
  int32_t queryCount = params.queries.rows;
  Schedule schedule = params.schedule;
  if (params.queryCount != nullptr) {
    const int32_t known = *params.queryCount;
    queryCount = known < queryCount ? known : queryCount;
    const int32_t tiles = (queryCount + Tile::kRows - 1) / Tile::kRows;
    schedule.rowEnd = tiles < schedule.rowEnd ? tiles : schedule.rowEnd;
    if (schedule.rowEnd <= schedule.rowBegin) return;
  }

  Epilogue epilogue(epilogueParams, ring + Tile::kRingBytes, Team());
  StageLoader<Tile> loader(params, queryCount, thread);
  const auto blocks = static_cast<int32_t>(gridDim.x);
  Cursor load(schedule, static_cast<int32_t>(blockIdx.x), blocks);
  Cursor work = load;
  int loadStage = 0, workStage = 0;
  const auto copyNext = [&] {
    if (load.valid(schedule)) {
      loader.copy(load, ring + loadStage * Tile::kStageBytes);
      load.advance(schedule, depths, blocks);
    }
    commitCopies();
    loadStage = loadStage + 1 == Tile::kStages ? 0 : loadStage + 1;
  };
#pragma unroll
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) copyNext();

  FragmentOf<Tile> scores;
  scores.lane = thread % kWarp;
  scores.warpRow = thread / kWarp / Tile::kWarpsAcross * Tile::kWarpRows;
  scores.warpColumn = thread / kWarp % Tile::kWarpsAcross * Tile::kWarpColumns;
  constexpr bool kPromotes = Tile::kMath == Math::kHalves;
  FragmentOf<Tile> few;  // of kPromotedStages
  if constexpr (kPromotes) {
    few.lane = scores.lane;
    few.warpRow = scores.warpRow;
    few.warpColumn = scores.warpColumn;
    few.clear();
  }
  while (work.valid(schedule)) {
    waitCopies<Tile::kStages - 2>();
    __syncthreads();
    copyNext();
    if (work.depth == 0) {
      const TileAt at = tileAt<Tile>(params, queryCount, work);
      if (work.atFirstColumn()) epilogue.begin(at);
      epilogue.start(scores, at);
    }
    if constexpr (kTwoProducts) {
      if (work.depth == params.depths) epilogue.between(scores, tileAt<Tile>(params, queryCount, work));
    }
    const char* stage = ring + workStage * Tile::kStageBytes;
    if constexpr (kPromotes) {
      multiplyStage<Tile>(few, stage, stage + Tile::kRows * kDepthBytes);
      if (work.depth % kPromotedStages == kPromotedStages - 1) {
        scores.add(few);
        few.clear();
      }
    } else {
      multiplyStage<Tile>(scores, stage, stage + Tile::kRows * kDepthBytes);
    }
    if (work.depth + 1 == depths) {
      const TileAt at = tileAt<Tile>(params, queryCount, work);
      epilogue.visit(scores, at);
      if (work.atLastColumn()) epilogue.finish(at);
    }
    work.advance(schedule, depths, blocks);
    workStage = workStage + 1 == Tile::kStages ? 0 : workStage + 1;
  }
  waitCopies<0>();
}

}  // namespace clipcid::cuda
