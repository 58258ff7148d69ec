#include "cpu/softmax_loss_rows.h"

#include "cpu/isa.h"

namespace clipcid {

const SoftmaxRows& softmaxRows() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512SoftmaxRows();
  if (isa() >= Isa::kAvx2) return avx2SoftmaxRows();
#endif
  return plainSoftmaxRows();
}

}  // namespace clipcid
