// Fixed-point sums of rows by segment.
//
// In: rows [N, D] as compared, or those that `indices` lists; their segments and weights. Out: sums [segments, D],
// int64.
//
// A batch of rows at a time is made ready, by ranges of rows; then each thread adds a range of columns of all of
// them, so no two write to one place and nothing is atomic. Rows that lie in memory as they are compared are not
// copied. Bound by memory. Best measured: not yet measured.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/prepared.h"

namespace clipcid {
namespace {

constexpr int64_t kBatchBytes = int64_t{4} << 20;
// Rows and sums are anywhere: they are asked for so many rows before they are needed.
constexpr int64_t kAhead = 6;

template <typename T>
void prefetch(const T* from, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(T), kMostLines = 32;
  for (int64_t at = 0; at < std::min(count, kMostLines * kLine); at += kLine) __builtin_prefetch(from + at);
}

Status segmentSum(const Context& context, const SegmentSumArgs& args) {
  const CpuPrepared& rows = cpuPrepared(args.rows);
  const int64_t dim = rows.dim;
  const int64_t count = args.indices != nullptr ? args.count : rows.rows;
  if (args.mode == SegmentSumArgs::Mode::kOverwrite)
    std::fill(args.sums, args.sums + args.segmentCount * dim, int64_t{0});
  const int64_t sign = args.mode == SegmentSumArgs::Mode::kSubtract ? -1 : 1;

  const int64_t limit = std::min(kBatchBytes, memoryBudget(context) / 8);
  const int64_t batch =
      std::clamp<int64_t>(limit / (4 * std::max<int64_t>(dim, 1)), 1, std::max<int64_t>(count, 1));
  AlignedArray<float> scratch(batch * dim);
  std::vector<const float*> pointers(static_cast<size_t>(batch));
  // Whole cache lines of sums for each thread.
  const int64_t lines = (dim + 7) / 8;
  const int64_t parts = std::min<int64_t>(std::max(context.threads, 1), lines);
  for (int64_t at = 0; at < count; at += batch) {
    const int64_t here = std::min(batch, count - at);
    if (args.indices == nullptr) {
      CLIPCID_TRY(rows.eachRange(
          context, at, here,
          [&](int64_t begin, int64_t number, const float* stored, int64_t stride, int) -> Status {
            for (int64_t i = begin; i < begin + number; ++i, stored += stride) {
              float* place = scratch.get() + (i - at) * dim;
              const float*& pointer = pointers[static_cast<size_t>(i - at)];
              pointer = place;
              if (rows.inPlace(i)) {
                pointer = stored;
              } else {
                rows.compared(i, stored, place);
              }
            }
            return {};
          }));
    } else {
      constexpr int64_t kRange = 64;
      CLIPCID_TRY(parallelTry(context, (here + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
        const int64_t end = std::min((range + 1) * kRange, here);
        for (int64_t i = range * kRange; i < end; ++i) {
          if (i + kAhead < end) rows.prefetch(args.indices[at + i + kAhead]);
          CLIPCID_TRY(
              rows.row(args.indices[at + i], scratch.get() + i * dim, &pointers[static_cast<size_t>(i)]));
        }
        return {};
      }));
    }
    CLIPCID_TRY(parallelTry(context, parts, [&](int64_t part, int) -> Status {
      const int64_t from = lines * part / parts * 8;
      const int64_t to = std::min(lines * (part + 1) / parts * 8, dim);
      for (int64_t i = at; i < at + here; ++i) {
        if (i + kAhead < at + here) {
          prefetch(pointers[static_cast<size_t>(i + kAhead - at)] + from, to - from);
          prefetch(args.sums + args.segments[i + kAhead] * dim + from, to - from);
        }
        int64_t* sums = args.sums + args.segments[i] * dim;
        const double weight = args.weights != nullptr ? static_cast<double>(args.weights[i]) : 1;
        kernels().addFixed(pointers[static_cast<size_t>(i - at)] + from, to - from, weight, args.scale, sign,
                           sums + from);
      }
      return {};
    }));
  }
  return {};
}

}  // namespace

Status CpuBackend::segmentSum(const Context& context, const SegmentSumArgs& args) {
  return guarded([&] { return clipcid::segmentSum(context, args); });
}

}  // namespace clipcid
