import { positiveAxis } from '../attributes.ts';
import type { GradientRules, RuleContext } from './context.ts';

/** 1 − a */
const complement = (c: RuleContext, a: string) => c.sub(c.scalar(1), a);

export const activationRules: GradientRules = {
  Relu: (c) => c.give(0, c.mul(c.dy, c.graph.emit('Sign', [c.y]))),
  LeakyRelu: (c) => {
    const positive = c.graph.emit('Greater', [c.input(0), c.scalar(0)]);
    const slope = c.graph.emit('Where', [positive, c.scalar(1), c.scalar(c.float('alpha', 0.01))]);
    c.give(0, c.mul(c.dy, slope));
  },
  Elu: (c) => {
    const positive = c.graph.emit('Greater', [c.input(0), c.scalar(0)]);
    const below = c.add(c.y, c.scalar(c.float('alpha', 1)));
    c.give(0, c.mul(c.dy, c.graph.emit('Where', [positive, c.scalar(1), below])));
  },
  Softplus: (c) => c.give(0, c.mul(c.dy, c.graph.emit('Sigmoid', [c.input(0)]))),
  Tanh: (c) => c.give(0, c.mul(c.dy, complement(c, c.mul(c.y, c.y)))),
  Sigmoid: (c) => c.give(0, c.mul(c.dy, c.mul(c.y, complement(c, c.y)))),
  // 2/√π · exp(−x²)
  Erf: (c) => {
    const x = c.input(0);
    const bell = c.graph.emit('Exp', [c.neg(c.mul(x, x))]);
    c.give(0, c.mul(c.dy, c.scale(bell, 2 / Math.sqrt(Math.PI))));
  },
  // Inside its range a Clip changes nothing.
  Clip: (c) => c.give(0, c.keep(c.graph.emit('Equal', [c.input(0), c.y]), c.dy)),
  // y is strictly between 0 and 1 where the line is.
  HardSigmoid: (c) => {
    const inside = c.graph.emit('Greater', [c.mul(c.y, complement(c, c.y)), c.scalar(0)]);
    c.give(0, c.keep(inside, c.scale(c.dy, c.float('alpha', 0.2))));
  },
  // 0 below −3, x/3 + 1/2 up to 3, then 1
  HardSwish: (c) => {
    const x = c.input(0);
    const line = c.add(c.scale(x, 1 / 3), c.scalar(0.5));
    const below = c.graph.emit('Less', [x, c.scalar(3)]);
    const slope = c.graph.emit('Where', [below, line, c.scalar(1)]);
    c.give(0, c.mul(c.dy, c.keep(c.graph.emit('Greater', [x, c.scalar(-3)]), slope)));
  },
  // Φ(x) + x φ(x) in few passes over memory: Φ = ½ + ½ erf(x/√2), which HardSigmoid writes at once, and the bell by a division.
  Gelu: (c) => {
    const x = c.input(0);
    const scaled = c.scale(x, Math.SQRT1_2);
    const erf = c.graph.emit('Erf', [scaled]);
    const distribution = c.graph.emit('HardSigmoid', [erf], { alpha: 0.5, beta: 0.5 });
    const bell = c.div(x, c.graph.emit('Exp', [c.mul(scaled, scaled)]));
    const density = c.scale(bell, 1 / Math.sqrt(2 * Math.PI));
    c.give(0, c.mul(c.dy, c.add(distribution, density)));
  },
  // With s = σ(αx): s + αx s (1 − s) = s + αy (1 − s)
  QuickGelu: (c) => {
    const alpha = c.float('alpha', 1.702);
    const s = c.graph.emit('Sigmoid', [c.scale(c.input(0), alpha)]);
    c.give(0, c.mul(c.dy, c.add(s, c.mul(c.scale(c.y, alpha), complement(c, s)))));
  },
  // y (dy − Σ dy y)
  Softmax: (c) => {
    const t = c.mul(c.dy, c.y);
    c.give(0, c.sub(t, c.mul(c.y, axisSum(c, t))));
  },
  // dy − softmax Σ dy
  LogSoftmax: (c) => {
    const soft = c.graph.emit('Exp', [c.y]);
    c.give(0, c.sub(c.dy, c.mul(soft, axisSum(c, c.dy))));
  },
};

/** Sum over the node's `axis`, kept as 1. */
function axisSum(c: RuleContext, value: string): string {
  const dims = c.dims(value);
  const axis = positiveAxis(c.int('axis', -1), dims.length);
  return c.reshape(c.sumOver(value, [axis]), dims.with(axis, 1));
}
