// AVX2 with FMA.
#include "cpu/floats_avx2.inc"
#include "cpu/kernels.inc"

namespace clipcid {

const Kernels& avx2Kernels() { return kKernels; }

}  // namespace clipcid
