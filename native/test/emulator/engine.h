// Runs whole kernels on the host.
//
// Every thread of a block is a fiber. The fibers of a block, or of all blocks of a cluster, run on one thread of the
// host, one at a time, each until it has to wait for others: at a barrier, or at an operation of its warp, where the last
// lane to come does the work for all. Which fiber runs next is drawn from Options::seed. Blocks are spread over threads of the host.
//
// What a GPU would leave undefined, or would hang on, ends the process with a report: which kernel, block and thread, and,
// where all wait for something that cannot come, where each of them stands.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <type_traits>
#include <vector>

namespace clipcid::emulator {

constexpr int kWarp = 32;

struct Index3 {
  unsigned x = 1, y = 1, z = 1;
};

struct LaunchShape {
  const char* kernel = "";
  Index3 grid, block;
  unsigned cluster = 1;  // blocks of a cluster, along x
  size_t shared = 0;     // bytes of shared memory of a block
};

// Runs a kernel; `body` is called once for each thread.
void run(const LaunchShape& shape, const std::function<void()>& body);

class Group;
struct Block;

// A copy that was issued and may not have happened yet.
struct PendingCopy {
  void* to;
  const void* from;
  uint32_t bytes;   // read
  uint32_t filled;  // written; behind what was read are zeros
};

struct Thread {
  void* stackPointer = nullptr;
  Index3 index;
  int linear = 0;  // in its block
  int lane = 0;
  int warp = 0;  // in its group
  Block* block = nullptr;
  Group* group = nullptr;
  bool exited = false;
  // What it waits for, and where; null while it runs or may run.
  const char* waitsFor = nullptr;
  std::source_location where;
  // cp.async: those of the open group, and the groups that were committed, oldest first.
  std::vector<PendingCopy> openCopies;
  std::vector<std::vector<PendingCopy>> copyGroups;
#if defined(__SANITIZE_ADDRESS__)
  void* fakeStack = nullptr;
  const void* stackBottom = nullptr;
  size_t stackBytes = 0;
#endif
};

// The fiber that runs on this thread of the host; null outside of kernels.
extern constinit thread_local Thread* current;
inline Thread& self() { return *current; }

struct Block {
  Index3 index, count, size;
  unsigned rank = 0;  // in its cluster
  unsigned threads = 0, exited = 0;
  char* shared = nullptr;
  size_t sharedBytes = 0;
  struct Barrier {
    unsigned expected = 0, arrived = 0;
    std::vector<Thread*> waiting;
  };
  std::array<Barrier, 16> barriers;
};

// Ends the process with a report of what the current thread did wrong.
[[noreturn]] void fault(const std::string& what,
                        const std::source_location& where = std::source_location::current());

// One of the lanes of a warp that are to do something together.
struct Rendezvous {
  const void* kind = nullptr;
  uint32_t mask = 0, arrived = 0;
  std::array<void*, kWarp> arguments{};
};

// Blocks that run together, with their warps.
class Group {
 public:
  struct Warp {
    uint32_t present = 0, exited = 0;
    uint32_t ready = 0;  // may run, and does not
    std::array<Rendezvous, 4> meetings;
    std::array<Thread*, kWarp> lanes{};
  };

  // Lets others run until somebody wakes the current thread.
  void park(const char* why, const std::source_location& where);
  void wake(Thread& thread) {
    warps_[static_cast<size_t>(thread.warp)].ready |= 1u << thread.lane;
    readyWarps_ |= uint64_t{1} << thread.warp;
    thread.waitsFor = nullptr;
  }
  // Lets others run, if they may.
  void yield();
  Warp& warpOf(const Thread& thread) { return warps_[static_cast<size_t>(thread.warp)]; }
  // A number of the group's own sequence.
  uint64_t draw();
  Block& block(unsigned rank) { return blocks_[rank]; }
  const LaunchShape& shape() const { return *shape_; }
  // Threads that have not ended.
  unsigned alive() const { return alive_; }

  // Joins a meeting of the lanes of `mask`; true for the last to come, which is then to act and to call `done`.
  Rendezvous* meet(uint32_t mask, const void* kind, void* argument, const char* name,
                   const std::source_location& where);
  void done(Rendezvous* meeting);

  void barrier(unsigned id, unsigned count, bool wait, const std::source_location& where);

  // Things that belong to a run of the group, such as the state of mbarriers: `extension<T>()` is one T, made anew for each run.
  template <typename T>
  T& extension() {
    static const int kind = nextExtension();
    auto& slot = extensions_[static_cast<size_t>(kind)];
    if (!slot) slot = std::make_shared<T>();
    return *static_cast<T*>(slot.get());
  }

  struct Host;  // what a thread of the host keeps for the groups that it runs

 private:
  friend void run(const LaunchShape& shape, const std::function<void()>& body);
  static int nextExtension();

  void runAll(Host& host, const LaunchShape& shape, uint64_t cluster, const std::function<void()>& body);
  void begin(Host& host, const LaunchShape& shape, uint64_t cluster);
  Thread* pick();
  void switchTo(Thread& from, Thread& to);
  [[noreturn]] void exitThread();
  void completeBarrier(Block::Barrier& barrier);
  [[noreturn]] void reportDeadlock();
  static void enter();

  const LaunchShape* shape_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::vector<Block> blocks_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> order_;  // of warps, where they run by rank
  uint64_t readyWarps_ = 0;
  unsigned alive_ = 0;
  uint64_t state_ = 0;
  enum class Policy : uint8_t { kAscending, kRandom, kRanked } policy_ = Policy::kAscending;
  Thread host_;  // the scheduler's own context
  std::array<std::shared_ptr<void>, 8> extensions_;
};

// All lanes of `mask` come together; the last one calls act(lanes), an array with the argument of each, null for lanes
// that are not among them.
template <typename Kind, typename T, typename Act>
void together(uint32_t mask, T* mine, const char* name, const std::source_location& where, Act&& act) {
  static const char kind = 0;
  Thread& thread = self();
  Group& group = *thread.group;
  if (Rendezvous* meeting = group.meet(mask, &kind, mine, name, where)) {
    std::array<T*, kWarp> lanes;
    for (int lane = 0; lane < kWarp; ++lane)
      lanes[static_cast<size_t>(lane)] = static_cast<T*>(meeting->arguments[static_cast<size_t>(lane)]);
    act(lanes);
    group.done(meeting);
  }
}

constexpr uint32_t kWholeWarp = 0xffffffffu;

}  // namespace clipcid::emulator
