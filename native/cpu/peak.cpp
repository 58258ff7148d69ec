#include "cpu/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "core/parallel.h"
#include "cpu/kernels.h"

namespace clipcid {
namespace {

using Clock = std::chrono::steady_clock;

// The best of several windows, as the first ones wake threads and clocks up, and others may be disturbed.
constexpr int kWindows = 10;
constexpr std::chrono::milliseconds kWindow{3};
constexpr int64_t kRounds = 2000;  // a look at the clock; some microseconds

Status measure(const Context& context, const FilterKernel& kernel, double* best) {
  *best = 0;
  const int threads = std::max(context.threads, 1);
  for (int window = 0; window < kWindows; ++window) {
    std::atomic<int64_t> done{0};
    const Clock::time_point begin = Clock::now();
    // A thread that comes late finds little time left: what counts is what all have done in it.
    CLIPCID_TRY(parallelTry(context, threads, [&](int64_t, int) -> Status {
      if (kernel.enter != nullptr) kernel.enter();
      int64_t mine = 0;
      while (Clock::now() - begin < kWindow) mine += kernel.spin(kRounds);
      if (kernel.leave != nullptr) kernel.leave();
      done.fetch_add(mine);
      return {};
    }));
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    *best = std::max(*best, 2e-9 * static_cast<double>(done.load()) / seconds);
  }
  return {};
}

}  // namespace

Status measurePeak(const Context& context, Peak* peak) {
  const Kernels& kernel = kernels();
  CLIPCID_TRY(measure(context, *kernel.float32, &peak->float32));
  peak->bfloat16 = peak->float32;
  if (kernel.bfloat16 != nullptr) CLIPCID_TRY(measure(context, *kernel.bfloat16, &peak->bfloat16));
  peak->int8 = peak->bfloat16;
  if (kernel.int8 != nullptr) CLIPCID_TRY(measure(context, *kernel.int8, &peak->int8));
  return {};
}

}  // namespace clipcid
