#include "cpu/kernels.h"

namespace clipcid {

Kernels kernelsOf(Isa level) {
  Kernels table = plainKernels();
#if defined(__x86_64__)
  if (level >= Isa::kAvx2) table = avx2Kernels();
  if (level == Isa::kAvx2Vnni) {
    table.int8 = &avx2VnniInt8();
    table.int16 = &avx2VnniInt16();
  }
  if (level >= Isa::kAvx512) table = avx512Kernels();
  if (level >= Isa::kAvx512Vnni) {
    table.int8 = &avx512Int8();
    table.int16 = &avx512Int16();
    if (wantsBfloat16()) table.bfloat16 = &avx512Bfloat16();
  }
  if (level == Isa::kAmx) {
    table.int8 = &amxInt8();
    table.bfloat16 = &amxBfloat16();
  }
#elif defined(__aarch64__)
  if (level >= Isa::kNeon) table = neonKernels();
  if (level == Isa::kNeonDotprod) {
    table.int8 = &neonInt8();
    if (wantsBfloat16()) table.bfloat16 = &neonBfloat16();
  }
#else
  (void)level;
#endif
  return table;
}

const Kernels& kernels() {
  static const Kernels chosen = kernelsOf(isa());
  return chosen;
}

}  // namespace clipcid
