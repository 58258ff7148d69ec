// The inner loops of every instruction set that this machine has, against scalar arithmetic: sums, the bounds that
// kernels.h states, and when a tile may be passed over.
#include <algorithm>
#include <cstring>
#include <limits>

#include "check.h"
#include "core/aligned.h"
#include "cpu/kernels.h"

using namespace clipcid;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kUntouched = -12345;

enum class Type { kFloat32, kBfloat16, kInt8 };

int perWord(Type type) { return type == Type::kFloat32 ? 1 : type == Type::kBfloat16 ? 2 : 4; }

// Element `at` of a row of words.
double element(Type type, const uint32_t* words, int64_t at) {
  if (type == Type::kFloat32) {
    float value;
    memcpy(&value, words + at, 4);
    return value;
  }
  if (type == Type::kBfloat16) return widenBfloat16(static_cast<uint16_t>(words[at / 2] >> (at % 2 * 16)));
  return static_cast<int8_t>(words[at / 4] >> (at % 4 * 8));
}

void setElement(Type type, uint32_t* words, int64_t at, float value) {
  if (type == Type::kFloat32) {
    memcpy(words + at, &value, 4);
  } else if (type == Type::kBfloat16) {
    uint32_t bits;
    memcpy(&bits, &value, 4);  // truncated: every bfloat16 is a good one here
    const int shift = static_cast<int>(at % 2 * 16);
    words[at / 2] = (words[at / 2] & ~(0xffffu << shift)) | (bits >> 16) << shift;
  } else {
    const int shift = static_cast<int>(at % 4 * 8);
    const auto byte = static_cast<uint8_t>(static_cast<int>(value));
    words[at / 4] = (words[at / 4] & ~(0xffu << shift)) | static_cast<uint32_t>(byte) << shift;
  }
}

// One tile's worth of both sides, and what a kernel makes of it.
struct Case {
  Case(const FilterKernel& kernel, Type type, int64_t words)
      : kernel(kernel),
        type(type),
        words(words),
        stride(words + 3),
        elements(words * perWord(type)),
        a(std::max<int64_t>(kernel.tileRows * stride, 1)),
        b(std::max<int64_t>(kernel.panel * words, 1)),
        packed(std::max<int64_t>(kernel.panel * words, 1)),
        sums(static_cast<size_t>(kernel.tileRows)),
        scores(static_cast<size_t>(kernel.tileRows * strideScores())) {
    std::fill(a.get(), a.get() + kernel.tileRows * stride, 0x7fc07fc0u);  // NaN between the rows
    for (int r = 0; r < kernel.tileRows; ++r) std::fill(rowA(r), rowA(r) + words, 0u);
    std::fill(b.get(), b.get() + kernel.panel * words, 0u);
  }

  int64_t strideScores() const { return kernel.panel + 5; }
  uint32_t* rowA(int64_t row) { return a.get() + row * stride; }
  uint32_t* rowB(int64_t row) { return b.get() + row * words; }
  float score(int row, int column) const {
    return scores[static_cast<size_t>(row * strideScores() + column)];
  }
  // A as `first` says and B as `second`, by row and element.
  template <typename First, typename Second>
  void fill(First first, Second second) {
    for (int r = 0; r < kernel.tileRows; ++r) {
      for (int64_t k = 0; k < elements; ++k) setElement(type, rowA(r), k, first(r, k));
    }
    for (int j = 0; j < kernel.panel; ++j) {
      for (int64_t k = 0; k < elements; ++k) setElement(type, rowB(j), k, second(j, k));
    }
  }

  bool run(float scale, float limit) {
    const uint32_t flip = kernel.offset == 128 ? 0x80808080u : 0;
    for (int64_t w = 0; w < words; ++w) {
      for (int j = 0; j < kernel.panel; ++j) packed.get()[w * kernel.panel + j] = rowB(j)[w] ^ flip;
    }
    for (int r = 0; r < kernel.tileRows; ++r) {
      double sum = 0;
      if (type == Type::kInt8) {
        for (int64_t k = 0; k < elements; ++k) sum += element(type, rowA(r), k);
      }
      sums[static_cast<size_t>(r)] = static_cast<int32_t>(sum);
    }
    std::fill(scores.begin(), scores.end(), kUntouched);
    if (kernel.enter != nullptr) kernel.enter();
    const bool hit = kernel.tile(a.get(), stride, sums.data(), packed.get(), words, scale, limit,
                                 scores.data(), strideScores());
    if (kernel.leave != nullptr) kernel.leave();
    for (int r = 0; r < kernel.tileRows; ++r) {
      for (int64_t j = kernel.panel; j < strideScores(); ++j)
        CHECK(score(r, static_cast<int>(j)) == kUntouched);
    }
    return hit;
  }

  // Whether every score is what kernels.h promises; returns the largest.
  float checkScores(float scale) {
    float most = -kInfinity;
    for (int r = 0; r < kernel.tileRows; ++r) {
      for (int j = 0; j < kernel.panel; ++j) {
        CHECK(promised(r, j, score(r, j), scale));
        most = std::max(most, score(r, j));
      }
    }
    return most;
  }
  bool promised(int r, int j, float got, float scale) {
    const double unit = std::ldexp(1.0, -23);  // a truncation
    const double roundings = static_cast<double>((type == Type::kBfloat16 ? 2 * words : words) + 8);
    double sum = 0, size = 0;
    for (int64_t k = 0; k < elements; ++k) {
      const double product = element(type, rowA(r), k) * element(type, rowB(j), k);
      sum += product;
      size += std::fabs(product);
    }
    if (type == Type::kInt8) return got == static_cast<float>(static_cast<int32_t>(sum)) * scale;
    const double bound = 1.0001 * roundings * unit * size + roundings * std::ldexp(1.0, -125);
    return std::fabs(static_cast<double>(got) - sum) <= bound + 1e-13 * size;
  }

  const FilterKernel& kernel;
  const Type type;
  const int64_t words, stride, elements;
  AlignedArray<uint32_t> a, b, packed;
  std::vector<int32_t> sums;
  std::vector<float> scores;
};

float draw(Type type, uint64_t stream, int64_t row, int64_t k) {
  const auto index = static_cast<uint64_t>(row * 100003 + k);
  if (type == Type::kInt8)
    return static_cast<float>(static_cast<int>(philox64(3, stream, index) % 255) - 127);
  return test::noise(stream, index);
}

// Sums of random rows at depths round every unrolling, and the promise about `limit`.
void depths(const FilterKernel& kernel, Type type) {
  for (const int64_t steps : {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 129}) {
    const int64_t words = steps * kernel.step;
    if (words > 1100) continue;
    Case tile(kernel, type, words);
    tile.fill([&](int r, int64_t k) { return draw(type, 1, r, k); },
              [&](int j, int64_t k) { return draw(type, 2, j, k); });
    const float scale = type == Type::kInt8 ? 0.37f / 127 : 1;
    CHECK(tile.run(scale, -kInfinity));
    const float most = tile.checkScores(scale);
    CHECK(tile.run(scale, most));
    CHECK(!tile.run(scale, std::nextafterf(most, kInfinity)));
    CHECK(!tile.run(scale, kInfinity));
  }
}

// Every place of the tile, one hit alone in it.
void places(const FilterKernel& kernel, Type type) {
  const int64_t words = 2 * kernel.step;
  for (int r = 0; r < kernel.tileRows; ++r) {
    for (int j = 0; j < kernel.panel; ++j) {
      Case tile(kernel, type, words);
      const int64_t at = (r + 5 * j) % tile.elements;
      // Everything else is below zero.
      tile.fill([&](int row, int64_t k) { return row == r && k == at ? 3.0f : -1.0f; },
                [&](int column, int64_t k) { return column == j ? (k == at ? 100.0f : 0.0f) : 4.0f; });
      CHECK(tile.run(1, 300));
      CHECK(tile.score(r, j) == 300);
      CHECK(!tile.run(1, 300.5f));
    }
  }
}

void extremes(const FilterKernel& kernel, Type type) {
  if (type == Type::kInt8) {
    for (const float first : {-127.0f, 127.0f}) {
      for (const float second : {-127.0f, 127.0f}) {
        Case tile(kernel, type, kMostInt8 / 4);
        tile.fill([&](int, int64_t) { return first; }, [&](int, int64_t) { return second; });
        CHECK(tile.run(1, -kInfinity));
        tile.checkScores(1);
      }
    }
    return;
  }
  const int64_t words = 16 * kernel.step;
  {
    // Cancelling signs, one huge product.
    Case tile(kernel, type, words);
    tile.fill([&](int r, int64_t k) { return (k == r ? 1e6f : 1.5f) * (k % 2 == 0 ? 1.0f : -1.0f); },
              [&](int j, int64_t k) { return k == j % 7 ? -1e6f : 1.25f + static_cast<float>(k % 5); });
    CHECK(tile.run(1, -kInfinity));
    tile.checkScores(1);
  }
  {
    // Denormals, alone and beside elements that are not.
    Case tile(kernel, type, words);
    tile.fill([&](int r, int64_t k) { return std::ldexp(1.0f, r % 3 == 0 ? -130 : (k % 2 == 0 ? -130 : 0)); },
              [&](int j, int64_t k) { return std::ldexp(1.0f, j % 2 == 0 ? -4 : (k % 3 == 0 ? -128 : 1)); });
    CHECK(tile.run(1, -kInfinity));
    // A flushed element changes a sum by less than 2^-126 times its partner, at most 2 here.
    const double flushed = static_cast<double>(tile.elements) * std::ldexp(1.0, -125);
    for (int r = 0; r < kernel.tileRows; ++r) {
      for (int j = 0; j < kernel.panel; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < tile.elements; ++k) {
          sum += element(type, tile.rowA(r), k) * element(type, tile.rowB(j), k);
        }
        CHECK(std::fabs(static_cast<double>(tile.score(r, j)) - sum) <= 4 * flushed + 1e-4 * std::fabs(sum));
      }
    }
  }
  // NaN and infinity reach every limit, in every place, alone.
  for (const bool nan : {false, true}) {
    for (int r = 0; r < kernel.tileRows; ++r) {
      for (int j = 0; j < kernel.panel; ++j) {
        Case tile(kernel, type, kernel.step);
        // At (r, j) infinity times zero or infinity; elsewhere in the row minus infinity.
        tile.fill([&](int row, int64_t k) { return row == r && k == 0 ? kInfinity : 0.5f; },
                  [&](int column, int64_t) { return column != j ? -0.5f
                                                    : nan       ? 0.0f
                                                                : 1.0f; });
        CHECK(tile.run(1, 3e38f));
        CHECK(nan ? std::isnan(tile.score(r, j)) : tile.score(r, j) == kInfinity);
      }
    }
  }
}

// Single pairs promise what the tile does.
void pairs(const FilterKernel& kernel, Type type) {
  for (const int64_t steps : {0, 1, 2, 3, 7, 15, 16, 17, 33, 64, 100}) {
    const int64_t words = steps * kernel.step;
    if (words > 600) continue;
    Case tile(kernel, type, words);
    tile.fill([&](int r, int64_t k) { return draw(type, 1, r, k); },
              [&](int j, int64_t k) { return draw(type, 2, j, k); });
    std::vector<int32_t> sums;
    for (int j = 0; j < kernel.panel; ++j) {
      double sum = 0;
      for (int64_t k = 0; type == Type::kInt8 && k < tile.elements; ++k)
        sum += element(type, tile.rowB(j), k);
      sums.push_back(static_cast<int32_t>(sum));
    }
    for (int r = 0; r < kernel.tileRows; ++r) {
      // As many as there are keys, one, and all counts between, in any order.
      const int count = r == 0 ? kernel.panel : r % kernel.panel;
      std::vector<int32_t> listed;
      for (int i = 0; i < count; ++i) listed.push_back((i * 7 + r) % kernel.panel);
      std::vector<float> scores(static_cast<size_t>(count) + 1, kUntouched);
      kernel.pairs(tile.rowA(r), tile.rowB(0), words, sums.data(), listed.data(), count, words,
                   scores.data());
      CHECK(scores.back() == kUntouched);
      for (int i = 0; i < count; ++i) {
        CHECK(tile.promised(r, listed[static_cast<size_t>(i)], scores[static_cast<size_t>(i)], 1));
      }
    }
  }
}

// What selections ask for of a tile: the same whether it goes through memory or not.
struct Terms {
  Terms(int rows, int64_t keys, uint64_t stream) {
    const auto draws = [&](uint64_t which, int64_t count, float from, float size) {
      std::vector<float> values;
      for (int64_t i = 0; i < count; ++i)
        values.push_back(from + size * test::noise(stream + which, static_cast<uint64_t>(i)));
      return values;
    };
    steps = draws(0, keys, 1, 0.1f);
    base = draws(1, keys, -1, 0.5f);
    ofError = draws(2, keys, 1, 0.2f);
    ofLength = draws(3, keys, 0.1f, 0.02f);
    rowSteps = draws(4, rows, 0.01f, 0.001f);
    floors = draws(5, rows, 0, 1);
    gapBytes.assign(static_cast<size_t>(rows * keys), 99);
    for (int r = 0; r < rows; ++r)
      gaps.push_back({gapBytes.data() + r * keys, -50, 50 * floors[static_cast<size_t>(r)] - 128.5f, -5,
                      5 * floors[static_cast<size_t>(r)] - 40});
  }
  QueryTerms queries(bool withGaps) const {
    return {0.01f, 0.02f, rowSteps.data(), floors.data(), withGaps ? gaps.data() : nullptr};
  }
  KeyTerms keys() const { return {steps.data(), base.data(), ofError.data(), ofLength.data()}; }

  std::vector<float> steps, base, ofError, ofLength, rowSteps, floors;
  std::vector<int8_t> gapBytes;
  std::vector<GapTerms> gaps;
};

void reach(const Kernels& table, const FilterKernel& kernel, Type type) {
  if (kernel.reach == nullptr) return;
  const int rows = kernel.tileRows, columns = kernel.panel, strideBits = columns / 8 + 3;
  for (const int64_t steps : {1, 5, 64}) {
    Case tile(kernel, type, steps * kernel.step);
    tile.fill([&](int r, int64_t k) { return draw(type, 1, r, k); },
              [&](int j, int64_t k) { return draw(type, 2, j, k); });
    CHECK(tile.run(1, -kInfinity));
    const std::vector<float> expected = tile.scores;
    for (const bool stores : {true, false}) {
      for (const bool withGaps : {true, false}) {
        Terms wanted(rows, columns, 300), got(rows, columns, 300);
        std::vector<uint8_t> wantedBits(static_cast<size_t>(rows * strideBits), 0x5a), gotBits = wantedBits;
        table.reaching(expected.data(), tile.strideScores(), rows, columns, wanted.queries(withGaps),
                       wanted.keys(), wantedBits.data(), strideBits);
        std::fill(tile.scores.begin(), tile.scores.end(), kUntouched);
        kernel.reach(tile.a.get(), tile.stride, tile.sums.data(), tile.packed.get(), tile.words,
                     got.queries(withGaps), got.keys(), stores ? tile.scores.data() : nullptr,
                     tile.strideScores(), gotBits.data(), strideBits);
        CHECK(gotBits == wantedBits && got.gapBytes == wanted.gapBytes);
        if (stores) {
          CHECK(tile.scores == expected);
        } else {
          CHECK(std::all_of(tile.scores.begin(), tile.scores.end(), [](float s) { return s == kUntouched; }));
        }
      }
    }
  }
}

void filter(const Kernels& table, const FilterKernel& kernel, Type type) {
  CHECK(kernel.tileRows <= kMostTileRows && kernel.panel <= kMostPanel && kernel.panel % 16 == 0);
  CHECK(kernel.offset == 0 || kernel.offset == 128);
  if (kernel.enter != nullptr) kernel.enter();
  CHECK(kernel.spin(3) == 3 * kernel.spin(1) && kernel.spin(1) > 0);
  if (kernel.leave != nullptr) kernel.leave();
  depths(kernel, type);
  places(kernel, type);
  extremes(kernel, type);
  pairs(kernel, type);
  reach(table, kernel, type);
}

// Data with everything in it that a float may be, but NaN and infinity.
std::vector<float> mixed(int64_t count, uint64_t stream) {
  std::vector<float> data(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t kind = philox64(11, stream, static_cast<uint64_t>(i)) % 16;
    const float value = test::noise(stream, static_cast<uint64_t>(i));
    data[static_cast<size_t>(i)] = kind == 0   ? 0.0f
                                   : kind == 1 ? -0.0f
                                   : kind == 2 ? value * 1e-40f
                                   : kind == 3 ? value * 1e30f
                                               : value;
  }
  return data;
}

bool sameBits(double first, double second) { return memcmp(&first, &second, sizeof first) == 0; }

// Everything that is to be equal to the bit.
void canonical(const Kernels& table) {
  constexpr int64_t kMost = 9;
  for (const int64_t dim : {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 512, 769, 1024}) {
    const int64_t stride = dim + 5;
    const std::vector<float> data = mixed(2 * kMost * stride, static_cast<uint64_t>(dim));
    const float* a = data.data();
    const float* b = data.data() + kMost * stride;
    std::vector<const float*> rows;
    for (int64_t j = 0; j < kMost; ++j) rows.push_back(b + j * stride);
    double out[kMost];
    for (int64_t i = 0; i < kMost; ++i) {
      CHECK(sameBits(table.dot(a + i * stride, b, dim), canonicalDot(a + i * stride, b, dim)));
      for (int64_t count = 0; count <= kMost; ++count) {
        out[count % kMost] = -1;
        table.dots(a + i * stride, rows.data(), count, dim, out);
        for (int64_t j = 0; j < count; ++j) {
          CHECK(sameBits(out[j], canonicalDot(a + i * stride, rows[static_cast<size_t>(j)], dim)));
        }
        if (count < kMost) CHECK(out[count] == -1);
      }
    }
    const double norm = canonicalNorm(a, dim);
    if (norm > 0) {
      std::vector<float> unit(a, a + dim), expected(static_cast<size_t>(dim));
      canonicalRow(a, dim, norm, expected.data());
      table.unitRow(unit.data(), dim, norm);
      CHECK(memcmp(unit.data(), expected.data(), static_cast<size_t>(dim) * 4) == 0);
    }
  }
}

void fixedSums(const Kernels& table) {
  // Ties, and both sides of every power of two that a conversion may stumble over.
  std::vector<float> values = {0,     -0.0f, 0.5f,  1.5f,   2.5f,   -0.5f,
                               -1.5f, -2.5f, 0.25f, -0.75f, 1e-30f, -1e-42f};
  for (int power = 20; power < 62; ++power) {
    for (const float sign : {1.0f, -1.0f}) {
      const float value = sign * std::ldexp(1.0f, power);
      values.insert(values.end(), {value, std::nextafterf(value, 0), value * 0.75f});
    }
  }
  for (const double scale : {1.0, 0.5, 0x1p-9, 1.0 / 4096}) {
    for (const double weight : {1.0, static_cast<double>(0.7f)}) {
      for (const int64_t sign : {int64_t{1}, int64_t{-1}}) {
        for (size_t count : {size_t{0}, size_t{1}, size_t{3}, size_t{9}, values.size()}) {
          std::vector<int64_t> sums(values.size() + 1, int64_t{1} << 40), expected = sums;
          table.addFixed(values.data(), static_cast<int64_t>(count), weight, scale, sign, sums.data());
          for (size_t k = 0; k < count; ++k) {
            expected[k] += sign * toFixed(static_cast<double>(values[k]) * weight, scale);
          }
          CHECK(sums == expected);
        }
      }
    }
  }
}

void strips(const Kernels& table) {
  for (const int64_t count : {0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 511}) {
    std::vector<float> values(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i)
      values[static_cast<size_t>(i)] = test::noise(77, static_cast<uint64_t>(i));
    if (count > 5) values[5] = std::numeric_limits<float>::quiet_NaN();
    if (count > 30) values[30] = -kInfinity;
    for (const float low : {-kInfinity, -1.0f, 0.25f, values.empty() ? 0 : values[0], kInfinity}) {
      std::vector<int32_t> positions(static_cast<size_t>(count)), expected;
      for (int64_t i = 0; i < count; ++i) {
        if (!(values[static_cast<size_t>(i)] < low)) expected.push_back(static_cast<int32_t>(i));
      }
      positions.resize(static_cast<size_t>(table.notBelow(values.data(), count, low, positions.data())));
      CHECK(positions == expected);
    }
  }
}

// What reaches a floor, how far the rest is below it, and which bytes are within their limits.
void reaching(const Kernels& table) {
  constexpr int kRows = 5, kColumns = 48;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool withGaps : {false, true}) {
    Terms terms(kRows, kColumns, 400);
    std::vector<float> scores;
    for (int i = 0; i < kRows * kColumns; ++i)
      scores.push_back(150 * test::noise(410, static_cast<uint64_t>(i)));
    scores[3] = nan;
    terms.base[7] = -kInfinity;
    terms.base[8] = kInfinity;
    terms.floors[4] = -kInfinity;
    std::vector<uint8_t> bits(kRows * kColumns / 8);
    table.reaching(scores.data(), kColumns, kRows, kColumns, terms.queries(withGaps), terms.keys(),
                   bits.data(), kColumns / 8);
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < kColumns; ++j) {
        const auto at = static_cast<size_t>(r * kColumns + j), row = static_cast<size_t>(r),
                   key = static_cast<size_t>(j);
        const double upper = static_cast<double>(scores[at]) * static_cast<double>(terms.rowSteps[row]) *
                                 static_cast<double>(terms.steps[key]) +
                             0.01 * static_cast<double>(terms.ofError[key]) +
                             0.02 * static_cast<double>(terms.ofLength[key]) +
                             static_cast<double>(terms.base[key]);
        const double below = static_cast<double>(terms.floors[row]) - upper;
        const bool set = (bits[at / 8] >> (at % 8) & 1) != 0;
        if (!(std::fabs(below) < 1e-5)) CHECK(set == !(below > 0));
        if (!withGaps || r == 4) continue;
        const double gap = std::min(50 * below - 128.5, 5 * below - 40), stored = terms.gapBytes[at];
        if (std::isnan(gap) || std::isinf(gap)) {
          CHECK(stored == -128 || stored == 127);
        } else {
          CHECK(std::fabs(stored - std::clamp(gap, -128.0, 127.0)) < 0.501);
        }
        // Nothing that reaches the floor is away from it.
        if (set && std::fabs(below) > 1e-5) CHECK(stored == -128);
      }
    }
  }
  std::vector<int8_t> values;
  std::vector<uint8_t> limits;
  for (int i = 0; i < 320; ++i) {
    const uint64_t word = philox64(3, 500, static_cast<uint64_t>(i));
    // Words of none and of all among the others.
    values.push_back(i / 64 == 1 ? 127 : i / 64 == 2 ? -128 : static_cast<int8_t>(word & 255));
    limits.push_back(i / 64 == 1 ? 0 : static_cast<uint8_t>(word >> 8 & 255));
  }
  for (const int more : {0, 1, 100, 254, 255}) {
    std::vector<int32_t> expected, positions(values.size() + 3);
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] + 128 <= std::min(limits[i] + more, 255)) expected.push_back(static_cast<int32_t>(i));
    }
    positions.resize(
        static_cast<size_t>(table.notOver(values.data(), limits.data(), static_cast<uint8_t>(more),
                                          static_cast<int64_t>(values.size()), positions.data())));
    CHECK(positions == expected);
  }
}

// The tile of products: all numbers of rows, A and its transpose, B packed and in place, overwriting and adding.
void tile(const Kernels& table) {
  CHECK(table.tileRows <= kMostTileRows && table.panel <= kMostPanel && table.panel % 8 == 0);
  for (const int64_t depth : {0, 1, 2, 5, 64, 129}) {
    for (int rows = 1; rows <= table.tileRows; ++rows) {
      for (int form = 0; form < 8; ++form) {
        const bool transposed = form & 1, packed = form & 2, add = form & 4;
        const int64_t strideA = (transposed ? rows : depth) + 2, strideB = table.panel + (packed ? 0 : 5),
                      strideC = table.panel + 3;
        const AlignedArray<float> b(std::max<int64_t>(1, depth * strideB));
        std::vector<float> a(static_cast<size_t>((transposed ? depth : rows) * strideA + 1));
        std::vector<float> c(static_cast<size_t>(table.tileRows * strideC), kUntouched);
        for (size_t i = 0; i < a.size(); ++i) a[i] = test::noise(5, i);
        for (int64_t i = 0; i < depth * strideB; ++i) b.get()[i] = test::noise(6, static_cast<uint64_t>(i));
        TileArgs args = {.a = a.data(),
                         .strideA = strideA,
                         .b = b.get(),
                         .strideB = strideB,
                         .depth = depth,
                         .c = c.data(),
                         .strideC = strideC,
                         .rows = rows,
                         .transposedA = transposed,
                         .add = add};
        if (!packed) args.ahead = b.get();
        args.aheadStep = strideB;
        table.tile(args);
        for (int64_t r = 0; r < table.tileRows; ++r) {
          for (int64_t j = 0; j < strideC; ++j) {
            const float got = c[static_cast<size_t>(r * strideC + j)];
            if (r >= rows || j >= table.panel) {
              CHECK(got == kUntouched);
              continue;
            }
            double sum = add ? static_cast<double>(kUntouched) : 0, size = std::fabs(sum);
            for (int64_t k = 0; k < depth; ++k) {
              const int64_t at = transposed ? k * strideA + r : r * strideA + k;
              const double product = static_cast<double>(a[static_cast<size_t>(at)]) *
                                     static_cast<double>(b.get()[k * strideB + j]);
              sum += product;
              size += std::fabs(product);
            }
            CHECK(std::fabs(static_cast<double>(got) - sum) <=
                  static_cast<double>(depth + 1) * 0x1p-24 * 1.001 * size);
          }
        }
      }
    }
  }
}

void checkIsa() {
  const std::vector<Isa> here = isasHere();
  CHECK(!here.empty() && here.front() == Isa::kPlain);
  const Isa used = isa();
  CHECK(std::find(here.begin(), here.end(), used) != here.end());
  const char* forced = std::getenv("CLIP_CID_SIMD");
  if (forced == nullptr || *forced == 0) {
    CHECK(used == here.back());
  } else {
    // The level that is named, or where it is not here one below it.
    bool found = false;
    for (const Isa level : here) found = found || std::strcmp(isaName(level), forced) == 0;
    CHECK(!found || std::strcmp(isaName(used), forced) == 0);
  }
  CHECK(chooseIsa(isaName(used)));
  if (here.size() > 1) CHECK(!chooseIsa(isaName(used == Isa::kPlain ? here.back() : Isa::kPlain)));
  CHECK(!chooseIsa("fast") && !chooseIsa("") && !chooseIsa(nullptr));
  CHECK(isa() == used);
}

}  // namespace

int main() {
  checkIsa();
  for (const Isa level : isasHere()) {
    if (level > isa()) break;
    const Kernels table = kernelsOf(level);
    const int before = test::failures();
    canonical(table);
    fixedSums(table);
    strips(table);
    tile(table);
    reaching(table);
    filter(table, *table.float32, Type::kFloat32);
    if (table.bfloat16 != nullptr) filter(table, *table.bfloat16, Type::kBfloat16);
    if (table.int8 != nullptr) filter(table, *table.int8, Type::kInt8);
    if (test::failures() > before) std::fprintf(stderr, "with %s\n", isaName(level));
  }
  // Not in every table of a processor that has the instruction.
#if defined(__x86_64__)
  if (hasBfloat16() && isa() >= Isa::kAvx512Vnni) filter(kernelsOf(isa()), avx512Bfloat16(), Type::kBfloat16);
#endif
  return test::report("kernels");
}
