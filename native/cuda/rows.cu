// In: rows [N, D] float32, float16 or bfloat16. Out: norms [N], squares [N]; dots of listed pairs [P]; listed rows as compared [P, D].
//
// Four lanes of a warp take a row, or a pair of rows, as rows.cuh describes; every sum is that of canonical.h, to the bit.
// Bound by memory: each element is read once, for squares of unit rows twice. Not yet measured.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/rows.cuh"
#include "cuda/rows.h"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kItems = kThreads / kDotLanes;  // that a block has under way
constexpr int kBlocksOfMultiprocessor = 16;

__global__ void __launch_bounds__(kThreads) scanKernel(ScanArgs args) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  DeviceRows rows = args.rows;
  float most = 0;
  int faults = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kItems;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kItems; first < rows.count; first += step) {
    const int64_t row = first + threadIdx.x / kDotLanes;
    const bool some = row < rows.count;
    double square = storedSquare(rows, row, some, lane);
    square = __shfl_sync(kAllLanes, square, 0, kDotLanes);
    // Not a NaN either.
    const bool finite = square < HUGE_VAL;
    const bool fault = some && (!finite || (rows.unit && square == 0));
    const double norm = fault ? -1 : sqrt(square);
    const bool first4 = lane % kDotLanes == 0;
    if (some && first4) {
      args.norms[row] = norm;
      faults += fault ? 1 : 0;
    }
    if (rows.unit) {
      if (args.squares == nullptr) continue;
      DotLanes lanes;
      const double inverse = 1 / norm;
      for (int64_t k = 4 * (lane % kDotLanes); some && !fault && k < rows.dim; k += kLanes) {
        const Floats4 stored = storedFour(rows, row, k);
        const Floats4 x = {
            canonicalElement(stored.x, norm, inverse), canonicalElement(stored.y, norm, inverse),
            canonicalElement(stored.z, norm, inverse), canonicalElement(stored.w, norm, inverse)};
        lanes.add(x, x);
      }
      square = lanes.fold();
    } else {
      for (int64_t k = 4 * (lane % kDotLanes); some && !fault && k < rows.dim; k += kLanes) {
        const Floats4 x = storedFour(rows, row, k);
        most = fmaxf(fmaxf(most, fmaxf(fabsf(x.x), fabsf(x.y))), fmaxf(fabsf(x.z), fabsf(x.w)));
      }
    }
    if (args.squares != nullptr && some && first4) args.squares[row] = fault ? 0 : square;
  }
  // Magnitudes are ordered as their bits are.
  const int largest = __reduce_max_sync(kAllLanes, __float_as_int(most));
  const int found = __reduce_add_sync(kAllLanes, faults);
  if (lane == 0 && largest > 0) atomicMax(&args.result->largest, static_cast<uint32_t>(largest));
  if (lane == 0 && found > 0) atomicAdd(&args.result->faults, found);
}

__global__ void __launch_bounds__(kThreads) normsKernel(DeviceRows rows, double* norms) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kItems;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kItems; first < rows.count; first += step) {
    const int64_t row = first + threadIdx.x / kDotLanes;
    const bool some = row < rows.count;
    const double square = storedSquare(rows, row, some, lane);
    if (some && lane % kDotLanes == 0) norms[row] = sqrt(square);
  }
}

__global__ void __launch_bounds__(kThreads)
    dotsKernel(DeviceRows a, DeviceRows b, const Pair* pairs, int64_t count, double* dots) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kItems;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kItems; first < count; first += step) {
    const int64_t at = first + threadIdx.x / kDotLanes;
    const bool some = at < count;
    const Pair pair = some ? pairs[at] : Pair{0, 0};
    const ComparedRow x(a, pair.first), y(b, pair.second);
    const double dot = comparedDot(a, x, b, y, some, lane);
    if (some && lane % kDotLanes == 0) dots[at] = dot;
  }
}

// A warp a row.
__global__ void __launch_bounds__(kThreads)
    comparedKernel(DeviceRows rows, const int64_t* indices, int64_t count, int64_t stride, float* out) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  constexpr int kWarps = kThreads / kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; at < count; at += step) {
    const ComparedRow row(rows, indices == nullptr ? at : indices[at]);
    float* to = out + at * stride;
    for (int64_t k = 4 * lane; k < stride; k += 4 * kWarp) {
      const Floats4 x = k < rows.dim ? row.four(rows, k) : Floats4{0, 0, 0, 0};
      to[k] = x.x;
      if (k + 1 < stride) to[k + 1] = x.y;
      if (k + 2 < stride) to[k + 2] = x.z;
      if (k + 3 < stride) to[k + 3] = x.w;
    }
  }
}

unsigned blocksFor(const Device& device, int64_t items, int64_t perBlock) {
  const int64_t most = int64_t{kBlocksOfMultiprocessor} * device.properties.multiprocessors;
  return static_cast<unsigned>(std::clamp<int64_t>((items + perBlock - 1) / perBlock, 1, most));
}

}  // namespace

Status scanRows(const Device& device, Stream stream, const ScanArgs& args) {
  if (args.rows.count == 0) return {};
  return CLIPCID_LAUNCH(
      scanKernel, {.grid = blocksFor(device, args.rows.count, kItems), .block = kThreads, .stream = stream},
      args);
}

Status normsOfRows(const Device& device, Stream stream, const DeviceRows& rows, double* norms) {
  if (rows.count == 0) return {};
  return CLIPCID_LAUNCH(normsKernel,
                        {.grid = blocksFor(device, rows.count, kItems), .block = kThreads, .stream = stream},
                        rows, norms);
}

Status dotsOfPairs(const Device& device, Stream stream, const DeviceRows& a, const DeviceRows& b,
                   const Pair* pairs, int64_t count, double* dots) {
  if (count == 0) return {};
  return CLIPCID_LAUNCH(dotsKernel,
                        {.grid = blocksFor(device, count, kItems), .block = kThreads, .stream = stream}, a, b,
                        pairs, count, dots);
}

Status comparedRows(const Device& device, Stream stream, const DeviceRows& rows, const int64_t* indices,
                    int64_t count, int64_t stride, float* out) {
  if (count == 0) return {};
  return CLIPCID_LAUNCH(
      comparedKernel,
      {.grid = blocksFor(device, count, kThreads / kWarp), .block = kThreads, .stream = stream}, rows,
      indices, count, stride, out);
}

}  // namespace clipcid::cuda
