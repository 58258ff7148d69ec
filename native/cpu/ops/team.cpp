#include "cpu/ops/team.h"

#include <algorithm>
#include <thread>

#include "core/parallel.h"

namespace clipcid {
namespace {

constexpr int kCountBits = 24;
constexpr uint64_t kMask = (uint64_t{1} << kCountBits) - 1;
constexpr uint64_t kCall = uint64_t{1} << (2 * kCountBits);

uint64_t nextOf(uint64_t ticket) { return ticket & kMask; }
uint64_t countOf(uint64_t ticket) { return ticket >> kCountBits & kMask; }

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits for a few microseconds at most without giving up the processor; then it gives it up each time.
class Patience {
 public:
  void wait() {
    if (++rounds_ < kRounds) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }

 private:
  static constexpr int kRounds = 2000;
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
  const uint64_t before = ticket_.load(std::memory_order_relaxed);
  const uint64_t call = (before & ~(kCall - 1)) + kCall;
  ticket_.store(call | static_cast<uint64_t>(count) << kCountBits, std::memory_order_release);
  while (work(leader_)) {
  }
  Patience patience;
  while (done_.load(std::memory_order_acquire) < count) patience.wait();
}

// Takes one index and does it; false when there is none.
bool Team::work(int worker) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  if (nextOf(ticket) >= countOf(ticket)) return false;
  ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
  if (nextOf(ticket) >= countOf(ticket)) return false;
  // The leader waits for this index: function and context stay what they are.
  function_(context_, static_cast<int64_t>(nextOf(ticket)), worker);
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

void Team::follow(int worker) {
  Patience patience;
  while (!ended_.load(std::memory_order_acquire)) {
    if (work(worker)) {
      patience = Patience();
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
