// NEON, with fused multiply-adds.
#include "cpu/ops/conv_kernels.inc"

namespace clipcid {

const ConvKernels& neonConvKernels() { return kConvKernels; }

}  // namespace clipcid
