// Whatever the compiler's baseline has; no fused multiply-add is assumed.
#define CLIPCID_SIMD_PLAIN
#include "cpu/ops/conv_kernels.inc"

namespace clipcid {

const ConvKernels& plainConvKernels() { return kConvKernels; }

}  // namespace clipcid
