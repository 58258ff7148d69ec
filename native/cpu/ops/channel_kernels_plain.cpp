// Whatever the compiler's baseline has; no fused multiply-add is assumed.
#define CLIPCID_SIMD_PLAIN
#include "cpu/ops/channel_kernels.inc"

namespace clipcid {

const ChannelKernels& plainChannelKernels() { return kChannelKernels; }

}  // namespace clipcid
