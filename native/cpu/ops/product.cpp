// c = alpha op(a) op(b) (+ c), batched, with a chain over each part as it is made, which is in the second cache then. What
// multiplies is cpu/gemm.h; small products of a batch are a task each.
#include <atomic>
#include <new>

#include "cpu/gemm.h"
#include "cpu/ops/chain.h"
#include "cpu/ops/ops.h"

namespace clipcid {
namespace {

// For many rows, since it is packed for many.
const Product& packedProduct(int64_t n, int64_t k, Precision precision) {
  return productFor(1024, n, k, precision);
}

Status wrongSize() { return {Code::kInternal, "A packed matrix has too little memory"}; }

GemmTeam teamOf(Team& team) {
  return {team.threads(), [&team](int64_t count, const GemmTeam::Body& body) { team.each(count, body); }};
}

// The batch-th product.
GemmArgs gemmOf(const ProductArgs& args, int64_t batch) {
  const int64_t outer = batch / args.batches[1], inner = batch % args.batches[1];
  GemmArgs gemm;
  gemm.m = args.m;
  gemm.n = args.n;
  gemm.k = args.k;
  gemm.a = {args.a + outer * args.batchA[0] + inner * args.batchA[1], args.rowA, args.transposeA};
  gemm.b = {args.b + outer * args.batchB[0] + inner * args.batchB[1], args.rowB, args.transposeB};
  gemm.c = args.c + outer * args.batchC[0] + inner * args.batchC[1];
  gemm.strideC = args.rowC;
  gemm.alpha = args.alpha;
  gemm.beta = args.accumulate ? 1.0f : 0.0f;
  gemm.precision = args.precision;
  return gemm;
}

}  // namespace

Status run(Team& team, const ProductArgs& args) {
  if (args.packedB && args.packedFloats < packedFloats(args.n, args.k, args.precision)) return wrongSize();
  const int64_t batches = args.batches[0] * args.batches[1];
  if (batches >= 2 * team.threads() && !args.chained) {
    std::vector<GemmMemory>& memories = team.gemms();
    std::atomic<bool> failed{false};
    team.each(batches, [&](int64_t batch, int worker) {
      try {
        gemm(GemmTeam::alone(), gemmOf(args, batch), memories[static_cast<size_t>(worker)]);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    });
    if (failed) throw std::bad_alloc();
    return {};
  }
  const GemmTeam threads = teamOf(team);
  GemmMemory& memory = team.gemms().front();
  PackedRight packed;
  const ChainRunner runner(args.chain);
  const GemmFinish finish = [&](const GemmPart& part, int worker) {
    for (int64_t row = part.row; row < part.row + part.rows; ++row)
      runner.row(row, part.column, part.column + part.columns, team.of(worker));
  };
  if (args.chained) team.own(runner.floats());
  for (int64_t batch = 0; batch < batches; ++batch) {
    GemmArgs one = gemmOf(args, batch);
    if (args.packedB) {
      packed = PackedRight::in(const_cast<float*>(args.b), packedProduct(args.n, args.k, args.precision),
                               args.k, args.n);
      one.packed = &packed;
    }
    if (args.chained) one.finish = &finish;
    gemm(threads, one, memory);
  }
  return {};
}

int64_t packedFloats(int64_t n, int64_t k, Precision precision) {
  return PackedRight::length(packedProduct(n, k, precision), k, n);
}

Status run(Team& team, const PackArgs& args) {
  if (args.packedFloats < packedFloats(args.n, args.k, args.precision)) return wrongSize();
  PackedRight packed =
      PackedRight::in(args.packed, packedProduct(args.n, args.k, args.precision), args.k, args.n);
  packed.pack(teamOf(team), {args.b, args.row, args.transpose});
  return {};
}

}  // namespace clipcid
