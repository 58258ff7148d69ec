// The softmax primitive against its equations in float64, the loss against its own directional derivative,
// and AdamW's rejection, over sizes round the tiles' edges. A plain program, so that it runs under valgrind
// and the sanitizers; prints what fails.
#include <tuple>

#include "core/aligned.h"
#include "cpu/contrast_fixed.h"
#include "cpu/kernels.h"
#include "cpu/product.h"
#include "loss_checks.h"

using namespace clipcid;
using namespace clipcid::test;

namespace {

// Packed products of both kinds against float64, inside the bound that product.h states, and equal to the bit when the
// operands change places. Rows of very different sizes, one huge product that cancels, and elements that bfloat16
// rounds badly.
void products(const Product& product, int64_t depth, double bound) {
  std::mt19937 random(4);
  const int64_t m = product.rows, n = product.columns;
  std::vector<float> a = draw(random, m * depth), b = draw(random, n * depth);
  for (int64_t k = 0; k < depth; ++k) {
    a[k] *= 1e30f;
    if (m > 1) a[depth + k] *= 1e-20f;
    b[k] *= 1e-5f;
    if (n > 1) b[depth + k] = 1 + 255.0f / 65536;  // halfway between two bfloat16, twice
  }
  if (depth > 3) {
    a[3 * depth] = a[3 * depth + 3] = 1e10f;
    for (int64_t j = 0; j < n; ++j) b[j * depth + 3] = -b[j * depth];
  }
  // The transpose of b, for the other packing.
  std::vector<float> columns(n * depth);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t k = 0; k < depth; ++k) columns[k * n + j] = b[j * depth + k];
  }
  const int64_t stride = kMostProductColumns;
  const AlignedArray<float> left(m * product.leftWords(depth)), right(n * product.rightWords(depth)),
      mirrorLeft(m * product.leftWords(depth)), mirrorRight(n * product.rightWords(depth)),
      c(kMostProductRows * stride), d(kMostProductRows * stride), e(kMostProductRows * stride);
  product.packLeft(a.data(), depth, m, depth, left.get());
  product.enter();
  product.packRightRows(b.data(), depth, n, depth, right.get());
  product.multiply(left.get(), right.get(), depth, c.get(), stride, false, false);
  // In two parts, where the depth allows it.
  const int64_t part = depth > 32 ? 32 : depth;
  product.packRight(columns.data(), n, n, 0, part, depth, right.get());
  if (part < depth)
    product.packRight(columns.data() + part * n, n, n, part, depth - part, depth, right.get());
  product.multiply(left.get(), right.get(), depth, d.get(), stride, false, false);
  for (int64_t i = 0; i < m; ++i)
    std::copy(d.get() + i * stride, d.get() + i * stride + n, e.get() + i * stride);
  product.multiply(left.get(), right.get(), depth, e.get(), stride, true, false);
  double worst = 0;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const double term = static_cast<double>(a[i * depth + k]) * static_cast<double>(b[j * depth + k]);
        sum += term;
        size += std::fabs(term);
      }
      const float value = c.get()[i * stride + j];
      CHECK(value == d.get()[i * stride + j]);
      CHECK(std::fabs(static_cast<double>(e.get()[i * stride + j]) - 2 * sum) <= 3 * bound * size);
      worst = std::fmax(worst, std::fabs(static_cast<double>(value) - sum) / size);
    }
  }
  CHECK(worst <= bound);
  // Rows and columns that are missing count as zeros; the operands the other way round.
  const int64_t few = std::min(m, n) - (m > 1 ? 1 : 0);
  product.packLeft(b.data(), depth, few, depth, mirrorLeft.get());
  product.packRightRows(a.data(), depth, few, depth, mirrorRight.get());
  product.multiply(mirrorLeft.get(), mirrorRight.get(), depth, d.get(), stride, false, true);
  product.leave();
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const float value = d.get()[i * stride + j];
      CHECK(value == (i < few && j < few ? c.get()[j * stride + i] : 0.0f));
    }
  }
}

void adamw(int threads) {
  constexpr int64_t kLength = 40'000;
  std::mt19937 random(3);
  std::vector<float> parameters = draw(random, kLength), gradients = draw(random, kLength);
  std::vector<float> first(kLength), second(kLength), ema = parameters;
  double norm = 0;
  AdamwArgs args;
  args.parameters = parameters.data();
  args.gradients = gradients.data();
  args.first = first.data();
  args.second = second.data();
  args.ema = ema.data();
  args.length = kLength;
  args.rate = 0.01;
  args.groups = {{17'001, 1, 1}, {0, 1, 1}, {22'999, 0.5, 0}};
  args.gradientNorm = &norm;
  CHECK_OK(cpuBackend().adamw(contextOf(threads), args));
  CHECK(norm > 0);
  args.groups.back().length += 1;
  // Groups beyond the buffers' end.
  CHECK(cpuBackend().adamw(contextOf(threads), args).code == Code::kInvalidArgument);
}

}  // namespace

int main() {
  for (const int64_t depth : {1, 2, 31, 32, 33, 100, 512}) {
    const double rounding = std::ldexp(1.0, -24) * static_cast<double>(depth);
    products(floatProduct(), depth, 1.01 * rounding);
    // Another kind only where the machine has one.
    products(productFor(kMostProductRows, kMostProductRows, depth), depth,
             3 * std::ldexp(1.0, -18) + std::ldexp(static_cast<double>(2 * depth + 96), -23));
  }
  for (const int threads : {1, 3}) {
    primitive(cpuBackend(), 1, 1, 1, 0.5, threads);
    primitive(cpuBackend(), 13, 33, 31, 0.5, threads);
    primitive(cpuBackend(), 12, 256, 32, 1, threads);
    primitive(cpuBackend(), 29, 517, 70, 0.5, threads);
    primitive(cpuBackend(), 33, 257, 65, 10, threads);
    primitive(cpuBackend(), 131, 64, 9, 0.01, threads);
    contrast(cpuBackend(), 1, 1, 5, true, true, threads);
    contrast(cpuBackend(), 33, 20, 14, true, true, threads);
    contrast(cpuBackend(), 70, 33, 100, true, false, threads);
    contrast(cpuBackend(), 1100, 9, 14, true, true, threads);
    contrast(cpuBackend(), 50, 64, 1, false, false, threads);
    // Products in fixed point, where the machine has them.
    for (const auto& [rows, dim, scale] : {std::tuple{1030, 70, 14.0}, {1001, 130, 3.0}, {1024, 64, 20.0}}) {
      ContrastArgs args;
      args.rows = rows;
      args.dim = dim;
      args.scale = scale;
      const bool fixed =
          kernels().int16 != nullptr && productFor(kMostProductRows, kMostProductRows, dim).direct;
      CHECK(ContrastFixed::serves(contextOf(threads), args) == fixed);
      contrast(cpuBackend(), rows, dim, scale, scale != 20, scale == 14, threads);
    }
    distil(cpuBackend(), {1, 1, 1, 20, true, false, true, false}, threads);
    distil(cpuBackend(), {13, 33, 31, 20, true, false, false, false}, threads);
    distil(cpuBackend(), {70, 400, 20, 10, false, true, true, false}, threads);
    distil(cpuBackend(), {150, 500, 33, 50, true, false, true, true}, threads);
    distil(cpuBackend(), {40, 300, 1030, 20, true, true, true, false}, threads);
    distil(cpuBackend(), {5, 4000, 12, 5, true, false, false, true}, threads);
    // Products in fixed point, where the machine has them: few large weights, many of them, and none.
    distil(cpuBackend(), {9, 12900, 64, 66, true, false, true, false}, threads);
    distil(cpuBackend(), {37, 4100, 65, 16, true, false, false, true}, threads);
    distil(cpuBackend(), {50, 4021, 130, 25, false, true, true, true}, threads);
    distil(cpuBackend(), {21, 4003, 515, 1, true, true, false, false}, threads);
    distil(cpuBackend(), {300, 1100, 130, 13, true, false, false, false}, threads);
    loss(cpuBackend(), 1, 1, 1, 1, false, Pairing::kBoth, threads);
    loss(cpuBackend(), 13, 7, 9, 300, true, Pairing::kSame, threads);
    loss(cpuBackend(), 25, 33, 20, 40, false, Pairing::kCross, threads);
    adamw(threads);
  }
  return test::report("loss");
}
