#include "cuda/devices.h"

#include <cuda_runtime_api.h>

namespace clipcid {
namespace {

std::string versionText(int version) {
  return std::to_string(version / 1000) + '.' + std::to_string(version % 1000 / 10);
}

std::string whyNone(cudaError_t error) {
  int driver = 0;
  // 0 when there is no driver at all.
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  (void)cudaGetLastError();
  if (driver == 0) return "No NVIDIA driver is installed";
  if (error == cudaErrorInsufficientDriver) {
    return "The NVIDIA driver is too old: it supports CUDA " + versionText(driver) +
           ", this build needs CUDA " + versionText(CUDART_VERSION) + " or newer";
  }
  if (error == cudaSuccess || error == cudaErrorNoDevice) return "The NVIDIA driver finds no CUDA device";
  return std::string("CUDA does not start: ") + cudaGetErrorString(error);
}

}  // namespace

CudaDevices cudaDevices() {
  CudaDevices result;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  // A failed call leaves its error behind for the next one that asks.
  (void)cudaGetLastError();
  if (error != cudaSuccess || count == 0) {
    result.reason = whyNone(error);
    return result;
  }
  for (int index = 0; index < count; ++index) {
    CudaDevice device;
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, index) == cudaSuccess) {
      device.name = properties.name;
      device.memory = properties.totalGlobalMem;
      device.major = properties.major;
      device.minor = properties.minor;
      device.reason =
          "This version of clip-cid finds CUDA devices but has no kernels for them yet; use the device 'cpu'";
    } else {
      (void)cudaGetLastError();
      device.name = "CUDA device " + std::to_string(index);
      device.reason = "The device does not answer";
    }
    result.devices.push_back(std::move(device));
  }
  return result;
}

}  // namespace clipcid
