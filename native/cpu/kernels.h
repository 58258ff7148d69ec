// The CPU's inner loops, compiled once for each instruction set and chosen once at run time.
//
// `tile` is the one microkernel: everything of the form Q K^T runs through it, and only what happens to the
// tile differs. Decisions are never taken on its result alone, so its rounding is free; `dot`, `unitRow` and
// `addFixed` are canonical.h's arithmetic, equal to the bit for every instruction set.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace clipcid {

// What makes an upper bound of a filtered score, by key: arrays of as many as there are keys.
struct KeyTerms {
  const float* steps;
  const float* base;
  const float* ofError;
  const float* ofLength;
};
// The same of one key.
struct KeyTerm {
  float step, base, ofError, ofLength;
};
// How far below the floor a score is, in a byte, a number for each key.
struct GapTerms {
  int8_t* to;
  float fine, fineAt0, coarse, coarseAt0;
};
// The same for a few queries.
struct QueryTerms {
  float error, length;  // the largest
  const float* steps;
  const float* floors;
  // Where not null, of each key with the upper bound u the lesser of fine u + fineAt0 and coarse u + coarseAt0, to the
  // nearest number from -128 to 127; -128 for a NaN.
  const GapTerms* gaps = nullptr;
};

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

  // scores[i] = that of `row` with row listed[i] of `others`, as `tile` has it with a scale of 1: both are row-major words
  // as A is, and rows of `others` are `stride` words apart. `sums` has the sums of all of these.
  void (*pairs)(const uint32_t* row, const uint32_t* others, int64_t stride, const int32_t* sums,
                const int32_t* listed, int64_t count, int64_t words, float* scores);

  // `tile` with a scale of 1 and what Kernels::reaching makes of it, for all tileRows rows, without a way through memory.
  // Scores are stored unless that is null. Null where the two cannot be one.
  void (*reach)(const uint32_t* a, int64_t strideA, const int32_t* sums, const uint32_t* b, int64_t words,
                const QueryTerms& queries, const KeyTerms& keys, float* scores, int64_t strideScores,
                uint8_t* bits, int64_t strideBits);
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

// c[r, j] = scales[j] * sum over k < depth of a(r, k) b[k * strideB + j], or that added to c, for r < tileRows and j <
// panel. Words of a and b are pairs of int16, the first in the lower half, and multiplied pair by pair; the sum is exact
// where it and what comes on the way fit int32, and rounded to float32 before the scale. a(r, k) as in TileArgs.
struct FixedTile {
  const uint32_t* a = nullptr;
  int64_t strideA = 0;
  const uint32_t* b = nullptr;
  int64_t strideB = 0;
  int64_t depth = 0;
  float* c = nullptr;
  int64_t strideC = 0;
  const float* scales = nullptr;  // [panel]
  bool transposedA = false;
  bool add = false;
  const float* ahead = nullptr;  // as in TileArgs; not null
  int64_t aheadStep = 0;
};

struct FixedKernel {
  int tileRows;
  int panel;
  void (*tile)(const FixedTile& args);
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

  // Of the filtered scores of a few queries with `columns` keys, a multiple of 16: sets bit j of the bits of row r unless
  //   scores[r, j] * steps_r * steps_j + error * ofError_j + length * ofLength_j + base_j < floor_r,
  // in float32, as which order and with which roundings is open. A NaN is not below anything.
  void (*reaching)(const float* scores, int64_t stride, int rows, int64_t columns, const QueryTerms& queries,
                   const KeyTerms& keys, uint8_t* bits, int64_t strideBits);
  // Those of the listed keys whose scores with one query `reaching` would mark, in place; returns how many.
  int64_t (*reachingListed)(const float* scores, const QueryTerms& query, const KeyTerm* keys, int64_t count,
                            int32_t* listed);
  // Positions of the elements for which !(value < low), ascending, so that NaN is among them; returns how many.
  int64_t (*notBelow)(const float* values, int64_t count, float low, int32_t* positions);
  // The same for values[i] + 128 <= limits[i] + more, the right side at most 255; `count` is a multiple of 64, and there
  // is room for three positions more.
  int64_t (*notOver)(const int8_t* values, const uint8_t* limits, uint8_t more, int64_t count,
                     int32_t* positions);

  // By precision; `int8` and `bfloat16` are null where the machine has nothing faster than float32 for them.
  const FilterKernel* float32;
  const FilterKernel* bfloat16;
  const FilterKernel* int8;
  // Null where it is not twice as fast as float32.
  const FixedKernel* int16;
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
const FixedKernel& avx2VnniInt16();
const FixedKernel& avx512Int16();
const FilterKernel& avx512Bfloat16();
const FilterKernel& amxInt8();
const FilterKernel& amxBfloat16();
const Kernels& neonKernels();
const FilterKernel& neonInt8();
const FilterKernel& neonBfloat16();

}  // namespace clipcid
