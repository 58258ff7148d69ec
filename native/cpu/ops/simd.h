// The inner loops of the CPU's operations, compiled once for each instruction set and chosen once at run time. Their
// results depend on the instruction set in the last bits, never on the number of threads.
#pragma once

#include <cstdint>

#include "clipcid/ops.h"

namespace clipcid {

// One step of a chain over `count` elements. An operand is a run of elements, or one for all of them (step 0).
struct StepCall {
  const float* a = nullptr;
  const float* b = nullptr;
  const float* c = nullptr;
  int64_t stepA = 1, stepB = 1, stepC = 1;
  float p = 0, q = 0;
  float* to = nullptr;  // may be an operand's memory
  int64_t count = 0;
};

struct Simd {
  int width;  // floats of a vector

  void (*steps[kSteps])(const StepCall& call);
  // kGeluGradient and kGelu of its second operand, to `value`, which may be an operand's memory too; the same for kQuickGelu.
  void (*geluWithGradient)(const StepCall& call, float* value);
  void (*quickGeluWithGradient)(const StepCall& call, float* value);

  // Rows [from, to).
  void (*layerNorm)(const LayerNormArgs& args, int64_t from, int64_t to);
  // dGamma and dBeta, [size] each, are added to; those of the arguments are not looked at but for being null.
  void (*layerNormGradient)(const LayerNormGradientArgs& args, int64_t from, int64_t to, float* dGamma,
                            float* dBeta);
  // Rows of `size`, dense.
  void (*softmax)(const float* x, float* y, int64_t rows, int64_t size, bool logarithm);
  void (*softmaxGradient)(const float* dy, const float* y, float* dx, int64_t rows, int64_t size,
                          bool logarithm);

  // One item and head. `memory` is attentionFloats long and 64-byte aligned.
  int64_t (*attentionFloats)(const AttentionShape& shape, bool gradient);
  void (*attention)(const AttentionArgs& args, int64_t item, int64_t head, float* memory);
  void (*attentionGradient)(const AttentionGradientArgs& args, int64_t item, int64_t head, float* memory);

  // Of `count` elements.
  float (*reduce)(Reduction reduction, const float* x, int64_t count);
  // to[j] = op over the rows i of x[i, j], each `stride` after the one before; `add` to what is there, for sums.
  void (*reduceColumns)(Reduction reduction, const float* x, int64_t rows, int64_t columns, int64_t stride,
                        bool add, float* to);
  // to[i] += from[i]
  void (*add)(const float* from, float* to, int64_t count);
};

const Simd& simd();

const Simd& plainSimd();
const Simd& avx2Simd();
const Simd& avx512Simd();
const Simd& neonSimd();

}  // namespace clipcid
