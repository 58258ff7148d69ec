// Fixed-point sums of rows by segment.
//
// In: rows [N, D] as compared, or those that `indices` lists; their segments and weights. Out: sums [segments, D], int64.
//
// Block by block; each thread adds a range of columns of every row, so no two write to one place and nothing is
// atomic. Bound by memory. Best measured: not yet measured.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/prepared.h"

namespace clipcid {

Status CpuBackend::segmentSum(const Context& context, const SegmentSumArgs& args) {
  const CpuPrepared& rows = cpuPrepared(args.rows);
  const int64_t dim = rows.dim;
  const int64_t count = args.indices != nullptr ? args.count : rows.rows;
  if (args.mode == SegmentSumArgs::Mode::kOverwrite)
    std::fill(args.sums, args.sums + args.segmentCount * dim, int64_t{0});
  const int64_t sign = args.mode == SegmentSumArgs::Mode::kSubtract ? -1 : 1;
  const auto rowAt = [&](int64_t at) { return args.indices != nullptr ? args.indices[at] : at; };

  int64_t at = 0;
  while (at < count) {
    const int64_t index = rowAt(at) / rows.blockRows();
    std::shared_ptr<const Block> block;
    CLIPCID_TRY(rows.block(context, index, false, &block));
    int64_t end = at;
    while (end < count && rowAt(end) < block->begin + block->count) ++end;
    // Whole cache lines of sums for each thread.
    const int64_t lines = (dim + 7) / 8;
    const int64_t parts = std::min<int64_t>(std::max(context.threads, 1), lines);
    CLIPCID_TRY(parallelTry(context, parts, [&](int64_t part, int) -> Status {
      const int64_t from = lines * part / parts * 8;
      const int64_t to = std::min(lines * (part + 1) / parts * 8, dim);
      for (int64_t i = at; i < end; ++i) {
        int64_t* sums = args.sums + args.segments[i] * dim;
        const double weight = args.weights != nullptr ? static_cast<double>(args.weights[i]) : 1;
        kernels().addFixed(block->row(rowAt(i)) + from, to - from, weight, args.scale, sign, sums + from);
      }
      return {};
    }));
    at = end;
  }
  return {};
}

}  // namespace clipcid
