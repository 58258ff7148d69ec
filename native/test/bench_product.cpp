// How fast the products of a transformer's layers are: forward, the input's and the weights' gradients. Milliseconds of
// processor time, the median and the least, and shares of the peak at the median.
//
//   bench_product [threads, 1] [rows, 2080] [width, 512] [rounds, 15]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "core/aligned.h"
#include "cpu/ops/ops.h"
#include "cpu/peak.h"

namespace clipcid {
namespace {

// Of a step's operands few are in the caches when they are wanted: there are many copies, one after the other.
class Cold {
 public:
  explicit Cold(int64_t floats)
      : floats_(floats), copies_(std::max<int64_t>(2, kFloats / floats)), data_(copies_ * floats) {
    for (int64_t i = 0; i < copies_ * floats; ++i) data_.get()[i] = 1e-3f * static_cast<float>(i % 7);
  }
  float* next() { return data_.get() + (copy_ = (copy_ + 1) % copies_) * floats_; }

 private:
  static constexpr int64_t kFloats = 16 << 20;
  int64_t floats_, copies_, copy_ = 0;
  AlignedArray<float> data_;
};

struct Times {
  std::vector<double> seconds;
  void print(double work, double peak) {
    std::sort(seconds.begin(), seconds.end());
    const double middle = seconds[seconds.size() / 2];
    std::printf(" %8.3f %8.3f %5.2f", 1e3 * middle, 1e3 * seconds.front(), work / middle / (1e9 * peak));
  }
};

// Processor time of all threads, which other work on the machine disturbs least.
double now() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

template <typename Run>
void timed(Times& times, Run run) {
  const double begin = now();
  if (!run().ok()) std::abort();
  times.seconds.push_back(now() - begin);
}

void measure(Team& team, int64_t rows, int64_t from, int64_t to, int rounds, double peak) {
  Cold x(rows * from), y(rows * to), w(from * to), dw(from * to);
  Times times[3];
  for (int round = 0; round < rounds; ++round) {
    ProductArgs forward;
    forward.m = rows, forward.n = to, forward.k = from;
    forward.rowA = from, forward.rowB = to, forward.rowC = to;
    forward.a = x.next(), forward.b = w.next(), forward.c = y.next();
    timed(times[0], [&] { return run(team, forward); });
    ProductArgs input;
    input.m = rows, input.n = from, input.k = to;
    input.rowA = to, input.rowB = to, input.rowC = from;
    input.transposeB = true;
    input.a = y.next(), input.b = w.next(), input.c = x.next();
    timed(times[1], [&] { return run(team, input); });
    ProductArgs weights;
    weights.m = from, weights.n = to, weights.k = rows;
    weights.rowA = from, weights.rowB = to, weights.rowC = to;
    weights.transposeA = weights.accumulate = true;
    weights.a = x.next(), weights.b = y.next(), weights.c = dw.next();
    timed(times[2], [&] { return run(team, weights); });
  }
  std::printf("%5ld x %5ld", static_cast<long>(from), static_cast<long>(to));
  for (Times& time : times) time.print(2.0 * static_cast<double>(rows * from * to), peak);
  std::printf("\n");
}

}  // namespace
}  // namespace clipcid

int main(int argc, char** argv) {
  using namespace clipcid;
  const auto argument = [&](int index, int fallback) {
    return argc > index ? std::atoi(argv[index]) : fallback;
  };
  const int threads = argument(1, 1), rows = argument(2, 2080), width = argument(3, 512);
  const int rounds = argument(4, 15);
  Context context;
  context.threads = threads;
  Peak peak;
  if (!measurePeak(context, &peak).ok()) return 1;
  std::printf("%d threads, float32 peak %.0f GFLOP/s, %d rows\n", threads, peak.float32, rows);
  std::printf("%13s %23s %23s %23s\n", "from x to", "forward", "input", "weights");
  TeamMemory memory(threads);
  Team::run(threads, memory, [&](Team& team) {
    for (const auto& [from, to] : {std::pair(1, 3), {1, 1}, {1, 4}, {4, 1}})
      measure(team, rows, from * width, to * width, rounds, peak.float32);
  });
  return 0;
}
