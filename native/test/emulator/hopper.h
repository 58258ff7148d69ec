// Models of what is of 9.0 alone in cuda/ptx.cuh: clusters, mbarriers, TMA, products of a warpgroup.
//
// They rest on these statements of the PTX ISA and of the driver's documentation, and are as right as they are:
//   mbarrier     A phase ends when its pending arrivals and its bytes to come are both 0, and the next one begins with the number
//                of arrivals that it was initialised for. expect_tx adds bytes, complete_tx takes them away, in any order: the
//                count may be negative in between. try_wait.parity tells whether the phase of that parity is over, of the one
//                under way and the one before it; so of a fresh one the phase of parity 1 counts as over.
//   multicast    A copy to several blocks goes to the same offset in each one's shared memory, and completes at the barrier of the
//                same offset there.
//   TMA          A tensor map of rank 3 has sizes and a box, innermost first, and the distances of all but the innermost. What of a
//                box is outside is written as zeros and counts among the bytes. In the 128-byte swizzle chunk j of 16 bytes of
//                row r of the box, which has 128 bytes, goes to chunk j xor (r mod 8) of its row; the box begins at a multiple of
//                1,024.
//   wgmma        Descriptors as in cuda/hopper.h; in the 128-byte swizzle bits 4 to 6 of an address are those of the plain layout
//                xor bits 7 to 9 of it. Both operands have 32 bytes of each row, rows 128 bytes apart within an atom of eight, and
//                atoms as far apart as the descriptor says. Warp w has rows 16 w to 16 w + 15 of the sums. Registers as in
//                cuda/ptx.cuh. Products take place any time between their issue and the wait for their group; those before a
//                first wgmma.fence, and registers changed without one, are faults.
//   setmaxnreg   Multiples of 8 from 24 to 256; does nothing here.
//
// With Options::async lazy a box comes when somebody waits for its barrier, and a product is done when somebody waits for its
// group; until then shared memory and registers hold poison. Waiting for what never comes is reported like any other hang.
#pragma once

#include "cuda/tensor_map.h"
#include "emulator/device.h"

namespace clipcid::cuda {
struct Barrier;
}

namespace clipcid::emulator {

// Where the window of shared memory begins: not at 0, as on a GPU.
constexpr uint32_t kSharedWindow = 1024;

// What a map was made of.
cuda::TensorShape shapeOf(const cuda::TensorMap& map, const std::source_location& where);
void synchroniseCluster(const std::source_location& where);
void initialiseBarrier(cuda::Barrier* barrier, int arrivals, const std::source_location& where);
void publishBarriers();
void expectBytes(cuda::Barrier* barrier, int bytes, const std::source_location& where);
void arriveAt(cuda::Barrier* barrier, int rank, const std::source_location& where);
void waitFor(cuda::Barrier* barrier, uint32_t parity, const std::source_location& where);
// To the blocks of the cluster whose bits are set.
void copyBox(void* shared, const cuda::TensorMap* map, int depth, int row, int problem,
             cuda::Barrier* barrier, uint32_t blocks, const std::source_location& where);

void beginProducts();
// Of a lane: `columns` / 2 values.
void issueProduct(float* sums, int columns, uint64_t a, uint64_t b, const std::source_location& where);
void issueProduct(int* sums, int columns, uint64_t a, uint64_t b, const std::source_location& where);
void commitProducts(const std::source_location& where);
void waitProducts(size_t pending, const std::source_location& where);

}  // namespace clipcid::emulator

namespace clipcid::cuda {

inline uint32_t sharedAddress(const void* pointer) {
  return emulator::kSharedWindow +
         static_cast<uint32_t>(static_cast<const char*>(pointer) - emulator::self().block->shared);
}

template <int kBarrier, int kThreads>
void synchroniseThreads(CLIPCID_WHERE) {
  static_assert(kBarrier > 0 && kBarrier < 16 && kThreads % 32 == 0);
  emulator::self().group->barrier(kBarrier, kThreads, true, where);
}

template <int kRegisters>
void decreaseRegisters(CLIPCID_WHERE) {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  __syncwarp(0xffffffffu, where);
}
template <int kRegisters>
void increaseRegisters(CLIPCID_WHERE) {
  decreaseRegisters<kRegisters>(where);
}

inline int clusterRank() { return static_cast<int>(emulator::self().block->rank); }
inline int clusterBlocks() { return static_cast<int>(emulator::self().group->shape().cluster); }
inline void synchroniseCluster(CLIPCID_WHERE) { emulator::synchroniseCluster(where); }

inline void initialise(Barrier* barrier, int arrivals, CLIPCID_WHERE) {
  emulator::initialiseBarrier(barrier, arrivals, where);
}
inline void publishBarriers() { emulator::publishBarriers(); }
inline void expectBytes(Barrier* barrier, int bytes, CLIPCID_WHERE) {
  emulator::expectBytes(barrier, bytes, where);
}
inline void arriveAt(Barrier* barrier, int rank, bool really, CLIPCID_WHERE) {
  if (really) emulator::arriveAt(barrier, rank, where);
}
inline void wait(Barrier* barrier, uint32_t parity, CLIPCID_WHERE) {
  emulator::waitFor(barrier, parity, where);
}

inline void prefetch(const TensorMap*) {}
inline void copyBox(void* shared, const TensorMap* map, int depth, int row, int problem, Barrier* barrier,
                    CLIPCID_WHERE) {
  emulator::copyBox(shared, map, depth, row, problem, barrier, 1u << clusterRank(), where);
}
inline void copyBoxToCluster(void* shared, const TensorMap* map, int depth, int row, int problem,
                             Barrier* barrier, uint16_t blocks, CLIPCID_WHERE) {
  emulator::copyBox(shared, map, depth, row, problem, barrier, blocks, where);
}

template <typename T, int kCount>
void beginProducts(T (&)[kCount][4], CLIPCID_WHERE) {
  __syncwarp(0xffffffffu, where);
  emulator::beginProducts();
}
inline void commitProducts(CLIPCID_WHERE) { emulator::commitProducts(where); }
template <int kPending, typename T, int kCount>
void waitProducts(T (&)[kCount][4], CLIPCID_WHERE) {
  emulator::waitProducts(kPending, where);
}
template <typename T, int kCount>
void multiplyAddAsync(T (&sums)[kCount][4], uint64_t a, uint64_t b, CLIPCID_WHERE) {
  static_assert(kCount == 16 || kCount == 32, "the widths that ptx.cuh has");
  emulator::issueProduct(&sums[0][0], 8 * kCount, a, b, where);
}

}  // namespace clipcid::cuda
