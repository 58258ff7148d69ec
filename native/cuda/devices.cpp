#include "cuda/devices.h"

#include "cuda/runtime.h"

namespace clipcid {
namespace {

// Whether all primitives have kernels; the emulated device of the tests is used for those there are.
#if defined(CLIPCID_EMULATED)
constexpr bool kComplete = true;
#else
constexpr bool kComplete = false;
#endif

std::string versionText(int version) {
  return std::to_string(version / 1000) + '.' + std::to_string(version % 1000 / 10);
}

// The first branch of drivers for a generation of CUDA.
std::string branchText(int version) {
  const int major = version / 1000;
  return major == 12 ? " (driver 525 or newer)" : major == 13 ? " (driver 580 or newer)" : "";
}

std::string whyNone(const cuda::Driver& driver) {
  using Trouble = cuda::Driver::Trouble;
  switch (driver.trouble) {
    case Trouble::kNoDriver:
      return "No NVIDIA driver is installed";
    case Trouble::kTooOld:
      return "The NVIDIA driver is too old: it supports CUDA " + versionText(driver.version) +
             ", this build needs CUDA " + std::to_string(cuda::compiledVersion() / 1000) + ".0 or newer" +
             branchText(cuda::compiledVersion());
    case Trouble::kOther:
      return "CUDA does not start: " + driver.text;
    default:
      return "The NVIDIA driver finds no CUDA device";
  }
}

}  // namespace

CudaDevices cudaDevices() {
  CudaDevices result;
  const cuda::Driver driver = cuda::driver();
  if (driver.devices == 0) {
    result.reason = whyNone(driver);
    return result;
  }
  for (int index = 0; index < driver.devices; ++index) {
    CudaDevice device;
    cuda::DeviceProperties properties;
    if (const Status status = cuda::deviceProperties(index, &properties); !status.ok()) {
      device.name = "CUDA device " + std::to_string(index);
      device.reason = "It does not answer: " + status.message;
    } else {
      device.name = properties.name;
      device.memory = properties.memory;
      device.major = properties.major;
      device.minor = properties.minor;
      if (properties.major < 8) {
        device.reason = "The kernels need compute capability 8.0 (Ampere) or newer, and it has " +
                        std::to_string(properties.major) + '.' + std::to_string(properties.minor);
      } else if (!cuda::hasKernels(index)) {
        device.reason = "This build has no kernels for compute capability " +
                        std::to_string(properties.major) + '.' + std::to_string(properties.minor);
      } else if (!kComplete) {
        device.reason =
            "This version of clip-cid finds CUDA devices but has no kernels for most of its work; use the "
            "device 'cpu'";
      } else {
        device.usable = true;
      }
    }
    result.devices.push_back(std::move(device));
  }
  return result;
}

}  // namespace clipcid
