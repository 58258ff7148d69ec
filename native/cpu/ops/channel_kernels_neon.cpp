// NEON, with fused multiply-adds.
#include "cpu/ops/channel_kernels.inc"

namespace clipcid {

const ChannelKernels& neonChannelKernels() { return kChannelKernels; }

}  // namespace clipcid
