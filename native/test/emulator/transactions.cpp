// Clusters, mbarriers and TMA; hopper.h says what they rest on.
#include <memory>
#include <unordered_map>

#include "cuda/ptx.cuh"
#include "emulator/guarded.h"
#include "emulator/options.h"

namespace clipcid::emulator {
namespace {

constexpr int kMostArrivals = (1 << 20) - 1;
constexpr int64_t kMostBytes = (1 << 20) - 1;

struct Box {
  cuda::TensorShape shape;
  int depth, row, problem;
  char* to;

  int64_t bytes() const { return int64_t{cuda::kBoxBytes} * shape.boxRows; }
  void perform() const {
    const char* matrix = static_cast<const char*>(shape.data) + problem * shape.rows * shape.stride;
    for (int r = 0; r < shape.boxRows; ++r) {
      for (int j = 0; j < 8; ++j) {
        char* chunk = to + r * cuda::kBoxBytes + (j ^ (r % 8)) * 16;
        const int64_t y = row + r, x = depth + 16 * j;
        const bool inside = problem >= 0 && problem < shape.problems && y >= 0 && y < shape.rows && x >= 0 &&
                            x + 16 <= shape.rowBytes;
        if (inside) {
          memcpy(chunk, matrix + y * shape.stride + x, 16);
        } else {
          memset(chunk, 0, 16);
        }
      }
    }
  }
};

struct State {
  int arrivals = 0, pending = 0;
  int64_t bytes = 0;  // to come, less those that came unexpected
  uint64_t phase = 0;
  bool published = false;
  std::vector<Thread*> waiting;
  std::vector<Box> boxes;  // that have not come yet
};

struct Transactions {
  std::unordered_map<const void*, State> barriers;
  unsigned arrived = 0;  // at the cluster's barrier
  std::vector<Thread*> waiting;

  ~Transactions() {
    for (const auto& [at, state] : barriers) {
      if (!state.boxes.empty() || state.bytes != 0)
        fault("a kernel ended before all of its copies had come to shared memory");
    }
  }
};

Transactions& transactions() { return self().group->extension<Transactions>(); }

State& stateOf(const void* barrier, const std::source_location& where) {
  auto& all = transactions().barriers;
  const auto at = all.find(barrier);
  if (at == all.end()) fault("an mbarrier that was not initialised", where);
  return at->second;
}

// The same place in another block of the cluster.
template <typename T>
T* counterpart(T* pointer, unsigned rank, const std::source_location& where) {
  Group& group = *self().group;
  if (rank >= group.shape().cluster) fault("a block that the cluster does not have", where);
  Block& block = group.block(rank);
  if (block.exited == block.threads) fault("something of a block that has ended", where);
  return reinterpret_cast<T*>(block.shared + (reinterpret_cast<char*>(pointer) - self().block->shared));
}

void settle(State& state) {
  if (state.pending > 0 || state.bytes != 0) return;
  ++state.phase;
  state.pending = state.arrivals;
  for (Thread* thread : state.waiting) self().group->wake(*thread);
  state.waiting.clear();
}

void arrive(State& state, const std::source_location& where) {
  if (state.pending == 0) fault("more arrivals at an mbarrier than it was made for", where);
  --state.pending;
  settle(state);
}

void complete(State& state, const Box& box, const std::source_location& where) {
  box.perform();
  state.bytes -= box.bytes();
  if (state.bytes < -kMostBytes) fault("more bytes come to an mbarrier than it counts", where);
  settle(state);
}

}  // namespace

void synchroniseCluster(const std::source_location& where) {
  Transactions& all = transactions();
  Group& group = *self().group;
  if (++all.arrived < group.alive()) {
    all.waiting.push_back(&self());
    group.park("the cluster's barrier", where);
    return;
  }
  all.arrived = 0;
  for (Thread* thread : all.waiting) group.wake(*thread);
  all.waiting.clear();
}

void initialiseBarrier(cuda::Barrier* barrier, int arrivals, const std::source_location& where) {
  requireShared(barrier, 8, 8, "an mbarrier", where);
  if (arrivals < 1 || arrivals > kMostArrivals) fault("an mbarrier for no arrivals, or too many", where);
  State state;
  state.arrivals = state.pending = arrivals;
  if (!transactions().barriers.emplace(barrier, state).second)
    fault("an mbarrier that is initialised already", where);
}

void publishBarriers() {
  for (auto& [at, state] : transactions().barriers) {
    const Block& block = *self().block;
    const auto* place = static_cast<const char*>(at);
    if (place >= block.shared && place < block.shared + block.sharedBytes) state.published = true;
  }
}

void expectBytes(cuda::Barrier* barrier, int bytes, const std::source_location& where) {
  State& state = stateOf(barrier, where);
  state.bytes += bytes;
  if (state.bytes > kMostBytes) fault("an mbarrier that expects more bytes than it counts", where);
  arrive(state, where);
}

void arriveAt(cuda::Barrier* barrier, int rank, const std::source_location& where) {
  interleave();
  State& state = stateOf(counterpart(barrier, static_cast<unsigned>(rank), where), where);
  if (!state.published) fault("an mbarrier of another block that was not made known to it", where);
  arrive(state, where);
}

void waitFor(cuda::Barrier* barrier, uint32_t parity, const std::source_location& where) {
  if (parity > 1) fault("a parity that is neither 0 nor 1", where);
  interleave();
  State& state = stateOf(barrier, where);
  while (state.phase % 2 == parity) {
    if (!state.boxes.empty()) {
      const std::vector<Box> boxes = std::move(state.boxes);
      state.boxes.clear();
      for (const Box& box : boxes) complete(state, box, where);
      continue;
    }
    state.waiting.push_back(&self());
    self().group->park("an mbarrier", where);
  }
}

void copyBox(void* shared, const cuda::TensorMap* map, int depth, int row, int problem,
             cuda::Barrier* barrier, uint32_t blocks, const std::source_location& where) {
  Box box{shapeOf(*map, where), depth, row, problem, nullptr};
  requireShared(shared, static_cast<size_t>(box.bytes()), 1024, "a box of TMA in the 128-byte swizzle",
                where);
  if (blocks == 0) fault("a copy to no block", where);
  for (unsigned rank = 0; blocks >> rank != 0; ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    box.to = counterpart(static_cast<char*>(shared), rank, where);
    State& state = stateOf(counterpart(barrier, rank, where), where);
    if (!state.published) fault("an mbarrier that TMA does not know of", where);
    if (options().async == When::kEager) {
      complete(state, box, where);
      continue;
    }
    poison(box.to, static_cast<size_t>(box.bytes()), options().seed);
    state.boxes.push_back(box);
    // One that waits already sees to it when its turn comes.
    if (!state.waiting.empty()) {
      self().group->wake(*state.waiting.back());
      state.waiting.pop_back();
    }
  }
}

}  // namespace clipcid::emulator
