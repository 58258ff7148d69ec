// In: halves of queries [M, D] and keys [N, D]. Out: logits [M, N] of a strip of queries and their log-sum-exps by query and key;
// the weights of gradients, as halves; sums of values with them [M, D], or of queries [N, D].
//
// Both products go through the mainloop. The logits of a strip stay in memory between them, as far as they are wanted twice:
// the strip is as small as the caller makes it. Weights are halves like everything that is multiplied, and take the place of
// the logits they are made from, tile by tile. Deep sums are split along the depth, into parts that are added in order. So every
// number has one order of additions, whatever runs when, and however many keys or queries are there at a time. Not yet measured.
//
// By logit, D wide: 6 D operations twice; 4 bytes written and 4 read of logits, 4 written and 4 D / 128 read of weights.
#include <algorithm>

#include "cuda/epilogue_logits.cuh"
#include "cuda/epilogue_sums.cuh"
#include "cuda/halves.cuh"
#include "cuda/launch_mainloop.cuh"
#include "cuda/softmax_kernels.h"
#include "cuda/softmax_plan.h"
#include "cuda/warps.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

CLIPCID_DEVICE void putSums(const SoftmaxSums& out, int64_t at, float maximum, double sum, float weight) {
  out.maxima[at] = maximum;
  out.sums[at] = sum;
  out.factors[at] = static_cast<float>(static_cast<double>(weight) / sum);
}

// A warp a query.
__global__ void __launch_bounds__(kThreads)
    mergeQueryPartsKernel(const SoftmaxPart* parts, int64_t count, int32_t partsOfQuery, int32_t atOnce,
                          bool first, float weight, SoftmaxSums out) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; at < count; at += step) {
    const SoftmaxPart* own = parts + at * partsOfQuery;
    float most = first ? -HUGE_VALF : out.maxima[at];
    double total = first ? 0 : out.sums[at];
    for (int32_t from = 0; from < partsOfQuery; from += atOnce) {
      const int32_t end = from + atOnce < partsOfQuery ? from + atOnce : partsOfQuery;
      const float before = most;
      for (int32_t part = from + lane; part < end; part += kWarp) most = fmaxf(most, own[part].maximum);
#pragma unroll
      for (int by = 16; by > 0; by /= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, by));
      double sum = 0;
      for (int32_t part = from + lane; part < end; part += kWarp)
        sum += static_cast<double>(own[part].sum * exp2f(own[part].maximum - most));
      total = total * static_cast<double>(exp2f(before - most)) + sumOfWarp(sum);
    }
    if (lane == 0) putSums(out, at, most, total, weight);
  }
}

// A thread a key.
__global__ void __launch_bounds__(kThreads)
    mergeKeyPartsKernel(const SoftmaxPart* parts, int32_t partsOfKey, int64_t count, bool first, float weight,
                        SoftmaxSums out) {
  constexpr int32_t kAtOnce = kStripUnit / kPartQueries;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t key = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; key < count; key += step) {
    float most = first ? -HUGE_VALF : out.maxima[key];
    double total = first ? 0 : out.sums[key];
    for (int32_t from = 0; from < partsOfKey; from += kAtOnce) {
      const int32_t end = from + kAtOnce < partsOfKey ? from + kAtOnce : partsOfKey;
      const float before = most;
      for (int32_t part = from; part < end; ++part) most = fmaxf(most, parts[part * count + key].maximum);
      total *= static_cast<double>(exp2f(before - most));
      for (int32_t part = from; part < end; ++part) {
        const SoftmaxPart one = parts[part * count + key];
        total += static_cast<double>(one.sum * exp2f(one.maximum - most));
      }
    }
    putSums(out, key, most, total, weight);
  }
}

// What the four logits of a thread become.
struct Weigher {
  const WeighParams& params;
  int64_t row;
  bool there;  // the row exists
  float maximum = 0, factor = 0, maximum2 = 0, factor2 = 0;
  int32_t target = -1;
  float sum = 0;

  CLIPCID_DEVICE Weigher(const WeighParams& params, int64_t row)
      : params(params), row(row), there(row < params.queries) {
    if (!there) return;
    if (params.first.factors != nullptr) {
      maximum = params.first.maxima[row];
      factor = params.first.factors[row];
    }
    if (params.second.factors != nullptr) {
      maximum2 = params.second.maxima[row];
      factor2 = params.second.factors[row];
    }
    if (params.targets != nullptr) target = params.targets[row] - params.firstKey;
  }
  CLIPCID_DEVICE Floats4 four(int64_t column) {
    const Floats4 none = {0, 0, 0, 0};
    if (!there || column >= params.keys) return none;
    const int64_t at = row * params.stride + column;
    const Floats4 z = *reinterpret_cast<const Floats4*>(params.first.logits + at);
    const Floats4 y =
        params.second.logits != nullptr ? *reinterpret_cast<const Floats4*>(params.second.logits + at) : none;
    return {weight(column, z.x, y.x), weight(column + 1, z.y, y.y), weight(column + 2, z.z, y.z),
            weight(column + 3, z.w, y.w)};
  }

 private:
  CLIPCID_DEVICE float weight(int64_t column, float z, float y) {
    if (column >= params.keys) return 0;
    float g = 0;
    if (params.first.factors != nullptr) g = factor * exp2f(z - maximum);
    if (params.keyFactors != nullptr)
      g = fmaf(params.keyFactors[column], exp2f(z - params.keyMaxima[column]), g);
    if (column == target) g -= params.targetWeight;
    if (params.second.factors != nullptr) {
      const float p = exp2f(y - maximum2);
      g = fmaf(-factor2, p, g);
      if (params.querySums != nullptr) sum = fmaf(p, (y - maximum2) - (z - maximum), sum);
    } else if (params.querySums != nullptr) {
      sum = fmaf(g, z, sum);
    }
    return g * params.scale;
  }
};

// A block takes tiles of 64 x 64 logits, of 16 columns of threads.
__global__ void __launch_bounds__(kHalvesThreads, 4) weighKernel(const __grid_constant__ WeighParams params) {
  auto& tile = *reinterpret_cast<HalvesFloats*>(sharedMemory());
  const int64_t down = (params.queries + kHalvesTile - 1) / kHalvesTile;
  const int64_t across = params.stride / kHalvesTile;
  const int64_t withKeys = (params.keys + kHalvesTile - 1) / kHalvesTile;
  for (int64_t at = blockIdx.x; at < down * across; at += gridDim.x) {
    const int64_t firstRow = at / across * kHalvesTile, firstColumn = at % across * kHalvesTile;
    const int column = static_cast<int>(threadIdx.x) % 16 * 4;
    for (int i = 0; i < kHalvesTile / 16; ++i) {
      const int row = static_cast<int>(threadIdx.x) / 16 + 16 * i;
      Weigher weigher(params, firstRow + row);
      const Floats4 g = weigher.four(firstColumn + column);
      tile[row][column] = g.x;
      tile[row][column + 1] = g.y;
      tile[row][column + 2] = g.z;
      tile[row][column + 3] = g.w;
      if (params.querySums == nullptr) continue;
      float sum = weigher.sum;
#pragma unroll
      for (int by = 8; by > 0; by /= 2) sum += __shfl_xor_sync(kAllLanes, sum, by);
      if (column == 0 && weigher.there && firstColumn < params.keys)
        params.querySums[(firstRow + row) * withKeys + firstColumn / kHalvesTile] = sum;
    }
    __syncthreads();
    if (params.rows.words != nullptr) {
      const int64_t left = params.queries - firstRow;
      putHalves<false>(tile, params.rows, firstRow, static_cast<int>(left < kHalvesTile ? left : kHalvesTile),
                       firstColumn);
    }
    if (params.columns.words != nullptr && firstColumn < params.keys) {
      const int64_t left = params.keys - firstColumn;
      putHalves<true>(tile, params.columns, firstColumn,
                      static_cast<int>(left < kHalvesTile ? left : kHalvesTile), firstRow);
    }
    __syncthreads();
  }
}

// A warp a query.
__global__ void __launch_bounds__(kThreads)
    addQuerySumsKernel(const float* sums, int64_t count, int64_t tiles, int64_t atOnce, bool add,
                       double* out) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; at < count; at += step) {
    double total = add ? out[at] : 0;
    for (int64_t from = 0; from < tiles; from += atOnce) {
      const int64_t end = from + atOnce < tiles ? from + atOnce : tiles;
      double sum = 0;
      for (int64_t tile = from + lane; tile < end; tile += kWarp)
        sum += static_cast<double>(sums[at * tiles + tile]);
      total += sumOfWarp(sum);
    }
    if (lane == 0) out[at] = total;
  }
}

// Four elements a thread.
__global__ void __launch_bounds__(kThreads)
    addPartsKernel(const float* partial, int64_t elements, int32_t parts, bool add, float* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * 4;
  for (int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4; at < elements;
       at += step) {
    auto& to = *reinterpret_cast<Floats4*>(out + at);
    Floats4 sum = add ? to : *reinterpret_cast<const Floats4*>(partial + at);
    for (int32_t part = add ? 0 : 1; part < parts; ++part) {
      const Floats4 x = *reinterpret_cast<const Floats4*>(partial + part * elements + at);
      sum = {sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w};
    }
    to = sum;
  }
}

int32_t tilesOf(int64_t count, int64_t tile) { return static_cast<int32_t>((count + tile - 1) / tile); }

}  // namespace

Status makeLogits(const Device& device, Stream stream, const HalvesView& queries, int64_t queryCount,
                  const HalvesView& keys, int64_t keyCount, const LogitsParams& params) {
  MainloopParams loop;
  loop.queries = {queries.words, queries.stride(), static_cast<int32_t>(queryCount)};
  loop.keys = {keys.words, keys.stride(), static_cast<int32_t>(keyCount)};
  loop.depths = static_cast<int32_t>(queries.stride() / kDepthBytes);
  loop.schedule.rowEnd = tilesOf(queryCount, HalvesTile::kRows);
  loop.schedule.columnEnd = tilesOf(keyCount, HalvesTile::kColumns);
  return launchTile<HalvesTile, LogitsEpilogue>(device, stream, loop, params);
}

Status mergeQueryParts(const Device& device, Stream stream, const SoftmaxPart* parts, int64_t count,
                       int32_t partsOfQuery, int32_t atOnce, bool first, float weight,
                       const SoftmaxSums& out) {
  return CLIPCID_LAUNCH(mergeQueryPartsKernel,
                        {.grid = blocksFor(device, count, kWarps), .block = kThreads, .stream = stream},
                        parts, count, partsOfQuery, atOnce, first, weight, out);
}

Status mergeKeyParts(const Device& device, Stream stream, const SoftmaxPart* parts, int32_t partsOfKey,
                     int64_t count, bool first, float weight, const SoftmaxSums& out) {
  return CLIPCID_LAUNCH(mergeKeyPartsKernel,
                        {.grid = blocksFor(device, count, kThreads), .block = kThreads, .stream = stream},
                        parts, partsOfKey, count, first, weight, out);
}

Status weighLogits(const Device& device, Stream stream, const WeighParams& params) {
  const int64_t tiles = tilesOf(params.queries, kHalvesTile) * (params.stride / kHalvesTile);
  return CLIPCID_LAUNCH(weighKernel,
                        {.grid = blocksFor(device, tiles, 1),
                         .block = kHalvesThreads,
                         .shared = sizeof(HalvesFloats),
                         .stream = stream},
                        params);
}

Status addQuerySums(const Device& device, Stream stream, const float* sums, int64_t count, int64_t tiles,
                    int64_t atOnce, bool add, double* out) {
  return CLIPCID_LAUNCH(addQuerySumsKernel,
                        {.grid = blocksFor(device, count, kWarps), .block = kThreads, .stream = stream}, sums,
                        count, tiles, atOnce, add, out);
}

Status sumValues(const Device& device, Stream stream, const ValueSumsArgs& args) {
  MainloopParams loop;
  loop.depths = static_cast<int32_t>(4 * args.partDepth / kDepthBytes);
  loop.schedule.rowEnd = tilesOf(args.count, HalvesTile::kRows);
  loop.schedule.columnEnd = tilesOf(args.dim, HalvesTile::kColumns);
  SumsParams sums;
  sums.unscale = args.unscale;
  sums.factor = args.factor;
  sums.goOn = args.goOn;
  sums.stride = args.outStride;
  sums.problemStride = args.count * args.outStride;
  for (int64_t from = 0; from < args.parts; from += args.partsAtOnce) {
    const int64_t parts = std::min(args.partsAtOnce, args.parts - from);
    const int64_t skipped = 4 * from * args.partDepth, skippedValues = skipped + 4 * args.values0;
    loop.queries = {args.weights.words + skipped, args.weights.stride(), static_cast<int32_t>(args.count),
                    args.weights.stride() - skipped};
    loop.keys = {args.values.words + skippedValues, args.values.stride(), static_cast<int32_t>(args.dim),
                 args.values.stride() - skippedValues};
    loop.schedule.problems = static_cast<int32_t>(parts);
    loop.partsOfDepth = parts > 1;
    const bool add = args.add || from > 0;
    sums.add = add && parts == 1;
    sums.out = parts > 1 ? args.partial : args.out;
    CLIPCID_TRY((launchTile<HalvesTile, SumsEpilogue>(device, stream, loop, sums)));
    if (parts == 1) continue;
    CLIPCID_TRY(CLIPCID_LAUNCH(
        addPartsKernel,
        {.grid = blocksFor(device, sums.problemStride, 4 * kThreads), .block = kThreads, .stream = stream},
        args.partial, sums.problemStride, static_cast<int32_t>(parts), add, args.out));
  }
  return {};
}

}  // namespace clipcid::cuda
