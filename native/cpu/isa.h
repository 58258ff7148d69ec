// Which instruction set the CPU's kernels use: the best that this machine has, chosen once. CLIP_CID_SIMD
// forces a lower one: 'plain', 'avx2' or 'avx512'. Decisions do not depend on it.
#pragma once

#include <string>

namespace clipcid {

enum class Isa { kPlain, kAvx2, kAvx512 };

Isa isa();
// 'avx512', 'avx2', 'neon' or 'plain'.
const char* isaName();
// The processor's own name.
std::string cpuName();

}  // namespace clipcid
