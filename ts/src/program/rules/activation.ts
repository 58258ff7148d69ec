import { OWN } from '../emitter.ts';
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
  HardSwish: (c) => c.give(0, c.graph.emit('HardSwishGradient', [c.dy, c.input(0)], {}, OWN)),
  Gelu: (c) => c.give(0, c.graph.emit('GeluGradient', [c.dy, c.input(0)], {}, OWN)),
  QuickGelu: (c) => {
    const alpha = c.float('alpha', 1.702);
    c.give(0, c.graph.emit('QuickGeluGradient', [c.dy, c.input(0)], { alpha }, OWN));
  },
  Softmax: (c) => throughSoftmax(c, 'SoftmaxGradient'),
  LogSoftmax: (c) => throughSoftmax(c, 'LogSoftmaxGradient'),
};

function throughSoftmax(c: RuleContext, op: string): void {
  c.give(0, c.graph.emit(op, [c.dy, c.y], { axis: c.int('axis', -1) }, OWN));
}
