// The canonical recheck: dots of listed pairs [count], float64; and listed rows as compared.
#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/prepared.h"

namespace clipcid {

Status CpuBackend::pairDots(const Context& context, const PairDotsArgs& args) {
  constexpr int64_t kRange = 256;
  // Rows are anywhere: they are asked for so many pairs before they are needed.
  constexpr int64_t kAhead = 4;
  const CpuPrepared& queries = cpuPrepared(args.queries);
  const CpuPrepared& keys = cpuPrepared(args.keys);
  return parallelTry(context, (args.count + kRange - 1) / kRange, [&](int64_t range, int) -> Status {
    const AlignedArray<float> scratch(2 * queries.dim);
    const int64_t end = std::min((range + 1) * kRange, args.count);
    for (int64_t at = range * kRange; at < end; ++at) {
      if (at + kAhead < end) {
        queries.prefetch(args.pairs[at + kAhead].first);
        keys.prefetch(args.pairs[at + kAhead].second);
      }
      const float *first, *second;
      CLIPCID_TRY(queries.row(args.pairs[at].first, scratch.get(), &first));
      CLIPCID_TRY(keys.row(args.pairs[at].second, scratch.get() + queries.dim, &second));
      args.dots[at] = kernels().dot(first, second, queries.dim);
    }
    return {};
  });
}

Status CpuBackend::gather(const Context& context, const GatherArgs& args) {
  const CpuPrepared& rows = cpuPrepared(args.rows);
  return parallelTry(context, args.count, [&](int64_t at, int) -> Status {
    float* out = args.out + at * rows.dim;
    const float* row;
    CLIPCID_TRY(rows.row(args.indices[at], out, &row));
    if (row != out) memcpy(out, row, static_cast<size_t>(rows.dim) * 4);
    return {};
  });
}

}  // namespace clipcid
