#include "cpu/ops/team.h"

#include <algorithm>
#include <thread>

#include "core/parallel.h"

namespace clipcid {
namespace {

constexpr int kIndexBits = 24;
constexpr uint64_t kMask = (uint64_t{1} << kIndexBits) - 1;

uint64_t nextOf(uint64_t range) { return range & kMask; }
uint64_t endOf(uint64_t range) { return range >> kIndexBits & kMask; }

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits without giving up the processor for a while, then it gives it up each time: whoever has it then may keep it for
// some milliseconds, for which all others of the team would wait. Where threads are more than processors, one of its own
// may be who needs it.
class Patience {
 public:
  explicit Patience(int threads) : most_(threads <= processors() ? kRounds : kFew) {}

  void wait() {
    if (++rounds_ < most_) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }

 private:
  // 20 to 50 ns each: a few milliseconds, and some tens of microseconds.
  static constexpr int kRounds = 100'000, kFew = 1000;

  static int processors() {
    static const int count = static_cast<int>(std::thread::hardware_concurrency());
    return count;
  }

  int most_;
  int rounds_ = 0;
};

void grow(AlignedArray<float>& array, int64_t& length, int64_t floats) {
  if (floats <= length) return;
  length = 0;
  array = AlignedArray<float>();
  array = AlignedArray<float>(floats);
  length = floats;
}

}  // namespace

void Team::run(int threads, TeamMemory& memory, const std::function<void(Team&)>& program) {
  Team team(std::max(1, threads), memory);
  // Who comes first leads: a pool that is busy elsewhere leaves everything to the caller.
  parallelFor(team.threads_, team.threads_, [&](int64_t index, int worker) {
    if (index > 0) {
      team.follow(worker);
      return;
    }
    team.leader_ = worker;
    program(team);
    team.ended_.store(true, std::memory_order_release);
  });
}

void Team::each(int64_t count, Function function, void* context) {
  if (count <= 0) return;
  if (threads_ == 1 || count == 1) {
    for (int64_t index = 0; index < count; ++index) function(context, index, leader_);
    return;
  }
  function_ = function;
  context_ = context;
  done_.store(0, std::memory_order_relaxed);
  ++call_;
  for (int worker = 0; worker < threads_; ++worker) {
    const uint64_t begin = static_cast<uint64_t>(count * worker / threads_);
    const uint64_t end = static_cast<uint64_t>(count * (worker + 1) / threads_);
    shares_[static_cast<size_t>(worker)].range.store(call_ << (2 * kIndexBits) | end << kIndexBits | begin,
                                                     std::memory_order_release);
  }
  while (work(leader_)) {
  }
  Patience patience(threads_);
  while (done_.load(std::memory_order_acquire) < count) patience.wait();
}

// Takes one index from a worker's share and does it; false when none is left.
bool Team::take(int from, bool front, int worker) {
  std::atomic<uint64_t>& share = shares_[static_cast<size_t>(from)].range;
  uint64_t range = share.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t next = nextOf(range), end = endOf(range);
    if (next >= end) return false;
    const uint64_t rest = front ? range + 1 : range - (uint64_t{1} << kIndexBits);
    if (!share.compare_exchange_weak(range, rest, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    // The leader waits for this index: function and context stay what they are.
    function_(context_, static_cast<int64_t>(front ? next : end - 1), worker);
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }
}

// Does one index, of its own share first; false when there is none.
bool Team::work(int worker) {
  if (take(worker, true, worker)) return true;
  for (int other = 1; other < threads_; ++other) {
    if (take((worker + other) % threads_, false, worker)) return true;
  }
  return false;
}

void Team::follow(int worker) {
  Patience patience(threads_);
  while (!ended_.load(std::memory_order_acquire)) {
    if (work(worker)) {
      patience = Patience(threads_);
    } else {
      patience.wait();
    }
  }
}

float* Team::shared(int64_t floats) {
  grow(memory_.shared_, memory_.sharedLength_, floats);
  return memory_.shared_.get();
}

void Team::own(int64_t floats) {
  for (size_t worker = 0; worker < memory_.own_.size(); ++worker)
    grow(memory_.own_[worker], memory_.ownLengths_[worker], floats);
}

}  // namespace clipcid
