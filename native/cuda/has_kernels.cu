#include "cuda/launch.cuh"

namespace clipcid::cuda {
namespace {

__global__ void probe() {}

// Compiled for what all kernels are compiled for.
bool probed(int device, cudaFuncAttributes* attributes) {
  if (!setDevice(device).ok()) return false;
  const cudaError_t error = cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(probe));
  (void)cudaGetLastError();
  return error == cudaSuccess;
}

}  // namespace

bool hasKernels(int device) {
  cudaFuncAttributes attributes;
  return probed(device, &attributes);
}

bool hasSm90Kernels(int device) {
  cudaFuncAttributes attributes;
  // Not where the driver made do with what was compiled for 8.0.
  return CLIPCID_SM90_KERNELS != 0 && probed(device, &attributes) && attributes.ptxVersion == 90;
}

}  // namespace clipcid::cuda
