// Layer norms. A row is in the first cache between its passes; sums over rows are taken by tasks of a fixed number of
// rows and added up in their order.
#include <algorithm>

#include "cpu/ops/ops.h"
#include "cpu/ops/simd.h"

namespace clipcid {
namespace {

// Rows of a task, whatever the threads, which would change the sums: some thousands of elements at least, and not more
// tasks than are added up in no time.
int64_t rowsOfTask(int64_t rows, int64_t size) {
  constexpr int64_t kElements = 1 << 13, kTasks = 32;
  return std::max<int64_t>({1, (rows + kTasks - 1) / kTasks, kElements / size});
}

int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

}  // namespace

Status run(Team& team, const LayerNormArgs& args) {
  const int64_t task = rowsOfTask(args.rows, args.size);
  team.each(divideUp(args.rows, task), [&](int64_t index, int) {
    simd().layerNorm(args, index * task, std::min(args.rows, (index + 1) * task));
  });
  return {};
}

Status run(Team& team, const LayerNormGradientArgs& args) {
  const int64_t task = rowsOfTask(args.rows, args.size);
  const int64_t tasks = divideUp(args.rows, task);
  const int64_t line = divideUp(args.size, 16) * 16;
  float* sums = team.shared(tasks * 2 * line);
  team.each(tasks, [&](int64_t index, int) {
    float* own = sums + index * 2 * line;
    std::fill(own, own + 2 * line, 0.0f);
    simd().layerNormGradient(args, index * task, std::min(args.rows, (index + 1) * task), own, own + line);
  });
  for (int64_t index = 0; index < tasks; ++index) {
    const float* own = sums + index * 2 * line;
    if (args.dGamma != nullptr) simd().add(own, args.dGamma, args.size);
    if (args.dBeta != nullptr) simd().add(own + line, args.dBeta, args.size);
  }
  return {};
}

}  // namespace clipcid
