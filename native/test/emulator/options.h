// How the emulated device behaves. Whatever is set here, a right kernel gives the same results.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace clipcid::emulator {

// When asynchronous operations (cp.async, TMA, wgmma; work on streams) take effect: as soon as they are issued, or not
// before somebody waits for them. A missing wait shows in one, a buffer reused too early in the other.
enum class When : uint8_t { kEager, kLazy };

// Sums of tensor cores: exact sums rounded once; products aligned and truncated as an A100 does it; or as far off, to
// one side or the other, as the bounds of the filters allow for.
enum class Rounding : uint8_t { kExact, kTruncated, kWorst };

struct DeviceModel {
  std::string name = "Emulated GPU";
  int major = 8, minor = 0;
  size_t memory = size_t{1} << 30;
  int multiprocessors = 3;  // few, so that persistent kernels come round
  // False: the device is found, but there are no kernels for it.
  bool kernels = true;
};

struct Options {
  When async = When::kEager;
  When streams = When::kEager;
  Rounding rounding = Rounding::kExact;
  // Order in which warps, lanes and blocks run, and what fresh memory holds; 0: ascending.
  uint64_t seed = 0;
  int threads = 2;  // of the host, that blocks are spread over
  std::vector<DeviceModel> devices = {DeviceModel{}};
  // Of the driver: a CUDA version such as 13000; 0 for none.
  int driver = 13000;
};

// Those of the process; to be changed while nothing runs. They start as the environment variable CLIP_CID_EMULATOR says:
// "device=sm_86,memory=268435456,multiprocessors=4,async=lazy,streams=lazy,rounding=worst,seed=7,threads=2".
Options& options();

// A device as of an architecture that kernels are written for: 80, 86, 89, 90, 100 or 120.
DeviceModel deviceOf(int architecture);

}  // namespace clipcid::emulator
