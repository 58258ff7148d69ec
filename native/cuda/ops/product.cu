// Products of matrices: see product.cuh. The interface that a mainloop for another architecture takes over is `run` below: plain
// matrices, a result, and a chain.
#include <algorithm>

#include "cuda/ops/ops.h"
#include "cuda/ops/product.cuh"

namespace clipcid::cuda {
namespace {

constexpr int kThreads = 256;

// A thread has an element of c: sums of its parts in their order.
__global__ void __launch_bounds__(kThreads)
    sumPartsKernel(const __grid_constant__ ProductPlan plan, const __grid_constant__ ProductResult result) {
  const int64_t matrix = static_cast<int64_t>(plan.m) * plan.n, all = matrix * plan.batches;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < all;
       at += static_cast<int64_t>(gridDim.x) * kThreads) {
    float sum = 0;
    for (int32_t split = 0; split < plan.splits; ++split) sum += result.parts[split * all + at];
    const int64_t batch = quotient(at, matrix), inside = at - batch * matrix;
    const int64_t row = quotient(inside, int64_t{plan.n}), column = inside - row * plan.n;
    float* to = result.c + batch / result.inner * result.batch[0] + batch % result.inner * result.batch[1] +
                row * result.row + column;
    float value = result.alpha * sum;
    if (result.bias != nullptr) value += result.bias[batch * result.biasBatch + column];
    *to = result.accumulate ? *to + value : value;
  }
}

}  // namespace

Status planProduct(const Work& work, Precision precision, int64_t batches, int64_t m, int64_t n, int64_t k,
                   bool chained, ProductPlan* out) {
  // Long chains of additions would drift: tensor cores cut off what does not fit.
  constexpr int64_t kMostDepth = 1 << 14, kLeastDepth = 256;
  constexpr int64_t kMostParts = 1 << 26;  // floats
  if (m >= INT32_MAX || n >= INT32_MAX || k >= INT32_MAX || batches >= INT32_MAX)
    return {Code::kInvalidArgument, "A side of a product is over 2^31"};
  ProductPlan plan;
  plan.batches = static_cast<int32_t>(batches);
  plan.m = static_cast<int32_t>(m);
  plan.n = static_cast<int32_t>(n);
  plan.k = static_cast<int32_t>(k);
  const auto multiprocessors = static_cast<int64_t>(work.device.properties.multiprocessors);
  const auto tilesOf = [&](int64_t side) {
    return (m + side - 1) / side * ((n + side - 1) / side) * batches;
  };
  // Large tiles where they keep the GPU busy, or the depth is long enough to be cut for it.
  const bool large = std::min(m, n) > 64 && (tilesOf(128) >= multiprocessors || (!chained && k >= 2048));
  plan.shape = precision == Precision::kFloat32 ? ProductShape::kExact
               : large                          ? ProductShape::kLarge
                                                : ProductShape::kSmall;
  const int64_t side = plan.shape == ProductShape::kLarge ? 128 : 64;
  plan.tilesDown = static_cast<int32_t>((m + side - 1) / side);
  plan.tilesAcross = static_cast<int32_t>((n + side - 1) / side);
  int64_t splits = 1;
  if (!chained) {
    const int64_t wanted = 2 * multiprocessors / std::max<int64_t>(tilesOf(side), 1);
    splits = std::max<int64_t>(1, std::min(wanted, k / kLeastDepth));
    splits = std::max(splits, (k + kMostDepth - 1) / kMostDepth);
    if (splits > 1 && splits * batches * m * n > kMostParts)
      splits = std::max<int64_t>(1, kMostParts / (batches * m * n));
  }
  const int64_t depth = ((k + splits - 1) / splits + 31) / 32 * 32;
  plan.depthOfSplit = static_cast<int32_t>(depth);
  plan.splits = static_cast<int32_t>((k + depth - 1) / depth);
  *out = plan;
  return {};
}

Status sumParts(const Work& work, const ProductPlan& plan, const ProductResult& result) {
  const int64_t all = static_cast<int64_t>(plan.m) * plan.n * plan.batches;
  const int64_t most = static_cast<int64_t>(work.device.properties.multiprocessors) * 16;
  return CLIPCID_LAUNCH(sumPartsKernel,
                        {.grid = static_cast<unsigned>(std::min((all + kThreads - 1) / kThreads, most)),
                         .block = kThreads,
                         .stream = work.stream},
                        plan, result);
}

namespace {

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// op(a) [lines, depth]; `depthMajor`: stored as [depth, lines].
template <bool kDepthMajor>
typename MatrixLoader<kDepthMajor>::Params paramsOf(const float* data, int64_t stride, const int64_t* batch,
                                                    const ProductArgs& args, int64_t lines) {
  typename MatrixLoader<kDepthMajor>::Params params;
  params.data = data;
  params.stride = stride;
  params.batch[0] = batch[0];
  params.batch[1] = batch[1];
  params.inner = static_cast<int32_t>(args.batches[1]);
  params.lines = static_cast<int32_t>(lines);
  params.aligned = aligned(data) && stride % 4 == 0 && batch[0] % 4 == 0 && batch[1] % 4 == 0;
  return params;
}

template <bool kTransposeA, bool kTransposeB>
Status multiply(const Work& work, const ProductArgs& args, const ProductResult& result,
                const ChainProgram& chain) {
  using LoaderA = MatrixLoader<kTransposeA>;
  using LoaderB = MatrixLoader<!kTransposeB>;
  return queueProduct<LoaderA, LoaderB, true>(
      work, args.precision, paramsOf<kTransposeA>(args.a, args.rowA, args.batchA, args, args.m),
      paramsOf<!kTransposeB>(args.b, args.rowB, args.batchB, args, args.n), args.batches[0] * args.batches[1],
      args.m, args.n, args.k, result, chain);
}

}  // namespace

Status run(const Work& work, const ProductArgs& args) {
  if (args.packedB) return run(work, PackArgs{});
  ProductResult result;
  result.c = args.c;
  result.row = args.rowC;
  result.batch[0] = args.batchC[0];
  result.batch[1] = args.batchC[1];
  result.inner = static_cast<int32_t>(args.batches[1]);
  result.alpha = args.alpha;
  result.accumulate = args.accumulate;
  result.vector = aligned(args.c) && args.rowC % 4 == 0 && args.batchC[0] % 4 == 0 && args.batchC[1] % 4 == 0;
  ChainProgram chain = {};
  bool after = false;
  if (args.chained) {
    chain = chainProgram(args.chain, true);
    // A chain with steps that products do not have runs behind it, as does one that would leave too few tiles whole.
    ProductPlan plan;
    CLIPCID_TRY(planProduct(work, args.precision, 1, args.m, args.n, args.k, false, &plan));
    after = plan.splits > 1 || !fitsProduct(chain);
    // As does one whose slots are more than this GPU's shared memory takes beside the tile.
    CLIPCID_TRY(planProduct(work, args.precision, 1, args.m, args.n, args.k, true, &plan));
    after = after || epilogueBytes(plan.shape, chain.slots) > work.device.properties.sharedOfBlock;
    if (after) chain = {};
  }
  const auto multiplyAs = args.transposeA
                              ? (args.transposeB ? multiply<true, true> : multiply<true, false>)
                              : (args.transposeB ? multiply<false, true> : multiply<false, false>);
  CLIPCID_TRY(multiplyAs(work, args, result, chain));
  return after ? run(work, ChainArgs{args.chain}) : Status();
}

// Rounding and turning an operand on its way to shared memory costs nothing, so there is nothing to pack (Runner::packedFloats).
Status run(const Work&, const PackArgs&) { return {Code::kInternal, "A GPU's products pack nothing"}; }

}  // namespace clipcid::cuda
