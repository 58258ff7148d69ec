// AVX-512 F, DQ, BW and VL.
#include "cpu/ops/conv_kernels.inc"

namespace clipcid {

const ConvKernels& avx512ConvKernels() { return kConvKernels; }

}  // namespace clipcid
