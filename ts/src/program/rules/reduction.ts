import { product } from '../attributes.ts';
import { reducedAxes } from '../shapes/reduction.ts';
import type { GradientRules, RuleContext } from './context.ts';

/** A reduced value (the output or its gradient) with its axes back as 1, to broadcast against the input. */
function kept(c: RuleContext, value: string): string {
  const axes = reducedAxes(c.shape);
  return c.reshape(
    value,
    c.dims(c.input(0)).map((dim, i) => (axes.includes(i) ? 1 : dim)),
  );
}

export const reductionRules: GradientRules = {
  ReduceSum: (c) => c.give(0, c.expand(kept(c, c.dy), c.dims(c.input(0)))),
  ReduceMean: (c) => {
    const dims = c.dims(c.input(0));
    const count = product(reducedAxes(c.shape).map((axis) => dims[axis]!));
    c.give(0, c.expand(c.scale(kept(c, c.dy), 1 / count), dims));
  },
  ReduceSumSquare: (c) => c.give(0, c.mul(c.scale(c.input(0), 2), kept(c, c.dy))),
  ReduceL2: (c) => c.give(0, c.mul(c.input(0), c.div(kept(c, c.dy), kept(c, c.y)))),
  ReduceLogSumExp: (c) => {
    const share = c.graph.emit('Exp', [c.sub(c.input(0), kept(c, c.y))]);
    c.give(0, c.mul(share, kept(c, c.dy)));
  },
};
