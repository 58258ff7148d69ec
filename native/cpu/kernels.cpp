#include "cpu/kernels.h"

#include "cpu/isa.h"

namespace clipcid {

const Kernels& kernels() {
#if defined(__x86_64__)
  switch (isa()) {
    case Isa::kAvx512:
      return avx512Kernels();
    case Isa::kAvx2:
      return avx2Kernels();
    default:
      break;
  }
#endif
  return plainKernels();
}

}  // namespace clipcid
