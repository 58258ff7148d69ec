#include "cuda/launch.cuh"

namespace clipcid::cuda {
namespace {

__global__ void probe() {}

}  // namespace

bool hasKernels(int device) {
  if (!setDevice(device).ok()) return false;
  // Compiled for what all kernels are compiled for.
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(probe));
  (void)cudaGetLastError();
  return error == cudaSuccess;
}

}  // namespace clipcid::cuda
