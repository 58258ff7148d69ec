// Elements moved, filled and gathered.
//
// A copy's axes are merged where both sides lie evenly; then a thread has an element, threads next to each other those next to
// each other in the result. Where another axis is the one that lies densely in the source, both go through a square of 32 x
// 32 in shared memory, so that reads and writes are of whole lines. A gathered row is copied in the widest words that its place
// allows; an index out of range is noted, and its row left as it is. Bound by memory. Not yet measured.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/ops/chain.cuh"
#include "cuda/ops/indices.cuh"
#include "cuda/ops/ops.h"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSquare = 32;

struct Strided {
  int32_t axes;
  int64_t dims[kMostAxes], from[kMostAxes], to[kMostAxes];
  int64_t count;  // of all axes
};

// Without axes of one, and those next to each other that are one on both sides.
Strided strided(const CopyArgs& args) {
  Strided result = {};
  result.count = 1;
  for (int axis = 0; axis < args.axes; ++axis) {
    const int64_t dim = args.dims[axis], from = args.fromStrides[axis], to = args.toStrides[axis];
    result.count *= dim;
    if (dim == 1) continue;
    const int last = result.axes - 1;
    if (last >= 0 && result.from[last] == from * dim && result.to[last] == to * dim) {
      result.dims[last] *= dim;
      result.from[last] = from;
      result.to[last] = to;
      continue;
    }
    result.dims[result.axes] = dim;
    result.from[result.axes] = from;
    result.to[result.axes] = to;
    ++result.axes;
  }
  if (result.axes == 0) {
    result.dims[0] = 1;
    result.from[0] = result.to[0] = 1;
    result.axes = 1;
  }
  return result;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    copyKernel(const __grid_constant__ Strided shape, const T* from, T* to) {
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; index < shape.count;
       index += static_cast<int64_t>(gridDim.x) * kThreads) {
    int64_t rest = index, source = 0, target = 0;
    for (int axis = shape.axes - 1; axis >= 0; --axis) {
      const int64_t over = quotient(rest, shape.dims[axis]);
      const int64_t at = rest - over * shape.dims[axis];
      source += at * shape.from[axis];
      target += at * shape.to[axis];
      rest = over;
    }
    to[target] = from[source];
  }
}

// The last axis is dense in the result, axis `dense` in the source; `shape` has neither of them.
struct Turned {
  Strided shape;
  int64_t rows, columns;      // sizes of the axis that is dense in the source, and in the result
  int64_t fromColumn, toRow;  // the other strides of theirs
  int64_t squaresDown, squaresAcross;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    turnKernel(const __grid_constant__ Turned turned, const T* from, T* to) {
  auto* square = reinterpret_cast<T(*)[kSquare + 1]>(sharedMemory());
  int64_t rest = quotient(blockIdx.x, turned.squaresDown * turned.squaresAcross);
  const int64_t inside = blockIdx.x - rest * turned.squaresDown * turned.squaresAcross;
  const int64_t row = quotient(inside, turned.squaresAcross) * kSquare;
  const int64_t column = (inside - row / kSquare * turned.squaresAcross) * kSquare;
  int64_t source = 0, target = 0;
  for (int axis = turned.shape.axes - 1; axis >= 0; --axis) {
    const int64_t over = quotient(rest, turned.shape.dims[axis]);
    const int64_t at = rest - over * turned.shape.dims[axis];
    source += at * turned.shape.from[axis];
    target += at * turned.shape.to[axis];
    rest = over;
  }
  const int x = static_cast<int>(threadIdx.x) % kSquare, y = static_cast<int>(threadIdx.x) / kSquare;
  for (int line = y; line < kSquare; line += kThreads / kSquare) {
    if (row + x < turned.rows && column + line < turned.columns)
      square[line][x] = from[source + row + x + (column + line) * turned.fromColumn];
  }
  __syncthreads();
  for (int line = y; line < kSquare; line += kThreads / kSquare) {
    if (row + line < turned.rows && column + x < turned.columns)
      to[target + (row + line) * turned.toRow + column + x] = square[x][line];
  }
}

template <typename T>
Status copyAs(const Work& work, const CopyArgs& args) {
  const Strided shape = strided(args);
  const auto* from = static_cast<const T*>(args.from);
  auto* to = static_cast<T*>(args.to);
  const int last = shape.axes - 1;
  int dense = -1;
  for (int axis = 0; axis < last; ++axis) {
    if (shape.from[axis] == 1) dense = axis;
  }
  if (dense >= 0 && shape.to[last] == 1 && shape.dims[dense] >= 8 && shape.dims[last] >= 8) {
    Turned turned = {};
    turned.rows = shape.dims[dense];
    turned.columns = shape.dims[last];
    turned.fromColumn = shape.from[last];
    turned.toRow = shape.to[dense];
    turned.squaresDown = (turned.rows + kSquare - 1) / kSquare;
    turned.squaresAcross = (turned.columns + kSquare - 1) / kSquare;
    int64_t others = 1;
    for (int axis = 0; axis < last; ++axis) {
      if (axis == dense) continue;
      const int at = turned.shape.axes++;
      turned.shape.dims[at] = shape.dims[axis];
      turned.shape.from[at] = shape.from[axis];
      turned.shape.to[at] = shape.to[axis];
      others *= shape.dims[axis];
    }
    const int64_t blocks = others * turned.squaresDown * turned.squaresAcross;
    if (blocks < INT32_MAX) {
      return CLIPCID_LAUNCH(turnKernel<T>,
                            {.grid = static_cast<unsigned>(blocks),
                             .block = kThreads,
                             .shared = sizeof(T) * kSquare * (kSquare + 1),
                             .stream = work.stream},
                            turned, from, to);
    }
  }
  return CLIPCID_LAUNCH(copyKernel<T>, manyElements(work, shape.count), shape, from, to);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) fillKernel(T* to, int64_t count, T value) {
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < count;
       at += static_cast<int64_t>(gridDim.x) * kThreads)
    to[at] = value;
}

template <typename T>
Status fillAs(const Work& work, const FillArgs& args) {
  return CLIPCID_LAUNCH(fillKernel<T>, manyElements(work, args.count), static_cast<T*>(args.to), args.count,
                        static_cast<T>(args.value));
}

// `units` of T make a row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gatherKernel(const __grid_constant__ GatherRowsArgs args, int64_t units, DataFault* fault) {
  const auto* x = static_cast<const T*>(args.x);
  auto* y = static_cast<T*>(args.y);
  const int64_t rows = args.outer * args.count;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; index < rows * units;
       index += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t row = quotient(index, units), unit = index - row * units;
    const int64_t outer = quotient(row, args.count);
    const int64_t at = indexOrFault(args.indices, args.indexType, args.apart ? row : row - outer * args.count,
                                    args.size, fault);
    if (at >= 0) y[index] = x[(outer * args.size + at) * units + unit];
  }
}

template <typename T>
Status gatherAs(const Work& work, const GatherRowsArgs& args) {
  const int64_t units = args.inner * args.bytes / static_cast<int64_t>(sizeof(T));
  return CLIPCID_LAUNCH(gatherKernel<T>, manyElements(work, args.outer * args.count * units), args, units,
                        work.fault);
}

}  // namespace

Status run(const Work& work, const CopyArgs& args) {
  switch (args.type) {
    case ElementType::kInt64:
      return copyAs<int64_t>(work, args);
    case ElementType::kBool:
      return copyAs<uint8_t>(work, args);
    default:
      return copyAs<int32_t>(work, args);
  }
}

Status run(const Work& work, const FillArgs& args) {
  switch (args.type) {
    case ElementType::kInt64:
      return fillAs<int64_t>(work, args);
    case ElementType::kInt32:
      return fillAs<int32_t>(work, args);
    case ElementType::kBool:
      return fillAs<uint8_t>(work, args);
    default:
      return fillAs<float>(work, args);
  }
}

Status run(const Work& work, const GatherRowsArgs& args) {
  const auto reach = reinterpret_cast<uintptr_t>(args.x) | reinterpret_cast<uintptr_t>(args.y) |
                     static_cast<uintptr_t>(args.inner * args.bytes);
  if (reach % sizeof(Words4) == 0) return gatherAs<Words4>(work, args);
  return reach % sizeof(uint32_t) == 0 ? gatherAs<uint32_t>(work, args) : gatherAs<uint8_t>(work, args);
}

}  // namespace clipcid::cuda
