#include "emulator/engine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "clipcid/philox.h"
#include "core/parallel.h"
#include "emulator/context_switch.h"
#include "emulator/guarded.h"
#include "emulator/options.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace clipcid::emulator {

constinit thread_local Thread* current = nullptr;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr unsigned kMostThreads = 1024;
constexpr int kMostWarps = 64;
constexpr unsigned kMostBlockThreads = 1024;
constexpr size_t kMostShared = 228 << 10;

std::string nameOf(const Thread& thread) {
  char text[160];
  const Block& block = *thread.block;
  std::snprintf(text, sizeof text, "block (%u, %u, %u) thread %d (warp %d, lane %d)", block.index.x,
                block.index.y, block.index.z, thread.linear, thread.linear / kWarp, thread.lane);
  return text;
}

// "mainloop.cuh:88"
std::string placeOf(const std::source_location& where) {
  const char* file = where.file_name();
  const char* slash = strrchr(file, '/');
  return std::string(slash != nullptr ? slash + 1 : file) + ':' + std::to_string(where.line());
}

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "emulated GPU: %s\n", text.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace

// Stacks and shared memory, used again for one group after the other.
struct Group::Host {
  char* stacks = nullptr;
  size_t stackCount = 0;
  std::vector<std::unique_ptr<GuardedMemory>> shared;
  Group group;

  ~Host() {
    if (stacks != nullptr) munmap(stacks, stackCount * kStackBytes);
  }

  void reserve(size_t count) {
    if (count <= stackCount) return;
    if (stacks != nullptr) munmap(stacks, stackCount * kStackBytes);
    void* memory = mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) die("no memory for the stacks of " + std::to_string(count) + " threads");
    stacks = static_cast<char*>(memory);
    stackCount = count;
    // The lowest page of each catches what grows over its end.
    for (size_t at = 0; at < count; ++at)
      mprotect(stacks + at * kStackBytes, static_cast<size_t>(sysconf(_SC_PAGESIZE)), PROT_NONE);
  }
};

void fault(const std::string& what, const std::source_location& where) {
  if (current == nullptr) die(what + ", at " + placeOf(where));
  die("kernel " + std::string(current->group->shape().kernel) + ", " + nameOf(*current) + ", at " +
      placeOf(where) + ": " + what);
}

int Group::nextExtension() {
  static std::atomic<int> next{0};
  const int kind = next.fetch_add(1);
  if (kind >= 8) die("too many kinds of extensions");
  return kind;
}

uint64_t Group::draw() {
  state_ += 0x9e3779b97f4a7c15u;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void Group::switchTo(Thread& from, Thread& to) {
  current = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(from.exited ? nullptr : &from.fakeStack, to.stackBottom, to.stackBytes);
#endif
  clipcidSwitchStack(&from.stackPointer, to.stackPointer);
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(from.fakeStack, &bottom, &bytes);
#endif
}

Thread* Group::pick() {
  if (readyWarps_ == 0) return nullptr;
  size_t chosen = 0;
  int lane = 0;
  switch (policy_) {
    case Policy::kAscending:
      chosen = static_cast<size_t>(__builtin_ctzll(readyWarps_));
      lane = __builtin_ctz(warps_[chosen].ready);
      break;
    case Policy::kRanked:
      for (const int warp : order_) {
        chosen = static_cast<size_t>(warp);
        if (warps_[chosen].ready != 0) break;
      }
      lane = 31 - __builtin_clz(warps_[chosen].ready);
      break;
    case Policy::kRandom: {
      const uint64_t number = draw();
      const auto turn = static_cast<int>(number % kMostWarps);
      const uint64_t turned =
          turn == 0 ? readyWarps_ : readyWarps_ >> turn | readyWarps_ << (kMostWarps - turn);
      chosen = static_cast<size_t>((__builtin_ctzll(turned) + turn) % kMostWarps);
      const auto laneTurn = static_cast<int>(number >> 32 & 31);
      const uint32_t ready = warps_[chosen].ready;
      const uint32_t lanes = laneTurn == 0 ? ready : ready >> laneTurn | ready << (kWarp - laneTurn);
      lane = (__builtin_ctz(lanes) + laneTurn) % kWarp;
      break;
    }
  }
  Warp& warp = warps_[chosen];
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) readyWarps_ &= ~(uint64_t{1} << chosen);
  return warp.lanes[static_cast<size_t>(lane)];
}

void Group::park(const char* why, const std::source_location& where) {
  Thread& me = *current;
  me.waitsFor = why;
  me.where = where;
  Thread* next = pick();
  if (next == nullptr) reportDeadlock();
  if (next != &me) switchTo(me, *next);
}

void Group::yield() {
  Thread& me = *current;
  wake(me);
  Thread* next = pick();
  if (next != &me) switchTo(me, *next);
}

void Group::reportDeadlock() {
  std::map<std::string, std::pair<int, std::string>> places;
  for (const Thread& thread : threads_) {
    if (thread.exited) continue;
    auto& place = places[std::string(thread.waitsFor != nullptr ? thread.waitsFor : "nothing") + " at " +
                         placeOf(thread.where)];
    if (place.first++ == 0) place.second = nameOf(thread);
  }
  std::string text = "kernel " + std::string(shape_->kernel) + " hangs:";
  for (const auto& [place, who] : places) {
    text += "\n  " + std::to_string(who.first) +
            (who.first == 1 ? " thread waits for " : " threads wait for ") + place + ", the first " +
            who.second;
  }
  const auto ended =
      std::count_if(threads_.begin(), threads_.end(), [](const Thread& thread) { return thread.exited; });
  if (ended > 0) text += "\n  " + std::to_string(ended) + " have ended";
  die(text);
}

Rendezvous* Group::meet(uint32_t mask, const void* kind, void* argument, const char* name,
                        const std::source_location& where) {
  Thread& me = *current;
  Warp& warp = warpOf(me);
  const uint32_t own = 1u << me.lane;
  if ((mask & own) == 0) fault(std::string(name) + " with a mask that lacks the calling lane", where);
  if ((mask & ~warp.present) != 0)
    fault(std::string(name) + " with lanes that the block does not have", where);
  if ((mask & warp.exited) != 0) fault(std::string(name) + " with lanes that have ended", where);
  Rendezvous* found = nullptr;
  Rendezvous* empty = nullptr;
  for (Rendezvous& meeting : warp.meetings) {
    if (meeting.mask == 0) {
      if (empty == nullptr) empty = &meeting;
    } else if (meeting.mask == mask && meeting.kind == kind && (meeting.arrived & own) == 0) {
      found = &meeting;
      break;
    } else if ((meeting.mask & mask) != 0 && (meeting.arrived & own) != 0) {
      fault(std::string(name) + " while the lane is at another operation of its warp", where);
    }
  }
  if (found == nullptr) {
    if (empty == nullptr) fault(std::string(name) + ": the warp is in too many parts", where);
    found = empty;
    *found = Rendezvous{kind, mask, 0, {}};
  }
  found->arguments[static_cast<size_t>(me.lane)] = argument;
  found->arrived |= own;
  if (found->arrived == mask) return found;
  park(name, where);
  return nullptr;
}

void Group::done(Rendezvous* meeting) {
  Thread& me = *current;
  Warp& warp = warpOf(me);
  for (uint32_t rest = meeting->mask & ~(1u << me.lane); rest != 0; rest &= rest - 1)
    wake(*warp.lanes[static_cast<size_t>(__builtin_ctz(rest))]);
  meeting->mask = 0;
  // Not always the last to come goes on first.
  if (policy_ == Policy::kRandom && (draw() & 3) == 0) yield();
}

void Group::completeBarrier(Block::Barrier& barrier) {
  for (Thread* thread : barrier.waiting) wake(*thread);
  barrier.waiting.clear();
  barrier.arrived = barrier.expected = 0;
}

// `count` 0: all threads of the block that have not ended.
void Group::barrier(unsigned id, unsigned count, bool wait, const std::source_location& where) {
  Thread& me = *current;
  Block& block = *me.block;
  if (id >= block.barriers.size()) fault("barrier " + std::to_string(id) + ": there are 16", where);
  Block::Barrier& barrier = block.barriers[id];
  if (count % kWarp != 0)
    fault("a barrier for " + std::to_string(count) + " threads, which are no whole warps", where);
  if (count > block.threads) fault("a barrier for more threads than the block has", where);
  const unsigned expected = count == 0 ? ~0u : count;
  if (barrier.arrived > 0 && barrier.expected != expected)
    fault("threads disagree on how many barrier " + std::to_string(id) + " is for", where);
  barrier.expected = expected;
  ++barrier.arrived;
  if (barrier.arrived == (count == 0 ? block.threads - block.exited : count)) {
    completeBarrier(barrier);
    if (wait && policy_ == Policy::kRandom && (draw() & 3) == 0) yield();
    return;
  }
  if (!wait) return;
  barrier.waiting.push_back(&me);
  park(id == 0 ? "barrier 0" : "a named barrier", where);
}

void Group::exitThread() {
  Thread& me = *current;
  Block& block = *me.block;
  me.exited = true;
  me.waitsFor = nullptr;
  warpOf(me).exited |= 1u << me.lane;
  ++block.exited;
  --alive_;
  for (Block::Barrier& barrier : block.barriers) {
    if (barrier.arrived > 0 && barrier.expected == ~0u && barrier.arrived == block.threads - block.exited)
      completeBarrier(barrier);
  }
  Thread* next = pick();
  if (next == nullptr && alive_ > 0) reportDeadlock();
  switchTo(me, next == nullptr ? host_ : *next);
  __builtin_unreachable();
}

void Group::enter() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (current->group->host_.stackBottom == nullptr) {
    current->group->host_.stackBottom = bottom;
    current->group->host_.stackBytes = bytes;
  }
#endif
  Group& group = *current->group;
  (*group.body_)();
  group.exitThread();
}

void Group::begin(Host& host, const LaunchShape& shape, uint64_t cluster) {
  const unsigned blockThreads = shape.block.x * shape.block.y * shape.block.z;
  const size_t perBlock = (blockThreads + kWarp - 1) / kWarp;
  const size_t threads = size_t{blockThreads} * shape.cluster;
  host.reserve(threads);
  shape_ = &shape;
  alive_ = static_cast<unsigned>(threads);
  readyWarps_ = 0;
  extensions_ = {};
  blocks_.assign(shape.cluster, Block{});
  threads_.clear();
  threads_.resize(threads);
  warps_.assign(perBlock * shape.cluster, Warp{});
  const uint64_t seed = options().seed;
  state_ = seed * 0x2545f4914f6cdd1du + cluster;
  policy_ = seed == 0 ? Policy::kAscending : draw() % 2 == 0 ? Policy::kRandom : Policy::kRanked;
  order_.resize(warps_.size());
  for (size_t at = 0; at < order_.size(); ++at) order_[at] = static_cast<int>(at);
  if (policy_ == Policy::kRanked) {
    for (size_t at = order_.size(); at > 1; --at) std::swap(order_[at - 1], order_[draw() % at]);
  }
  for (unsigned rank = 0; rank < shape.cluster; ++rank) {
    Block& block = blocks_[rank];
    const uint64_t linear = cluster * shape.cluster + rank;
    block.index = {static_cast<unsigned>(linear % shape.grid.x),
                   static_cast<unsigned>(linear / shape.grid.x % shape.grid.y),
                   static_cast<unsigned>(linear / shape.grid.x / shape.grid.y)};
    block.count = shape.grid;
    block.size = shape.block;
    block.rank = rank;
    block.threads = blockThreads;
    block.sharedBytes = shape.shared;
    while (host.shared.size() <= rank)
      host.shared.push_back(std::make_unique<GuardedMemory>(kMostShared, 1024));
    block.shared = host.shared[rank]->begin(shape.shared, seed + linear);
    for (unsigned at = 0; at < blockThreads; ++at) {
      Thread& thread = threads_[size_t{rank} * blockThreads + at];
      thread.index = {at % shape.block.x, at / shape.block.x % shape.block.y,
                      at / shape.block.x / shape.block.y};
      thread.linear = static_cast<int>(at);
      thread.lane = static_cast<int>(at % kWarp);
      thread.warp = static_cast<int>(rank * perBlock + at / kWarp);
      thread.block = &block;
      thread.group = this;
      char* stack = host.stacks + (size_t{rank} * blockThreads + at) * kStackBytes;
      thread.stackPointer = newStack(stack + kStackBytes, &Group::enter);
#if defined(__SANITIZE_ADDRESS__)
      __asan_unpoison_memory_region(stack + 4096, kStackBytes - 4096);
      thread.stackBottom = stack;
      thread.stackBytes = kStackBytes;
#endif
      Warp& warp = warpOf(thread);
      warp.present |= 1u << thread.lane;
      warp.lanes[static_cast<size_t>(thread.lane)] = &thread;
      wake(thread);
    }
  }
}

void Group::runAll(Host& host, const LaunchShape& shape, uint64_t cluster,
                   const std::function<void()>& body) {
  begin(host, shape, cluster);
  body_ = &body;
  host_ = Thread{};
  host_.group = this;
  Thread* first = pick();
  switchTo(host_, *first);
  current = nullptr;
  extensions_ = {};
  for (Block& block : blocks_) {
    if (!host.shared[block.rank]->intact())
      die("kernel " + std::string(shape.kernel) + " wrote behind its " + std::to_string(shape.shared) +
          " bytes of shared memory");
  }
}

void run(const LaunchShape& shape, const std::function<void()>& body) {
  const uint64_t threads = uint64_t{shape.block.x} * shape.block.y * shape.block.z;
  const uint64_t blocks = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
  const uint64_t warps = (threads + kWarp - 1) / kWarp * shape.cluster;
  if (threads == 0 || threads > kMostBlockThreads || blocks == 0 || shape.grid.y > 65535 ||
      shape.grid.z > 65535 || shape.cluster == 0 || shape.grid.x % shape.cluster != 0 || warps > kMostWarps ||
      shape.shared > kMostShared)
    die("kernel " + std::string(shape.kernel) + " was launched in a shape that does not exist");
  static_assert(kMostThreads <= kMostWarps * kWarp);
  const uint64_t clusters = blocks / shape.cluster;
  const uint64_t seed = options().seed;
  // A step that has no factor in common with the number of clusters visits all of them.
  uint64_t step = seed == 0 ? 1 : philox64(seed, 0, 0) % clusters | 1;
  const auto common = [](uint64_t a, uint64_t b) {
    while (b != 0) a = std::exchange(b, a % b);
    return a;
  };
  while (common(step, clusters) != 1) ++step;
  parallelFor(options().threads, static_cast<int64_t>(clusters), [&](int64_t at, int) {
    thread_local std::unique_ptr<Group::Host> host;
    if (!host) host = std::make_unique<Group::Host>();
    host->group.runAll(*host, shape, (static_cast<uint64_t>(at) * step + seed) % clusters, body);
  });
}

}  // namespace clipcid::emulator
