// In: rows [outer, count, inner], and where each belongs. Out: y [outer, size, inner], with the rows that belong to one place added
// up, without atomic additions of floating point: the same from run to run.
//
// Entries are sorted by place, and among those of one place by their own number (a bitonic sort of 64-bit keys, runs of 2,048 in shared
// memory). Then a block takes 64 of them in that order: places that lie wholly inside are added to y; a place that the run
// begins or ends within leaves its part, and a second kernel adds up such parts in their order. Bound by the rows read
// once. Not yet measured.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/ops/indices.cuh"
#include "cuda/ops/ops.h"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSorted = 2048;  // keys that are sorted in shared memory
constexpr int kRun = 64;           // entries of a block
constexpr uint64_t kNobody = ~uint64_t{0};

// key = place << 32 | entry
__global__ void __launch_bounds__(kThreads) keysKernel(const __grid_constant__ ScatterRowsArgs args,
                                                       int64_t padded, uint64_t* keys, DataFault* fault) {
  const int64_t entries = args.outer * args.count;
  for (int64_t entry = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; entry < padded;
       entry += static_cast<int64_t>(gridDim.x) * kThreads) {
    uint64_t key = kNobody;
    if (entry < entries) {
      const int64_t outer = entry / args.count;
      const int64_t at = indexOrFault(args.indices, args.indexType,
                                      args.apart ? entry : entry - outer * args.count, args.size, fault);
      if (at >= 0) key = static_cast<uint64_t>(outer * args.size + at) << 32 | static_cast<uint64_t>(entry);
    }
    keys[entry] = key;
  }
}

CLIPCID_DEVICE void order(uint64_t& low, uint64_t& high, bool ascending) {
  if ((low > high) != ascending) return;
  const uint64_t held = low;
  low = high;
  high = held;
}

// Steps `distance`, distance / 2, ... 1 of every merge into runs of firstSize, 2 firstSize, ... lastSize. Blocks have kSorted
// keys each, or all.
__global__ void __launch_bounds__(kThreads)
    sortInsideKernel(uint64_t* keys, int64_t count, int64_t firstSize, int64_t lastSize) {
  auto* own = reinterpret_cast<uint64_t*>(sharedMemory());
  const int64_t base = blockIdx.x * kSorted;
  const int64_t length = count - base < kSorted ? count - base : kSorted;
  for (int64_t i = threadIdx.x; i < length; i += kThreads) own[i] = keys[base + i];
  for (int64_t size = firstSize; size <= lastSize; size *= 2) {
    const int64_t widest = size / 2 < length / 2 ? size / 2 : length / 2;
    for (int64_t distance = widest; distance > 0; distance /= 2) {
      __syncthreads();
      for (int64_t i = threadIdx.x; i < length / 2; i += kThreads) {
        const int64_t low = i / distance * 2 * distance + i % distance;
        order(own[low], own[low + distance], ((base + low) & size) == 0);
      }
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < length; i += kThreads) keys[base + i] = own[i];
}

__global__ void __launch_bounds__(kThreads)
    sortAcrossKernel(uint64_t* keys, int64_t count, int64_t size, int64_t distance) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count / 2;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t low = i / distance * 2 * distance + i % distance;
    order(keys[low], keys[low + distance], (low & size) == 0);
  }
}

CLIPCID_DEVICE int64_t placeAt(const uint64_t* keys, int64_t at, int64_t entries) {
  return at < 0 || at >= entries || keys[at] == kNobody ? -1 : static_cast<int64_t>(keys[at] >> 32);
}

// parts [runs, 2, inner]: of the place that came in from the run before, and of that which goes on in the next.
__global__ void __launch_bounds__(kThreads)
    scatterKernel(const __grid_constant__ ScatterRowsArgs args, const uint64_t* keys, int64_t pieces,
                  float* parts) {
  const int64_t run = blockIdx.x / pieces, column = blockIdx.x % pieces * kThreads + threadIdx.x;
  const int64_t entries = args.outer * args.count;
  if (column >= args.inner) return;
  const int64_t begin = run * kRun, end = begin + kRun < entries ? begin + kRun : entries;
  const int64_t before = placeAt(keys, begin - 1, entries), behind = placeAt(keys, end, entries);
  for (int64_t at = begin; at < end;) {
    const int64_t place = placeAt(keys, at, entries);
    if (place < 0) break;  // those that nobody is to have lie at the end
    const bool cameIn = at == begin && place == before;
    float sum = 0;
    for (; at < end && placeAt(keys, at, entries) == place; ++at)
      sum += args.rows[static_cast<int64_t>(keys[at] & 0xffffffffu) * args.inner + column];
    if (cameIn) {
      parts[run * 2 * args.inner + column] = sum;
    } else if (at == end && place == behind) {
      parts[(run * 2 + 1) * args.inner + column] = sum;
    } else {
      args.y[place * args.inner + column] += sum;
    }
  }
}

// A place that goes on from this run to others.
__global__ void __launch_bounds__(kThreads)
    joinKernel(const __grid_constant__ ScatterRowsArgs args, const uint64_t* keys, int64_t pieces,
               const float* parts) {
  const int64_t run = blockIdx.x / pieces, column = blockIdx.x % pieces * kThreads + threadIdx.x;
  const int64_t entries = args.outer * args.count, end = (run + 1) * kRun;
  if (column >= args.inner || end >= entries) return;
  const int64_t place = placeAt(keys, end - 1, entries);
  if (place < 0 || place != placeAt(keys, end, entries)) return;
  // It began in this run, unless it fills it and came in from before.
  if (placeAt(keys, run * kRun, entries) == place && placeAt(keys, run * kRun - 1, entries) == place) return;
  float sum = parts[(run * 2 + 1) * args.inner + column];
  for (int64_t next = run + 1; placeAt(keys, next * kRun, entries) == place; ++next)
    sum += parts[next * 2 * args.inner + column];
  args.y[place * args.inner + column] += sum;
}

}  // namespace

Status run(const Work& work, const ScatterRowsArgs& args) {
  const int64_t entries = args.outer * args.count;
  if (entries >= int64_t{1} << 31 || args.outer * args.size >= int64_t{1} << 31)
    return {Code::kInvalidArgument, "Rows are scattered from or to more than 2^31"};
  if (!args.accumulate) {
    FillArgs fill;
    fill.count = args.outer * args.size * args.inner;
    fill.to = args.y;
    CLIPCID_TRY(run(work, fill));
  }
  int64_t padded = 2;
  while (padded < entries) padded *= 2;
  uint64_t* keys = nullptr;
  CLIPCID_TRY(work.take(padded, &keys));
  CLIPCID_TRY(CLIPCID_LAUNCH(keysKernel, manyElements(work, padded), args, padded, keys, work.fault));
  const Launch inside = {.grid = static_cast<unsigned>((padded + kSorted - 1) / kSorted),
                         .block = kThreads,
                         .shared = kSorted * sizeof(uint64_t),
                         .stream = work.stream};
  CLIPCID_TRY(CLIPCID_LAUNCH(sortInsideKernel, inside, keys, padded, int64_t{2}, std::min(padded, kSorted)));
  for (int64_t size = 2 * kSorted; size <= padded; size *= 2) {
    for (int64_t distance = size / 2; distance >= kSorted; distance /= 2)
      CLIPCID_TRY(
          CLIPCID_LAUNCH(sortAcrossKernel, manyElements(work, padded / 2), keys, padded, size, distance));
    CLIPCID_TRY(CLIPCID_LAUNCH(sortInsideKernel, inside, keys, padded, size, size));
  }
  const int64_t pieces = (args.inner + kThreads - 1) / kThreads, runs = (entries + kRun - 1) / kRun;
  float* parts = nullptr;
  CLIPCID_TRY(work.take(runs * 2 * args.inner, &parts));
  if (runs * pieces >= INT32_MAX) return {Code::kInvalidArgument, "Too much is scattered at once"};
  const Launch how = {.grid = static_cast<unsigned>(runs * pieces), .block = kThreads, .stream = work.stream};
  CLIPCID_TRY(CLIPCID_LAUNCH(scatterKernel, how, args, keys, pieces, parts));
  return CLIPCID_LAUNCH(joinKernel, how, args, keys, pieces, parts);
}

}  // namespace clipcid::cuda
