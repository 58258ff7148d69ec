// AVX2 with FMA.
#include "cpu/ops/conv_kernels.inc"

namespace clipcid {

const ConvKernels& avx2ConvKernels() { return kConvKernels; }

}  // namespace clipcid
