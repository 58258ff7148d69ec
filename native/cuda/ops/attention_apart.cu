// Attention whose scores are stored: for heads that the fused kernels (attention.cu) have no room for.
//
// Forward: scores are a product, a warp makes probabilities of each row of them, and the result is a product again. Backward: the
// probabilities come from the scores and the log-sum-exps, their gradients from a product, and three products make the gradients
// of queries, keys and values. Scores take batch x heads x queries x keys floats of scratch memory, twice when going backward.
// Not yet measured.
#include "cuda/launch.cuh"
#include "cuda/ops/attention.h"
#include "cuda/ops/ops.h"
#include "cuda/ops/sums.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// Row of the mask for query `query` of matrix `matrix`, or null.
CLIPCID_DEVICE const float* maskRow(const AttentionShape& shape, const float* mask, int64_t matrix,
                                    int64_t query) {
  if (mask == nullptr) return nullptr;
  return mask + matrix / shape.heads * shape.maskStrides[0] + matrix % shape.heads * shape.maskStrides[1] +
         query * shape.maskStrides[2];
}

// A row of scores becomes probabilities.
__global__ void __launch_bounds__(kThreads)
    probabilitiesKernel(const __grid_constant__ AttentionShape shape, const float* mask, float* scores,
                        float* lse) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= shape.batch * shape.heads * shape.queries) return;
  const int64_t query = row % shape.queries;
  const float* masked = maskRow(shape, mask, row / shape.queries, query);
  const int64_t count = shape.causal && query + 1 < shape.keys ? query + 1 : shape.keys;
  float* s = scores + row * shape.keys;
  float most = -INFINITY;
  for (int64_t i = lane; i < count; i += kWarp) {
    if (masked != nullptr) s[i] += masked[i];
    most = fmaxf(most, s[i]);
  }
  most = warpLargest(most);
  float sum = 0;
  for (int64_t i = lane; i < count; i += kWarp) {
    s[i] = expf(s[i] - most);
    sum += s[i];
  }
  sum = warpSum(sum);
  const float inverse = 1.0f / sum;
  for (int64_t i = lane; i < shape.keys; i += kWarp) s[i] = i < count ? s[i] * inverse : 0.0f;
  if (lane == 0 && lse != nullptr) lse[row] = most + logf(sum);
}

// Of a row: scores become probabilities, and the gradients of these those of the scores.
__global__ void __launch_bounds__(kThreads)
    scoreGradientsKernel(const __grid_constant__ AttentionGradientArgs args, float* scores,
                         float* gradients) {
  const AttentionShape& shape = args.shape;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= shape.batch * shape.heads * shape.queries) return;
  const int64_t query = row % shape.queries, matrix = row / shape.queries;
  const float* masked = maskRow(shape, args.mask, matrix, query);
  const int64_t count = shape.causal && query + 1 < shape.keys ? query + 1 : shape.keys;
  const int64_t first =
      ((matrix / shape.heads * shape.queries + query) * shape.heads + matrix % shape.heads) * shape.depth;
  float delta = 0;
  for (int64_t i = lane; i < shape.depth; i += kWarp)
    delta = fmaf(args.dy[first + i], args.y[first + i], delta);
  delta = warpSum(delta);
  float* p = scores + row * shape.keys;
  float* ds = gradients + row * shape.keys;
  for (int64_t i = lane; i < shape.keys; i += kWarp) {
    const float score = masked == nullptr ? p[i] : p[i] + masked[i];
    const float probability = i < count ? expf(fminf(score - args.lse[row], 1.0f)) : 0.0f;
    p[i] = probability;
    ds[i] = probability * (ds[i] - delta);
  }
}

// c = alpha op(a) op(b) of every item and head.
struct Side {
  const float* data;
  int64_t item, head, row;
  bool transpose;
};
Status multiplyHeads(const Work& work, const AttentionShape& shape, const Side& a, const Side& b, int64_t m,
                     int64_t n, int64_t k, float alpha, float* c, int64_t item, int64_t head, int64_t row) {
  ProductArgs args;
  args.batches[0] = shape.batch;
  args.batches[1] = shape.heads;
  args.batchA[0] = a.item;
  args.batchA[1] = a.head;
  args.batchB[0] = b.item;
  args.batchB[1] = b.head;
  args.batchC[0] = item;
  args.batchC[1] = head;
  args.m = m;
  args.n = n;
  args.k = k;
  args.rowA = a.row;
  args.rowB = b.row;
  args.rowC = row;
  args.transposeA = a.transpose;
  args.transposeB = b.transpose;
  args.precision = shape.precision;
  args.alpha = alpha;
  args.a = a.data;
  args.b = b.data;
  args.c = c;
  return run(work, args);
}

Launch warpARow(const Work& work, const AttentionShape& shape) {
  const int64_t rows = shape.batch * shape.heads * shape.queries;
  return {
      .grid = static_cast<unsigned>((rows + kWarps - 1) / kWarps), .block = kThreads, .stream = work.stream};
}

}  // namespace

// Products take memory of their own, behind what is taken here: each returns before the next begins, on one stream.
Status attentionApart(const Work& work, const AttentionArgs& args) {
  const AttentionShape& shape = args.shape;
  const int64_t queries = shape.queries, keys = shape.keys, depth = shape.depth, width = shape.heads * depth;
  const int64_t scoresOf = queries * keys;
  float* scores = nullptr;
  CLIPCID_TRY(work.take(shape.batch * shape.heads * scoresOf, &scores));
  CLIPCID_TRY(multiplyHeads(work, shape, {args.q, queries * shape.rowQ, depth, shape.rowQ, false},
                            {args.k, keys * shape.rowK, depth, shape.rowK, true}, queries, keys, depth,
                            shape.scale, scores, shape.heads * scoresOf, scoresOf, keys));
  CLIPCID_TRY(CLIPCID_LAUNCH(probabilitiesKernel, warpARow(work, shape), shape, args.mask, scores, args.lse));
  return multiplyHeads(work, shape, {scores, shape.heads * scoresOf, scoresOf, keys, false},
                       {args.v, keys * shape.rowV, depth, shape.rowV, false}, queries, depth, keys, 1, args.y,
                       queries * width, depth, width);
}

Status attentionApart(const Work& work, const AttentionGradientArgs& args) {
  const AttentionShape& shape = args.shape;
  const int64_t queries = shape.queries, keys = shape.keys, depth = shape.depth, width = shape.heads * depth;
  const int64_t scoresOf = queries * keys;
  const Side q = {args.q, queries * shape.rowQ, depth, shape.rowQ, false};
  const Side k = {args.k, keys * shape.rowK, depth, shape.rowK, false};
  const Side v = {args.v, keys * shape.rowV, depth, shape.rowV, false};
  const Side dy = {args.dy, queries * width, depth, width, false};
  const auto turned = [](Side side) {
    side.transpose = true;
    return side;
  };
  float *p = nullptr, *ds = nullptr;
  CLIPCID_TRY(work.take(shape.batch * shape.heads * scoresOf, &p));
  CLIPCID_TRY(work.take(shape.batch * shape.heads * scoresOf, &ds));
  const Side probabilities = {p, shape.heads * scoresOf, scoresOf, keys, false};
  const Side slopes = {ds, shape.heads * scoresOf, scoresOf, keys, false};
  CLIPCID_TRY(multiplyHeads(work, shape, q, turned(k), queries, keys, depth, shape.scale, p,
                            shape.heads * scoresOf, scoresOf, keys));
  CLIPCID_TRY(multiplyHeads(work, shape, dy, turned(v), queries, keys, depth, 1, ds, shape.heads * scoresOf,
                            scoresOf, keys));
  CLIPCID_TRY(CLIPCID_LAUNCH(scoreGradientsKernel, warpARow(work, shape), args, p, ds));
  CLIPCID_TRY(multiplyHeads(work, shape, slopes, k, queries, depth, keys, shape.scale, args.dq,
                            queries * shape.rowQ, depth, shape.rowQ));
  CLIPCID_TRY(multiplyHeads(work, shape, turned(slopes), q, keys, depth, queries, shape.scale, args.dk,
                            keys * shape.rowK, depth, shape.rowK));
  return multiplyHeads(work, shape, turned(probabilities), dy, keys, depth, queries, 1, args.dv,
                       keys * shape.rowV, depth, shape.rowV);
}

}  // namespace clipcid::cuda
