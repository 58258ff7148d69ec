// AVX2 with FMA.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kWidth = 8;
typedef __m256 Floats;
Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

}  // namespace

#include "cpu/softmax_loss_rows.inc"

namespace clipcid {

const SoftmaxRows& avx2SoftmaxRows() { return kSoftmaxRows; }

}  // namespace clipcid
