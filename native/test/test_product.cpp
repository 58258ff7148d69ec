// Every product in bfloat16 against float64, within its bound, of rows as they are and as they are rounded; that packing in any
// way gives the same words; that vector instructions and plain loops agree to the bit. AMX's tiles are emulated where they are
// missing, and both of its products are tested on them.
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "check.h"
#include "core/aligned.h"
#include "cpu/isa.h"
#include "cpu/product.h"

namespace clipcid {

#if defined(__x86_64__)
const Product& emulatedAmxProduct();
const Product& emulatedAmxBfloat16Product();
#endif

namespace {

using test::noise;

// To the nearest of 8 significant bits, ties to even.
double roundedTo8(double x) {
  if (x == 0) return 0;
  int exponent;
  const double fraction = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

struct Side {
  int64_t count, depth;
  std::vector<float> values;
  const float* row(int64_t i) const { return values.data() + i * depth; }
  std::vector<float> turned() const {
    std::vector<float> out(values.size());
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t k = 0; k < depth; ++k) out[static_cast<size_t>(k * count + i)] = row(i)[k];
    }
    return out;
  }
};

// Rows of different sizes, and elements halfway between two of bfloat16.
Side sideOf(int64_t count, int64_t depth, uint64_t stream) {
  Side rows{count, depth, std::vector<float>(static_cast<size_t>(count * depth))};
  for (int64_t i = 0; i < count; ++i) {
    const float size = std::ldexp(1.0f, static_cast<int>(i % 7) * 9 - 27);
    for (int64_t k = 0; k < depth; ++k) {
      float& x = rows.values[static_cast<size_t>(i * depth + k)];
      x = size * noise(stream, static_cast<uint64_t>(i * depth + k));
      if (k % 5 == 1) x = size * (1 + static_cast<float>(k % 128) / 128 + 1.0f / 256);
    }
  }
  return rows;
}

enum class Packing { kRows, kColumns, kTurnedLeft, kInParts };

// a b^T, tile by tile.
std::vector<float> multiplied(const Product& product, const Side& a, const Side& b, Packing packing,
                              bool add) {
  const int64_t depth = a.depth;
  const std::vector<float> turnedA = a.turned(), turnedB = b.turned();
  const int64_t tiles = (a.count + product.rows - 1) / product.rows;
  const int64_t size = product.rows * product.leftWords(depth);
  AlignedArray<float> left(tiles * size), right(product.columns * product.rightWords(depth)),
      tile(product.rows * product.columns);
  const bool turned = packing == Packing::kTurnedLeft && product.packLeftTurned != nullptr;
  if (turned) {
    product.packLeftTurned(turnedA.data(), a.count, a.count, depth, left.get());
  } else {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t from = t * product.rows;
      product.packLeft(a.row(from), depth, std::min<int64_t>(product.rows, a.count - from), depth,
                       left.get() + t * size);
    }
  }
  std::vector<float> c(static_cast<size_t>(a.count * b.count));
  for (int64_t column = 0; column < b.count; column += product.columns) {
    const int64_t columns = std::min<int64_t>(product.columns, b.count - column);
    if (packing == Packing::kRows) {
      product.packRightRows(b.row(column), depth, columns, depth, right.get());
    } else {
      const int64_t length = packing == Packing::kInParts ? 32 : depth;
      for (int64_t begin = 0; begin < depth; begin += length)
        product.packRight(turnedB.data() + begin * b.count + column, b.count, columns, begin,
                          std::min(length, depth - begin), depth, right.get());
    }
    product.enter();
    for (int64_t t = 0; t < tiles; ++t) {
      for (int64_t i = 0; i < product.rows * product.columns; ++i) tile.get()[i] = 3;
      (turned ? product.multiplyTurned : product.multiply)(left.get() + t * size, right.get(), depth,
                                                           tile.get(), product.columns, add, false);
      for (int64_t r = 0; r < std::min<int64_t>(product.rows, a.count - t * product.rows); ++r) {
        std::copy_n(tile.get() + r * product.columns, columns,
                    c.begin() + (t * product.rows + r) * b.count + column);
      }
    }
    product.leave();
  }
  return c;
}

bool sameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// `relative` of the sum of the products' sizes is the bound against rows as they are; `sums` that against the rounded ones.
void within(const Product& product, int64_t m, int64_t n, int64_t depth, double relative, double sums) {
  const Side a = sideOf(m, depth, 1), b = sideOf(n, depth, 2);
  const std::vector<float> c = multiplied(product, a, b, Packing::kRows, false);
  for (const Packing packing : {Packing::kColumns, Packing::kTurnedLeft, Packing::kInParts})
    CHECK(sameBits(multiplied(product, a, b, packing, false), c));
  const std::vector<float> added = multiplied(product, a, b, Packing::kTurnedLeft, true);
  bool exactly = true;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, size = 0, ofRounded = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const double x = static_cast<double>(a.row(i)[k]), y = static_cast<double>(b.row(j)[k]);
        sum += x * y;
        size += std::fabs(x * y);
        ofRounded += roundedTo8(x) * roundedTo8(y);
      }
      const float got = c[static_cast<size_t>(i * n + j)];
      const double value = static_cast<double>(got);
      CHECK(std::fabs(value - sum) <= (relative + sums) * size);
      if (relative > 0.005) CHECK(std::fabs(value - ofRounded) <= 1.01 * sums * size);
      // Added at the end, or the sums began with it.
      CHECK(std::fabs(static_cast<double>(added[static_cast<size_t>(i * n + j)]) - (value + 3)) <=
            2 * sums * (size + 3));
      exactly = exactly && value == sum;
    }
  }
  // A bound that float32 would keep to tells nothing.
  if (relative > 0.005 && depth > 4) CHECK(!exactly);
}

// What is no number, too large or too small.
void edges(const Product& product) {
  const float infinity = std::numeric_limits<float>::infinity();
  Side a{1, 4, {1, 0, 0, 0}}, b{1, 4, {1, 0, 0, 0}};
  const auto of = [&](float x) {
    a.values[0] = x;
    return multiplied(product, a, b, Packing::kRows, false)[0];
  };
  CHECK(std::isnan(of(std::numeric_limits<float>::quiet_NaN())));
  CHECK(of(infinity) == infinity && of(-infinity) == -infinity);
  CHECK(of(3.4e38f) == infinity);  // no bfloat16 is nearer
  CHECK(of(3.38e38f) < infinity);
  CHECK(of(-0x1p-126f) == -0x1p-126f);
  CHECK(of(0x1p-127f) == 0);
  CHECK(of(1 + 0x1p-8f) == 1 && of(1 + 0x3p-8f) == 1 + 0x4p-8f);  // ties
  CHECK(of(1 + 0x1p-8f + 0x1p-20f) == 1 + 0x2p-8f);
}

void bfloat16(const Product& product) {
  const double relative = std::exp2(-6.99);
  for (const int64_t depth : {1, 2, 3, 31, 32, 33, 100, 511, 1024}) {
    const double sums = std::ldexp(static_cast<double>(depth + 64), -23);
    within(product, product.rows, product.columns, depth, relative, sums);
    within(product, 2 * product.rows + 5, product.columns + 7, depth, relative, sums);
  }
  within(product, 1, 1, 40, relative, std::ldexp(104.0, -23));
  edges(product);
}

#if defined(__x86_64__)
void split(const Product& product) {
  for (const int64_t depth : {1, 31, 32, 33, 100, 512})
    within(product, product.rows + 3, product.columns + 7, depth, 3 * std::ldexp(1.0, -18),
           std::ldexp(static_cast<double>(2 * depth + 96), -23));
}
#endif

}  // namespace
}  // namespace clipcid

int main() {
  using namespace clipcid;
  bfloat16(plainBfloat16Product());
  bfloat16(bfloat16Product());
  CHECK(productFor(100, 100, 100).elements == 1);
  CHECK(&productFor(100, 100, 100, Precision::kBfloat16) == &bfloat16Product());
  CHECK(hasBfloat16Product() == (&bfloat16Product() != &plainBfloat16Product()));
#if defined(__x86_64__)
  if (hasBfloat16Product()) {
    // Which instruction set is in use does not matter.
    bfloat16(avx512Bfloat16Product());
    const Side a = sideOf(77, 333, 3), b = sideOf(50, 333, 4);
    CHECK(sameBits(multiplied(avx512Bfloat16Product(), a, b, Packing::kRows, true),
                   multiplied(plainBfloat16Product(), a, b, Packing::kRows, true)));
    bfloat16(emulatedAmxBfloat16Product());
    split(emulatedAmxProduct());
  } else {
    std::printf("product: no AVX512_BF16 in use, so plain loops alone\n");
  }
#endif
  return test::report("product");
}
