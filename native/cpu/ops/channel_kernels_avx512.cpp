// AVX-512 F, DQ, BW and VL.
#include "cpu/ops/channel_kernels.inc"

namespace clipcid {

const ChannelKernels& avx512ChannelKernels() { return kChannelKernels; }

}  // namespace clipcid
