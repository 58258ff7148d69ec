// Elements moved, filled, gathered and scattered.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/ops/ops.h"
#include "cpu/ops/simd.h"

namespace clipcid {
namespace {

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

template <typename T>
void copyRun(const T* from, int64_t fromStride, T* to, int64_t toStride, int64_t count) {
  if (fromStride == 1 && toStride == 1) {
    memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
  } else if (fromStride == 0 && toStride == 1) {
    std::fill_n(to, count, *from);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * toStride] = from[i * fromStride];
  }
}

// The last two axes in small squares, so that neither side's lines are fetched for one element alone.
template <typename T>
void copySquare(const CopyArgs& args, const T* from, T* to) {
  constexpr int64_t kSquare = 16;
  const int last = args.axes - 1;
  const int64_t rows = args.dims[last - 1], columns = args.dims[last];
  const int64_t fromRow = args.fromStrides[last - 1], fromColumn = args.fromStrides[last];
  const int64_t toRow = args.toStrides[last - 1], toColumn = args.toStrides[last];
  for (int64_t r = 0; r < rows; r += kSquare) {
    for (int64_t c = 0; c < columns; c += kSquare) {
      for (int64_t i = r; i < std::min(rows, r + kSquare); ++i) {
        for (int64_t j = c; j < std::min(columns, c + kSquare); ++j)
          to[i * toRow + j * toColumn] = from[i * fromRow + j * fromColumn];
      }
    }
  }
}

template <typename T>
void copy(Team& team, const CopyArgs& args) {
  const T* from = static_cast<const T*>(args.from);
  T* to = static_cast<T*>(args.to);
  const int last = args.axes - 1;
  // A row is the last axis, or the last two where that one is no run on one of the sides.
  const bool square = last > 0 && args.dims[last] > 1 && args.dims[last - 1] > 1 &&
                      !(args.toStrides[last] == 1 && args.fromStrides[last] <= 1);
  const int outer = square ? last - 1 : last;
  int64_t rows = 1;
  for (int axis = 0; axis < outer; ++axis) rows *= args.dims[axis];
  const int64_t rowElements = (square ? args.dims[last - 1] : 1) * args.dims[last];
  const int64_t task = std::max<int64_t>({1, (1 << 14) / rowElements, divideUp(rows, 4 * team.threads())});
  team.each(divideUp(rows, task), [&](int64_t index, int) {
    for (int64_t row = index * task; row < std::min(rows, (index + 1) * task); ++row) {
      int64_t rest = row, fromOffset = 0, toOffset = 0;
      for (int axis = outer - 1; axis >= 0; --axis) {
        const int64_t at = rest % args.dims[axis];
        rest /= args.dims[axis];
        fromOffset += at * args.fromStrides[axis];
        toOffset += at * args.toStrides[axis];
      }
      if (square) {
        copySquare(args, from + fromOffset, to + toOffset);
      } else {
        copyRun(from + fromOffset, args.fromStrides[last], to + toOffset, args.toStrides[last],
                args.dims[last]);
      }
    }
  });
}

template <typename T>
void fill(Team& team, const FillArgs& args) {
  constexpr int64_t kTask = 1 << 15;
  T* to = static_cast<T*>(args.to);
  const T value = static_cast<T>(args.value);
  team.each(divideUp(args.count, kTask), [&](int64_t index, int) {
    std::fill(to + index * kTask, to + std::min(args.count, (index + 1) * kTask), value);
  });
}

// The index-th index as it counts from the beginning; -1 where it is out of range.
int64_t indexAt(const void* indices, ElementType type, int64_t index, int64_t size) {
  int64_t value = type == ElementType::kInt64 ? static_cast<const int64_t*>(indices)[index]
                                              : static_cast<const int32_t*>(indices)[index];
  if (value < 0) value += size;
  return value >= 0 && value < size ? value : -1;
}

Status outOfRange(const void* indices, ElementType type, int64_t at, int64_t size) {
  const int64_t value = type == ElementType::kInt64 ? static_cast<const int64_t*>(indices)[at]
                                                    : static_cast<const int32_t*>(indices)[at];
  return {Code::kInvalidData, "Index " + std::to_string(value) + " at element " + std::to_string(at) +
                                  " is out of range for " + std::to_string(size) + " rows"};
}

// The first index out of range, or -1.
int64_t firstFault(const void* indices, ElementType type, int64_t count, int64_t size) {
  for (int64_t i = 0; i < count; ++i) {
    if (indexAt(indices, type, i, size) < 0) return i;
  }
  return -1;
}

}  // namespace

Status run(Team& team, const CopyArgs& args) {
  switch (args.type) {
    case ElementType::kInt64:
      copy<int64_t>(team, args);
      break;
    case ElementType::kBool:
      copy<uint8_t>(team, args);
      break;
    default:
      copy<int32_t>(team, args);
  }
  return {};
}

Status run(Team& team, const FillArgs& args) {
  switch (args.type) {
    case ElementType::kInt64:
      fill<int64_t>(team, args);
      break;
    case ElementType::kInt32:
      fill<int32_t>(team, args);
      break;
    case ElementType::kBool:
      fill<uint8_t>(team, args);
      break;
    default:
      fill<float>(team, args);
  }
  return {};
}

Status run(Team& team, const GatherRowsArgs& args) {
  const int64_t indices = args.apart ? args.outer * args.count : args.count;
  const int64_t fault = firstFault(args.indices, args.indexType, indices, args.size);
  if (fault >= 0) return outOfRange(args.indices, args.indexType, fault, args.size);
  const size_t bytes = static_cast<size_t>(args.inner * args.bytes);
  const char* x = static_cast<const char*>(args.x);
  char* y = static_cast<char*>(args.y);
  const int64_t rows = args.outer * args.count;
  const int64_t task = std::max<int64_t>({1, (1 << 14) / args.inner, divideUp(rows, 4 * team.threads())});
  team.each(divideUp(rows, task), [&](int64_t part, int) {
    for (int64_t row = part * task; row < std::min(rows, (part + 1) * task); ++row) {
      const int64_t outer = row / args.count;
      const int64_t at =
          indexAt(args.indices, args.indexType, args.apart ? row : row % args.count, args.size);
      memcpy(y + static_cast<size_t>(row) * bytes, x + static_cast<size_t>(outer * args.size + at) * bytes,
             bytes);
    }
  });
  return {};
}

Status run(Team& team, const ScatterRowsArgs& args) {
  const int64_t indices = args.apart ? args.outer * args.count : args.count;
  const int64_t fault = firstFault(args.indices, args.indexType, indices, args.size);
  if (fault >= 0) return outOfRange(args.indices, args.indexType, fault, args.size);
  // Each task has columns of its own, so that a row's sum has the order of the indices.
  constexpr int64_t kColumns = 64;
  const int64_t pieces = divideUp(args.inner, kColumns);
  team.each(args.outer * pieces, [&](int64_t index, int) {
    const int64_t column = index % pieces * kColumns, outer = index / pieces;
    const int64_t count = std::min(kColumns, args.inner - column);
    float* y = args.y + outer * args.size * args.inner + column;
    if (!args.accumulate) {
      for (int64_t row = 0; row < args.size; ++row) std::fill_n(y + row * args.inner, count, 0.0f);
    }
    for (int64_t i = 0; i < args.count; ++i) {
      const int64_t at =
          indexAt(args.indices, args.indexType, args.apart ? outer * args.count + i : i, args.size);
      simd().add(args.rows + (outer * args.count + i) * args.inner + column, y + at * args.inner, count);
    }
  });
  return {};
}

}  // namespace clipcid
