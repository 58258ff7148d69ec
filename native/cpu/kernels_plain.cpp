// Whatever the compiler's baseline has: SSE2 on x86-64, NEON on AArch64. No fused multiply-add is assumed.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "clipcid/canonical.h"

namespace {

struct Vec {
  typedef float Type __attribute__((vector_size(16)));
  using Sum = Type;
  using Vector = Type;
  using Element = float;
  static constexpr int width = 4, rows = 4, columns = 4;
  static constexpr double speed = 4;
  static Type zero() { return Type{}; }
  static Type load(const float* p) {
    Type value;
    memcpy(&value, p, sizeof value);
    return value;
  }
  static Type broadcast(const float* p) { return Type{*p, *p, *p, *p}; }
  static Type add(Type a, Type b, Type c) { return a * b + c; }
  static void store(float* p, Type value) { memcpy(p, &value, sizeof value); }
  struct Below {
    typedef int32_t Bits __attribute__((vector_size(16)));
    explicit Below(float limit) : limit{limit, limit, limit, limit} {}
    void also(Type value) { below &= value < limit; }
    bool all() const { return (below[0] & below[1] & below[2] & below[3]) != 0; }
    Type limit;
    Bits below = {-1, -1, -1, -1};
  };
  typedef double Doubles __attribute__((vector_size(16)));
  static constexpr int lanes = 2, dotsAtOnce = 1;
  static Doubles widen(const float* p) { return Doubles{p[0], p[1]}; }
  static Doubles addProduct(Doubles a, Doubles b, Doubles sum) { return a * b + sum; }
  static double fold(double* p) { return clipcid::foldLanes(p); }
  static void addFixed(const float* x, double weight, double scale, int64_t sign, int64_t* sums) {
    for (int i = 0; i < lanes; ++i) {
      sums[i] += sign * clipcid::toFixed(static_cast<double>(x[i]) * weight, scale);
    }
  }
  static void storeBytes(int8_t* to, const Type (&values)[4]) {
    for (int i = 0; i < 16; ++i) {
      const float value = values[i / width][i % width];
      const float least = value > -128 ? value : -128;
      to[i] = static_cast<int8_t>(static_cast<int>(std::nearbyint(least < 127 ? least : 127)));
    }
  }
  static Type least(Type a, Type b) { return b < a ? b : a; }
  static uint64_t notOver64(const int8_t* values, const uint8_t* limits, uint8_t more) {
    uint64_t bits = 0;
    for (int i = 0; i < 64; ++i) bits |= static_cast<uint64_t>(values[i] + 128 <= limits[i] + more) << i;
    return bits;
  }
  static unsigned notBelow(Type value, Type low) {
    unsigned bits = 0;
    for (int i = 0; i < width; ++i) bits |= static_cast<unsigned>(!(value[i] < low[i])) << i;
    return bits;
  }
};

}  // namespace

#include "cpu/kernels.inc"

namespace clipcid {

const Kernels& plainKernels() { return kKernels; }

}  // namespace clipcid
