#include "cpu/ops/simd.h"

#include "cpu/isa.h"

namespace clipcid {

const Simd& simd() {
#if defined(__x86_64__)
  static const Simd& chosen =
      isa() >= Isa::kAvx512 ? avx512Simd() : (isa() >= Isa::kAvx2 ? avx2Simd() : plainSimd());
#elif defined(__aarch64__)
  static const Simd& chosen = isa() >= Isa::kNeon ? neonSimd() : plainSimd();
#else
  static const Simd& chosen = plainSimd();
#endif
  return chosen;
}

}  // namespace clipcid
