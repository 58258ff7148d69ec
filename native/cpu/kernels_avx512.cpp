// AVX-512 F, DQ, BW and VL.
#include "cpu/floats_avx512.inc"
#include "cpu/kernels.inc"

namespace clipcid {

const Kernels& avx512Kernels() { return kKernels; }

}  // namespace clipcid
