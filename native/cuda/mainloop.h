// What every mainloop is given: encoded rows, and which tiles of their product are wanted.
//
// An epilogue is a struct of device functions over a mainloop's fragments; it decides what becomes of a tile of scores before
// the next one takes its place:
//
//   struct Epilogue {
//     struct Params;                                  // the kernel's argument
//     static constexpr int kSharedBytes;              // of a block, for itself
//     Epilogue(const Params&, char* shared, Team);
//     void begin(const TileAt&);                      // before the first tile of an item
//     void start(Fragment&, const TileAt&);           // what a tile's accumulators begin with, mostly zeros
//     void between(Fragment&, const TileAt&);         // of two products: the scores of the first; or not there
//     void visit(Fragment&, const TileAt&);           // the scores, of the second where there are two
//     void finish(const TileAt&);                     // after the last tile of an item
//   };
//
// All threads of the team call these together. A Team is the threads that share a tile: `rank()` of them, `kThreads`, and
// `synchronise()`; no epilogue may use __syncthreads, because other threads of the block may be busy with copies, nor barrier 1
// of the block, nor take threadIdx for its rank.
//
// What a thread has of a tile is for its Fragment to say (fragment.cuh), in particular how many rows and columns a warp has: 64 by
// 32 or 64 in the sm_80 mainloop, 16 by all columns of the tile in the sm_90 one. There an epilogue's kSharedBytes are taken from
// the ring of stages, of 48 KB each.
#pragma once

#include <cstdint>

#include "cuda/schedule.h"

namespace clipcid::cuda {

// Encoded rows [problems * rows] (encode.h, halves.h): `stride` bytes from one to the next, a multiple of kDepthBytes.
struct Operand {
  const char* words = nullptr;
  int64_t stride = 0;
  int32_t rows = 0;      // of a problem
  int64_t rowBytes = 0;  // of a row that are there, where these are not all of the stride
};

struct MainloopParams {
  Operand queries, keys;
  int32_t depths = 0;  // stages of a row; of halves a multiple of kPromotedStages
  // A second pair of matrices of as many rows, for epilogues of two products.
  Operand secondQueries, secondKeys;
  int32_t secondDepths = 0;
  Schedule schedule;
  // Problems are parts of the depth of the same rows, `depths` each.
  bool partsOfDepth = false;
  // Of one problem, or null: how many queries there are, known on the device only, and at most queries.rows.
  const int32_t* queryCount = nullptr;
  // On the device, or null: nothing is done where it is not 0.
  const int32_t* stop = nullptr;
};

// A tile of scores.
struct TileAt {
  int32_t problem;
  int32_t row, column;  // first, of its problem
  // That exist. What is behind them are scores of zeros, or, of rows behind a `queryCount`, anything.
  int32_t rows, columns;
};

}  // namespace clipcid::cuda
