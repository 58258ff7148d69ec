// Whatever the compiler's baseline has; no fused multiply-add is assumed.
#include <cstdint>

namespace {

constexpr int kWidth = 4;
typedef float Floats __attribute__((vector_size(16)));
Floats fused(Floats a, Floats b, Floats c) { return a * b + c; }
Floats larger(Floats a, Floats b) { return a > b ? a : b; }
Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

}  // namespace

#include "cpu/softmax_loss_rows.inc"

namespace clipcid {

const SoftmaxRows& plainSoftmaxRows() { return kSoftmaxRows; }

}  // namespace clipcid
