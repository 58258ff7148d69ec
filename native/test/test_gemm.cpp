// Products of matrices in every form and precision against float64, over sizes round the edges of tiles, blocks, slabs and
// parts; and that nothing changes a bit that must not: threads, packing beforehand, one thread alone.
#include <algorithm>
#include <cstring>
#include <limits>

#include "check.h"
#include "cpu/gemm.h"

using namespace clipcid;
using clipcid::test::contextOf;
using clipcid::test::noise;

namespace {

constexpr float kUntouched = -12345;

struct Matrix {
  Matrix(int64_t rows, int64_t columns, bool transposed, int64_t gap, int64_t shift, uint64_t stream)
      : stride((transposed ? rows : columns) + gap),
        values(static_cast<size_t>((transposed ? columns : rows) * stride + 16 + shift)) {
    operand = {aligned() + shift, stride, transposed};
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j)
        const_cast<float*>(operand.at(i, j))[0] = noise(stream, static_cast<uint64_t>(i * columns + j));
    }
  }
  float* aligned() {
    const auto at = reinterpret_cast<uintptr_t>(values.data());
    return values.data() + (64 - at % 64) % 64 / sizeof(float);
  }

  int64_t stride;
  std::vector<float> values;
  Operand operand;
};

struct Shape {
  int64_t m, n, k;
  bool transposeA, transposeB;
  int64_t gap, shift;
};

bool sameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void product(const Shape& shape, Precision precision) {
  const auto [m, n, k, transposeA, transposeB, gap, shift] = shape;
  Matrix a(m, k, transposeA, gap, shift, 1), b(k, n, transposeB, gap, shift, 2);
  // Some sums in float64, from one end to the other.
  const int64_t step = std::max<int64_t>(1, m * n / 2000);
  std::vector<double> sums, sizes;
  for (int64_t at = 0; at < m * n; at += step) {
    double sum = 0, size = 0;
    for (int64_t t = 0; t < k; ++t) {
      const double term =
          static_cast<double>(*a.operand.at(at / n, t)) * static_cast<double>(*b.operand.at(t, at % n));
      sum += term;
      size += std::fabs(term);
    }
    sums.push_back(sum);
    sizes.push_back(size);
  }
  const int64_t strideC = n + 3;
  const auto check = [&](const std::vector<float>& c, double alpha, double beta) {
    for (int64_t at = 0, index = 0; at < m * n; at += step, ++index) {
      const float got = c[static_cast<size_t>(at / n * strideC + at % n)];
      const double expected = alpha * sums[static_cast<size_t>(index)] + beta * kUntouched;
      // Of either kind of product in float32, or of bfloat16.
      const double rounding = precision == Precision::kBfloat16 ? std::exp2(-6.99) : 3 * 0x1p-18;
      const double bound = (rounding + static_cast<double>(2 * std::min<int64_t>(k, 2100) + 200) * 0x1p-23) *
                           (alpha * sizes[static_cast<size_t>(index)] + beta * -kUntouched);
      CHECK(std::fabs(static_cast<double>(got) - expected) <= bound);
    }
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = n; j < strideC; ++j) CHECK(c[static_cast<size_t>(i * strideC + j)] == kUntouched);
    }
  };
  const std::vector<float> before(static_cast<size_t>(m * strideC), kUntouched);
  for (const auto& [alpha, beta] : {std::pair<float, float>{1, 0}, {1, 1}, {2, 0.5f}, {0.5f, 0}}) {
    GemmArgs args;
    args.m = m;
    args.n = n;
    args.k = k;
    args.a = a.operand;
    args.b = b.operand;
    args.strideC = strideC;
    args.alpha = alpha;
    args.beta = beta;
    args.precision = precision;
    std::vector<float> c = before, others = before;
    if (beta == 0) {
      for (int64_t i = 0; i < m; ++i) {
        float* row = c.data() + i * strideC;
        std::fill(row, row + n, std::numeric_limits<float>::quiet_NaN());
      }
    }
    args.c = c.data();
    CHECK_OK(gemm(contextOf(1), args));
    check(c, static_cast<double>(alpha), static_cast<double>(beta));
    args.c = others.data();
    CHECK_OK(gemm(contextOf(3), args));
    CHECK(sameBits(others, c));
    others = before;
    args.c = others.data();
    GemmMemory memory;
    gemm(GemmTeam::alone(), args, memory);
    CHECK(sameBits(others, c));
    if (transposeA) continue;
    PackedRight packed;
    packed.pack(GemmTeam::alone(), b.operand, m, k, n, precision);
    args.packed = &packed;
    args.b = {};
    for (const int threads : {1, 4}) {
      others = before;
      args.c = others.data();
      CHECK_OK(gemm(contextOf(threads), args));
      CHECK(sameBits(others, c));
    }
  }
}

// Every element once, whole and in its place, with a bias and an activation.
void epilogue(int64_t m, int64_t n, int64_t k, bool transposeB) {
  Matrix a(m, k, false, 0, 0, 3), b(k, n, transposeB, 0, 0, 4);
  std::vector<float> c(static_cast<size_t>(m * n)), out(c.size(), kUntouched);
  GemmArgs args;
  args.m = m;
  args.n = n;
  args.k = k;
  args.a = a.operand;
  args.b = b.operand;
  args.c = c.data();
  args.strideC = n;
  CHECK_OK(gemm(contextOf(2), args));
  std::vector<int> seen(c.size());
  const GemmEpilogue biased = [&](const GemmTile& tile, int worker) {
    CHECK(worker >= 0 && worker < 3);
    for (int64_t r = 0; r < tile.rows; ++r) {
      for (int64_t j = 0; j < tile.columns; ++j) {
        const auto at = static_cast<size_t>((tile.row + r) * n + tile.column + j);
        ++seen[at];
        out[at] = std::fmax(0.0f, tile.values[r * tile.stride + j] + static_cast<float>(tile.column + j));
      }
    }
  };
  args.c = nullptr;
  args.epilogue = &biased;
  CHECK_OK(gemm(contextOf(3), args));
  for (size_t i = 0; i < c.size(); ++i) {
    CHECK(seen[i] == 1);
    CHECK(out[i] == std::fmax(0.0f, c[i] + static_cast<float>(static_cast<int64_t>(i) % n)));
  }
}

// Memory serves products of other sizes.
void alone() {
  Matrix a(40, 900, false, 0, 0, 5), b(900, 70, false, 0, 0, 6);
  GemmMemory memory;
  int tiles = 0;
  const GemmEpilogue count = [&](const GemmTile&, int worker) {
    CHECK(worker == 0);
    ++tiles;
  };
  for (const int64_t k : {900, 30, 200}) {
    GemmArgs args;
    args.m = 40;
    args.n = 70;
    args.k = k;
    args.a = a.operand;
    args.b = b.operand;
    args.epilogue = &count;
    gemm(GemmTeam::alone(), args, memory);
  }
  CHECK(tiles > 0 && tiles % 3 == 0);
}

void empty() {
  std::vector<float> c(6, kUntouched);
  GemmArgs args;
  args.m = 2;
  args.n = 3;
  args.c = c.data();
  args.strideC = 3;
  args.beta = 0.5f;
  CHECK_OK(gemm(contextOf(2), args));
  CHECK(c == std::vector<float>(6, kUntouched / 2));
  args.beta = 0;
  GemmMemory memory;
  gemm(GemmTeam::alone(), args, memory);
  CHECK(c == std::vector<float>(6, 0.0f));
  args.k = 4;
  args.n = 0;
  CHECK_OK(gemm(contextOf(2), args));
}

}  // namespace

int main() {
  for (const Precision precision : {Precision::kFloat32, Precision::kBfloat16}) {
    for (const bool transposeA : {false, true}) {
      for (const bool transposeB : {false, true}) {
        for (const int64_t gap : {0, 1}) {
          product({1, 1, 1, transposeA, transposeB, gap, 0}, precision);
          product({13, 33, 31, transposeA, transposeB, gap, 1}, precision);
          product({25, 64, 200, transposeA, transposeB, gap, 0}, precision);
          product({130, 97, 65, transposeA, transposeB, gap, 3}, precision);
        }
        // Blocks of the depth whose last is shorter; parts of rows and of columns; several slabs.
        product({40, 96, 1700, transposeA, transposeB, 0, 0}, precision);
        product({40, 70, 4190, transposeA, transposeB, 0, 0}, precision);
        product({801, 544, 48, transposeA, transposeB, 0, 0}, precision);
        product({14, 2200, 1000, transposeA, transposeB, 8, 0}, precision);
      }
    }
  }
  for (const bool transposeB : {false, true}) {
    epilogue(50, 45, 20, transposeB);
    epilogue(29, 64, 900, transposeB);
    epilogue(14, 2200, 1000, transposeB);
  }
  alone();
  empty();
  return test::report("gemm");
}
