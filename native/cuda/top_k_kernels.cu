// The kernels of topK beside its mainloop.
//
// prune: a block a query. The k-th largest lower end is found by radix: four passes over the list, a digit of eight bits each,
// most significant first. Then the list is closed up in order, in runs of as many candidates as the block has threads.
// decide: four lanes of a warp a candidate. Not yet measured.
#include <algorithm>

#include "cuda/epilogue_top_k.cuh"
#include "cuda/launch_mainloop.cuh"
#include "cuda/ordered.cuh"
#include "cuda/rows.cuh"
#include "cuda/top_k_kernels.h"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDigits = 256;
constexpr int kBlocksOfMultiprocessor = 8;

unsigned blocksFor(const Device& device, int64_t items, int64_t perBlock) {
  const int64_t most = int64_t{kBlocksOfMultiprocessor} * device.properties.multiprocessors;
  return static_cast<unsigned>(std::clamp<int64_t>((items + perBlock - 1) / perBlock, 1, most));
}

// As `orderedOf`, from 0 up.
CLIPCID_DEVICE uint32_t digitsOf(float value) {
  return static_cast<uint32_t>(orderedOf(value)) ^ 0x80000000u;
}

__global__ void __launch_bounds__(kThreads)
    longestKernel(int32_t queries, const int32_t* counts, TopKState* state) {
  int32_t most = 0;
  const auto step = static_cast<int32_t>(gridDim.x * kThreads);
  for (auto query = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x); query < queries; query += step)
    most = counts[query] > most ? counts[query] : most;
  most = __reduce_max_sync(kAllLanes, most);
  if (threadIdx.x % kWarp == 0) atomicMax(&state->most, most);
}

struct PruneShared {
  int32_t digits[kDigits];
  int32_t kept[kWarps];
  uint32_t prefix;
  int32_t rank;
};

__global__ void __launch_bounds__(kThreads) pruneKernel(int32_t queries, int32_t k, TopKParams topK,
                                                        float* floors, TopKState* state, int32_t* crowded) {
  auto& shared = *reinterpret_cast<PruneShared*>(sharedMemory());
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp;
  for (auto query = static_cast<int32_t>(blockIdx.x); query < queries;
       query += static_cast<int32_t>(gridDim.x)) {
    Candidate* list = topK.candidates + static_cast<int64_t>(query) * topK.capacity;
    const int32_t count = topK.counts[query];
    float floor = floors[query];
    if (count >= k) {
      if (thread == 0) {
        shared.prefix = 0;
        shared.rank = k;
      }
      for (int shift = 24; shift >= 0; shift -= 8) {
        shared.digits[thread] = 0;
        __syncthreads();
        const uint32_t prefix = shared.prefix;
        for (int32_t at = thread; at < count; at += kThreads) {
          const uint32_t digits = digitsOf(list[at].low);
          if (shift == 24 || digits >> (shift + 8) == prefix)
            atomicAdd(&shared.digits[digits >> shift & 255], 1);
        }
        __syncthreads();
        if (thread == 0) {
          // From the largest digit down to the one that has the k-th.
          int digit = kDigits - 1;
          int32_t rank = shared.rank;
          for (; digit > 0 && shared.digits[digit] < rank; --digit) rank -= shared.digits[digit];
          shared.prefix = prefix << 8 | static_cast<uint32_t>(digit);
          shared.rank = rank;
        }
        __syncthreads();
      }
      const float kth = ofOrdered(static_cast<int32_t>(shared.prefix ^ 0x80000000u));
      floor = kth > floor ? kth : floor;
    }
    int32_t kept = 0;
    for (int32_t first = 0; first < count; first += kThreads) {
      const int32_t at = first + thread;
      const Candidate one = at < count ? list[at] : Candidate{0, 0, 0};
      const bool stays = at < count && one.high >= floor;
      const unsigned votes = __ballot_sync(kAllLanes, stays);
      if (lane == 0) shared.kept[warp] = __popc(votes);
      __syncthreads();
      int32_t before = kept;
      for (int other = 0; other < kWarps; ++other) {
        if (other < warp) before += shared.kept[other];
        kept += shared.kept[other];
      }
      // Everything is read by now that is written to: places only get smaller.
      if (stays) list[before + __popc(votes & ((1u << lane) - 1))] = one;
      __syncthreads();
    }
    if (thread == 0) {
      topK.counts[query] = kept;
      floors[query] = floor;
      atomicMax(&state->most, kept);
      if (kept > topK.capacity / 2) crowded[atomicAdd(&state->crowded, 1)] = query;
    }
    __syncthreads();
  }
}

// A block a query.
__global__ void __launch_bounds__(kThreads, 2)
    decideKernel(TopKDecideParams params, const int32_t* listed, int32_t count) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  for (auto at = static_cast<int32_t>(blockIdx.x); at < count; at += static_cast<int32_t>(gridDim.x)) {
    const int32_t query = listed == nullptr ? at : listed[at];
    const int64_t list = static_cast<int64_t>(query) * params.capacity;
    const int32_t candidates = params.counts[query];
    const ComparedRow x(params.queries, query);
    for (int32_t first = 0; first < candidates; first += kThreads / kDotLanes) {
      const int32_t place = first + static_cast<int32_t>(threadIdx.x / kDotLanes);
      const bool some = place < candidates;
      const int32_t key = some ? params.candidates[list + place].key - params.keyBegin : 0;
      // What another block of keys left here is decided already.
      const bool mine = some && key >= 0 && key < params.keys.count;
      const ComparedRow y(params.keys, mine ? key : 0);
      double score = comparedDot(params.queries, x, params.keys, y, mine, lane);
      if (params.product) {
        const ComparedRow u(params.secondQueries, query), v(params.secondKeys, mine ? key : 0);
        const double other = comparedDot(params.secondQueries, u, params.secondKeys, v, mine, lane);
        score = score > params.cutoff || other > params.cutoff ? 0 : score * other;
      }
      if (mine && lane % kDotLanes == 0) params.scores[list + place] = score;
    }
  }
}

}  // namespace

Status topKTiles(const Device& device, Stream stream, Math math, TileShape shape,
                 const MainloopParams& params, const TopKParams& topK) {
  return launchMainloop<TopKEpilogue>(device, stream, math, shape, params, topK);
}

Status topKProductTiles(const Device& device, Stream stream, Math math, const MainloopParams& params,
                        const TopKParams& topK) {
  switch (math) {
    case Math::kFloat32:
      return launchTile<RoomySmallTile, TopKProductEpilogue>(device, stream, params, topK);
    case Math::kFloat16:
      return launchTile<RoomyTile<Math::kFloat16>, TopKProductEpilogue>(device, stream, params, topK);
    case Math::kInt8:
      return launchTile<RoomyTile<Math::kInt8>, TopKProductEpilogue>(device, stream, params, topK);
    case Math::kHalves:
      break;  // no filter
  }
  return {Code::kInternal, "A product without a kind"};
}

Status longestList(const Device& device, Stream stream, int32_t queries, const int32_t* counts,
                   TopKState* state) {
  return CLIPCID_LAUNCH(longestKernel,
                        {.grid = blocksFor(device, queries, kThreads), .block = kThreads, .stream = stream},
                        queries, counts, state);
}

Status pruneLists(const Device& device, Stream stream, int32_t queries, int32_t k, const TopKParams& topK,
                  float* floors, TopKState* state, int32_t* crowded) {
  return CLIPCID_LAUNCH(pruneKernel,
                        {.grid = blocksFor(device, queries, 1),
                         .block = kThreads,
                         .shared = sizeof(PruneShared),
                         .stream = stream},
                        queries, k, topK, floors, state, crowded);
}

Status decideLists(const Device& device, Stream stream, const TopKDecideParams& params, const int32_t* listed,
                   int32_t count) {
  return CLIPCID_LAUNCH(decideKernel,
                        {.grid = blocksFor(device, count, 1), .block = kThreads, .stream = stream}, params,
                        listed, count);
}

}  // namespace clipcid::cuda
