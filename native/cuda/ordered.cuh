// float32 as integers of the same order, so that integer atomics find maxima.
#pragma once

#include "cuda/platform.cuh"

namespace clipcid::cuda {

CLIPCID_DEVICE int32_t orderedOf(float value) {
  const int32_t bits = __float_as_int(value);
  return bits >= 0 ? bits : bits ^ INT32_MAX;
}
CLIPCID_DEVICE float ofOrdered(int32_t ordered) {
  return __int_as_float(ordered >= 0 ? ordered : ordered ^ INT32_MAX);
}

}  // namespace clipcid::cuda
