// AVX2 with FMA.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kWidth = 8;
typedef __m256 Floats;
Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }

}  // namespace

#include "cpu/softmax_loss_rows.inc"

namespace clipcid {

const SoftmaxRows& avx2SoftmaxRows() { return kSoftmaxRows; }

}  // namespace clipcid
