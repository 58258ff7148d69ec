// Products in fixed point of 16 bits: the tiles of every instruction set that this machine has, which are exact, and how rows
// are rounded for them and put right, against scalar arithmetic.
#include <algorithm>
#include <cstring>

#include "check.h"
#include "core/aligned.h"
#include "cpu/kernels.h"
#include "cpu/softmax_loss_rows.h"

using namespace clipcid;

namespace {

constexpr float kUntouched = -12345;

// The int16 in the lower or the upper half of a word.
int64_t half(uint32_t word, bool upper) { return static_cast<int16_t>(word >> (upper ? 16 : 0)); }

// int16 over the whole range but its least, half of them at the ends, over `divisor`.
uint32_t drawWord(uint64_t stream, int64_t at, int64_t divisor) {
  const auto draw = [&](uint64_t part) {
    const uint64_t bits = philox64(3, stream, static_cast<uint64_t>(at) * 2 + part);
    const auto value = static_cast<int64_t>(bits >> 32) % 32768 * (bits & 1 ? 1 : -1);
    return static_cast<uint32_t>((bits & 2 ? value : value < 0 ? -32767 : 32767) / divisor) & 0xffff;
  };
  return draw(0) | draw(1) << 16;
}

void tile(const FixedKernel& kernel) {
  for (const int64_t depth : {0, 1, 2, 5, 32, 96}) {
    for (int form = 0; form < 8; ++form) {
      const bool transposed = form & 1, packed = form & 2, add = form & 4;
      const int64_t rows = kernel.tileRows, panel = kernel.panel;
      const int64_t strideA = (transposed ? rows : depth) + 2, strideB = panel + (packed ? 0 : 16),
                    strideC = panel + 3;
      const AlignedArray<uint32_t> b(std::max<int64_t>(1, depth * strideB));
      std::vector<uint32_t> a(static_cast<size_t>((transposed ? depth : rows) * strideA + 1));
      // Sums reach up to the end of their range.
      for (size_t i = 0; i < a.size(); ++i) a[i] = drawWord(1, static_cast<int64_t>(i), 1);
      for (int64_t i = 0; i < depth * strideB; ++i) b.get()[i] = drawWord(2, i, depth);
      std::vector<float> c(static_cast<size_t>(rows * strideC), kUntouched), scales;
      // Powers of two: the product with them is exact.
      for (int64_t j = 0; j < panel; ++j) scales.push_back(std::ldexp(1.0f, static_cast<int>(j % 9) - 20));
      const FixedTile args = {.a = a.data(),
                              .strideA = strideA,
                              .b = b.get(),
                              .strideB = strideB,
                              .depth = depth,
                              .c = c.data(),
                              .strideC = strideC,
                              .scales = scales.data(),
                              .transposedA = transposed,
                              .add = add,
                              .ahead = c.data()};
      kernel.tile(args);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = 0; j < strideC; ++j) {
          int64_t sum = 0;
          for (int64_t k = 0; k < depth && j < panel; ++k) {
            const uint32_t left = a[static_cast<size_t>(transposed ? k * strideA + r : r * strideA + k)];
            const uint32_t right = b.get()[k * strideB + j];
            for (const bool upper : {false, true}) sum += half(left, upper) * half(right, upper);
          }
          CHECK(std::llabs(sum) < int64_t{1} << 31);
          float expected = kUntouched;
          if (j < panel) {
            expected = static_cast<float>(sum) * scales[static_cast<size_t>(j)];
            if (add) expected += kUntouched;
          }
          CHECK(c[static_cast<size_t>(r * strideC + j)] == expected);
        }
      }
    }
  }
}

std::vector<float> drawRow(uint64_t stream, int64_t count) {
  std::vector<float> row;
  for (int64_t i = 0; i < count; ++i) row.push_back(test::noise(stream, static_cast<uint64_t>(i)));
  return row;
}

int64_t rounded(float value) { return static_cast<int64_t>(std::nearbyintf(value)); }

void roundRows(const SoftmaxRows& rows) {
  constexpr int64_t kPart = 64;
  for (const int64_t dim : {1, 2, 16, 17, 31, 32, 33, 63, 64, 65, 100, 512}) {
    std::vector<float> x = drawRow(1, dim), y = drawRow(2, dim);
    float largest = -1, square = -1, mostElement = 0, mostSquare = 0;
    rows.extent(x.data(), dim, kPart, &largest, &square);
    for (int64_t begin = 0; begin < dim; begin += kPart) {
      double sum = 0;
      for (int64_t i = begin; i < std::min(dim, begin + kPart); ++i) {
        const float value = x[static_cast<size_t>(i)];
        mostElement = std::max(mostElement, std::fabs(value));
        sum += static_cast<double>(value) * static_cast<double>(value);
      }
      mostSquare = std::max(mostSquare, static_cast<float>(sum));
    }
    CHECK(largest == mostElement);
    CHECK(std::fabs(square - mostSquare) <= 64 * 0x1p-24f * mostSquare);

    const float scaleX = 32767 / largest * (1 - 0x1p-20f), scaleY = 1000;
    const int64_t words = (dim + 2 * kPair - 1) / (2 * kPair) * kPair;
    const auto at = [&](const std::vector<float>& row, float scale, int64_t i) {
      return i < dim ? rounded(row[static_cast<size_t>(i)] * scale) : 0;
    };
    std::vector<uint32_t> one(static_cast<size_t>(words), 7u), first = one, second = one;
    for (const bool both : {true, false}) {
      std::vector<uint32_t> pairs(static_cast<size_t>(2 * words), 7u);
      rows.fixRow(x.data(), dim, scaleX, one.data());
      rows.fixRows(x.data(), both ? y.data() : nullptr, dim, scaleX, both ? scaleY : 0, first.data(),
                   second.data(), pairs.data());
      CHECK(one == first);
      for (int64_t i = 0; i < 2 * words; ++i) {
        const int64_t word = i / (2 * kPair) * kPair + i % kPair;
        const bool upper = i % (2 * kPair) >= kPair;
        const int64_t ofX = at(x, scaleX, i), ofY = both ? at(y, scaleY, i) : 0;
        CHECK(half(first[static_cast<size_t>(word)], upper) == ofX);
        CHECK(half(second[static_cast<size_t>(word)], upper) == ofY);
        CHECK(half(pairs[static_cast<size_t>(i)], false) == ofX);
        CHECK(half(pairs[static_cast<size_t>(i)], true) == ofY);
      }
    }

    const std::vector<const float*> others = {y.data(), x.data()};
    float out[2] = {};
    rows.dots(x.data(), others.data(), 2, dim, y.data(), out);
    for (int i = 0; i < 2; ++i) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < dim; ++k) {
        const double product = static_cast<double>(x[static_cast<size_t>(k)]) *
                               static_cast<double>(others[static_cast<size_t>(i)][k]);
        sum += product;
        size += std::fabs(product);
      }
      CHECK(std::fabs(static_cast<double>(out[i]) - sum) <= static_cast<double>(dim) * 0x1p-24 * size);
    }
    std::vector<float> total = y;
    rows.add(x.data(), 0.5f, dim, total.data());
    for (size_t k = 0; k < total.size(); ++k) CHECK(total[k] == y[k] + 0.5f * x[k]);
  }
}

void roundLanes(const SoftmaxRows& rows) {
  constexpr int64_t kLanes = 2 * kRowLanes, kStride = kLanes + 16;
  for (const int64_t keys : {1, 2, 3, 96, 191}) {
    std::vector<float> x = drawRow(4, keys * kStride), factors = drawRow(5, keys);
    // A lane of zeros, one of one weight, one that is very small.
    for (int64_t j = 0; j < keys; ++j) {
      float* row = x.data() + j * kStride;
      row[0] = 0;
      if (j > 0) row[1] = 0;
      row[2] *= 1e-36f;
    }
    std::vector<float> scaled = x;
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t lane = 0; lane < kLanes; ++lane)
        scaled[static_cast<size_t>(j * kStride + lane)] *= factors[static_cast<size_t>(j)];
    }
    for (const float most : {1.0f, 300.0f, 32767.0f}) {
      std::vector<float> weights = x, units(kLanes);
      std::vector<uint32_t> out(static_cast<size_t>((keys + 1) / 2 * kStride));
      rows.fixLanes(weights.data(), kStride, keys, kLanes, factors.data(), most, out.data(), units.data());
      CHECK(weights == scaled);
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const auto unit = static_cast<double>(units[static_cast<size_t>(lane)]);
        double sum = 0;
        int64_t largest = 0;
        for (int64_t j = 0; j < (keys + 1) / 2 * 2; ++j) {
          const int64_t fixed = half(out[static_cast<size_t>(j / 2 * kStride + lane)], j % 2 == 1);
          const double value =
              j < keys ? static_cast<double>(scaled[static_cast<size_t>(j * kStride + lane)]) : 0;
          CHECK(std::fabs(static_cast<double>(fixed) * unit - value) <=
                0.5001 * unit + 0x1p-22 * std::fabs(value));
          largest = std::max<int64_t>(largest, std::llabs(fixed));
          sum += static_cast<double>(std::llabs(fixed)) * static_cast<double>(most);
        }
        CHECK(largest <= 32767 && sum < 0x1p31);
        // As fine as these limits allow; of one weight, all of them.
        if (lane > 2) CHECK(largest > 32700 || sum > 0.95 * 0x1p31);
      }
    }

    std::vector<float> ratios(kLanes), sums(kLanes), y = drawRow(6, kLanes), first = drawRow(7, kLanes),
                                                     second = drawRow(8, kLanes);
    for (const bool two : {false, true}) {
      rows.ratios(x.data(), two ? y.data() : nullptr, kLanes, first.data(), second.data(), ratios.data());
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const float one = x[lane] * first[lane];
        CHECK(ratios[lane] == (two ? std::max(one, y[lane] * second[lane]) : one));
      }
    }
    rows.sumLanes(x.data(), kStride, keys, kLanes, sums.data());
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      float sum = x[static_cast<size_t>(lane)];
      for (int64_t j = 1; j < keys; ++j) sum += x[static_cast<size_t>(j * kStride + lane)];
      CHECK(sums[static_cast<size_t>(lane)] == sum);
    }
  }
}

}  // namespace

int main() {
  for (const Isa level : isasHere()) {
    if (level > isa()) break;
    const Kernels table = kernelsOf(level);
    const int before = test::failures();
    if (table.int16 != nullptr) tile(*table.int16);
    if (test::failures() > before) std::fprintf(stderr, "with %s\n", isaName(level));
  }
  roundRows(softmaxRows());
  roundLanes(softmaxRows());
  return test::report("fixed");
}
