// The join's kernels: tiles of scores with the join's epilogue; canonical decisions of what they list; sets.
//
// recheck: in: a list of pairs [P], rows as stored. Out: united sets, or the pairs over the threshold and their dots. Four lanes
// of a warp a pair (rows.cuh), so a pair costs two rows from memory or from the cache. What is certain already passes through.
// How long the list is, is read on the device; places of what is found are reserved by a warp at a time. Not yet measured.
#include <algorithm>

#include "cuda/epilogue_join.cuh"
#include "cuda/launch_mainloop.cuh"
#include "cuda/rows.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kItems = kThreads / kDotLanes;
constexpr int kBlocksOfMultiprocessor = 16;

__global__ void __launch_bounds__(kThreads, 4) recheckKernel(RecheckParams params) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const auto listed = static_cast<int64_t>(params.counters->listed);
  const int64_t count = listed < params.capacity ? listed : params.capacity;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kItems;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kItems; first < count; first += step) {
    const int64_t at = first + threadIdx.x / kDotLanes;
    const bool some = at < count;
    Pair pair = some ? params.list[at] : Pair{params.queryBegin, params.keyBegin};
    const bool certain = pair.first < 0;
    pair.first &= INT32_MAX;
    const ComparedRow x(params.queries, pair.first - params.queryBegin),
        y(params.keys, pair.second - params.keyBegin);
    const double dot = comparedDot(params.queries, x, params.keys, y, some && !certain, lane);
    const bool over = some && lane % kDotLanes == 0 && (certain || dot > params.threshold);
    const unsigned votes = __ballot_sync(kAllLanes, over);
    if (votes == 0) continue;
    unsigned long long place = 0;
    if (lane == 0) place = atomicAdd(&params.counters->found, static_cast<unsigned long long>(__popc(votes)));
    if (params.parents != nullptr) {
      if (over) uniteSets(params.parents, pair.first, pair.second);
      continue;
    }
    place = __shfl_sync(kAllLanes, place, 0) + static_cast<unsigned>(__popc(votes & ((1u << lane) - 1)));
    if (!over) continue;
    params.found[place] = pair;
    if (params.dots != nullptr) params.dots[place] = dot;
  }
}

__global__ void __launch_bounds__(kThreads) beginKernel(int32_t* parents, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step)
    parents[i] = static_cast<int32_t>(i);
}

__global__ void __launch_bounds__(kThreads) flattenKernel(int32_t* parents, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step)
    storeRelaxed(parents + i, findRoot(parents, static_cast<int32_t>(i)));
}

unsigned blocksFor(const Device& device, int64_t items, int64_t perBlock) {
  const int64_t most = int64_t{kBlocksOfMultiprocessor} * device.properties.multiprocessors;
  return static_cast<unsigned>(std::clamp<int64_t>((items + perBlock - 1) / perBlock, 1, most));
}

}  // namespace

Status joinTiles(const Device& device, Stream stream, Math math, TileShape shape,
                 const MainloopParams& params, const JoinParams& join) {
  return launchMainloop<JoinEpilogue>(device, stream, math, shape, params, join);
}

Status recheckPairs(const Device& device, Stream stream, const RecheckParams& params) {
  return CLIPCID_LAUNCH(
      recheckKernel,
      {.grid = blocksFor(device, params.capacity, kItems), .block = kThreads, .stream = stream}, params);
}

Status beginSets(const Device& device, Stream stream, int32_t* parents, int64_t count) {
  return CLIPCID_LAUNCH(beginKernel,
                        {.grid = blocksFor(device, count, kThreads), .block = kThreads, .stream = stream},
                        parents, count);
}

Status flattenSets(const Device& device, Stream stream, int32_t* parents, int64_t count) {
  return CLIPCID_LAUNCH(flattenKernel,
                        {.grid = blocksFor(device, count, kThreads), .block = kThreads, .stream = stream},
                        parents, count);
}

}  // namespace clipcid::cuda
