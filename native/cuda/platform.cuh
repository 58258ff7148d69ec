// CUDA's language: the compiler's, or the emulated device's of the tests.
#pragma once

#if defined(CLIPCID_EMULATED)
#include "emulator/device.h"
#else
#include <cuda_runtime.h>
#endif

#include <cmath>
#include <cstdint>

#define CLIPCID_DEVICE __device__ __forceinline__
// Index arithmetic that tests call on the host.
#define CLIPCID_BOTH __host__ __device__ __forceinline__

namespace clipcid::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The block's shared memory, as large as its launch said; aligned to 1,024 bytes.
CLIPCID_DEVICE char* sharedMemory() {
#if defined(CLIPCID_EMULATED)
  return emulator::self().block->shared;
#else
  extern __shared__ __align__(1024) char clipcidShared[];
  return clipcidShared;
#endif
}

// Some words that are loaded and stored at once.
struct alignas(8) Words2 {
  uint32_t x, y;
};
struct alignas(16) Words4 {
  uint32_t x, y, z, w;
};
struct alignas(8) Floats2 {
  float x, y;
};
struct alignas(16) Floats4 {
  float x, y, z, w;
};

}  // namespace clipcid::cuda
