// The kernels of best beside its mainloop: canonical decisions where the filter leaves a choice, and what goes before and after.
//
// decideOpen: a warp a query, four lanes a candidate. decideAmongAll: a block a query, four lanes a key, for the few queries with
// more candidates than a list holds. Ties go to the smaller key. Not yet measured.
#include <algorithm>

#include "cuda/best_kernels.h"
#include "cuda/epilogue_best.cuh"
#include "cuda/launch_mainloop.cuh"
#include "cuda/rows.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kItems = kThreads / kDotLanes;
constexpr int kBlocksOfMultiprocessor = 16;

unsigned blocksFor(const Device& device, int64_t items, int64_t perBlock) {
  const int64_t most = int64_t{kBlocksOfMultiprocessor} * device.properties.multiprocessors;
  return static_cast<unsigned>(std::clamp<int64_t>((items + perBlock - 1) / perBlock, 1, most));
}

struct Scored {
  double score;
  int32_t key;

  CLIPCID_DEVICE bool before(const Scored& other) const {
    return score > other.score || (score == other.score && key < other.key);
  }
};
constexpr int32_t kNoKey = INT32_MAX;

// The first in order of a warp's, in all lanes.
CLIPCID_DEVICE Scored firstOfWarp(Scored one) {
#pragma unroll
  for (int by = 16; by > 0; by /= 2) {
    const Scored other = {__shfl_xor_sync(kAllLanes, one.score, by), __shfl_xor_sync(kAllLanes, one.key, by)};
    if (other.before(one)) one = other;
  }
  return one;
}

// The canonical score of a query and a key of its problem, in the first of four lanes; called by whole warps.
CLIPCID_DEVICE double scoreOf(const DecideParams& params, const ComparedRow& query, int32_t place,
                              int32_t key, bool some, int lane) {
  const int64_t row = static_cast<int64_t>(place / params.queriesOfProblem) * params.keysOfProblem + key;
  const ComparedRow y(params.keys, some ? row : 0);
  const double dot = comparedDot(params.queries, query, params.keys, y, some, lane);
  return params.squares == nullptr || !some ? dot : dot - params.squares[row] / 2;
}

__global__ void __launch_bounds__(kThreads, 4)
    decideOpenKernel(DecideParams params, const OpenQuery* open, int32_t capacity,
                     const BestCounters* counters, int32_t* labels) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int32_t count = counters->open < capacity ? counters->open : capacity;
  const auto step = static_cast<int32_t>(gridDim.x * kWarps);
  for (auto at = static_cast<int32_t>(blockIdx.x * kWarps + threadIdx.x / kWarp); at < count; at += step) {
    const OpenQuery& one = open[at];
    const int32_t place = one.place;
    const ComparedRow query(params.queries, place);
    Scored best = {-HUGE_VAL, kNoKey};
    for (int first = 0; first < one.count; first += kWarp / kDotLanes) {
      const int candidate = first + lane / kDotLanes;
      const bool some = candidate < one.count;
      const int32_t key = some ? one.keys[candidate] : 0;
      const Scored scored = {scoreOf(params, query, place, key, some, lane), key};
      if (some && lane % kDotLanes == 0 && scored.before(best)) best = scored;
    }
    best = firstOfWarp(best);
    if (lane == 0) labels[place] = best.key;
  }
}

__global__ void __launch_bounds__(kThreads, 4)
    decideAmongAllKernel(DecideParams params, const int32_t* places, int32_t from, const int32_t* count,
                         int32_t most, int32_t* labels) {
  auto* firsts = reinterpret_cast<Scored*>(sharedMemory());
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  const int32_t listed = *count < most ? *count : most;
  for (auto at = from + static_cast<int32_t>(blockIdx.x); at < listed;
       at += static_cast<int32_t>(gridDim.x)) {
    const int32_t place = places[at];
    const ComparedRow query(params.queries, place);
    Scored best = {-HUGE_VAL, kNoKey};
    for (int32_t first = 0; first < params.keysOfProblem; first += kItems) {
      const int32_t key = first + static_cast<int32_t>(threadIdx.x / kDotLanes);
      const bool some = key < params.keysOfProblem;
      const Scored scored = {scoreOf(params, query, place, key, some, lane), key};
      if (some && lane % kDotLanes == 0 && scored.before(best)) best = scored;
    }
    best = firstOfWarp(best);
    if (lane == 0) firsts[warp] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int other = 1; other < kWarps; ++other) {
        if (firsts[other].before(best)) best = firsts[other];
      }
      labels[place] = best.key;
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads)
    scoresKernel(DecideParams params, int32_t count, const double* above, int32_t* labels, double* scores) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kItems;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kItems; first < count; first += step) {
    const int64_t at = first + threadIdx.x / kDotLanes;
    const bool some = at < count && labels[at] >= 0;
    const auto place = static_cast<int32_t>(some ? at : 0);
    const ComparedRow query(params.queries, place);
    const double score = scoreOf(params, query, place, some ? labels[at] : 0, some, lane);
    __syncwarp();
    if (!some || lane % kDotLanes != 0) continue;
    scores[at] = score;
    if (above != nullptr && !(score > above[at])) labels[at] = -1;
  }
}

__global__ void __launch_bounds__(kThreads)
    mergeKernel(int32_t count, int32_t keyBegin, const int32_t* labels, const double* scores,
                int32_t* allLabels, double* allScores) {
  const auto step = static_cast<int32_t>(gridDim.x * kThreads);
  for (auto at = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x); at < count; at += step) {
    if (labels[at] < 0) continue;
    // Keys of later blocks are larger: a tie is theirs that came before.
    if (allLabels[at] >= 0 && !(scores[at] > allScores[at])) continue;
    allLabels[at] = keyBegin + labels[at];
    allScores[at] = scores[at];
  }
}

// Not above a score, in units.
CLIPCID_DEVICE float floorOf(double score, double units) {
  const double exact = score * units;
  const auto near = static_cast<float>(exact);
  const float floor = near - fabsf(near) * 0x1p-22f - 0x1p-140f;
  // What float32 cannot hold is no floor, or one that nothing reaches.
  return fabsf(floor) < 1e30f ? floor : exact < 0 ? -HUGE_VALF : 1e30f;
}

// `labels` null: all of them, and to nothing where scores is null; otherwise those with a label, if that raises them.
__global__ void __launch_bounds__(kThreads)
    floorsKernel(int32_t count, const int32_t* labels, const double* scores, double units, int32_t* floors) {
  const auto step = static_cast<int32_t>(gridDim.x * kThreads);
  for (auto at = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x); at < count; at += step) {
    if (labels != nullptr && labels[at] < 0) continue;
    const int32_t floor = orderedOf(scores == nullptr ? -HUGE_VALF : floorOf(scores[at], units));
    if (labels == nullptr || floor > floors[at]) floors[at] = floor;
  }
}

__global__ void __launch_bounds__(kThreads)
    biasesKernel(int32_t count, const double* squares, double units, float* biases) {
  const auto step = static_cast<int32_t>(gridDim.x * kThreads);
  for (auto at = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x); at < count; at += step)
    biases[at] = static_cast<float>(squares[at] / 2 * units);
}

__global__ void __launch_bounds__(kThreads)
    problemMaximaKernel(EncodedView keys, int32_t keysOfProblem, int32_t problems, RowBound* maxima) {
  auto* parts = reinterpret_cast<RowBound*>(sharedMemory());
  for (auto problem = static_cast<int32_t>(blockIdx.x); problem < problems;
       problem += static_cast<int32_t>(gridDim.x)) {
    RowBound most = {0, 0};
    for (int32_t key = static_cast<int32_t>(threadIdx.x); key < keysOfProblem; key += kThreads) {
      const RowBound one = keys.bounds[static_cast<int64_t>(problem) * keysOfProblem + key];
      most = {fmaxf(most.error, one.error), fmaxf(most.length, one.length)};
    }
    parts[threadIdx.x] = most;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int other = 1; other < kThreads; ++other)
        most = {fmaxf(most.error, parts[other].error), fmaxf(most.length, parts[other].length)};
      maxima[problem] = most;
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads)
    gatherRowsKernel(EncodedView from, const int32_t* rows, const int32_t* count, int32_t most, char* words,
                     RowBound* bounds) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int32_t listed = *count < most ? *count : most;
  const auto step = static_cast<int32_t>(gridDim.x * kWarps);
  for (auto at = static_cast<int32_t>(blockIdx.x * kWarps + threadIdx.x / kWarp); at < listed; at += step) {
    const int64_t row = rows[at];
    for (int64_t byte = 16 * lane; byte < from.stride; byte += 16 * kWarp)
      *reinterpret_cast<Words4*>(words + at * from.stride + byte) =
          *reinterpret_cast<const Words4*>(from.words + row * from.stride + byte);
    if (lane == 0) bounds[at] = from.bounds[row];
  }
}

}  // namespace

Status bestTiles(const Device& device, Stream stream, Math math, TileShape shape,
                 const MainloopParams& params, const BestParams& best) {
  return launchMainloop<BestEpilogue>(device, stream, math, shape, params, best);
}

Status decideOpen(const Device& device, Stream stream, const DecideParams& params, const OpenQuery* open,
                  int32_t openCapacity, const BestCounters* counters, int32_t* labels) {
  return CLIPCID_LAUNCH(
      decideOpenKernel,
      {.grid = blocksFor(device, openCapacity, kWarps), .block = kThreads, .stream = stream}, params, open,
      openCapacity, counters, labels);
}

Status decideAmongAll(const Device& device, Stream stream, const DecideParams& params, const int32_t* places,
                      int32_t from, const int32_t* count, int32_t most, int32_t* labels) {
  if (from >= most) return {};
  return CLIPCID_LAUNCH(decideAmongAllKernel,
                        {.grid = blocksFor(device, most - from, 1),
                         .block = kThreads,
                         .shared = kWarps * sizeof(Scored),
                         .stream = stream},
                        params, places, from, count, most, labels);
}

Status scoresOfLabels(const Device& device, Stream stream, const DecideParams& params, int32_t count,
                      const double* above, int32_t* labels, double* scores) {
  return CLIPCID_LAUNCH(scoresKernel,
                        {.grid = blocksFor(device, count, kItems), .block = kThreads, .stream = stream},
                        params, count, above, labels, scores);
}

Status mergeBest(const Device& device, Stream stream, int32_t count, int32_t keyBegin, const int32_t* labels,
                 const double* scores, int32_t* allLabels, double* allScores) {
  return CLIPCID_LAUNCH(mergeKernel,
                        {.grid = blocksFor(device, count, kThreads), .block = kThreads, .stream = stream},
                        count, keyBegin, labels, scores, allLabels, allScores);
}

Status setFloors(const Device& device, Stream stream, int32_t count, const double* scores, double units,
                 int32_t* floors) {
  return CLIPCID_LAUNCH(floorsKernel,
                        {.grid = blocksFor(device, count, kThreads), .block = kThreads, .stream = stream},
                        count, nullptr, scores, units, floors);
}

Status raiseFloors(const Device& device, Stream stream, int32_t count, const int32_t* labels,
                   const double* scores, double units, int32_t* floors) {
  return CLIPCID_LAUNCH(floorsKernel,
                        {.grid = blocksFor(device, count, kThreads), .block = kThreads, .stream = stream},
                        count, labels, scores, units, floors);
}

Status setBiases(const Device& device, Stream stream, int32_t count, const double* squares, double units,
                 float* biases) {
  return CLIPCID_LAUNCH(biasesKernel,
                        {.grid = blocksFor(device, count, kThreads), .block = kThreads, .stream = stream},
                        count, squares, units, biases);
}

Status maximaOfProblems(const Device& device, Stream stream, const EncodedView& keys, int32_t keysOfProblem,
                        int32_t problems, RowBound* maxima) {
  return CLIPCID_LAUNCH(problemMaximaKernel,
                        {.grid = blocksFor(device, problems, 1),
                         .block = kThreads,
                         .shared = kThreads * sizeof(RowBound),
                         .stream = stream},
                        keys, keysOfProblem, problems, maxima);
}

Status gatherEncodedRows(const Device& device, Stream stream, const EncodedView& from, const int32_t* rows,
                         const int32_t* count, int32_t most, EncodedRows* out) {
  CLIPCID_TRY(out->allocate(most, from.stride, stream));
  return CLIPCID_LAUNCH(gatherRowsKernel,
                        {.grid = blocksFor(device, most, kWarps), .block = kThreads, .stream = stream}, from,
                        rows, count, most, out->words.get(), out->bounds.get());
}

}  // namespace clipcid::cuda
