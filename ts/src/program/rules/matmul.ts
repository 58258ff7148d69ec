import { product } from '../attributes.ts';
import type { GradientRule, GradientRules } from './context.ts';

/** y = alpha · op(a) · op(b), batched over leading axes, which broadcast. */
const matmul: GradientRule = (c) => {
  const [a, b] = [c.input(0), c.input(1)];
  const alpha = c.float('alpha', 1);
  const transA = c.int('transA', 0) === 1;
  const transB = c.int('transB', 0) === 1;
  const [aDims, bDims] = [c.dims(a), c.dims(b)];
  if (aDims.length < 2 || bDims.length < 2) {
    throw c.unsupported('with a vector has no gradient rule: write it with matrices');
  }
  if (aDims.length > 2 && bDims.length === 2 && !transA) {
    // One weight for all rows: everything is a plain product of matrices.
    const rows = product(aDims.slice(0, -1));
    const flatA = c.reshape(a, [rows, aDims.at(-1)!]);
    const flatDy = c.reshape(c.dy, [rows, c.dims(c.y).at(-1)!]);
    if (c.needs(0)) c.give(0, c.reshape(c.matmul(flatDy, b, { transB: !transB, alpha }), aDims));
    if (c.needs(1)) {
      const [left, right] = transB ? [flatDy, flatA] : [flatA, flatDy];
      c.give(1, c.matmul(left, right, { transA: true, alpha }));
    }
    return;
  }
  if (c.needs(0)) {
    const gradient = transA
      ? c.matmul(b, c.dy, { transA: transB, transB: true, alpha })
      : c.matmul(c.dy, b, { transB: !transB, alpha });
    c.give(0, c.sumTo(gradient, aDims));
  }
  if (c.needs(1)) {
    const gradient = transB
      ? c.matmul(c.dy, a, { transA: true, transB: transA, alpha })
      : c.matmul(a, c.dy, { transA: !transA, alpha });
    c.give(1, c.sumTo(gradient, bDims));
  }
};

export const matmulRules: GradientRules = {
  MatMul: matmul,
  FusedMatMul: matmul,
  // alpha · op(a) · op(b) + beta · bias
  Gemm: (c) => {
    matmul(c);
    if (c.needs(2)) c.give(2, c.scale(c.sumTo(c.dy, c.dims(c.input(2))), c.float('beta', 1)));
  },
};
