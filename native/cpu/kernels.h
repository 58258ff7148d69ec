// The CPU's inner loops, compiled once for each instruction set and chosen once at run time.
//
// `tile` is the one microkernel: everything of the form Q K^T runs through it, and only what happens to the
// tile differs. Decisions are never taken on its result alone, so its rounding is free; `dot`, `unitRow` and
// `addFixed` are canonical.h's arithmetic, equal to the bit for every instruction set.
#pragma once

#include <cstdint>

namespace clipcid {

struct Kernels {
  // The tile is `tileRows` rows of A by `panel` rows of B; `panel` is a multiple of 8, at most kMostPanel.
  int tileRows;
  int panel;

  // c[r, j] = sum over k < depth of a[r, k] b[k, j], overwritten. A is row-major, all tileRows rows readable;
  // B is one packed panel, [depth, panel], 64-byte aligned. A chain of `depth` roundings for each element.
  void (*tile)(const float* a, int64_t strideA, const float* b, int64_t depth, float* c, int64_t strideC);

  // The canonical dot.
  double (*dot)(const float* x, const float* y, int64_t dim);
  // x[k] = float32(x[k] / norm).
  void (*unitRow)(float* x, int64_t dim, double norm);
  // sums[k] += toFixed(x[k], scale).
  void (*addFixed)(const float* x, int64_t dim, double scale, int64_t* sums);

  // The largest element; NaN may or may not show.
  float (*largest)(const float* values, int64_t count);
  // Positions of the elements for which !(value < low), ascending, so that NaN is among them; returns how
  // many.
  int64_t (*notBelow)(const float* values, int64_t count, float low, int32_t* positions);
};

constexpr int kMostTileRows = 16;
constexpr int kMostPanel = 64;

// Of this machine and CLIP_CID_SIMD.
const Kernels& kernels();

const Kernels& plainKernels();
const Kernels& avx2Kernels();
const Kernels& avx512Kernels();

}  // namespace clipcid
