#include "cpu/ops/conv_kernels.h"

#include "cpu/isa.h"

namespace clipcid {

const ConvKernels& convKernels() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512ConvKernels();
  if (isa() >= Isa::kAvx2) return avx2ConvKernels();
#elif defined(__aarch64__)
  if (isa() >= Isa::kNeon) return neonConvKernels();
#endif
  return plainConvKernels();
}

}  // namespace clipcid
