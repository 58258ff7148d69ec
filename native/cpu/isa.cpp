#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace clipcid {
namespace {

constexpr const char* kNames[] = {"plain",       "avx2", "avx2-vnni", "avx512",
                                  "avx512-vnni", "amx",  "neon",      "neon-dotprod"};
constexpr int kCount = sizeof kNames / sizeof kNames[0];

#if defined(__x86_64__)

struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
  Leaf(unsigned leaf, unsigned part) { __get_cpuid_count(leaf, part, &a, &b, &c, &d); }
};

bool hasAmx() {
#if defined(__linux__)
  const unsigned needed = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
  if ((Leaf(7, 0).d & needed) != needed) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has(Isa level) {
  __builtin_cpu_init();
  // The builtin also asks whether the operating system saves the wide registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const bool avx512Vnni = avx512 && (Leaf(7, 0).c >> 11 & 1) != 0;
  switch (level) {
    case Isa::kPlain:
      return true;
    case Isa::kAvx2:
      return avx2;
    case Isa::kAvx2Vnni:
      return avx2 && (Leaf(7, 1).a >> 4 & 1) != 0;
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx512Vnni:
      return avx512Vnni;
    case Isa::kAmx:
      return avx512Vnni && hasAmx();
    default:
      return false;
  }
}

#elif defined(__aarch64__)

bool has(Isa level) {
  switch (level) {
    case Isa::kPlain:
    case Isa::kNeon:
      return true;
    case Isa::kNeonDotprod:
#if defined(__linux__)
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
      return true;  // every processor of theirs since the first
#else
      return false;
#endif
    default:
      return false;
  }
}

#else

bool has(Isa level) { return level == Isa::kPlain; }

#endif

// The best of this machine up to a level. A level of another architecture stands for nothing above plain.
Isa bestUpTo(Isa level) {
#if defined(__aarch64__)
  constexpr bool kArm = true;
#else
  constexpr bool kArm = false;
#endif
  if ((level >= Isa::kNeon) != kArm) return Isa::kPlain;
  for (int at = static_cast<int>(level); at > 0; --at) {
    if (has(static_cast<Isa>(at))) return static_cast<Isa>(at);
  }
  return Isa::kPlain;
}

int find(const char* name) {
  for (int at = 0; name != nullptr && at < kCount; ++at) {
    if (std::strcmp(name, kNames[at]) == 0) return at;
  }
  return -1;
}

Isa best() {
#if defined(__aarch64__)
  return bestUpTo(Isa::kNeonDotprod);
#else
  return bestUpTo(Isa::kAmx);
#endif
}

std::mutex choosing;
std::atomic<int> chosen{-1};

}  // namespace

std::vector<Isa> isasHere() {
  std::vector<Isa> levels;
  for (int at = 0; at < kCount; ++at) {
    if (has(static_cast<Isa>(at))) levels.push_back(static_cast<Isa>(at));
  }
  return levels;
}

Isa isa() {
  int level = chosen.load(std::memory_order_acquire);
  if (level >= 0) return static_cast<Isa>(level);
  std::lock_guard<std::mutex> lock(choosing);
  level = chosen.load(std::memory_order_relaxed);
  if (level >= 0) return static_cast<Isa>(level);
  const int forced = find(std::getenv("CLIP_CID_SIMD"));
  level = static_cast<int>(forced < 0 ? best() : bestUpTo(static_cast<Isa>(forced)));
  chosen.store(level, std::memory_order_release);
  return static_cast<Isa>(level);
}

bool chooseIsa(const char* name) {
  const int wanted = find(name);
  if (wanted < 0) return false;
  std::lock_guard<std::mutex> lock(choosing);
  const int before = chosen.load(std::memory_order_relaxed);
  const int level = static_cast<int>(bestUpTo(static_cast<Isa>(wanted)));
  if (before >= 0) return before == level;
  chosen.store(level, std::memory_order_release);
  return true;
}

const char* isaName(Isa level) { return kNames[static_cast<int>(level)]; }

bool hasBfloat16() {
#if defined(__x86_64__)
  return (Leaf(7, 1).a >> 5 & 1) != 0;
#elif defined(__linux__) && defined(__aarch64__) && defined(HWCAP2_BF16)
  return (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
#else
  return false;
#endif
}

bool wantsBfloat16() {
#if defined(__x86_64__)
  // AMD's processors do two bfloat16 products in the time of one in float32; Intel's take longer than for float32,
  // and have AMX.
  __builtin_cpu_init();
  return __builtin_cpu_is("amd") && hasBfloat16();
#else
  return hasBfloat16();
#endif
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
