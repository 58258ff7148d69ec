// Arithmetic of the sm_90 mainloop, for the device and for tests on the host.
#pragma once

#include <cstdint>

#include "cuda/schedule.h"

namespace clipcid::cuda {

// What wgmma is told of a matrix in shared memory ("Matrix Descriptor" of wgmma in the PTX ISA). Rows of 128 bytes along the
// depth ("K-major") in the 128-byte swizzle; eight of them are an atom of 1,024 bytes, which begins at a multiple of 1,024.
//   bits  0 to 13: the address, in 16 bytes; one inside an atom's first row is that of a later part of the depth
//   bits 16 to 29: distance of atoms along the depth, in 16 bytes; not used in this layout, 1
//   bits 32 to 45: distance of atoms along the rows, in 16 bytes: they follow each other
//   bits 49 to 51: place of the atom's begin among the multiples of 128 of 1,024: 0
//   bits 62 to 63: 1, the 128-byte swizzle
constexpr uint32_t kAtomBytes = 1024;
CLIPCID_ANYWHERE constexpr uint64_t matrixDescriptor(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | uint64_t{1} << 16 |
         static_cast<uint64_t>(kAtomBytes >> 4) << 32 | uint64_t{1} << 62;
}
// The same matrix from `bytes` of the depth on; less than 128 of them.
CLIPCID_ANYWHERE constexpr uint64_t deeper(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}
// Bytes of a row that a wgmma multiplies: 16 float16 or 32 int8.
constexpr uint32_t kProductBytes = 32;

// A place in a ring of stages, with the parity of the phase of its barriers: 0 the first time round, then 1, and so on.
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  CLIPCID_ANYWHERE void advance(int stages) {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

}  // namespace clipcid::cuda
