// C = alpha op(A) op(B) + beta C on the device, float32.
#pragma once

#include "cuda/memory.h"

namespace clipcid::cuda {

// As MatmulArgs, of device memory.
struct MatmulKernelArgs {
  const float* a = nullptr;
  const float* b = nullptr;
  float* c = nullptr;
  int64_t m = 0, n = 0, k = 0;
  int64_t strideA = 0, strideB = 0, strideC = 0;
  bool transposeA = false, transposeB = false;
  float alpha = 1, beta = 0;
};
Status multiplyMatrices(Stream stream, const MatmulKernelArgs& args);

}  // namespace clipcid::cuda
