#include "emulator/tensor_core.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "clipcid/canonical.h"
#include "cuda/tensor_rounding.h"
#include "emulator/options.h"

namespace clipcid::emulator {
namespace {

// As an A100 does it, according to Fasi et al., "Numerical behavior of NVIDIA tensor cores" (2021): eight products and the
// sum so far are aligned with the largest of them, cut off behind a bit more than a float32 has, and the sum is cut off too.
float truncatedStep(float c, const float* a, const float* b, int count) {
  double terms[9];
  double most = std::fabs(static_cast<double>(c));
  for (int k = 0; k < count; ++k) {
    terms[k] = static_cast<double>(a[k]) * static_cast<double>(b[k]);
    most = std::max(most, std::fabs(terms[k]));
  }
  terms[count] = static_cast<double>(c);
  if (most == 0 || !std::isfinite(most)) {
    double sum = 0;
    for (int k = 0; k <= count; ++k) sum += terms[k];
    return static_cast<float>(sum);
  }
  const double unit = std::ldexp(1.0, std::ilogb(most) - 24);
  double sum = 0;
  for (int k = 0; k <= count; ++k) sum += std::trunc(terms[k] / unit) * unit;
  const auto near = static_cast<float>(sum);
  return std::fabs(static_cast<double>(near)) > std::fabs(sum) ? std::nextafterf(near, 0.0f) : near;
}

// Off by nearly all that the bounds allow for, always to the same side of a sum.
float worstStep(float c, const float* a, const float* b, int count) {
  double sum = static_cast<double>(c), size = std::fabs(sum);
  for (int k = 0; k < count; ++k) {
    const double product = static_cast<double>(a[k]) * static_cast<double>(b[k]);
    sum += product;
    size += std::fabs(product);
  }
  const double off = size * cuda::kTensorRounding * (1 - 0x1p-3);
  return static_cast<float>(options().seed % 2 == 0 ? sum - off : sum + off);
}

}  // namespace

float dotAdd(float c, const float* a, const float* b, int count) {
  switch (options().rounding) {
    case Rounding::kExact: {
      double sum = static_cast<double>(c);
      for (int k = 0; k < count; ++k) sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
      return static_cast<float>(sum);
    }
    case Rounding::kTruncated:
      for (int k = 0; k < count; k += cuda::kTensorStep)
        c = truncatedStep(c, a + k, b + k, std::min(cuda::kTensorStep, count - k));
      return c;
    case Rounding::kWorst:
      for (int k = 0; k < count; k += cuda::kTensorStep)
        c = worstStep(c, a + k, b + k, std::min(cuda::kTensorStep, count - k));
      return c;
  }
  return c;
}

namespace {

// widen(bits): an element.
template <typename Widen>
void multiplyFloats(const std::array<Multiply<float>*, kWarp>& lanes, Widen widen) {
  // Unlike the registers: whole rows of A, and whole columns of B.
  float a[16][16], b[8][16];
  for (int lane = 0; lane < kWarp; ++lane) {
    const Multiply<float>& one = *lanes[static_cast<size_t>(lane)];
    const int g = lane / 4, t = lane % 4;
    for (int e = 0; e < 2; ++e) {
      const auto half = [&](uint32_t word) { return widen(static_cast<uint16_t>(word >> 16 * e)); };
      a[g][2 * t + e] = half(one.a[0]);
      a[g + 8][2 * t + e] = half(one.a[1]);
      a[g][2 * t + 8 + e] = half(one.a[2]);
      a[g + 8][2 * t + 8 + e] = half(one.a[3]);
      b[g][2 * t + e] = half(one.b[0]);
      b[g][2 * t + 8 + e] = half(one.b[1]);
    }
  }
  if (options().rounding == Rounding::kExact) {
    // The same sums as dotAdd's, for all columns at once.
    double columns[16][8], sums[16][8] = {};
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) columns[k][n] = static_cast<double>(b[n][k]);
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      const float* c = lanes[static_cast<size_t>(lane)]->c;
      for (int i = 0; i < 4; ++i)
        sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = static_cast<double>(c[i]);
    }
    for (int m = 0; m < 16; ++m) {
      for (int k = 0; k < 16; ++k) {
        const auto x = static_cast<double>(a[m][k]);
        for (int n = 0; n < 8; ++n) sums[m][n] += x * columns[k][n];
      }
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      float* c = lanes[static_cast<size_t>(lane)]->c;
      for (int i = 0; i < 4; ++i) c[i] = static_cast<float>(sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
    }
    return;
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    float* c = lanes[static_cast<size_t>(lane)]->c;
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) c[i] = dotAdd(c[i], a[g + i / 2 * 8], b[2 * t + i % 2], 16);
  }
}

}  // namespace

void multiply(const std::array<Multiply<float>*, kWarp>& lanes) {
  multiplyFloats(lanes, [](uint16_t bits) { return widenFloat16(bits); });
}

void multiplyBfloat16(const std::array<Multiply<float>*, kWarp>& lanes) {
  multiplyFloats(lanes, [](uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); });
}

void multiply(const std::array<Multiply<int>*, kWarp>& lanes) {
  int8_t a[16][32], b[8][32];
  for (int lane = 0; lane < kWarp; ++lane) {
    const Multiply<int>& one = *lanes[static_cast<size_t>(lane)];
    const int g = lane / 4, t = lane % 4;
    memcpy(&a[g][4 * t], &one.a[0], 4);
    memcpy(&a[g + 8][4 * t], &one.a[1], 4);
    memcpy(&a[g][4 * t + 16], &one.a[2], 4);
    memcpy(&a[g + 8][4 * t + 16], &one.a[3], 4);
    memcpy(&b[g][4 * t], &one.b[0], 4);
    memcpy(&b[g][4 * t + 16], &one.b[1], 4);
  }
  int columns[32][8], sums[16][8] = {};
  for (int k = 0; k < 32; ++k) {
    for (int n = 0; n < 8; ++n) columns[k][n] = b[n][k];
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 32; ++k) {
      const int x = a[m][k];
      for (int n = 0; n < 8; ++n) sums[m][n] += x * columns[k][n];
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    int* c = lanes[static_cast<size_t>(lane)]->c;
    for (int i = 0; i < 4; ++i) c[i] += sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

}  // namespace clipcid::emulator
