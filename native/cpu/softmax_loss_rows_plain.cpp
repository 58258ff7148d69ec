// Whatever the compiler's baseline has; no fused multiply-add is assumed.
#include <cstdint>

namespace {

constexpr int kWidth = 4;
typedef float Floats __attribute__((vector_size(16)));
Floats fused(Floats a, Floats b, Floats c) { return a * b + c; }

}  // namespace

#include "cpu/softmax_loss_rows.inc"

namespace clipcid {

const SoftmaxRows& plainSoftmaxRows() { return kSoftmaxRows; }

}  // namespace clipcid
