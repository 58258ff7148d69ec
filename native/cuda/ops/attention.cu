// Attention of heads of up to 128 elements, or 64 in Precision::kFloat32, with the scores in registers.
//
// In: q, k, v as clipcid/ops.h has them. Out: y and the log-sum-exps; or the gradients of q, k and v. A block has some rows (queries, or,
// for the gradients of keys and values, keys) of one item and head in shared memory, as bfloat16 in one part or three, and goes over the
// rows of the other side some at a time. Each warp has 16 of its rows: their scores are a product on tensor cores, whose
// accumulators become the left operand of the next product as they lie.
//   forward  S = scale Q K^T, online softmax, Y = P V
//   queries  P = exp(S - lse), dP = dY V^T, dS = P (dP - delta), dQ = scale dS K, with delta = dY . Y of each query
//   keys     the same turned: S^T = K (scale Q)^T, dP^T = V dY^T, dK = dS^T (scale Q), dV = P^T dY
// So nothing is added to by two blocks, and results are the same from run to run. Under a causal mask what it hides wholly is
// left out. Longer heads: attention_apart.cu. Not yet measured.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/ops/attention.h"
#include "cuda/ops/ops.h"
#include "cuda/ops/sums.cuh"
#include "cuda/ptx.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kChunkElements = 8;  // elements of a chunk

template <int kDepth_, int kParts_, int kStream_>
struct HeadTile {
  static constexpr int kDepth = kDepth_, kParts = kParts_;
  static constexpr int kWarps = kParts == 1 ? 4 : 2;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kOwn = 16 * kWarps;
  static constexpr int kStream = kStream_;
  static constexpr int kRowBytes = 2 * kDepth;
  // Of loops, at once: more would take registers that the sums need.
  static constexpr int kTurns = kParts == 1 && kDepth == 64 ? 2 : 1;
  static constexpr int kOwnBytes = kOwn * kRowBytes, kStreamBytes = kStream * kRowBytes;  // of a part
};

// Where chunk `chunk` of row `row` lies: eight rows' chunks of one number lie in different banks.
template <typename Tile>
CLIPCID_DEVICE int placeOf(int row, int chunk) {
  return row * Tile::kRowBytes + (chunk ^ (row & 7)) * 16;
}

// Rows [first, first + kRows) of a head, times a factor, in parts; zeros behind their ends.
template <typename Tile, int kRows>
CLIPCID_DEVICE void stageRows(const float* from, int64_t stride, int64_t first, int64_t rows, int depth,
                              bool aligned, float factor, char* to) {
  constexpr int kChunks = Tile::kDepth / kChunkElements;
#pragma unroll Tile::kTurns
  for (int at = static_cast<int>(threadIdx.x); at < kRows * kChunks; at += Tile::kThreads) {
    const int row = at / kChunks, chunk = at % kChunks, column = chunk * kChunkElements;
    const float* source = from + (first + row) * stride + column;
    float values[kChunkElements];
    if (first + row < rows && column + kChunkElements <= depth && aligned) {
      const auto* fours = reinterpret_cast<const Floats4*>(source);
      const Floats4 low = fours[0], high = fours[1];
      values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
      values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    } else {
#pragma unroll
      for (int i = 0; i < kChunkElements; ++i)
        values[i] = first + row < rows && column + i < depth ? source[i] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kChunkElements; ++i) values[i] *= factor;
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part) {
      uint32_t words[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) words[w] = takeBfloat16(values[2 * w], values[2 * w + 1]);
      *reinterpret_cast<Words4*>(to + part * kRows * Tile::kRowBytes + placeOf<Tile>(row, chunk)) = {
          words[0], words[1], words[2], words[3]};
    }
  }
}

// low and high += of the parts that count, the least first.
template <int kParts>
CLIPCID_DEVICE void multiplyInto(float (&low)[4], float (&high)[4], const uint32_t (&left)[kParts][4],
                                 const uint32_t (&right)[kParts][4]) {
#pragma unroll
  for (int order = kParts - 1; order >= 0; --order) {
#pragma unroll
    for (int part = 0; part <= order; ++part) {
      const uint32_t first[2] = {right[order - part][0], right[order - part][1]};
      const uint32_t second[2] = {right[order - part][2], right[order - part][3]};
      multiplyAddBfloat16(low, left[part], first);
      multiplyAddBfloat16(high, left[part], second);
    }
  }
}

// scores[own row of the warp][stream row] = own . stream
template <typename Tile>
CLIPCID_DEVICE void scoresOf(float (&scores)[Tile::kStream / 8][4], const char* own, const char* stream,
                             int warpRow, int lane) {
#pragma unroll
  for (int j = 0; j < Tile::kStream / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[j][e] = 0;
  }
#pragma unroll Tile::kTurns
  for (int step = 0; step < Tile::kDepth / 16; ++step) {
    uint32_t left[Tile::kParts][4];
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part)
      loadMatrices(left[part],
                   own + part * Tile::kOwnBytes + placeOf<Tile>(warpRow + lane % 16, 2 * step + lane / 16));
#pragma unroll
    for (int j = 0; j < Tile::kStream / 16; ++j) {
      uint32_t right[Tile::kParts][4];
#pragma unroll
      for (int part = 0; part < Tile::kParts; ++part)
        loadMatrices(right[part],
                     stream + part * Tile::kStreamBytes +
                         placeOf<Tile>(16 * j + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
      multiplyInto<Tile::kParts>(scores[2 * j], scores[2 * j + 1], left, right);
    }
  }
}

// sums[own row][depth] += weights stream; the weights lie as scores do.
template <typename Tile>
CLIPCID_DEVICE void addWeighted(float (&sums)[Tile::kDepth / 8][4],
                                const float (&weights)[Tile::kStream / 8][4], const char* stream, int lane) {
#pragma unroll
  for (int step = 0; step < Tile::kStream / 16; ++step) {
    float rest[8];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      rest[e] = weights[2 * step][e];
      rest[4 + e] = weights[2 * step + 1][e];
    }
    uint32_t left[Tile::kParts][4];
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part) {
#pragma unroll
      for (int w = 0; w < 4; ++w) left[part][w] = takeBfloat16(rest[2 * w], rest[2 * w + 1]);
    }
#pragma unroll
    for (int j = 0; j < Tile::kDepth / 16; ++j) {
      uint32_t right[Tile::kParts][4];
#pragma unroll
      for (int part = 0; part < Tile::kParts; ++part)
        loadMatricesTurned(right[part],
                           stream + part * Tile::kStreamBytes +
                               placeOf<Tile>(16 * step + lane / 8 % 2 * 8 + lane % 8, 2 * j + lane / 16));
      multiplyInto<Tile::kParts>(sums[2 * j], sums[2 * j + 1], left, right);
    }
  }
}

// Sums of a warp's 16 rows, times a factor by row, to rows that are `stride` apart.
template <typename Tile>
CLIPCID_DEVICE void storeRows(const float (&sums)[Tile::kDepth / 8][4], float* to, int64_t stride,
                              int64_t first, int64_t rows, int depth, const float (&factor)[2], int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first + lane / 4 + 8 * half;
    if (row >= rows) continue;
#pragma unroll
    for (int j = 0; j < Tile::kDepth / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = 8 * j + lane % 4 * 2 + e;
        if (column < depth) to[row * stride + column] = sums[j][2 * half + e] * factor[half];
      }
    }
  }
}

// One item and head.
struct HeadAt {
  int64_t item, head, first;  // first own row
};
CLIPCID_DEVICE HeadAt headAt(const AttentionShape& shape, int64_t pieces, int own) {
  const int64_t matrix = blockIdx.x / pieces;
  return {matrix / shape.heads, matrix % shape.heads, (blockIdx.x % pieces) * own};
}

CLIPCID_DEVICE float quadLargest(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}
CLIPCID_DEVICE float quadSum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    attentionKernel(const __grid_constant__ AttentionArgs args, int64_t pieces, bool aligned) {
  const AttentionShape& shape = args.shape;
  const HeadAt at = headAt(shape, pieces, Tile::kOwn);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warpRow = static_cast<int>(threadIdx.x) / kWarp * 16;
  const auto depth = static_cast<int>(shape.depth);
  char* own = sharedMemory();
  char* keys = own + Tile::kParts * Tile::kOwnBytes;
  char* values = keys + Tile::kParts * Tile::kStreamBytes;
  const float* q = args.q + at.item * shape.queries * shape.rowQ + at.head * shape.depth;
  const float* k = args.k + at.item * shape.keys * shape.rowK + at.head * shape.depth;
  const float* v = args.v + at.item * shape.keys * shape.rowV + at.head * shape.depth;
  const float* mask = args.mask == nullptr
                          ? nullptr
                          : args.mask + at.item * shape.maskStrides[0] + at.head * shape.maskStrides[1];
  stageRows<Tile, Tile::kOwn>(q, shape.rowQ, at.first, shape.queries, depth, aligned, shape.scale, own);
  float sums[Tile::kDepth / 8][4] = {};
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  const int64_t reach = at.first + Tile::kOwn;
  const int64_t end = shape.causal && reach < shape.keys ? reach : shape.keys;
  for (int64_t from = 0; from < end; from += Tile::kStream) {
    __syncthreads();
    stageRows<Tile, Tile::kStream>(k, shape.rowK, from, shape.keys, depth, aligned, 1, keys);
    stageRows<Tile, Tile::kStream>(v, shape.rowV, from, shape.keys, depth, aligned, 1, values);
    __syncthreads();
    float scores[Tile::kStream / 8][4];
    scoresOf<Tile>(scores, own, keys, warpRow, lane);
    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t query = at.first + warpRow + lane / 4 + 8 * half;
      float largest = most[half];
#pragma unroll
      for (int j = 0; j < Tile::kStream / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int64_t key = from + 8 * j + lane % 4 * 2 + e;
          float& score = scores[j][2 * half + e];
          if (key >= shape.keys || (shape.causal && key > query)) {
            score = -INFINITY;
          } else if (mask != nullptr && query < shape.queries) {
            score += mask[query * shape.maskStrides[2] + key];
          }
          largest = fmaxf(largest, score);
        }
      }
      largest = quadLargest(largest);
      // Of a row that nothing is seen of so far.
      const float shift = largest == -INFINITY ? 0.0f : largest;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < Tile::kStream / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[j][2 * half + e];
          score = expf(score - shift);
          sum += score;
        }
      }
      scale[half] = expf(most[half] - shift);
      total[half] = total[half] * scale[half] + quadSum(sum);
      most[half] = largest;
    }
#pragma unroll
    for (int j = 0; j < Tile::kDepth / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[j][e] *= scale[e / 2];
    }
    addWeighted<Tile>(sums, scores, values, lane);
  }
  const float inverse[2] = {1.0f / total[0], 1.0f / total[1]};
  const int64_t width = shape.heads * shape.depth;
  storeRows<Tile>(sums, args.y + at.item * shape.queries * width + at.head * shape.depth, width,
                  at.first + warpRow, shape.queries, depth, inverse, lane);
  if (args.lse == nullptr || lane % 4 != 0) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t query = at.first + warpRow + lane / 4 + 8 * half;
    if (query < shape.queries)
      args.lse[(at.item * shape.heads + at.head) * shape.queries + query] = most[half] + logf(total[half]);
  }
}

// delta[item, head, query] = dy . y; a warp a row.
constexpr int kDeltaThreads = 256;
__global__ void __launch_bounds__(kDeltaThreads)
    deltaKernel(const __grid_constant__ AttentionGradientArgs args, float* delta) {
  const AttentionShape& shape = args.shape;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kDeltaThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= shape.batch * shape.heads * shape.queries) return;
  const int64_t matrix = row / shape.queries, query = row % shape.queries;
  const int64_t first =
      ((matrix / shape.heads * shape.queries + query) * shape.heads + matrix % shape.heads) * shape.depth;
  float sum = 0;
  for (int64_t i = lane; i < shape.depth; i += kWarp) sum = fmaf(args.dy[first + i], args.y[first + i], sum);
  sum = warpSum(sum);
  if (lane == 0) delta[row] = sum;
}

// kOfKeys: own rows are keys, and queries stream by; otherwise the other way round.
template <typename Tile, bool kOfKeys>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    attentionGradientKernel(const __grid_constant__ AttentionGradientArgs args, const float* delta,
                            int64_t pieces, bool aligned) {
  const AttentionShape& shape = args.shape;
  const HeadAt at = headAt(shape, pieces, Tile::kOwn);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warpRow = static_cast<int>(threadIdx.x) / kWarp * 16;
  const auto depth = static_cast<int>(shape.depth);
  const int64_t width = shape.heads * shape.depth;
  char* ownScore = sharedMemory();
  char* ownValue = ownScore + Tile::kParts * Tile::kOwnBytes;
  char* streamScore = ownValue + Tile::kParts * Tile::kOwnBytes;
  char* streamValue = streamScore + Tile::kParts * Tile::kStreamBytes;
  // Of the queries that stream by.
  auto* streamLse = reinterpret_cast<float*>(streamValue + Tile::kParts * Tile::kStreamBytes);
  float* streamDelta = streamLse + Tile::kStream;

  const float* q = args.q + at.item * shape.queries * shape.rowQ + at.head * shape.depth;
  const float* k = args.k + at.item * shape.keys * shape.rowK + at.head * shape.depth;
  const float* v = args.v + at.item * shape.keys * shape.rowV + at.head * shape.depth;
  const float* dy = args.dy + at.item * shape.queries * width + at.head * shape.depth;
  const int64_t matrix = at.item * shape.heads + at.head;
  const float* lse = args.lse + matrix * shape.queries;
  const float* deltas = delta + matrix * shape.queries;
  const float* mask = args.mask == nullptr
                          ? nullptr
                          : args.mask + at.item * shape.maskStrides[0] + at.head * shape.maskStrides[1];
  if constexpr (kOfKeys) {
    stageRows<Tile, Tile::kOwn>(k, shape.rowK, at.first, shape.keys, depth, aligned, 1, ownScore);
    stageRows<Tile, Tile::kOwn>(v, shape.rowV, at.first, shape.keys, depth, aligned, 1, ownValue);
  } else {
    stageRows<Tile, Tile::kOwn>(q, shape.rowQ, at.first, shape.queries, depth, aligned, shape.scale,
                                ownScore);
    stageRows<Tile, Tile::kOwn>(dy, width, at.first, shape.queries, depth, aligned, 1, ownValue);
  }
  float ownLse[2] = {0, 0}, ownDelta[2] = {0, 0};
  if constexpr (!kOfKeys) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t query = at.first + warpRow + lane / 4 + 8 * half;
      if (query >= shape.queries) continue;
      ownLse[half] = lse[query];
      ownDelta[half] = deltas[query];
    }
  }
  float scoreSums[Tile::kDepth / 8][4] = {};
  float valueSums[kOfKeys ? Tile::kDepth / 8 : 1][4] = {};
  const int64_t streams = kOfKeys ? shape.queries : shape.keys;
  const int64_t reach = at.first + Tile::kOwn;
  const int64_t begin = kOfKeys && shape.causal ? at.first / Tile::kStream * Tile::kStream : 0;
  const int64_t end = !kOfKeys && shape.causal && reach < streams ? reach : streams;
  for (int64_t from = begin; from < end; from += Tile::kStream) {
    __syncthreads();
    if constexpr (kOfKeys) {
      stageRows<Tile, Tile::kStream>(q, shape.rowQ, from, shape.queries, depth, aligned, shape.scale,
                                     streamScore);
      stageRows<Tile, Tile::kStream>(dy, width, from, shape.queries, depth, aligned, 1, streamValue);
      for (int i = static_cast<int>(threadIdx.x); i < Tile::kStream; i += Tile::kThreads) {
        streamLse[i] = from + i < shape.queries ? lse[from + i] : 0.0f;
        streamDelta[i] = from + i < shape.queries ? deltas[from + i] : 0.0f;
      }
    } else {
      stageRows<Tile, Tile::kStream>(k, shape.rowK, from, shape.keys, depth, aligned, 1, streamScore);
      stageRows<Tile, Tile::kStream>(v, shape.rowV, from, shape.keys, depth, aligned, 1, streamValue);
    }
    __syncthreads();
    float scores[Tile::kStream / 8][4], slopes[Tile::kStream / 8][4];
    scoresOf<Tile>(scores, ownScore, streamScore, warpRow, lane);
    scoresOf<Tile>(slopes, ownValue, streamValue, warpRow, lane);
#pragma unroll
    for (int j = 0; j < Tile::kStream / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t own = at.first + warpRow + lane / 4 + e / 2 * 8;
        const int column = 8 * j + lane % 4 * 2 + e % 2;
        const int64_t query = kOfKeys ? from + column : own, key = kOfKeys ? own : from + column;
        const bool seen = query < shape.queries && key < shape.keys && !(shape.causal && key > query);
        float score = scores[j][e];
        if (seen && mask != nullptr) score += mask[query * shape.maskStrides[2] + key];
        const float norm = kOfKeys ? streamLse[column] : ownLse[e / 2];
        const float probability = seen ? expf(fminf(score - norm, 1.0f)) : 0.0f;
        scores[j][e] = probability;
        slopes[j][e] = probability * (slopes[j][e] - (kOfKeys ? streamDelta[column] : ownDelta[e / 2]));
      }
    }
    addWeighted<Tile>(scoreSums, slopes, streamScore, lane);
    if constexpr (kOfKeys) addWeighted<Tile>(valueSums, scores, streamValue, lane);
  }
  const float one[2] = {1, 1}, scale[2] = {shape.scale, shape.scale};
  const int64_t first = at.first + warpRow;
  if constexpr (kOfKeys) {
    storeRows<Tile>(scoreSums, args.dk + at.item * shape.keys * shape.rowK + at.head * shape.depth,
                    shape.rowK, first, shape.keys, depth, one, lane);
    storeRows<Tile>(valueSums, args.dv + at.item * shape.keys * shape.rowV + at.head * shape.depth,
                    shape.rowV, first, shape.keys, depth, one, lane);
  } else {
    storeRows<Tile>(scoreSums, args.dq + at.item * shape.queries * shape.rowQ + at.head * shape.depth,
                    shape.rowQ, first, shape.queries, depth, scale, lane);
  }
}

bool aligned(const AttentionShape& shape, std::initializer_list<const float*> operands) {
  bool even = shape.depth % 4 == 0 && shape.rowQ % 4 == 0 && shape.rowK % 4 == 0 && shape.rowV % 4 == 0;
  for (const float* operand : operands) even = even && reinterpret_cast<uintptr_t>(operand) % 16 == 0;
  return even;
}

Status checkGrid(const Work& work, const AttentionShape& shape, int64_t pieces, size_t shared) {
  if (shared > work.device.properties.sharedOfBlock)
    return {Code::kInternal, "Attention needs more shared memory than this GPU has"};
  return shape.batch * shape.heads * pieces < INT32_MAX
             ? Status()
             : Status(Code::kInvalidArgument, "Attention of more than 2^31 heads");
}

template <typename Tile>
Status forward(const Work& work, const AttentionArgs& args) {
  const AttentionShape& shape = args.shape;
  const int64_t pieces = (shape.queries + Tile::kOwn - 1) / Tile::kOwn;
  constexpr size_t kShared = Tile::kParts * (Tile::kOwnBytes + 2 * Tile::kStreamBytes);
  CLIPCID_TRY(checkGrid(work, shape, pieces, kShared));
  return CLIPCID_LAUNCH(attentionKernel<Tile>,
                        {.grid = static_cast<unsigned>(shape.batch * shape.heads * pieces),
                         .block = Tile::kThreads,
                         .shared = kShared,
                         .stream = work.stream},
                        args, pieces, aligned(shape, {args.q, args.k, args.v}));
}

template <typename Tile>
Status backward(const Work& work, const AttentionGradientArgs& args) {
  const AttentionShape& shape = args.shape;
  const int64_t rows = shape.batch * shape.heads * shape.queries;
  float* delta = nullptr;
  CLIPCID_TRY(work.take(rows, &delta));
  CLIPCID_TRY(CLIPCID_LAUNCH(
      deltaKernel,
      {.grid = static_cast<unsigned>((rows + kDeltaThreads / kWarp - 1) / (kDeltaThreads / kWarp)),
       .block = kDeltaThreads,
       .stream = work.stream},
      args, delta));
  constexpr size_t kShared =
      2 * Tile::kParts * (Tile::kOwnBytes + Tile::kStreamBytes) + 2 * Tile::kStream * sizeof(float);
  const bool even = aligned(shape, {args.q, args.k, args.v, args.dy});
  const auto launchOf = [&](int64_t own) {
    const int64_t pieces = (own + Tile::kOwn - 1) / Tile::kOwn;
    return std::pair<Launch, int64_t>{{.grid = static_cast<unsigned>(shape.batch * shape.heads * pieces),
                                       .block = Tile::kThreads,
                                       .shared = kShared,
                                       .stream = work.stream},
                                      pieces};
  };
  const auto [keys, keyPieces] = launchOf(shape.keys);
  const auto [queries, queryPieces] = launchOf(shape.queries);
  CLIPCID_TRY(checkGrid(work, shape, std::max(keyPieces, queryPieces), kShared));
  CLIPCID_TRY(CLIPCID_LAUNCH((attentionGradientKernel<Tile, true>), keys, args, delta, keyPieces, even));
  return CLIPCID_LAUNCH((attentionGradientKernel<Tile, false>), queries, args, delta, queryPieces, even);
}

// Three parts of longer heads take more registers than a thread has.
bool fits(const AttentionShape& shape) {
  return shape.depth <= (shape.precision == Precision::kFloat32 ? 64 : 128);
}

}  // namespace

Status run(const Work& work, const AttentionArgs& args) {
  if (!fits(args.shape)) return attentionApart(work, args);
  if (args.shape.precision == Precision::kFloat32) return forward<HeadTile<64, 3, 32>>(work, args);
  return args.shape.depth > 64 ? forward<HeadTile<128, 1, 64>>(work, args)
                               : forward<HeadTile<64, 1, 64>>(work, args);
}

Status run(const Work& work, const AttentionGradientArgs& args) {
  if (!fits(args.shape)) return attentionApart(work, args);
  if (args.shape.precision == Precision::kFloat32) return backward<HeadTile<64, 3, 32>>(work, args);
  // 32 rows at once take more registers than ptxas finds for 10.0 and 12.0.
  return args.shape.depth > 64 ? backward<HeadTile<128, 1, 16>>(work, args)
                               : backward<HeadTile<64, 1, 32>>(work, args);
}

}  // namespace clipcid::cuda
