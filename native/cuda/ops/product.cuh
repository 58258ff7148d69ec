// Mainloop of training's products on tensor cores, GPUs from 8.0 on: c = alpha op(a) op(b), where loaders say what the elements
// of op(a) and op(b) are: matrices stored either way (product.cu), or pixels under a window (conv.cu).
//
// A block has a tile of c and goes through 32 of the depth at a time. Elements are float32 in memory; a thread takes 8 that lie next
// to each other, rounds them to bfloat16 on the way to shared memory, and does so for the next stage while this one is
// multiplied. What lies line by line (8 elements of the depth next to each other) is read with ldmatrix, what lies depth by depth
// with ldmatrix.trans, so that no operand is turned. Precision::kFloat32 is kParts 3: each element is the sum of three of bfloat16, and products of
// parts whose numbers sum up to less than 3 are taken, the least first; their sums leave the tensor cores, which cut off rather
// than round, after every stage. Accumulators go through shared memory at the end: rows of c are written as they lie, and a chain
// (chain.cuh) finds its elements there.
//
// A product with too few tiles for the GPU is cut along its depth; parts are summed up in their order by a second kernel. How it is cut
// follows from the shape and the number of multiprocessors alone, so results are the same from run to run.
//
// Invariants: a stage is overwritten only behind the barrier after its last read, as two take turns; what lies outside of op(a)
// or op(b) is zeros. Not yet measured.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/ops/chain.cuh"
#include "cuda/ops/product.h"
#include "cuda/ptx.cuh"
#include "cuda/tiles.h"

namespace clipcid::cuda {

constexpr int kProductDepth = 32;
constexpr int kChunkElements = 8;
constexpr int kDepthChunks = kProductDepth / kChunkElements;

template <int kRows_, int kColumns_, int kWarpRows_, int kWarpColumns_, int kParts_, int kBlocks_>
struct ProductTile {
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kWarpRows = kWarpRows_, kWarpColumns = kWarpColumns_;
  static constexpr int kParts = kParts_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kWarpsAcross = kColumns / kWarpColumns;
  static constexpr int kThreads = kRows / kWarpRows * kWarpsAcross * kWarp;
  static constexpr int kDown = kWarpRows / 16, kAcross = kWarpColumns / 16;
  static constexpr int kPartBytesA = kRows * kProductDepth * 2, kPartBytesB = kColumns * kProductDepth * 2;
  static constexpr int kStageBytes = kParts * (kPartBytesA + kPartBytesB);
  static constexpr int kRingBytes = 2 * kStageBytes;
  // Floats from one row of sums to the next: eight rows' pairs of columns lie in different banks.
  static constexpr int kSumRow = kColumns + 8;
  static constexpr int kSumBytes = kRows * kSumRow * 4;

  static_assert(kRows * kDepthChunks % kThreads == 0 && kColumns * kDepthChunks % kThreads == 0);
  static_assert(kRows >= 64 && kColumns >= 64, "eight chunks that are permuted");
  static_assert(kDown * kAcross * 8 <= 64, "a quarter of a thread's registers");
};

// Elements of an operand on their way from memory to a stage.
template <typename Loader, int kLines, int kThreads, int kParts>
class ProductStaging {
 public:
  CLIPCID_DEVICE void fetch(const Loader& loader, int32_t firstLine, int32_t depth, int32_t depthEnd) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kThreads;
      loader.fetch(values_[i], firstLine + lineOf(at), depth + depthOf(at), depthEnd);
    }
  }

  CLIPCID_DEVICE void put(char* stage) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kThreads;
      const int line = lineOf(at), depth = depthOf(at);
      char* to = stage;
      if constexpr (Loader::kDepthMajor) {
        to += depth * kLines * 2 + (line / kChunkElements ^ (depth & 7)) * kChunkBytes;
      } else {
        to += chunkOffset(line, depth / kChunkElements);
      }
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        uint32_t words[4];
#pragma unroll
        for (int w = 0; w < 4; ++w) words[w] = takeBfloat16(values_[i][2 * w], values_[i][2 * w + 1]);
        *reinterpret_cast<Words4*>(to + part * kLines * kProductDepth * 2) = {words[0], words[1], words[2],
                                                                              words[3]};
      }
    }
  }

 private:
  static constexpr int kChunks = kLines * kDepthChunks / kThreads;

  CLIPCID_DEVICE static int lineOf(int at) {
    return Loader::kDepthMajor ? at % (kLines / kChunkElements) * kChunkElements : at / kDepthChunks;
  }
  CLIPCID_DEVICE static int depthOf(int at) {
    return Loader::kDepthMajor ? at / (kLines / kChunkElements) : at % kDepthChunks * kChunkElements;
  }

  float values_[kChunks][kChunkElements];
};

// 16 lines and 16 of the depth of a part of a stage, as mma has A: matrices are lines 0 and depths 0, lines 8, depths 8, both.
template <bool kDepthMajor, int kLines>
CLIPCID_DEVICE void loadLeft(uint32_t (&out)[4], const char* part, int line, int half, int lane) {
  if constexpr (kDepthMajor) {
    const int depth = 16 * half + lane / 16 * 8 + lane % 8;
    const int chunk = line / 8 + lane / 8 % 2;
    loadMatricesTurned(out, part + depth * kLines * 2 + (chunk ^ (lane & 7)) * kChunkBytes);
  } else {
    loadMatrices(out, part + chunkOffset(line + lane % 16, 2 * half + lane / 16));
  }
}

// As mma has B, twice: matrices are lines 0 and depths 0, depths 8, lines 8, both.
template <bool kDepthMajor, int kLines>
CLIPCID_DEVICE void loadRight(uint32_t (&out)[4], const char* part, int line, int half, int lane) {
  if constexpr (kDepthMajor) {
    const int depth = 16 * half + lane / 8 % 2 * 8 + lane % 8;
    const int chunk = line / 8 + lane / 16;
    loadMatricesTurned(out, part + depth * kLines * 2 + (chunk ^ (lane & 7)) * kChunkBytes);
  } else {
    loadMatrices(out, part + chunkOffset(line + lane / 16 * 8 + lane % 8, 2 * half + lane / 8 % 2));
  }
}

// sums += of one half of a stage.
template <typename Tile, bool kDepthMajorA, bool kDepthMajorB>
CLIPCID_DEVICE void multiplyParts(float (&sums)[Tile::kDown][2 * Tile::kAcross][4], const char* stage,
                                  int half, int warpRow, int warpColumn, int lane) {
  constexpr int kParts = Tile::kParts;
  const char* partsB = stage + kParts * Tile::kPartBytesA;
  {
    uint32_t left[kParts][Tile::kDown][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int i = 0; i < Tile::kDown; ++i)
        loadLeft<kDepthMajorA, Tile::kRows>(left[part][i], stage + part * Tile::kPartBytesA, warpRow + 16 * i,
                                            half, lane);
    }
#pragma unroll
    for (int j = 0; j < Tile::kAcross; ++j) {
      uint32_t right[kParts][4];
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        loadRight<kDepthMajorB, Tile::kColumns>(right[part], partsB + part * Tile::kPartBytesB,
                                                warpColumn + 16 * j, half, lane);
#pragma unroll
      for (int order = kParts - 1; order >= 0; --order) {
#pragma unroll
        for (int part = 0; part <= order; ++part) {
          const uint32_t low[2] = {right[order - part][0], right[order - part][1]};
          const uint32_t high[2] = {right[order - part][2], right[order - part][3]};
#pragma unroll
          for (int i = 0; i < Tile::kDown; ++i) {
            multiplyAddBfloat16(sums[i][2 * j], left[part][i], low);
            multiplyAddBfloat16(sums[i][2 * j + 1], left[part][i], high);
          }
        }
      }
    }
  }
}

// One item of work: which tile of which matrix, and which of its depth.
struct ProductItem {
  int32_t batch, split, row, column;
};

// Tiles next to each other in both directions are worked on at the same time, so that what they share stays in the second-level
// cache.
template <typename Tile>
CLIPCID_DEVICE ProductItem productItem(const ProductPlan& plan, int64_t index) {
  constexpr int kTogether = 8;
  ProductItem item;
  const int64_t tiles = static_cast<int64_t>(plan.tilesDown) * plan.tilesAcross;
  const int64_t slice = index / tiles;
  const auto tile = static_cast<int32_t>(index - slice * tiles);
  item.batch = static_cast<int32_t>(slice / plan.splits);
  item.split = static_cast<int32_t>(slice % plan.splits);
  const int32_t band = tile / (kTogether * plan.tilesAcross);
  const int32_t first = band * kTogether;
  const int32_t height = plan.tilesDown - first < kTogether ? plan.tilesDown - first : kTogether;
  const int32_t rest = tile - first * plan.tilesAcross;
  item.row = (first + rest % height) * Tile::kRows;
  item.column = rest / height * Tile::kColumns;
  return item;
}

// Four columns of a row of c.
CLIPCID_DEVICE void storeSums(const ProductResult& result, const ProductPlan& plan, const ProductItem& item,
                              int32_t row, int32_t column, const float* sums) {
  const int32_t count = plan.n - column < 4 ? plan.n - column : 4;
  if (plan.splits > 1) {
    float* to = result.parts +
                ((static_cast<int64_t>(item.split) * plan.batches + item.batch) * plan.m + row) * plan.n +
                column;
    if (count == 4 && plan.n % 4 == 0) {
      *reinterpret_cast<Floats4*>(to) = {sums[0], sums[1], sums[2], sums[3]};
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) to[i] = sums[i];
    }
    return;
  }
  float* to = result.c + item.batch / result.inner * result.batch[0] +
              item.batch % result.inner * result.batch[1] + row * result.row + column;
  const float* bias = result.bias == nullptr ? nullptr : result.bias + item.batch * result.biasBatch + column;
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[i] = result.alpha * sums[i];
    if (i < count && bias != nullptr) values[i] += bias[i];
  }
  if (count == 4 && result.vector) {
    auto* four = reinterpret_cast<Floats4*>(to);
    if (result.accumulate) {
      const Floats4 old = *four;
      *four = {old.x + values[0], old.y + values[1], old.z + values[2], old.w + values[3]};
    } else {
      *four = {values[0], values[1], values[2], values[3]};
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count) to[i] = result.accumulate ? to[i] + values[i] : values[i];
  }
}

template <typename Tile, typename LoaderA, typename LoaderB, bool kChained>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    productKernel(const __grid_constant__ typename LoaderA::Params paramsA,
                  const __grid_constant__ typename LoaderB::Params paramsB,
                  const __grid_constant__ ProductPlan plan, const __grid_constant__ ProductResult result,
                  const __grid_constant__ ChainProgram chain) {
  char* ring = sharedMemory();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int warpRow = thread / kWarp / Tile::kWarpsAcross * Tile::kWarpRows;
  const int warpColumn = thread / kWarp % Tile::kWarpsAcross * Tile::kWarpColumns;
  const ProductItem item = productItem<Tile>(plan, blockIdx.x);
  const LoaderA loaderA(paramsA, item.batch);
  const LoaderB loaderB(paramsB, item.batch);
  const int32_t begin = item.split * plan.depthOfSplit;
  const int32_t end = plan.k - begin < plan.depthOfSplit ? plan.k : begin + plan.depthOfSplit;

  float sums[Tile::kDown][2 * Tile::kAcross][4] = {};
  // The operands of the next stage come one after the other, so that few registers wait for memory at a time.
  ProductStaging<LoaderA, Tile::kRows, Tile::kThreads, Tile::kParts> stagingA;
  ProductStaging<LoaderB, Tile::kColumns, Tile::kThreads, Tile::kParts> stagingB;
  constexpr int kBytesA = Tile::kParts * Tile::kPartBytesA;
  stagingA.fetch(loaderA, item.row, begin, end);
  stagingA.put(ring);
  stagingB.fetch(loaderB, item.column, begin, end);
  stagingB.put(ring + kBytesA);
  int turn = 0;
  for (int32_t depth = begin; depth < end; depth += kProductDepth, turn ^= 1) {
    const char* stage = ring + turn * Tile::kStageBytes;
    char* next = ring + (turn ^ 1) * Tile::kStageBytes;
    const int32_t after = depth + kProductDepth;
    const auto half = [&](float(&to)[Tile::kDown][2 * Tile::kAcross][4], int which) {
      multiplyParts<Tile, LoaderA::kDepthMajor, LoaderB::kDepthMajor>(to, stage, which, warpRow, warpColumn,
                                                                      lane);
    };
    const auto both = [&](float(&to)[Tile::kDown][2 * Tile::kAcross][4]) {
      if (after < end) stagingA.fetch(loaderA, item.row, after, end);
      half(to, 0);
      if (after < end) {
        stagingA.put(next);
        stagingB.fetch(loaderB, item.column, after, end);
      }
      half(to, 1);
      if (after < end) stagingB.put(next + kBytesA);
    };
    __syncthreads();
    if constexpr (Tile::kParts == 1) {
      both(sums);
    } else {
      float own[Tile::kDown][2 * Tile::kAcross][4] = {};
      both(own);
#pragma unroll
      for (int i = 0; i < Tile::kDown; ++i) {
#pragma unroll
        for (int j = 0; j < 2 * Tile::kAcross; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[i][j][e] += own[i][j][e];
        }
      }
    }
  }

  // All stages have been read.
  __syncthreads();
  auto* tile = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int i = 0; i < Tile::kDown; ++i) {
#pragma unroll
    for (int j = 0; j < 2 * Tile::kAcross; ++j) {
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int row = warpRow + 16 * i + 8 * high + lane / 4;
        const int column = warpColumn + 8 * j + lane % 4 * 2;
        *reinterpret_cast<Floats2*>(tile + row * Tile::kSumRow + column) = {sums[i][j][2 * high],
                                                                            sums[i][j][2 * high + 1]};
      }
    }
  }
  __syncthreads();
  constexpr int kFours = Tile::kColumns / 4;
  for (int at = thread; at < Tile::kRows * kFours; at += Tile::kThreads) {
    const int32_t row = item.row + at / kFours, column = item.column + at % kFours * 4;
    if (row >= plan.m || column >= plan.n) continue;
    const float* four = tile + at / kFours * Tile::kSumRow + at % kFours * 4;
    if constexpr (kChained) {
      if (chain.steps > 0) {
        auto* slots = reinterpret_cast<Floats4*>(ring + Tile::kSumBytes);
        ChainAt place;
        place.row = row;
        place.column = column;
        place.count = plan.n - column < kChainLanes ? plan.n - column : kChainLanes;
        place.whole = true;
        runChain<false>(chain, slots, Tile::kThreads, thread, place, [&](int input) -> Floats4 {
          // The product itself, which nobody has written.
          if (input == 0)
            return {result.alpha * four[0], result.alpha * four[1], result.alpha * four[2],
                    result.alpha * four[3]};
          return loadSource(chain, input, place);
        });
        continue;
      }
    }
    storeSums(result, plan, item, row, column, four);
  }
}

// Elements of a matrix that is stored line by line, or depth by depth.
template <bool kDepthMajor_>
class MatrixLoader {
 public:
  static constexpr bool kDepthMajor = kDepthMajor_;
  struct Params {
    const float* data;
    int64_t stride;    // from one stored row to the next
    int64_t batch[2];  // from one matrix to the next
    int32_t inner;     // matrices of the second level
    int32_t lines;
    bool aligned;  // eight elements of a row, from a multiple of eight on, are two vectors
  };

  CLIPCID_DEVICE MatrixLoader(const Params& params, int32_t batch)
      : params_(params),
        data_(params.data + batch / params.inner * params.batch[0] + batch % params.inner * params.batch[1]) {
  }

  CLIPCID_DEVICE void fetch(float (&to)[kChunkElements], int32_t line, int32_t depth,
                            int32_t depthEnd) const {
    const int32_t row = kDepthMajor ? depth : line, column = kDepthMajor ? line : depth;
    const int32_t rows = kDepthMajor ? depthEnd : params_.lines;
    const int32_t columns = kDepthMajor ? params_.lines : depthEnd;
    const float* from = data_ + row * params_.stride + column;
    if (row < rows && column + kChunkElements <= columns && params_.aligned) {
      const auto* fours = reinterpret_cast<const Floats4*>(from);
      const Floats4 low = fours[0], high = fours[1];
      to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
      to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
      return;
    }
#pragma unroll
    for (int i = 0; i < kChunkElements; ++i) to[i] = row < rows && column + i < columns ? from[i] : 0.0f;
  }

 private:
  const Params& params_;
  const float* data_;
};

// The tiles that are compiled: by grade, and for products with many or few rows and columns.
using LargeProduct = ProductTile<128, 128, 32, 32, 1, 1>;
using SmallProduct = ProductTile<64, 64, 32, 32, 1, 3>;
using ExactProduct = ProductTile<64, 64, 32, 32, 3, 2>;

static_assert(ExactProduct::kRingBytes <= 96 << 10, "of the 99 KB of 8.6, 8.9 and 12.0");

// Shared memory of a tile's sums and of a chain's slots behind them.
template <typename Tile>
size_t epilogueBytes(int slots) {
  return Tile::kSumBytes + static_cast<size_t>(slots) * Tile::kThreads * sizeof(Floats4);
}
inline size_t epilogueBytes(ProductShape shape, int slots) {
  return shape == ProductShape::kLarge   ? epilogueBytes<LargeProduct>(slots)
         : shape == ProductShape::kSmall ? epilogueBytes<SmallProduct>(slots)
                                         : epilogueBytes<ExactProduct>(slots);
}

template <typename Tile, typename LoaderA, typename LoaderB, bool kChained>
Status launchProduct(const Work& work, const typename LoaderA::Params& a, const typename LoaderB::Params& b,
                     const ProductPlan& plan, const ProductResult& result, const ChainProgram& chain) {
  const size_t epilogue = epilogueBytes<Tile>(kChained ? chain.slots : 0);
  const size_t shared = epilogue > Tile::kRingBytes ? epilogue : Tile::kRingBytes;
  if (shared > work.device.properties.sharedOfBlock)
    return {Code::kInternal, "A product needs more shared memory than this GPU has"};
  const int64_t blocks = static_cast<int64_t>(plan.tilesDown) * plan.tilesAcross * plan.splits * plan.batches;
  if (blocks > INT32_MAX) return {Code::kInvalidArgument, "A product of more than 2^31 tiles"};
  return CLIPCID_LAUNCH((productKernel<Tile, LoaderA, LoaderB, kChained>),
                        {.grid = static_cast<unsigned>(blocks),
                         .block = Tile::kThreads,
                         .shared = shared,
                         .stream = work.stream},
                        a, b, plan, result, chain);
}

// Plans, runs, and sums up what was cut.
template <typename LoaderA, typename LoaderB, bool kChained>
Status queueProduct(const Work& work, Precision precision, const typename LoaderA::Params& a,
                    const typename LoaderB::Params& b, int64_t batches, int64_t m, int64_t n, int64_t k,
                    ProductResult result, const ChainProgram& chain) {
  ProductPlan plan;
  CLIPCID_TRY(planProduct(work, precision, batches, m, n, k, kChained && chain.steps > 0, &plan));
  if (plan.splits > 1) CLIPCID_TRY(work.take(plan.splits * batches * m * n, &result.parts));
  switch (plan.shape) {
    case ProductShape::kLarge:
      CLIPCID_TRY((launchProduct<LargeProduct, LoaderA, LoaderB, kChained>(work, a, b, plan, result, chain)));
      break;
    case ProductShape::kSmall:
      CLIPCID_TRY((launchProduct<SmallProduct, LoaderA, LoaderB, kChained>(work, a, b, plan, result, chain)));
      break;
    case ProductShape::kExact:
      CLIPCID_TRY((launchProduct<ExactProduct, LoaderA, LoaderB, kChained>(work, a, b, plan, result, chain)));
      break;
  }
  return plan.splits > 1 ? sumParts(work, plan, result) : Status();
}

}  // namespace clipcid::cuda
