// In: A [m, k] and B [k, n], float32, each as it is or stored transposed. Out: C [m, n].
//
// A block has a tile of 128 x 128 of C, a thread 8 x 8 of it, in registers; 8 of the depth at a time go through shared memory,
// the next of which are loaded while those at hand are multiplied. Sums are chains of fused multiplications and additions
// over the depth, in order: the same for one shape whatever the device. Not yet measured.
#include "cuda/launch.cuh"
#include "cuda/matmul_kernels.h"

namespace clipcid::cuda {
namespace {

constexpr int kTile = 128;
constexpr int kDepth = 8;
constexpr int kOwn = 8;
constexpr int kThreads = kTile / kOwn * (kTile / kOwn);
// Columns of shared memory behind each run, so that writes of a transposed operand spread over the banks.
constexpr int kPadding = 4;

struct Stage {
  float a[kDepth][kTile + kPadding];
  float b[kDepth][kTile + kPadding];
};

// Element (line, depth) of op(A), or of op(B) transposed; zero outside.
template <bool kDepthFirst>
CLIPCID_DEVICE float element(const float* from, int64_t stride, int64_t line, int64_t lines, int64_t depth,
                             int64_t depths) {
  if (line >= lines || depth >= depths) return 0;
  return kDepthFirst ? from[depth * stride + line] : from[line * stride + depth];
}

// This thread's elements of a slab [kDepth, kTile]: those next to each other in memory go to threads next to each other.
template <bool kDepthFirst>
CLIPCID_DEVICE void fetch(const float* from, int64_t stride, int64_t first, int64_t lines, int64_t depth,
                          int64_t depths, float (&values)[kDepth * kTile / kThreads]) {
#pragma unroll
  for (int i = 0; i < kDepth * kTile / kThreads; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    const int line = kDepthFirst ? at % kTile : at / kDepth, d = kDepthFirst ? at / kTile : at % kDepth;
    values[i] = element<kDepthFirst>(from, stride, first + line, lines, depth + d, depths);
  }
}

template <bool kDepthFirst>
CLIPCID_DEVICE void put(const float (&values)[kDepth * kTile / kThreads], float (*to)[kTile + kPadding]) {
#pragma unroll
  for (int i = 0; i < kDepth * kTile / kThreads; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    const int line = kDepthFirst ? at % kTile : at / kDepth, d = kDepthFirst ? at / kTile : at % kDepth;
    to[d][line] = values[i];
  }
}

template <bool kTransposeA, bool kTransposeB>
__global__ void __launch_bounds__(kThreads) matmulKernel(MatmulKernelArgs args) {
  auto* stages = reinterpret_cast<Stage*>(sharedMemory());
  const int64_t columnTiles = (args.n + kTile - 1) / kTile;
  const int64_t row = blockIdx.x / columnTiles * kTile, column = blockIdx.x % columnTiles * kTile;
  // Rows 4 i .. and 64 + 4 i .. of the tile, and columns alike: reads of a warp are broadcast or next to each other.
  const int y = static_cast<int>(threadIdx.x) / (kTile / kOwn) * 4,
            x = static_cast<int>(threadIdx.x) % (kTile / kOwn) * 4;
  float sums[kOwn][kOwn] = {};
  float left[kDepth * kTile / kThreads], right[kDepth * kTile / kThreads];
  fetch<kTransposeA>(args.a, args.strideA, row, args.m, 0, args.k, left);
  fetch<!kTransposeB>(args.b, args.strideB, column, args.n, 0, args.k, right);
  int turn = 0;
  for (int64_t depth = 0; depth < args.k; depth += kDepth, turn ^= 1) {
    Stage& stage = stages[turn];
    put<kTransposeA>(left, stage.a);
    put<!kTransposeB>(right, stage.b);
    __syncthreads();
    if (depth + kDepth < args.k) {
      fetch<kTransposeA>(args.a, args.strideA, row, args.m, depth + kDepth, args.k, left);
      fetch<!kTransposeB>(args.b, args.strideB, column, args.n, depth + kDepth, args.k, right);
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      float a[kOwn], b[kOwn];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = stage.a[d][y + i];
        a[4 + i] = stage.a[d][kTile / 2 + y + i];
        b[i] = stage.b[d][x + i];
        b[4 + i] = stage.b[d][kTile / 2 + x + i];
      }
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
      }
    }
    // The stage after the next one is this one: its barrier is behind all reads of it.
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int64_t r = row + y + (i < 4 ? i : kTile / 2 + i - 4);
    if (r >= args.m) continue;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int64_t c = column + x + (j < 4 ? j : kTile / 2 + j - 4);
      if (c >= args.n) continue;
      float& to = args.c[r * args.strideC + c];
      to = args.beta == 0 ? args.alpha * sums[i][j] : args.alpha * sums[i][j] + args.beta * to;
    }
  }
}

}  // namespace

Status multiplyMatrices(Stream stream, const MatmulKernelArgs& args) {
  if (args.m == 0 || args.n == 0) return {};
  const int64_t tiles = (args.m + kTile - 1) / kTile * ((args.n + kTile - 1) / kTile);
  if (tiles > INT32_MAX) return {Code::kInvalidArgument, "A product of more than 2^31 tiles"};
  const Launch how = {
      .grid = static_cast<unsigned>(tiles), .block = kThreads, .shared = 2 * sizeof(Stage), .stream = stream};
  if (args.transposeA && args.transposeB) return CLIPCID_LAUNCH((matmulKernel<true, true>), how, args);
  if (args.transposeA) return CLIPCID_LAUNCH((matmulKernel<true, false>), how, args);
  if (args.transposeB) return CLIPCID_LAUNCH((matmulKernel<false, true>), how, args);
  return CLIPCID_LAUNCH((matmulKernel<false, false>), how, args);
}

}  // namespace clipcid::cuda
