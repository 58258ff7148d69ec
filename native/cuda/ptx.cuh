// All inline PTX, behind named functions. Sections are those of "Parallel Thread Execution ISA", version 8.4 (CUDA 12.4). The
// emulated device of the tests has a model of each. What is of 9.0 alone is found by the name of its instruction, and compiled
// for 90a only (CLIPCID_SM90A).
//
// A warp's operations are called by all of its lanes at once. Addresses of shared memory are pointers here, and become
// 32-bit addresses inside.
#pragma once

#include "cuda/hopper.h"
#include "cuda/platform.cuh"
#include "cuda/tensor_map.h"

#if defined(CLIPCID_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CLIPCID_SM90A 1
#else
#define CLIPCID_SM90A 0
#endif

namespace clipcid::cuda {

// mbarrier: an object in shared memory that goes from phase to phase. A phase ends when so many threads have arrived as it was
// made for, and all bytes that were to come have come. Then the next one begins, with the same number.
struct alignas(8) Barrier {
  uint64_t state;
};

}  // namespace clipcid::cuda

#if defined(CLIPCID_EMULATED)
#include "emulator/ptx.h"
#else

namespace clipcid::cuda {

// 9.7.9.20 cvta
CLIPCID_DEVICE uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 9.7.9.21 cvt: float16 to float32, exact.
CLIPCID_DEVICE float widenHalf(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// 9.7.9.21 cvt: float32 to float16, to nearest, ties to even; infinite where it is too large.
CLIPCID_DEVICE uint16_t roundToHalf(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// 9.7.9.25.3.1 cp.async: 16 bytes from global to shared memory, both aligned to 16. What is behind the first `bytes` of them
// becomes zeros, and is not read.
CLIPCID_DEVICE void copyAsync16(void* shared, const void* global, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(sharedAddress(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}

// 9.7.9.25.3.2 cp.async.commit_group: the copies of this thread since the last one are a group.
CLIPCID_DEVICE void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// 9.7.9.25.3.3 cp.async.wait_group: waits until at most so many of this thread's groups are under way.
template <int kPending>
CLIPCID_DEVICE void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// 9.7.14.5.15 ldmatrix: four 8 x 8 matrices of 16 bits. Lane 8 i + r has the address of row r (16 bytes) of matrix i; lane
// 4 r + c gets, of each, the elements 2 c and 2 c + 1 of row r.
CLIPCID_DEVICE void loadMatrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(sharedAddress(row))
               : "memory");
}

// 9.7.14.5.14 mma: c += a b of a 16 x 16 and a 16 x 8 matrix of float16, in float32. With g = lane / 4 and t = lane % 4,
//   a[0], a[1]: rows g and g + 8, columns 2 t and 2 t + 1; a[2], a[3]: the same of columns 8 and up (9.7.14.5.8);
//   b[0], b[1]: rows 2 t and 2 t + 1, and those 8 below, of column g;
//   c[0], c[1]: row g, columns 2 t and 2 t + 1; c[2], c[3]: row g + 8.
CLIPCID_DEVICE void multiplyAdd(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 9.7.14.5.14 mma: the same of int8, 16 x 32 and 32 x 8, exact in int32 as long as it holds the sum. The registers hold four
// values where those of float16 hold two (9.7.14.5.10).
CLIPCID_DEVICE void multiplyAdd(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 9.7.14.5.15 ldmatrix with .trans: lane 4 r + c gets, of each matrix, the elements of column r in the rows 2 c and 2 c + 1.
CLIPCID_DEVICE void loadMatricesTurned(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(sharedAddress(row))
               : "memory");
}

// 9.7.9.21 cvt: two float32 to bfloat16, to nearest, ties to even; `low` lies in the lower half of the word.
CLIPCID_DEVICE uint32_t packBfloat16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// 9.7.14.5.14 mma: as multiplyAdd of float16, with bfloat16.
CLIPCID_DEVICE void multiplyAddBfloat16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 9.7.9.8 ld and 9.7.9.11 st: of what other blocks write and read meanwhile, as whole values and in no order.
CLIPCID_DEVICE int32_t loadRelaxed(const int32_t* from) {
  int32_t value;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
CLIPCID_DEVICE void storeRelaxed(int32_t* to, int32_t value) {
  asm volatile("st.relaxed.gpu.global.s32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

#if CLIPCID_SM90A

// barrier.sync: so many threads of the block, whole warps, wait for each other at a barrier of their own, 1 to 15.
template <int kBarrier, int kThreads>
CLIPCID_DEVICE void synchroniseThreads() {
  asm volatile("barrier.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

// setmaxnreg: a warpgroup gives registers back to its block, or waits until it has so many.
template <int kRegisters>
CLIPCID_DEVICE void decreaseRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
CLIPCID_DEVICE void increaseRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// %cluster_ctarank and %cluster_nctaid.x: the block's place in its cluster, and how many it has.
CLIPCID_DEVICE int clusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
CLIPCID_DEVICE int clusterBlocks() {
  uint32_t blocks;
  asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(blocks));
  return static_cast<int>(blocks);
}
// barrier.cluster: all threads of a cluster wait for each other, those excepted that have ended.
CLIPCID_DEVICE void synchroniseCluster() {
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

// mbarrier.init: for so many arrivals a phase.
CLIPCID_DEVICE void initialise(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(arrivals)
               : "memory");
}
// fence.mbarrier_init: what this thread initialised is seen by the cluster, once it has synchronised, and by TMA.
CLIPCID_DEVICE void publishBarriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// mbarrier.arrive.expect_tx: arrives, and the phase waits for so many bytes more.
CLIPCID_DEVICE void expectBytes(Barrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}
// mapa, mbarrier.arrive: arrives at the barrier of the same place in a block of the cluster; nothing where `really` is not so.
CLIPCID_DEVICE void arriveAt(Barrier* barrier, int rank, bool really) {
  asm volatile(
      "{\n\t.reg .pred really;\n\t.reg .b32 there;\n\tsetp.ne.b32 really, %2, 0;\n\t"
      "@really mapa.shared::cluster.u32 there, %0, %1;\n\t"
      "@really mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n\t}" ::"r"(
          sharedAddress(barrier)),
      "r"(rank), "r"(static_cast<int>(really))
      : "memory");
}
// mbarrier.try_wait.parity: waits until the phase of this parity, the one under way or the one before it, is over.
CLIPCID_DEVICE void wait(Barrier* barrier, uint32_t parity) {
  uint32_t over;
  do {
    asm volatile(
        "{\n\t.reg .pred over;\n\tmbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, over;\n\t}"
        : "=r"(over)
        : "r"(sharedAddress(barrier)), "r"(parity)
        : "memory");
  } while (over == 0);
}

// prefetch.tensormap
CLIPCID_DEVICE void prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// cp.async.bulk.tensor: a box of the map's matrix from byte `depth` of row `row` of a problem on; its bytes count for the
// barrier as they come. `shared` is aligned to 1,024.
CLIPCID_DEVICE void copyBox(void* shared, const TensorMap* map, int depth, int row, int problem,
                            Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, "
      "%4}], [%5];" ::"r"(sharedAddress(shared)),
      "l"(map), "r"(depth), "r"(row), "r"(problem), "r"(sharedAddress(barrier))
      : "memory");
}
// The same to the same place in each block of the cluster whose bit is set in `blocks`, and for its barrier of the same place.
CLIPCID_DEVICE void copyBoxToCluster(void* shared, const TensorMap* map, int depth, int row, int problem,
                                     Barrier* barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(sharedAddress(shared)),
      "l"(map), "r"(depth), "r"(row), "r"(problem), "r"(sharedAddress(barrier)), "h"(blocks)
      : "memory");
}

// Keeps the compiler from moving what is done with some registers over this place.
template <int kCount>
CLIPCID_DEVICE void holdRegisters(float (&values)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(values[i][j])::"memory");
  }
}
template <int kCount>
CLIPCID_DEVICE void holdRegisters(int (&values)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(values[i][j])::"memory");
  }
}

// wgmma.fence: what was written to these registers, and to shared memory by wgmma's own kind, comes before the products that
// follow.
template <typename T, int kCount>
CLIPCID_DEVICE void beginProducts(T (&sums)[kCount][4]) {
  holdRegisters(sums);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// wgmma.commit_group: the products of this warp since the last one are a group.
CLIPCID_DEVICE void commitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// wgmma.wait_group: waits until at most so many of this warp's groups are under way. Until then nobody may touch the registers
// of the others, or write to what they read.
template <int kPending, typename T, int kCount>
CLIPCID_DEVICE void waitProducts(T (&sums)[kCount][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  holdRegisters(sums);
}

// wgmma.mma_async: sums += a b of 64 rows of A and 256 or 128 rows of B in shared memory (hopper.h), 32 bytes of each. Called by
// all four warps of a warpgroup, begins when it likes. With w the warp's number in its warpgroup, g = lane / 4 and t = lane % 4,
//   sums[j][0], sums[j][1]: row 16 w + g, columns 8 j + 2 t and 8 j + 2 t + 1; sums[j][2], sums[j][3]: row 16 w + g + 8.
#define CLIPCID_OF(kind, i) kind(sums[i][0]), kind(sums[i][1]), kind(sums[i][2]), kind(sums[i][3])
#define CLIPCID_OF8(kind, i)                                                                      \
  CLIPCID_OF(kind, i), CLIPCID_OF(kind, i + 1), CLIPCID_OF(kind, i + 2), CLIPCID_OF(kind, i + 3), \
      CLIPCID_OF(kind, i + 4), CLIPCID_OF(kind, i + 5), CLIPCID_OF(kind, i + 6), CLIPCID_OF(kind, i + 7)
#define CLIPCID_OF32(kind, i) \
  CLIPCID_OF8(kind, i), CLIPCID_OF8(kind, i + 8), CLIPCID_OF8(kind, i + 16), CLIPCID_OF8(kind, i + 24)
#define CLIPCID_NAMES64                                                              \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"           \
  " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31," \
  " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47," \
  " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define CLIPCID_NAMES128                                                                         \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"                       \
  " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"             \
  " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"             \
  " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"             \
  " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"             \
  " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95,"             \
  " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111," \
  " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"
// A number that is not 0 says that the sums so far count.
#define CLIPCID_ACCUMULATE "{\n\t.reg .pred more;\n\tsetp.ne.b32 more, 1, 0;\n\t"

CLIPCID_DEVICE void multiplyAddAsync(float (&sums)[32][4], uint64_t a, uint64_t b) {
  asm volatile(CLIPCID_ACCUMULATE "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 " CLIPCID_NAMES128
                                  ", %128, %129, more, 1, 1, 0, 0;\n\t}"
               : CLIPCID_OF32("+f", 0)
               : "l"(a), "l"(b)
               : "memory");
}
CLIPCID_DEVICE void multiplyAddAsync(float (&sums)[16][4], uint64_t a, uint64_t b) {
  asm volatile(CLIPCID_ACCUMULATE "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 " CLIPCID_NAMES64
                                  ", %64, %65, more, 1, 1, 0, 0;\n\t}"
               : CLIPCID_OF8("+f", 0), CLIPCID_OF8("+f", 8)
               : "l"(a), "l"(b)
               : "memory");
}
CLIPCID_DEVICE void multiplyAddAsync(int (&sums)[32][4], uint64_t a, uint64_t b) {
  asm volatile(CLIPCID_ACCUMULATE "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 " CLIPCID_NAMES128
                                  ", %128, %129, more;\n\t}"
               : CLIPCID_OF32("+r", 0)
               : "l"(a), "l"(b)
               : "memory");
}
CLIPCID_DEVICE void multiplyAddAsync(int (&sums)[16][4], uint64_t a, uint64_t b) {
  asm volatile(CLIPCID_ACCUMULATE "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 " CLIPCID_NAMES64
                                  ", %64, %65, more;\n\t}"
               : CLIPCID_OF8("+r", 0), CLIPCID_OF8("+r", 8)
               : "l"(a), "l"(b)
               : "memory");
}

#undef CLIPCID_OF
#undef CLIPCID_OF8
#undef CLIPCID_OF32
#undef CLIPCID_NAMES64
#undef CLIPCID_NAMES128
#undef CLIPCID_ACCUMULATE

#endif  // CLIPCID_SM90A

}  // namespace clipcid::cuda

#endif

namespace clipcid::cuda {

// Packs two floats, and leaves in them what the word lacks, so that they can be a sum of some words.
CLIPCID_DEVICE uint32_t takeBfloat16(float& low, float& high) {
  const uint32_t word = packBfloat16(low, high);
  low -= __uint_as_float(word << 16);
  high -= __uint_as_float(word & 0xffff0000u);
  return word;
}

}  // namespace clipcid::cuda
