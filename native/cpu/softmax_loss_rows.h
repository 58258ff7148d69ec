// The softmax epilogues of dots, compiled once for each instruction set: of rows of a tile, whose elements are a query's
// dots with several keys, and of lanes, where a row has the dots of one key and each lane is a query.
//
// Logits are scale * dot, rounded to float32 and in units of ln(2): exponentials are powers of two. Rows hold a
// multiple of kRowLanes dots. Sums run in kRowLanes lanes, which are then folded in halves, whatever the width of the machine's vectors; only
// whether multiplications and additions are fused differs between instruction sets.
//
// 2^x is right to 4 roundings; for x below -100 it is 2^-100, which no sum of float32 weights near 1 can tell from 0,
// and, in the backward form, for x over 1 that of 1.
#pragma once

#include <cstdint>

namespace clipcid {

constexpr int kRowLanes = 32;
// What is subtracted from a row's logits follows their maximum only when it is this far behind: then what the row has
// summed up need not be rescaled for every small rise.
constexpr float kLag = 8;

// The weights of the backward form: row and column part of
//   rowWeight 2^(scale z - rowLse) + columnWeights[j] 2^(scale z - columnLse[j])
// An absent part has null `columnWeights`, or a weight of 0.
struct WeighRow {
  float scale;
  float rowWeight, rowLse;
  const float* columnWeights;
  const float* columnLse;
};

// A block of dots by lanes, [keys, lanes], rows `stride` apart; lanes is a multiple of kRowLanes and 64-byte aligned. The
// logit of key j is scales[j] z, which is rounded.
struct LaneBlock {
  float* z;
  const float* scales;  // [keys]
};

// Rows in fixed point are pairs of int16, rint(x scale) with |x scale| <= 32,767, one in each half of a word. Along a row,
// elements i and i + kPair of every 2 kPair are a pair, a row being filled up with zeros to a multiple of 2 kPair.
constexpr int64_t kPair = 16;

struct SoftmaxRows {
  // z[i] = 2^(scale z[i] - m), where m = previous, or the largest of scale z if that is over previous + kLag; returns
  // m, and the sum of the new z in `sum`.
  float (*softmax)(float* z, int64_t count, float scale, float previous, double* sum);
  // The same without writing to z.
  float (*sum)(const float* z, int64_t count, float scale, float previous, double* sum);
  // z[i] = the weights; returns the sum of the new z times the old.
  double (*weigh)(float* z, int64_t count, const WeighRow& args);
  // Takes `rows` rows, `stride` apart, into the running maxima and sums of 2^(scale z - maximum) of columns.
  void (*columns)(const float* z, int64_t stride, int64_t rows, int64_t count, float scale, float* maxima,
                  float* sums);
  // By lane: z = 2^(logit - maximum), the largest logit of the block, and the sum of these.
  void (*lanes)(const LaneBlock& block, int64_t stride, int64_t keys, int64_t lanes, float* maxima,
                float* sums);
  // The same of two blocks, and by lane the sum of the second's exponentials times (its logit - the first's).
  void (*twoLanes)(const LaneBlock& first, const LaneBlock& second, int64_t stride, int64_t keys,
                   int64_t lanes, float* maxima, float* secondMaxima, float* sums, float* secondSums,
                   float* differences);
  // Of blocks' maxima, sums and, unless null, differences, [blocks, lanes], to those of all keys: by lane the largest
  // logit, the sum and the difference, over which the maxima become 2^(maximum - largest) weight / sum.
  void (*mergeLanes)(float* maxima, const float* sums, const float* differences, int64_t blocks,
                     int64_t lanes, double weight, float* largest, double* sum, double* difference);
  // out = first[lane] x + second[lane] y, of [keys, lanes] each; `y` may be null.
  void (*weighLanes)(const float* x, const float* y, int64_t stride, int64_t keys, int64_t lanes,
                     const float* first, const float* second, float* out);
  // out[lane] = sum over `count` rows of x
  void (*sumLanes)(const float* x, int64_t stride, int64_t count, int64_t lanes, float* out);
  // out[lane] = the larger of x[lane] first[lane] and y[lane] second[lane]; `y` may be null.
  void (*ratios)(const float* x, const float* y, int64_t lanes, const float* first, const float* second,
                 float* out);
  // x[j, .] *= factors[j], and these in fixed point, keys j and j + 1 being a pair: [(keys + 1) / 2, lanes], scaled by lane
  // as far as neither an element nor the sum of the absolute elements times `most` leaves its range. `scales` receives
  // what a unit of them is.
  void (*fixLanes)(float* x, int64_t stride, int64_t keys, int64_t lanes, const float* factors, float most,
                   uint32_t* out, float* scales);
  // A row in fixed point.
  void (*fixRow)(const float* x, int64_t dim, float scale, uint32_t* out);
  // Two rows in fixed point, and the words whose pairs are their elements, filled up as a row is; `y` may be null, for zeros.
  void (*fixRows)(const float* x, const float* y, int64_t dim, float scaleX, float scaleY, uint32_t* outX,
                  uint32_t* outY, uint32_t* pairs);
  // The largest absolute element, and the largest sum of squares of a part of `part` elements.
  void (*extent)(const float* x, int64_t dim, int64_t part, float* largest, float* square);
  // out[i] = x . rows[i], by kRowLanes chains; meanwhile `ahead`, a row that is needed next, is asked for.
  void (*dots)(const float* x, const float* const* rows, int64_t count, int64_t dim, const float* ahead,
               float* out);
  // out[k] += factor x[k]
  void (*add)(const float* x, float factor, int64_t dim, float* out);
  // x[j, .] *= factors[j]
  void (*scaleKeys)(float* x, int64_t stride, int64_t keys, int64_t lanes, const float* factors);
  // out[k] = float32(x[k] factor)
  void (*scaled)(const float* x, int64_t dim, double factor, float* out);
};

// Of this machine and CLIP_CID_SIMD.
const SoftmaxRows& softmaxRows();

const SoftmaxRows& plainSoftmaxRows();
const SoftmaxRows& avx2SoftmaxRows();
const SoftmaxRows& avx512SoftmaxRows();

}  // namespace clipcid
