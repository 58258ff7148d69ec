// The CPU's inner loops, compiled once for each instruction set and chosen once at run time.
//
// `tile` is the one microkernel: everything of the form Q K^T runs through it, and only what happens to the
// tile differs. Decisions are never taken on its result alone, so its rounding is free; `dot`, `unitRow` and
// `addFixed` are canonical.h's arithmetic, equal to the bit for every instruction set.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace clipcid {

// A microkernel of the filters. Rows are words of 32 bits: one float32, two bfloat16 (the lower half first) or
// four int8 (the lowest byte first), each from -127 to 127.
struct FilterKernel {
  // The tile is `tileRows` rows of A by `panel` rows of B.
  int tileRows;
  int panel;  // a multiple of 16
  int step;   // the number of words of a row is a multiple of it; words that fill up are zero
  int offset;  // int8 only: what is added to the values of B, to make them unsigned, in words that fill up too; 0
               // or 128

  // scores[r, j] = scale * (sum over the row's elements of a[r, k] b[k, j]), float32. A is row-major, all tileRows
  // rows readable, `strideA` words apart; B is one packed panel, [words, panel], 64-byte aligned.
  // int8: the sum is exact for up to kMostInt8 elements, then rounded to float32, and again by the scale, which is
  // above zero; `sums` has for each row the sum of its elements, [tileRows]; it is read where there is an offset.
  // float32, bfloat16: the sum takes at most words + 8 (bfloat16: 2 words + 8) roundings to float32, each of which
  // may be a truncation; bfloat16 elements and sums below 2^-126 may count as zero. The scale is taken for 1.
  // Returns false when every score is below `limit`, which NaN is not; then the scores need not have been written.
  bool (*tile)(const uint32_t* a, int64_t strideA, const int32_t* sums, const uint32_t* b, int64_t words,
               float scale, float limit, float* scores, int64_t strideScores);

  // Around every run of calls on a thread, when not null: AMX sets its tiles up and lets them go. Nothing else in
  // the process may use AMX on the thread between them.
  void (*enter)();
  void (*leave)();

  // Multiplies and adds out of registers, and returns how many multiply-adds of elements that were: for the peak.
  int64_t (*spin)(int64_t rounds);

  // For the planner: float32 multiply-adds a cycle that this kernel does the work of, per thread, about.
  double speed;
};

// c[r, j] = sum over k < depth of a(r, k) b[k * strideB + j], or that added to c, for r < rows and j < panel, where
// a(r, k) is a[r * strideA + k], or a[k * strideA + r] when it is transposed. A chain of `depth` roundings for each
// element, and one where it is added.
struct TileArgs {
  const float* a = nullptr;
  int64_t strideA = 0;
  const float* b = nullptr;
  int64_t strideB = 0;
  int64_t depth = 0;
  float* c = nullptr;
  int64_t strideC = 0;
  int rows = 0;  // 1 to tileRows
  bool transposedA = false;
  bool add = false;
  // Memory that is needed later: at every step of depth a line of it is asked for, `aheadStep` elements further each
  // time, so that its way here costs no time; when many lines are asked for at once most are dropped. Null for a packed
  // panel, which is then asked for itself. Panels in place are not to be asked for: their lines would take each other's
  // places.
  const float* ahead = nullptr;
  int64_t aheadStep = 0;
};

struct Kernels {
  // The tile is `tileRows` rows of A by `panel` rows of B; `panel` is a multiple of 8, at most kMostPanel.
  int tileRows;
  int panel;

  void (*tile)(const TileArgs& args);

  // The canonical dot.
  double (*dot)(const float* x, const float* y, int64_t dim);
  // Of x with each of `count` rows: faster than one at a time.
  void (*dots)(const float* x, const float* const* rows, int64_t count, int64_t dim, double* out);
  // x[k] = float32(x[k] / norm).
  void (*unitRow)(float* x, int64_t dim, double norm);
  // sums[k] += sign * toFixed(x[k] * weight, scale), with sign 1 or -1.
  void (*addFixed)(const float* x, int64_t dim, double weight, double scale, int64_t sign, int64_t* sums);

  // scores[i] -= from[i], unless `from` is null; then the two largest scores, -infinity where there are fewer. None
  // may be a NaN, or they say nothing.
  void (*topTwo)(float* scores, const float* from, int64_t count, float* first, float* second);
  // Positions of the elements for which !(value < low), ascending, so that NaN is among them; returns how many.
  int64_t (*notBelow)(const float* values, int64_t count, float low, int32_t* positions);

  // By precision; `int8` and `bfloat16` are null where the machine has nothing faster than float32 for them.
  const FilterKernel* float32;
  const FilterKernel* bfloat16;
  const FilterKernel* int8;
};

constexpr int kMostTileRows = 32;
constexpr int kMostPanel = 64;
// 127 * 127 * 65,536 is below 2^31. Sums on the way may leave that range: they are modulo 2^32.
constexpr int64_t kMostInt8 = 65536;

// Of isa().
const Kernels& kernels();

// Those of one instruction set, which this machine must have (isasHere).
Kernels kernelsOf(Isa level);

// The tables and filters of kernels_*.cpp, by file.
const Kernels& plainKernels();
const Kernels& avx2Kernels();
const FilterKernel& avx2VnniInt8();
const Kernels& avx512Kernels();
const FilterKernel& avx512Int8();
const FilterKernel& avx512Bfloat16();
const FilterKernel& amxInt8();
const FilterKernel& amxBfloat16();
const Kernels& neonKernels();
const FilterKernel& neonInt8();
const FilterKernel& neonBfloat16();

}  // namespace clipcid
