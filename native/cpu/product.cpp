#include "cpu/product.h"

#include <algorithm>
#include <cstring>

#include "cpu/isa.h"
#include "cpu/kernels.h"

namespace clipcid {
namespace {

// Rows of a left block are this much longer than what they hold: a stride of a power of two would put all rows of a
// tile into the same few sets of the first cache.
constexpr int kSkew = 16;

void packLeft(const float* a, int64_t stride, int64_t count, int64_t depth, float* out) {
  const int rows = kernels().tileRows;
  for (int64_t r = 0; r < rows; ++r, out += depth + kSkew) {
    if (r < count) {
      memcpy(out, a + r * stride, static_cast<size_t>(depth) * sizeof(float));
    } else {
      std::fill(out, out + depth, 0.0f);
    }
  }
}

typedef float Four __attribute__((vector_size(16)));

// Four rows' elements k to k + 3, turned: to[i * width + r] = rows[r][k + i].
void turnFour(const float* const* rows, int64_t k, float* to, int64_t width) {
  Four row[4];
  for (int r = 0; r < 4; ++r) memcpy(&row[r], rows[r] + k, sizeof row[r]);
  const Four low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const Four high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Four low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const Four high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const Four turned[4] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                          __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                          __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                          __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) memcpy(to + i * width, &turned[i], sizeof turned[i]);
}

void packRightRows(const float* b, int64_t stride, int64_t count, int64_t depth, float* out) {
  constexpr int64_t kRun = 16;
  const int64_t width = kernels().panel;
  for (int64_t from = 0; from < depth; from += kRun) {
    const int64_t to = std::min(depth, from + kRun), whole = from + (to - from) / 4 * 4;
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) {
      const float* rows[4];
      for (int r = 0; r < 4; ++r) rows[r] = b + (j + r) * stride;
      for (int64_t k = from; k < whole; k += 4) turnFour(rows, k, out + k * width + j, width);
      for (int64_t k = whole; k < to; ++k) {
        for (int r = 0; r < 4; ++r) out[k * width + j + r] = rows[r][k];
      }
    }
    for (; j < count; ++j) {
      for (int64_t k = from; k < to; ++k) out[k * width + j] = b[j * stride + k];
    }
    for (int64_t k = from; k < to; ++k) std::fill(out + k * width + count, out + (k + 1) * width, 0.0f);
  }
}

void packRight(const float* b, int64_t stride, int64_t count, int64_t begin, int64_t length, int64_t,
               float* out) {
  const int64_t width = kernels().panel;
  out += begin * width;
  for (int64_t k = 0; k < length; ++k, out += width) {
    memcpy(out, b + k * stride, static_cast<size_t>(count) * sizeof(float));
    std::fill(out + count, out + width, 0.0f);
  }
}

void multiply(const float* left, const float* right, int64_t depth, float* c, int64_t strideC, bool add,
              bool) {
  const Kernels& kernel = kernels();
  kernel.tile({.a = left,
               .strideA = depth + kSkew,
               .b = right,
               .strideB = kernel.panel,
               .depth = depth,
               .c = c,
               .strideC = strideC,
               .rows = kernel.tileRows,
               .add = add});
}

#if defined(__x86_64__)
bool hasSplit() { return isa() == Isa::kAmx && hasBfloat16(); }
#endif

}  // namespace

const Product& floatProduct() {
  static const Product product = {.rows = kernels().tileRows,
                                  .columns = kernels().panel,
                                  .step = 1,
                                  .elements = 1,
                                  .skew = kSkew,
                                  .direct = true,
                                  .packLeft = packLeft,
                                  .packRightRows = packRightRows,
                                  .packRight = packRight,
                                  .multiply = multiply};
  return product;
}

bool hasBfloat16Product() {
#if defined(__x86_64__)
  const Isa level = isa();
  return (level == Isa::kAvx512 || level == Isa::kAvx512Vnni || level == Isa::kAmx) && hasBfloat16();
#elif defined(__aarch64__)
  return isa() == Isa::kNeonDotprod && hasBfloat16();
#else
  return false;
#endif
}

const Product& bfloat16Product() {
  [[maybe_unused]] static const bool has = hasBfloat16Product();
#if defined(__x86_64__)
  if (has) return isa() == Isa::kAmx ? amxBfloat16Product() : avx512Bfloat16Product();
#elif defined(__aarch64__)
  if (has) return neonBfloat16Product();
#endif
  return plainBfloat16Product();
}

const Product& productFor(int64_t m, int64_t n, int64_t k, Precision precision) {
  if (precision == Precision::kBfloat16) return bfloat16Product();
#if defined(__x86_64__)
  static const bool split = hasSplit();
  if (split) {
    // What a machine does beyond the elements that were asked for counts; the split is about four times as fast.
    const auto padded = [](int64_t count, int unit) {
      return static_cast<double>((count + unit - 1) / unit * unit);
    };
    const Product& fast = amxProduct();
    const Product& plain = floatProduct();
    const double fastCost = padded(m, fast.rows) * padded(n, fast.columns) * padded(k, fast.step);
    const double plainCost = padded(m, plain.rows) * padded(n, plain.columns) * static_cast<double>(k);
    if (fastCost < 4 * plainCost) return fast;
  }
#endif
  static_cast<void>(m), static_cast<void>(n), static_cast<void>(k);
  return floatProduct();
}

}  // namespace clipcid
