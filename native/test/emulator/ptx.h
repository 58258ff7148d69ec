// Models of the functions of cuda/ptx.cuh.
#pragma once

#include "clipcid/canonical.h"
#include "emulator/device.h"
#include "emulator/hopper.h"
#include "emulator/tensor_core.h"

namespace clipcid::emulator {

void issueCopy(void* to, const void* from, uint32_t bytes, uint32_t filled,
               const std::source_location& where);
void commitCopies();
void waitCopies(size_t pending);
// Whether so many bytes of the block's shared memory begin here.
void requireShared(const void* at, size_t bytes, size_t alignment, const char* what,
                   const std::source_location& where);

}  // namespace clipcid::emulator

namespace clipcid::cuda {

inline float widenHalf(uint16_t bits) { return widenFloat16(bits); }

uint16_t roundToHalf(float value);

inline void copyAsync16(void* shared, const void* global, int bytes = 16, CLIPCID_WHERE) {
  emulator::issueCopy(shared, global, static_cast<uint32_t>(bytes), 16, where);
}

inline void commitCopies() { emulator::commitCopies(); }

template <int kPending>
void waitCopies() {
  emulator::waitCopies(kPending);
}

inline void loadMatrices(uint32_t (&out)[4], const void* row, CLIPCID_WHERE) {
  struct One {
    const void* row;
    uint32_t* out;
  } mine{row, out};
  emulator::requireShared(row, 16, 16, "a row of ldmatrix", where);
  emulator::together<One>(emulator::kWholeWarp, &mine, "ldmatrix", where, [](const auto& lanes) {
    for (size_t matrix = 0; matrix < 4; ++matrix) {
      for (size_t lane = 0; lane < 32; ++lane) {
        const void* from = lanes[8 * matrix + lane / 4]->row;
        memcpy(&lanes[lane]->out[matrix], static_cast<const char*>(from) + lane % 4 * 4, 4);
      }
    }
  });
}

inline void loadMatricesTurned(uint32_t (&out)[4], const void* row, CLIPCID_WHERE) {
  struct One {
    const void* row;
    uint32_t* out;
  } mine{row, out};
  emulator::requireShared(row, 16, 16, "a row of ldmatrix", where);
  emulator::together<One>(emulator::kWholeWarp, &mine, "ldmatrix", where, [](const auto& lanes) {
    for (size_t matrix = 0; matrix < 4; ++matrix) {
      for (size_t lane = 0; lane < 32; ++lane) {
        uint16_t halves[2];
        for (size_t e = 0; e < 2; ++e) {
          const void* from = lanes[8 * matrix + lane % 4 * 2 + e]->row;
          memcpy(&halves[e], static_cast<const char*>(from) + lane / 4 * 2, 2);
        }
        memcpy(&lanes[lane]->out[matrix], halves, 4);
      }
    }
  });
}

inline uint32_t packBfloat16(float low, float high) {
  const auto round = [](float value) -> uint32_t {
    const auto bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  };
  return round(high) << 16 | round(low);
}

inline void multiplyAddBfloat16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                CLIPCID_WHERE) {
  emulator::Multiply<float> mine{c, a, b};
  struct Kind;
  emulator::together<Kind>(emulator::kWholeWarp, &mine, "mma", where,
                           [](const auto& lanes) { emulator::multiplyBfloat16(lanes); });
}

inline int32_t loadRelaxed(const int32_t* from) {
  emulator::interleave();
  return __atomic_load_n(from, __ATOMIC_RELAXED);
}
inline void storeRelaxed(int32_t* to, int32_t value) { __atomic_store_n(to, value, __ATOMIC_RELAXED); }

template <typename T>
void multiplyAdd(T (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CLIPCID_WHERE) {
  emulator::Multiply<T> mine{c, a, b};
  emulator::together<T>(emulator::kWholeWarp, &mine, "mma", where,
                        [](const auto& lanes) { emulator::multiply(lanes); });
}

}  // namespace clipcid::cuda
