// Canonical norms of rows. In: [count, dim] float32. Out: [count] float64. Bound by memory.
#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/kernels.h"

namespace clipcid {

Status CpuBackend::rowNorms(const Context& context, const RowNormsArgs& args) {
  constexpr int64_t kBlock = 64;
  parallelFor(context.threads, (args.count + kBlock - 1) / kBlock, [&](int64_t block, int) {
    const int64_t end = std::min(args.count, (block + 1) * kBlock);
    for (int64_t i = block * kBlock; i < end; ++i) {
      const float* row = args.data + i * args.dim;
      args.norms[i] = std::sqrt(kernels().dot(row, row, args.dim));
    }
  });
  return {};
}

}  // namespace clipcid
