// Which instruction set the CPU's kernels use: the best that this machine has, chosen once. CLIP_CID_SIMD, or
// chooseIsa before the first use, names a lower one; where the machine lacks it, it stands for the best below it.
// Decisions do not depend on it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace clipcid {

// In an architecture, each has what the ones before it have.
enum class Isa : uint8_t {
  kPlain,
  kAvx2,        // with FMA
  kAvx2Vnni,    // and AVX-VNNI
  kAvx512,      // F, DQ, BW, VL
  kAvx512Vnni,  // and VNNI
  kAmx,         // and AMX's tiles, int8 and bfloat16, which the kernel must grant to the process
  kNeon,
  kNeonDotprod,
};

// What this machine can run, ascending. It asks the kernel for AMX.
std::vector<Isa> isasHere();

Isa isa();
// Makes `isa` the one of this name. False when it is in use already and another, or when there is no such name.
bool chooseIsa(const char* name);

// 'plain', 'avx2', 'avx2-vnni', 'avx512', 'avx512-vnni', 'amx', 'neon' or 'neon-dotprod'.
const char* isaName(Isa level = isa());

// Whether the processor has a dot product of bfloat16 in its vector instructions, and whether that outruns float32:
// not all do.
bool hasBfloat16();
bool wantsBfloat16();

// The processor's own name.
std::string cpuName();

}  // namespace clipcid
