// AVX-512.
// GCC 12 takes the undefined halves of its own intrinsics for a fault.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>

namespace {

constexpr int kWidth = 16;
typedef __m512 Floats;
Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }

}  // namespace

#include "cpu/softmax_loss_rows.inc"

namespace clipcid {

const SoftmaxRows& avx512SoftmaxRows() { return kSoftmaxRows; }

}  // namespace clipcid
