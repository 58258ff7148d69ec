// Whatever the compiler's baseline has: SSE2 on x86-64, NEON on AArch64. No fused multiply-add is assumed.
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
  static Type max(Type a, Type b) { return a > b ? a : b; }
  static Type min(Type a, Type b) { return a < b ? a : b; }
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
  static unsigned mask(const float* p, float low) {
    unsigned bits = 0;
    for (int i = 0; i < 16; ++i) bits |= static_cast<unsigned>(!(p[i] < low)) << i;
    return bits;
  }
};

}  // namespace

#include "cpu/kernels.inc"

namespace clipcid {

const Kernels& plainKernels() { return kKernels; }

}  // namespace clipcid
