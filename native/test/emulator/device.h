// The part of CUDA's language that kernels use, for the host's compiler. Names are CUDA's.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>

#include "emulator/engine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (::clipcid::emulator::self().index)
#define blockIdx (::clipcid::emulator::self().block->index)
#define blockDim (::clipcid::emulator::self().block->size)
#define gridDim (::clipcid::emulator::self().block->count)

namespace clipcid::emulator {

// Atomic operations are where another thread may come between.
void interleave();

template <typename T>
struct Passed {
  T value;
  int from;  // lane that it is taken from
  T result;
};

template <typename T>
T shuffle(uint32_t mask, T value, int from, const char* name, const std::source_location& where) {
  Passed<T> mine{value, from, value};
  struct Kind;
  together<Kind>(mask, &mine, name, where, [&](const std::array<Passed<T>*, kWarp>& lanes) {
    for (Passed<T>* lane : lanes) {
      if (lane == nullptr) continue;
      const Passed<T>* source = lanes[static_cast<size_t>(lane->from)];
      if (source == nullptr) fault(std::string(name) + " from a lane that is not in the mask", where);
      lane->result = source->value;
    }
  });
  return mine.result;
}

// The lane within a segment of `width` lanes, or the own one where that is outside.
inline int within(int lane, int other, int width) {
  return other >= (lane & ~(width - 1)) && other < (lane & ~(width - 1)) + width ? other : lane;
}

template <typename T, typename Combine>
T reduce(uint32_t mask, T value, Combine combine, const char* name, const std::source_location& where) {
  T mine = value;
  struct Kind;
  together<Kind>(mask, &mine, name, where, [&](const std::array<T*, kWarp>& lanes) {
    bool first = true;
    T all{};
    for (const T* lane : lanes) {
      if (lane == nullptr) continue;
      all = first ? *lane : combine(all, *lane);
      first = false;
    }
    for (T* lane : lanes) {
      if (lane != nullptr) *lane = all;
    }
  });
  return mine;
}

struct Voted {
  bool value;
  uint32_t result;
};

inline uint32_t vote(uint32_t mask, bool value, const char* name, const std::source_location& where) {
  Voted mine{value, 0};
  struct Kind;
  together<Kind>(mask, &mine, name, where, [&](const std::array<Voted*, kWarp>& lanes) {
    uint32_t all = 0;
    for (int lane = 0; lane < kWarp; ++lane) {
      const Voted* one = lanes[static_cast<size_t>(lane)];
      if (one != nullptr && one->value) all |= 1u << lane;
    }
    for (Voted* lane : lanes) {
      if (lane != nullptr) lane->result = all;
    }
  });
  return mine.result;
}

}  // namespace clipcid::emulator

#define CLIPCID_WHERE const std::source_location& where = std::source_location::current()

inline void __syncthreads(CLIPCID_WHERE) { clipcid::emulator::self().group->barrier(0, 0, true, where); }

inline void __syncwarp(uint32_t mask = 0xffffffffu, CLIPCID_WHERE) {
  char nothing = 0;
  struct Kind;
  clipcid::emulator::together<Kind>(mask, &nothing, "__syncwarp", where, [](const auto&) {});
}

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, CLIPCID_WHERE) {
  const int lane = clipcid::emulator::self().lane;
  return clipcid::emulator::shuffle(mask, value, (lane & ~(width - 1)) + (source & (width - 1)),
                                    "__shfl_sync", where);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int with, int width = 32, CLIPCID_WHERE) {
  const int lane = clipcid::emulator::self().lane;
  return clipcid::emulator::shuffle(mask, value, clipcid::emulator::within(lane, lane ^ with, width),
                                    "__shfl_xor_sync", where);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned by, int width = 32, CLIPCID_WHERE) {
  const int lane = clipcid::emulator::self().lane;
  return clipcid::emulator::shuffle(mask, value,
                                    clipcid::emulator::within(lane, lane + static_cast<int>(by), width),
                                    "__shfl_down_sync", where);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned by, int width = 32, CLIPCID_WHERE) {
  const int lane = clipcid::emulator::self().lane;
  return clipcid::emulator::shuffle(mask, value,
                                    clipcid::emulator::within(lane, lane - static_cast<int>(by), width),
                                    "__shfl_up_sync", where);
}

inline unsigned __ballot_sync(uint32_t mask, int value, CLIPCID_WHERE) {
  return clipcid::emulator::vote(mask, value != 0, "__ballot_sync", where);
}
inline int __any_sync(uint32_t mask, int value, CLIPCID_WHERE) {
  return clipcid::emulator::vote(mask, value != 0, "__any_sync", where) != 0;
}
inline int __all_sync(uint32_t mask, int value, CLIPCID_WHERE) {
  return clipcid::emulator::vote(mask, value != 0, "__all_sync", where) == mask;
}
inline unsigned __activemask() = delete;  // depends on how a warp happens to be split

inline unsigned __reduce_add_sync(uint32_t mask, unsigned value, CLIPCID_WHERE) {
  return clipcid::emulator::reduce(
      mask, value, [](unsigned a, unsigned b) { return a + b; }, "__reduce_add_sync", where);
}
inline int __reduce_add_sync(uint32_t mask, int value, CLIPCID_WHERE) {
  return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value), where));
}
inline int __reduce_max_sync(uint32_t mask, int value, CLIPCID_WHERE) {
  return clipcid::emulator::reduce(
      mask, value, [](int a, int b) { return a > b ? a : b; }, "__reduce_max_sync", where);
}
inline int __reduce_min_sync(uint32_t mask, int value, CLIPCID_WHERE) {
  return clipcid::emulator::reduce(
      mask, value, [](int a, int b) { return a < b ? a : b; }, "__reduce_min_sync", where);
}
inline unsigned __reduce_or_sync(uint32_t mask, unsigned value, CLIPCID_WHERE) {
  return clipcid::emulator::reduce(
      mask, value, [](unsigned a, unsigned b) { return a | b; }, "__reduce_or_sync", where);
}

template <typename T>
unsigned __match_any_sync(uint32_t mask, T value, CLIPCID_WHERE) {
  struct One {
    T value;
    unsigned result;
  } mine{value, 0};
  clipcid::emulator::together<One>(mask, &mine, "__match_any_sync", where, [](const auto& lanes) {
    for (One* lane : lanes) {
      if (lane == nullptr) continue;
      for (int other = 0; other < 32; ++other) {
        const One* one = lanes[static_cast<size_t>(other)];
        if (one != nullptr && one->value == lane->value) lane->result |= 1u << other;
      }
    }
  });
  return mine.result;
}

inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { __threadfence(); }

template <typename T>
T atomicAdd(T* at, T value) {
  static_assert(sizeof(T) >= 4 && !std::is_floating_point_v<T>,
                "sums of floating point depend on their order");
  clipcid::emulator::interleave();
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
template <typename T>
T atomicOr(T* at, T value) {
  clipcid::emulator::interleave();
  return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
template <typename T>
T atomicExch(T* at, T value) {
  clipcid::emulator::interleave();
  return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}
template <typename T>
T atomicCAS(T* at, T expected, T value) {
  clipcid::emulator::interleave();
  __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
template <typename T>
T atomicMax(T* at, T value) {
  clipcid::emulator::interleave();
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (old < value &&
         !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <typename T>
T atomicMin(T* at, T value) {
  clipcid::emulator::interleave();
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (old > value &&
         !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

template <typename T>
T __ldg(const T* at) {
  return *at;
}

inline int __popc(unsigned value) { return std::popcount(value); }
inline int __ffs(int value) { return value == 0 ? 0 : std::countr_zero(static_cast<unsigned>(value)) + 1; }
inline int __ffsll(long long value) {
  return value == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(value)) + 1;
}
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __int_as_float(int value) { return std::bit_cast<float>(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long value) { return std::bit_cast<double>(value); }
inline float __frcp_rn(float value) { return 1 / value; }
inline float rsqrtf(float value) { return 1 / std::sqrt(value); }
// Rounded towards one side: from a sum or product in float64 that is exact, or good enough to tell.
inline float __double2float_ru(double value) {
  const auto near = static_cast<float>(value);
  return static_cast<double>(near) < value ? std::nextafterf(near, INFINITY) : near;
}
inline float __double2float_rd(double value) {
  const auto near = static_cast<float>(value);
  return static_cast<double>(near) > value ? std::nextafterf(near, -INFINITY) : near;
}
