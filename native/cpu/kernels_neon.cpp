// NEON, with fused multiply-adds.
#include "cpu/floats_neon.inc"
#include "cpu/kernels.inc"

namespace clipcid {

const Kernels& neonKernels() { return kKernels; }

}  // namespace clipcid
