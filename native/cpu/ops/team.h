// The threads of a program: some threads that run operation after operation together, with a microsecond between
// them rather than the tens that waking a pool takes.
//
// One of them, the leader, runs the program as a plain function. Where an operation has work for all it calls `each`;
// the others, which have been watching, take indices from it, and the leader goes on when every index is done. A
// thread that comes late, or never, costs speed and nothing else.
//
// Indices have a home: each thread begins with a share of its own, the same share of every call, and takes from others'
// when it is done. So operations that go over the same rows in order find them in the caches of the thread that wrote
// them, which matters: between two cores data travel several times as slowly as within one.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <vector>

#include "core/aligned.h"
#include "cpu/gemm.h"

namespace clipcid {

// Memory of a team that outlasts a run: what operations need beside their arguments.
class TeamMemory {
 public:
  explicit TeamMemory(int threads)
      : own_(static_cast<size_t>(threads)), ownLengths_(own_.size()), gemms_(own_.size()) {}

 private:
  friend class Team;
  AlignedArray<float> shared_;
  int64_t sharedLength_ = 0;
  std::vector<AlignedArray<float>> own_;
  std::vector<int64_t> ownLengths_;
  std::vector<GemmMemory> gemms_;
};

class Team {
 public:
  // Runs `program` on one thread of the pool with up to `threads` - 1 others behind it; returns when it returns. It may
  // not throw. `memory` is of `threads` threads, and of one run at a time.
  static void run(int threads, TeamMemory& memory, const std::function<void(Team&)>& program);

  // The calling thread alone, which may be one of another team that is in a body. `memory` is of one thread.
  static Team alone(TeamMemory& memory) { return Team(1, memory); }

  // What was asked for: sizes of tasks may depend on it, as results may.
  int threads() const { return threads_; }

  // body(index, worker) for every index in [0, count), by any thread in any order; `worker` is below threads() and
  // belongs to one thread while the team runs. Results may not depend on which worker does what. From the leader
  // alone, never from a body. The body may not throw. At most 2^24 - 1 indices.
  template <typename Body>
  void each(int64_t count, Body&& body) {
    using Type = std::remove_reference_t<Body>;
    each(
        count,
        [](void* context, int64_t index, int worker) { (*static_cast<Type*>(context))(index, worker); },
        const_cast<std::remove_const_t<Type>*>(&body));
  }

  // Memory for the operation that runs, 64-byte aligned and not cleared: `floats` of it for all, or for each worker.
  // From the leader alone; throws std::bad_alloc. Asking again gives the same memory, moved when it grows.
  float* shared(int64_t floats);
  void own(int64_t floats);
  // What products keep, by worker; the first one's is also for those that all threads do together.
  std::vector<GemmMemory>& gemms() { return memory_.gemms_; }
  // A worker's part of what `own` asked for.
  float* of(int worker) const { return memory_.own_[static_cast<size_t>(worker)].get(); }

 private:
  using Function = void (*)(void* context, int64_t index, int worker);

  Team(int threads, TeamMemory& memory)
      : threads_(threads), memory_(memory), shares_(static_cast<size_t>(threads)) {}
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  void each(int64_t count, Function function, void* context);
  void follow(int worker);
  bool work(int worker);
  bool take(int from, bool front, int worker);

  // What is left of a worker's share: the number of the call in the upper 16 bits, then the end and the next index.
  // Together, so that an index is never taken for one of another call; the owner takes from the front, others from the end.
  struct alignas(64) Share {
    std::atomic<uint64_t> range{0};
  };

  const int threads_;
  TeamMemory& memory_;
  int leader_ = 0;  // its number as a worker
  Function function_ = nullptr;
  void* context_ = nullptr;
  std::vector<Share> shares_;
  uint64_t call_ = 0;
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<bool> ended_{false};
};

}  // namespace clipcid
