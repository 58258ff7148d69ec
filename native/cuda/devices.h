// What CUDA sees of this machine. Works without a driver, and in a build without CUDA.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "clipcid/backend.h"

namespace clipcid {

struct CudaDevice {
  std::string name;
  size_t memory = 0;
  int major = 0, minor = 0;
  bool usable = false;
  std::string reason;  // why it is not usable
};

struct CudaDevices {
  std::vector<CudaDevice> devices;
  std::string reason;  // why there are none
};

CudaDevices cudaDevices();

// The back end of a CUDA device, one a device and process. Null, with the reason in `status`, when it is not usable.
Backend* cudaBackend(int index, Status* status);

}  // namespace clipcid
