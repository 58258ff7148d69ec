// The canonical arithmetic and the generator, against values that were worked out by other means; and every
// instruction set's loops against them.
#include <cstring>
#include <limits>

#include "check.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/sweep.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> list = {&plainKernels()};
#if defined(__x86_64__)
  if (isa() != Isa::kPlain) list.push_back(&avx2Kernels());
  if (isa() == Isa::kAvx512) list.push_back(&avx512Kernels());
#endif
  return list;
}

void widening() {
  CHECK(widenFloat16(0x3c00) == 1.0f);
  CHECK(widenFloat16(0xc000) == -2.0f);
  CHECK(widenFloat16(0x0001) == std::ldexp(1.0f, -24));
  CHECK(widenFloat16(0x03ff) == std::ldexp(1023.0f, -24));
  CHECK(widenFloat16(0x7bff) == 65504.0f);
  CHECK(std::isinf(widenFloat16(0x7c00)) && std::isnan(widenFloat16(0x7e00)));
  CHECK(std::signbit(widenFloat16(0x8000)));
  CHECK(widenBfloat16(0x3f80) == 1.0f && widenBfloat16(0xc040) == -3.0f);
}

void dots() {
  // Lane 0 gets 2^60, then 1, then -2^60: the 1 is lost. Lanes 1 and 9 meet first, then 1 and 5.
  std::vector<float> x(48, 0), y(48, 1);
  x[0] = std::ldexp(1.0f, 60);
  x[16] = 1;
  x[32] = -std::ldexp(1.0f, 60);
  CHECK(canonicalDot(x.data(), y.data(), 48) == 0);
  x.assign(48, 0);
  x[1] = std::ldexp(1.0f, 60);
  x[9] = -std::ldexp(1.0f, 60);
  x[5] = 1;
  CHECK(canonicalDot(x.data(), y.data(), 48) == 1);
  for (const Kernels* kernel : available()) {
    for (int64_t dim = 0; dim < 100; ++dim) {
      std::vector<float> a, b;
      for (int64_t k = 0; k < dim; ++k) {
        a.push_back(noise(1, static_cast<uint64_t>(k)) * std::ldexp(1.0f, static_cast<int>(k * 7 % 50)));
        b.push_back(noise(2, static_cast<uint64_t>(k)));
      }
      const double expected = canonicalDot(a.data(), b.data(), dim);
      CHECK(kernel->dot(a.data(), b.data(), dim) == expected);
      if (dim == 0) continue;
      std::vector<float> first = a, second = a;
      const double norm = canonicalNorm(a.data(), dim);
      canonicalRow(a.data(), dim, norm, first.data());
      kernel->unitRow(second.data(), dim, norm);
      CHECK(first == second);
      std::vector<int64_t> sums(static_cast<size_t>(dim), 3);
      kernel->addFixed(second.data(), dim, 1, 0x1p52, 1, sums.data());
      for (int64_t k = 0; k < dim; ++k) {
        CHECK(sums[static_cast<size_t>(k)] ==
              3 + toFixed(static_cast<double>(second[static_cast<size_t>(k)]), 0x1p52));
      }
    }
  }
}

void fixedPoint() {
  CHECK(fixedScale(1, 1) == 0x1p61);
  CHECK(fixedScale(1, 2) == 0x1p60);
  CHECK(fixedScale(1, 3) == 0x1p60);
  CHECK(fixedScale(0.75, 4) == 0x1p60);
  CHECK(fixedScale(0, 4) == 1);
  CHECK(toFixed(0.5, 1) == 0 && toFixed(1.5, 1) == 2 && toFixed(-2.5, 1) == -2);
  CHECK(fixedMean(int64_t{3} << 40, 0x1p40, 2) == 1.5f);
}

void generator() {
  // The known answers that Random123 publishes for philox4x32-10.
  const Philox4 zeros = philox(0, 0, 0);
  const uint32_t expectedZeros[] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  CHECK(std::memcmp(zeros.word, expectedZeros, 16) == 0);
  const Philox4 ones = philox(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0});
  const uint32_t expectedOnes[] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
  CHECK(std::memcmp(ones.word, expectedOnes, 16) == 0);
  const Philox4 pi = philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88);
  const uint32_t expectedPi[] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
  CHECK(std::memcmp(pi.word, expectedPi, 16) == 0);
  CHECK(philox64(0, 0, 0) == 0xe169c58d6627e8d5);
  CHECK(scaleDraw(0, 10) == 0 && scaleDraw(~uint64_t{0}, 10) == 9 && scaleDraw(uint64_t{1} << 63, 10) == 5);
}

// The microkernel's error is within the bound that decisions rest on.
void tiles() {
  for (const Kernels* kernel : available()) {
    for (const int64_t depth : {1, 3, 16, 257}) {
      const int64_t stride = depth + 5;
      std::vector<float> a(static_cast<size_t>(kernel->tileRows * stride)),
          b(static_cast<size_t>(depth * kernel->panel));
      for (size_t i = 0; i < a.size(); ++i) a[i] = noise(3, i);
      for (size_t i = 0; i < b.size(); ++i) b[i] = noise(4, i);
      std::vector<float> c(static_cast<size_t>(kernel->tileRows * (kernel->panel + 3)), -7);
      kernel->tile({.a = a.data(),
                    .strideA = stride,
                    .b = b.data(),
                    .strideB = kernel->panel,
                    .depth = depth,
                    .c = c.data(),
                    .strideC = kernel->panel + 3,
                    .rows = kernel->tileRows});
      for (int r = 0; r < kernel->tileRows; ++r) {
        for (int j = 0; j < kernel->panel; ++j) {
          double sum = 0, first = 0, second = 0;
          for (int64_t k = 0; k < depth; ++k) {
            const auto x = static_cast<double>(a[static_cast<size_t>(r * stride + k)]);
            const auto y = static_cast<double>(b[static_cast<size_t>(k * kernel->panel + j)]);
            sum += x * y;
            first += x * x;
            second += y * y;
          }
          const double got = static_cast<double>(c[static_cast<size_t>(r * (kernel->panel + 3) + j)]);
          FilterPlan plan;
          plan.queries.words = depth;
          CHECK(std::fabs(got - sum) <= plan.bound(0, std::sqrt(first), 0, std::sqrt(second)));
        }
      }
      CHECK(c[static_cast<size_t>(kernel->panel)] == -7);
    }
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> values(40, -1);
    values[3] = 2;
    values[17] = nan;
    values[39] = 1;
    int32_t positions[40];
    CHECK(kernel->notBelow(values.data(), 40, 1, positions) == 3);
    CHECK(positions[0] == 3 && positions[1] == 17 && positions[2] == 39);
    CHECK(kernel->notBelow(values.data(), 40, -1, positions) == 40);
  }
  CHECK(static_cast<double>(roundDown(0.1)) <= 0.1 && static_cast<double>(roundUp(0.1)) >= 0.1);
  CHECK(roundDown(0.5) == 0.5f && std::isinf(roundDown(-1e300)));
}

}  // namespace

int main() {
  widening();
  dots();
  fixedPoint();
  generator();
  tiles();
  return report("canonical");
}
