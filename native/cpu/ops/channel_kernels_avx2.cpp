// AVX2 with FMA.
#include "cpu/ops/channel_kernels.inc"

namespace clipcid {

const ChannelKernels& avx2ChannelKernels() { return kChannelKernels; }

}  // namespace clipcid
