#include "cpu/backend.h"
#include "cpu/gemm.h"

namespace clipcid {

Status CpuBackend::matmul(const Context& context, const MatmulArgs& args) {
  GemmArgs gemmArgs;
  gemmArgs.m = args.m;
  gemmArgs.n = args.n;
  gemmArgs.k = args.k;
  gemmArgs.a = {args.a, args.strideA, args.transposeA};
  gemmArgs.b = {args.b, args.strideB, args.transposeB};
  gemmArgs.c = args.c;
  gemmArgs.strideC = args.strideC;
  gemmArgs.alpha = args.alpha;
  gemmArgs.beta = args.beta;
  return gemm(context, gemmArgs);
}

}  // namespace clipcid
