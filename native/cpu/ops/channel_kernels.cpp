#include "cpu/ops/channel_kernels.h"

#include "cpu/isa.h"

namespace clipcid {

const ChannelKernels& channelKernels() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512ChannelKernels();
  if (isa() >= Isa::kAvx2) return avx2ChannelKernels();
#elif defined(__aarch64__)
  if (isa() >= Isa::kNeon) return neonChannelKernels();
#endif
  return plainChannelKernels();
}

}  // namespace clipcid
