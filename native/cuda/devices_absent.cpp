#include "cuda/devices.h"

namespace clipcid {

CudaDevices cudaDevices() {
  return {{}, "This build of clip-cid has no CUDA in it: no CUDA toolkit was found when it was compiled"};
}

Backend* cudaBackend(int, Status* status) {
  *status = {Code::kDeviceUnavailable, cudaDevices().reason};
  return nullptr;
}

}  // namespace clipcid
