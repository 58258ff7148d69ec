// What tensor cores compute.
#pragma once

#include <array>
#include <cstdint>

#include "emulator/engine.h"

namespace clipcid::emulator {

// A lane's part of mma.m16n8: registers of C, A and B.
template <typename T>
struct Multiply {
  T* c;
  const uint32_t* a;
  const uint32_t* b;
};
void multiply(const std::array<Multiply<float>*, kWarp>& lanes);
void multiply(const std::array<Multiply<int>*, kWarp>& lanes);
// The same of bfloat16 instead of float16.
void multiplyBfloat16(const std::array<Multiply<float>*, kWarp>& lanes);

// c + sum of a[k] b[k], float16 widened, as Options::rounding says.
float dotAdd(float c, const float* a, const float* b, int count);

}  // namespace clipcid::emulator
