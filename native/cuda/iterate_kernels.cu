// In and out: the state of k-means on the device; core/kmeans.h has the rules.
//
// Sums are integers, so rows that change their centre are subtracted from one and added to the other by atomics, in any order.
// A warp looks at 32 rows at a time and adds up those that moved one after the other; a centroid is made by four lanes, whose
// sums are the canonical ones (rows.cuh). Everything is decided on the device: kernels that are queued behind the end, or
// behind a problem that waits for the host, do nothing. Bound by the atomics of rows that move. Not yet measured.
#include <algorithm>

#include "cuda/iterate_kernels.h"
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kItems = kThreads / kDotLanes;
constexpr int kBlocksOfMultiprocessor = 16;

unsigned blocksFor(const Device& device, int64_t items, int64_t perBlock) {
  const int64_t most = int64_t{kBlocksOfMultiprocessor} * device.properties.multiprocessors;
  return static_cast<unsigned>(std::clamp<int64_t>((items + perBlock - 1) / perBlock, 1, most));
}

CLIPCID_DEVICE int64_t firstItem() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }
CLIPCID_DEVICE int64_t itemStep() { return static_cast<int64_t>(gridDim.x) * kThreads; }

CLIPCID_DEVICE double weightOf(const IterateState& state, int64_t row) {
  return state.weights == nullptr ? 1 : static_cast<double>(state.weights[row]);
}

__global__ void __launch_bounds__(kThreads) countKernel(IterateState state) {
  for (int64_t row = firstItem(); row < state.batch * state.rows; row += itemStep()) {
    if (weightOf(state, row) > 0)
      atomicAdd(state.sizes + row / state.rows * state.clusters + state.labels[row], 1);
  }
}

__global__ void __launch_bounds__(kThreads) emptyKernel(IterateState state) {
  for (int64_t centre = firstItem(); centre < static_cast<int64_t>(state.batch) * state.clusters;
       centre += itemStep()) {
    const int64_t problem = centre / state.clusters;
    if (state.sizes[centre] > 0 || state.done[problem] != 0) continue;
    if (atomicExch(state.empty + problem, 1) == 0) atomicAdd(&state.control->waiting, 1);
    atomicExch(&state.control->stop, 1);
  }
}

CLIPCID_DEVICE void addRow(const IterateState& state, const ComparedRow& row, int64_t index, int32_t label,
                           int64_t sign, int lane) {
  const int64_t problem = index / state.rows, centre = problem * state.clusters + label;
  const double weight = weightOf(state, index), scale = state.sumScales[problem];
  auto* to = reinterpret_cast<unsigned long long*>(state.sums + centre * state.dim);
  for (int64_t k = 4 * lane; k < state.dim; k += 4 * kWarp) {
    const Floats4 four = row.four(state.points, k);
    const float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (k + i >= state.dim) continue;
      const int64_t fixed = sign * toFixed(static_cast<double>(x[i]) * weight, scale);
      if (fixed != 0) atomicAdd(to + k + i, static_cast<unsigned long long>(fixed));
    }
  }
  if (lane != 0) return;
  const int64_t fixed = sign * toFixed(weight, state.weightScales[problem]);
  atomicAdd(reinterpret_cast<unsigned long long*>(state.weightSums + centre),
            static_cast<unsigned long long>(fixed));
  state.touched[centre] = 1;
}

__global__ void __launch_bounds__(kThreads, 4) sumKernel(IterateState state) {
  if (state.control->stop != 0) return;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t total = state.batch * state.rows;
  for (int64_t first = firstItem() - lane; first < total; first += itemStep()) {
    const int64_t own = first + lane;
    const int32_t label = own < total ? state.labels[own] : 0, before = own < total ? state.summed[own] : 0;
    const bool moves = own < total && label != before && state.done[own / state.rows] == 0;
    for (unsigned movers = __ballot_sync(kAllLanes, moves); movers != 0; movers &= movers - 1) {
      const int mover = __ffs(static_cast<int>(movers)) - 1;
      const int32_t to = __shfl_sync(kAllLanes, label, mover), from = __shfl_sync(kAllLanes, before, mover);
      const ComparedRow row(state.points, first + mover);
      if (from >= 0) addRow(state, row, first + mover, from, -1, lane);
      addRow(state, row, first + mover, to, 1, lane);
    }
    if (moves) state.summed[own] = label;
  }
}

// Element k of the mean of a centre's rows.
CLIPCID_DEVICE float meanOf(const IterateState& state, int64_t centre, double scale, double weight,
                            int64_t k) {
  return k < state.dim
             ? static_cast<float>(static_cast<double>(state.sums[centre * state.dim + k]) / scale / weight)
             : 0.0f;
}

__global__ void __launch_bounds__(kThreads) placeKernel(IterateState state) {
  if (state.control->stop != 0) return;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t total = static_cast<int64_t>(state.batch) * state.clusters;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kItems;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kItems; first < total; first += step) {
    const int64_t centre = first + threadIdx.x / kDotLanes;
    const bool some = centre < total;
    const int64_t problem = some ? centre / state.clusters : 0;
    const bool changed = some && state.touched[centre] != 0 && state.weightSums[centre] != 0;
    const double scale = state.sumScales[problem];
    const double weight =
        changed ? static_cast<double>(state.weightSums[centre]) / state.weightScales[problem] : 1;
    double norm = 1;
    if (state.spherical) {
      DotLanes lanes;
      for (int64_t k = 4 * (lane % kDotLanes); changed && k < state.dim; k += kLanes) {
        const Floats4 x = {
            meanOf(state, centre, scale, weight, k), meanOf(state, centre, scale, weight, k + 1),
            meanOf(state, centre, scale, weight, k + 2), meanOf(state, centre, scale, weight, k + 3)};
        lanes.add(x, x);
      }
      norm = sqrt(__shfl_sync(kAllLanes, lanes.fold(), 0, kDotLanes));
    }
    // Where the rows cancel, the old centre stays.
    const bool placed = changed && norm != 0;
    DotLanes steps;
    float* to = state.centroids + (some ? centre : 0) * state.stride;
    for (int64_t k = 4 * (lane % kDotLanes); placed && k < state.dim; k += kLanes) {
      float off[4] = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (k + i >= state.dim) continue;
        float next = meanOf(state, centre, scale, weight, k + i);
        if (state.spherical) next = static_cast<float>(static_cast<double>(next) / norm);
        off[i] = next - to[k + i];
        to[k + i] = next;
      }
      const Floats4 x = {off[0], off[1], off[2], off[3]};
      steps.add(x, x);
    }
    const double moved = steps.fold();
    if (!some || lane % kDotLanes != 0) continue;
    state.touched[centre] = 0;
    state.moved[centre] = placed ? moved : 0;
  }
}

__global__ void __launch_bounds__(kThreads) takeKernel(IterateState state) {
  if (state.control->stop != 0) return;
  for (int64_t row = firstItem(); row < state.batch * state.rows; row += itemStep()) {
    const int64_t problem = row / state.rows;
    if (state.done[problem] != 0 || state.found[row] == state.labels[row]) continue;
    state.labels[row] = state.found[row];
    atomicAdd(state.changed + problem, 1);
  }
}

// A thread a problem; the last block of one says that all are done.
__global__ void __launch_bounds__(kThreads) finishKernel(IterateState state) {
  if (state.control->stop != 0) return;
  for (int64_t problem = firstItem(); problem < state.batch; problem += itemStep()) {
    if (state.done[problem] != 0) continue;
    const int32_t iterations = ++state.iterations[problem];
    atomicAdd(&state.control->total, 1);
    const int32_t changed = state.changed[problem];
    state.changed[problem] = 0;
    bool done = static_cast<double>(changed) <= state.tolerance * static_cast<double>(state.rows) ||
                iterations >= state.maxIterations;
    if (!done && state.movement > 0) {
      // In order: sums of floating point depend on it.
      double moved = 0;
      for (int32_t centre = 0; centre < state.clusters; ++centre)
        moved += state.moved[problem * state.clusters + centre];
      done = moved <= state.movement * state.variances[problem];
    }
    if (!done) continue;
    state.done[problem] = 1;
    atomicAdd(&state.control->finished, 1);
  }
}

__global__ void __launch_bounds__(kThreads) stopKernel(IterateState state) {
  if (threadIdx.x == 0 && state.control->finished == state.batch) state.control->stop = 1;
}

}  // namespace

Status findEmpty(const Device& device, Stream stream, const IterateState& state) {
  const int64_t centres = static_cast<int64_t>(state.batch) * state.clusters;
  CLIPCID_TRY(fillBytes(state.sizes, 0, static_cast<size_t>(centres) * 4, stream));
  CLIPCID_TRY(CLIPCID_LAUNCH(
      countKernel,
      {.grid = blocksFor(device, state.batch * state.rows, kThreads), .block = kThreads, .stream = stream},
      state));
  return CLIPCID_LAUNCH(emptyKernel,
                        {.grid = blocksFor(device, centres, kThreads), .block = kThreads, .stream = stream},
                        state);
}

Status updateCentroids(const Device& device, Stream stream, const IterateState& state) {
  CLIPCID_TRY(CLIPCID_LAUNCH(
      sumKernel,
      {.grid = blocksFor(device, state.batch * state.rows, kThreads), .block = kThreads, .stream = stream},
      state));
  return CLIPCID_LAUNCH(
      placeKernel,
      {.grid = blocksFor(device, static_cast<int64_t>(state.batch) * state.clusters, kItems),
       .block = kThreads,
       .stream = stream},
      state);
}

Status takeLabels(const Device& device, Stream stream, const IterateState& state) {
  return CLIPCID_LAUNCH(
      takeKernel,
      {.grid = blocksFor(device, state.batch * state.rows, kThreads), .block = kThreads, .stream = stream},
      state);
}

Status finishIteration(const Device& device, Stream stream, const IterateState& state) {
  CLIPCID_TRY(CLIPCID_LAUNCH(
      finishKernel, {.grid = blocksFor(device, state.batch, kThreads), .block = kThreads, .stream = stream},
      state));
  return CLIPCID_LAUNCH(stopKernel, {.block = kWarp, .stream = stream}, state);
}

}  // namespace clipcid::cuda
