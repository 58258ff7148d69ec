#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>
#include <fstream>

namespace clipcid {
namespace {

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  Isa best = Isa::kPlain;
  // The builtin also asks whether the operating system saves the wide registers.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::kAvx2;
  if (best == Isa::kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    best = Isa::kAvx512;
  }
  const char* forced = std::getenv("CLIP_CID_SIMD");
  if (forced != nullptr) {
    if (std::strcmp(forced, "plain") == 0) return Isa::kPlain;
    if (std::strcmp(forced, "avx2") == 0 && best == Isa::kAvx512) return Isa::kAvx2;
  }
  return best;
#else
  return Isa::kPlain;
#endif
}

}  // namespace

Isa isa() {
  static const Isa chosen = detect();
  return chosen;
}

const char* isaName() {
  switch (isa()) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
#if defined(__aarch64__)
      return "neon";
#else
      return "plain";
#endif
  }
}

std::string cpuName() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(':');
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos)
      return line.substr(line.find_first_not_of(" \t", colon + 1));
  }
  return "CPU";
}

}  // namespace clipcid
