// The kernels of softmaxes over keys: logits with their online log-sum-exps, the weights that gradients have, sums of values with
// these. All of them only queue their work. Logits are in units of ln(2), so that exponentials are powers of two.
#pragma once

#include "cuda/halves.h"
#include "cuda/mainloop.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// Of some logits: the largest, and the sum of 2^(logit - largest). No logits: -infinity and 0.
struct alignas(8) SoftmaxPart {
  float maximum, sum;
};

// Logits that a part is of: keys of a query, and queries of a key. Warps of all mainloops have whole ones.
constexpr int kPartKeys = 32, kPartQueries = 16;

// Queries [M, D] with keys [N, D], as halves.
struct LogitsParams {
  // logit = (score unscale) scale, the score's scales undone exactly.
  float unscale = 1, scale = 1;
  float* logits = nullptr;  // [M, logitsStride], or null; the stride is even
  int64_t logitsStride = 0;
  SoftmaxPart* queryParts = nullptr;  // [M, parts of the keys], or null
  SoftmaxPart* keyParts = nullptr;    // [parts of the queries, N], or null
  int32_t keys = 0;                   // N
  const int32_t* targets = nullptr;   // [M] keys, the first of these being `firstKey`; or null
  int32_t firstKey = 0;
  float* targetLogits = nullptr;  // [M]
};
Status makeLogits(const Device& device, Stream stream, const HalvesView& queries, int64_t queryCount,
                  const HalvesView& keys, int64_t keyCount, const LogitsParams& params);

// What a log-sum-exp consists of, by query or by key: lse = maximum + log2(sum). `factors` = weight / sum.
struct SoftmaxSums {
  float* maxima = nullptr;
  double* sums = nullptr;
  float* factors = nullptr;
};
// Of parts [count, parts], so many at a time, behind what is in `out` unless these are the first.
Status mergeQueryParts(const Device& device, Stream stream, const SoftmaxPart* parts, int64_t count,
                       int32_t partsOfQuery, int32_t atOnce, bool first, float weight,
                       const SoftmaxSums& out);
// Of parts [parts, count], a strip's least number of them at a time, behind what is in `out` unless these are the first.
Status mergeKeyParts(const Device& device, Stream stream, const SoftmaxPart* parts, int32_t partsOfKey,
                     int64_t count, bool first, float weight, const SoftmaxSums& out);

// Weights
//   g[i, j] = factors[i] 2^(z[i, j] - maxima[i]) + keyFactors[j] 2^(z[i, j] - keyMaxima[j]) - factors2[i] 2^(y[i, j] - maxima2[i])
//           - [j == targets[i]] targetWeight
// of logits z and y [M, stride], as halves times `scale`; an absent part has null factors.
struct WeighParams {
  int32_t queries = 0, keys = 0;
  int64_t stride = 0;  // of rows of logits, and the depth that rows of weights are filled up to
  struct Side {
    const float* logits = nullptr;
    const float* maxima = nullptr;
    const float* factors = nullptr;
  } first, second;
  const float* keyMaxima = nullptr;
  const float* keyFactors = nullptr;
  const int32_t* targets = nullptr;  // the first of the keys being `firstKey`
  int32_t firstKey = 0;
  float targetWeight = 0;
  float scale = 1;
  HalvesView rows;     // [M] of depth `stride`; may lie where `first.logits` do
  HalvesView columns;  // the transpose [N], or nothing
  // [M, tiles of the keys] sums over kHalvesDepth keys of g z; or, with a second side, of
  // 2^(y - maxima2) ((y - maxima2) - (z - maxima)); or null.
  float* querySums = nullptr;
};
Status weighLogits(const Device& device, Stream stream, const WeighParams& params);
// out[i] (+)= the sum of sums [count, tiles], so many tiles at a time, in float64.
Status addQuerySums(const Device& device, Stream stream, const float* sums, int64_t count, int64_t tiles,
                    int64_t atOnce, bool add, double* out);

// out[i, d] = unscale factor sum_k weights[i, k] values[d, k], of rows of weights and of values' transpose, in parts of equal depth
// that are added in order; so many are apart in memory meanwhile, `partial`, with room for as many times count * outStride floats
// where there are more than one.
struct ValueSumsArgs {
  HalvesView weights;
  int64_t count = 0;
  HalvesView values;    // [dim], from the first element that counts
  int64_t values0 = 0;  // elements of the depth before it
  int64_t dim = 0;
  int64_t partDepth = 0;  // a multiple of kHalvesDepth
  int64_t parts = 1, partsAtOnce = 1;
  float unscale = 1, factor = 1;
  // What is in `out` comes first: as a part of its own, or as the first summand of a chain, made with the same `unscale` and a
  // factor of 1.
  bool add = false, goOn = false;
  float* out = nullptr;   // [count, outStride]
  int64_t outStride = 0;  // a multiple of 4
  float* partial = nullptr;
};
Status sumValues(const Device& device, Stream stream, const ValueSumsArgs& args);

}  // namespace clipcid::cuda
