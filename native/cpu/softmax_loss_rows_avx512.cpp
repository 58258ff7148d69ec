// AVX-512.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kWidth = 16;
typedef __m512 Floats;
Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

}  // namespace

#include "cpu/softmax_loss_rows.inc"

namespace clipcid {

const SoftmaxRows& avx512SoftmaxRows() { return kSoftmaxRows; }

}  // namespace clipcid
