import { OWN } from '../emitter.ts';
import { inverseDeviation, withGiven } from '../fused/normalization.ts';
import type { GradientRules, RuleContext } from './context.ts';

export const normalizationRules: GradientRules = {
  LayerNormalization: (c) => {
    const [, mean, inverse] = c.graph.outputsOf(c.node, 3) as [string, string, string];
    const inputs = [c.dy, c.input(0), c.input(1), mean, inverse];
    give(c, 'LayerNormalizationGradient', inputs);
  },
  BatchNormalization: (c) => {
    if (c.int('training_mode', 0) === 0) {
      runningStatistics(c);
      return;
    }
    const [, mean, variance] = c.node.outputs as [string, string, string];
    give(c, 'BatchNormalizationGradient', [c.dy, c.input(0), c.input(1), mean, variance]);
  },
};

function give(c: RuleContext, op: string, inputs: readonly string[]): void {
  const { axis, epsilon } = c.node.attributes;
  const attributes = { ...(axis && { axis }), ...(epsilon && { epsilon }) };
  const gradients = c.graph.emitAll(op, inputs, attributes, 3, OWN);
  gradients.forEach((gradient, i) => {
    c.give(i, gradient);
  });
}

/** Mean and variance are constants. */
function runningStatistics(c: RuleContext): void {
  const [x, gamma, , mean, variance] = c.node.inputs as [string, string, string, string, string];
  const inverse = inverseDeviation(c, variance, c.float('epsilon', 1e-5));
  for (const [i, gradient] of withGiven(c, c.dy, x, gamma, mean, inverse).entries()) c.give(i, gradient);
}
