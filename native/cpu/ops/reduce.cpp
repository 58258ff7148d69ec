// Softmaxes and reductions along the middle axis of [outer, size, inner]. Each sum has one order, whatever the threads.
#include <algorithm>
#include <cmath>

#include "cpu/ops/ops.h"
#include "cpu/ops/simd.h"

namespace clipcid {
namespace {

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

// Calls body(from, to, worker) for parts of [0, count), of at least `least` each.
template <typename Body>
void inParts(Team& team, int64_t count, int64_t least, Body body) {
  const int64_t size = std::max({int64_t{1}, least, divideUp(count, 4 * team.threads())});
  team.each(divideUp(count, size), [&](int64_t index, int worker) {
    body(index * size, std::min(count, (index + 1) * size), worker);
  });
}

// Elements that make a task.
constexpr int64_t kElements = 1 << 13;

}  // namespace

Status run(Team& team, const SoftmaxRowsArgs& args) {
  const int64_t size = args.size, inner = args.inner;
  if (inner == 1) {
    inParts(team, args.outer, kElements / size, [&](int64_t from, int64_t to, int) {
      simd().softmax(args.x + from * size, args.y + from * size, to - from, size, args.logarithm);
    });
    return {};
  }
  team.own(2 * size);
  inParts(team, args.outer * inner, kElements / size, [&](int64_t from, int64_t to, int worker) {
    float* row = team.of(worker);
    for (int64_t at = from; at < to; ++at) {
      const int64_t first = at / inner * size * inner + at % inner;
      for (int64_t i = 0; i < size; ++i) row[i] = args.x[first + i * inner];
      simd().softmax(row, row + size, 1, size, args.logarithm);
      for (int64_t i = 0; i < size; ++i) args.y[first + i * inner] = row[size + i];
    }
  });
  return {};
}

Status run(Team& team, const SoftmaxRowsGradientArgs& args) {
  const int64_t size = args.size, inner = args.inner;
  if (inner == 1) {
    inParts(team, args.outer, kElements / size, [&](int64_t from, int64_t to, int) {
      const int64_t at = from * size;
      simd().softmaxGradient(args.dy + at, args.y + at, args.dx + at, to - from, size, args.logarithm);
    });
    return {};
  }
  team.own(3 * size);
  inParts(team, args.outer * inner, kElements / size, [&](int64_t from, int64_t to, int worker) {
    float* row = team.of(worker);
    for (int64_t at = from; at < to; ++at) {
      const int64_t first = at / inner * size * inner + at % inner;
      for (int64_t i = 0; i < size; ++i) {
        row[i] = args.dy[first + i * inner];
        row[size + i] = args.y[first + i * inner];
      }
      simd().softmaxGradient(row, row + size, row + 2 * size, 1, size, args.logarithm);
      for (int64_t i = 0; i < size; ++i) args.dx[first + i * inner] = row[2 * size + i];
    }
  });
  return {};
}

Status run(Team& team, const ReduceArgs& args) {
  const int64_t size = args.size, inner = args.inner;
  const bool sum = args.reduction == Reduction::kSum || args.reduction == Reduction::kSumOfSquares;
  const auto finish = [&](float* y, float value) {
    const float scaled = sum ? value * args.scale : value;
    *y = args.accumulate ? *y + scaled : scaled;
  };
  if (inner == 1) {
    inParts(team, args.outer, kElements / size, [&](int64_t from, int64_t to, int) {
      for (int64_t row = from; row < to; ++row)
        finish(args.y + row, simd().reduce(args.reduction, args.x + row * size, size));
    });
    return {};
  }
  // Columns of each outer index; where these are few and rows are many, rows are cut too and their parts added up. Not by
  // the number of threads, on which the sums would then depend.
  constexpr int64_t kRows = 256, kColumns = 256, kFew = 16;
  const int64_t cuts = sum && args.outer * divideUp(inner, kColumns) < kFew ? divideUp(size, kRows) : 1;
  const int64_t length = divideUp(size, cuts);
  float* parts = team.shared(args.outer * cuts * inner);
  const int64_t pieces = divideUp(inner, kColumns);
  team.each(args.outer * cuts * pieces, [&](int64_t index, int) {
    const int64_t piece = index % pieces, cut = index / pieces % cuts, outer = index / pieces / cuts;
    const int64_t column = piece * kColumns, row = cut * length;
    if (row >= size) {
      std::fill_n(parts + (outer * cuts + cut) * inner + column, std::min(kColumns, inner - column), 0.0f);
      return;
    }
    simd().reduceColumns(args.reduction, args.x + (outer * size + row) * inner + column,
                         std::min(length, size - row), std::min(kColumns, inner - column), inner, false,
                         parts + (outer * cuts + cut) * inner + column);
  });
  team.each(args.outer * pieces, [&](int64_t index, int) {
    const int64_t column = index % pieces * kColumns, outer = index / pieces;
    const int64_t count = std::min(kColumns, inner - column);
    float* total = parts + outer * cuts * inner + column;
    for (int64_t cut = 1; cut < cuts; ++cut) simd().add(total + cut * inner, total, count);
    for (int64_t j = 0; j < count; ++j) finish(args.y + outer * inner + column + j, total[j]);
  });
  return {};
}

namespace {

template <typename T>
void argument(const ArgumentArgs& args, int64_t from, int64_t to) {
  const T* x = static_cast<const T*>(args.x);
  for (int64_t at = from; at < to; ++at) {
    const T* first = x + at / args.inner * args.size * args.inner + at % args.inner;
    int64_t best = 0;
    for (int64_t i = 1; i < args.size; ++i) {
      const T value = first[i * args.inner], held = first[best * args.inner];
      const bool better = args.least ? value < held : value > held;
      if (better || (args.last && value == held)) best = i;
    }
    args.y[at] = best;
  }
}

}  // namespace

Status run(Team& team, const ArgumentArgs& args) {
  inParts(team, args.outer * args.inner, kElements / args.size, [&](int64_t from, int64_t to, int) {
    switch (args.type) {
      case ElementType::kInt64:
        return argument<int64_t>(args, from, to);
      case ElementType::kInt32:
        return argument<int32_t>(args, from, to);
      case ElementType::kBool:
        return argument<uint8_t>(args, from, to);
      default:
        return argument<float>(args, from, to);
    }
  });
  return {};
}

}  // namespace clipcid
