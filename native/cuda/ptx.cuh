// All inline PTX, behind named functions. Sections are those of "Parallel Thread Execution ISA", version 8.4 (CUDA 12.4). The
// emulated device of the tests has a model of each.
//
// A warp's operations are called by all of its lanes at once. Addresses of shared memory are pointers here, and become
// 32-bit addresses inside.
#pragma once

#include "cuda/platform.cuh"

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

// 9.7.9.8 ld and 9.7.9.11 st: of what other blocks write and read meanwhile, as whole values and in no order.
CLIPCID_DEVICE int32_t loadRelaxed(const int32_t* from) {
  int32_t value;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
CLIPCID_DEVICE void storeRelaxed(int32_t* to, int32_t value) {
  asm volatile("st.relaxed.gpu.global.s32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

}  // namespace clipcid::cuda

#endif
