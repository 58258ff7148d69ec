import { positiveAxis, product } from '../attributes.ts';
import type { GradientRules, RuleContext } from './context.ts';

export const normalizationRules: GradientRules = {
  // With c = x − μ, s = 1/σ, over N elements a row: dx = s (γ dy − mean(γ dy) − c s² mean(γ dy c)), dγ = Σ s dy c
  LayerNormalization: (c) => {
    const [x, gamma] = [c.input(0), c.input(1)];
    const dims = c.dims(x);
    const axis = positiveAxis(c.int('axis', -1), dims.length);
    const [rows, size] = [product(dims.slice(0, axis)), product(dims.slice(axis))];
    const [, mean, inverse] = c.graph.outputsOf(c.node, 3) as [string, string, string];
    const centered = c.sub(x, mean);
    const t = c.mul(c.dy, centered);
    const flat = (value: string) => c.reshape(value, [rows, size]);
    if (c.needs(1)) {
      // The sum over rows and their scales are one product.
      const sum = c.matmul(c.reshape(inverse, [1, rows]), flat(t));
      c.give(1, c.reshape(sum, c.dims(gamma)));
    }
    if (c.needs(2)) c.give(2, c.reshape(c.columnSum(flat(c.dy)), c.dims(c.input(2))));
    if (!c.needs(0)) return;
    // Means over rows as products with γ as a column.
    const column = c.reshape(gamma, [size, 1]);
    const rowMean = (value: string) =>
      c.reshape(c.matmul(flat(value), column, { alpha: 1 / size }), c.dims(mean));
    const slope = c.mul(c.mul(inverse, inverse), rowMean(t));
    const direct = c.sub(c.mul(c.dy, gamma), rowMean(c.dy));
    c.give(0, c.mul(c.sub(direct, c.mul(centered, slope)), inverse));
  },
  BatchNormalization: (c) => (c.int('training_mode', 0) === 1 ? batchStatistics(c) : runningStatistics(c)),
};

/** [C] → [1, C, 1, …], to combine with x. */
function perChannel(c: RuleContext, value: string): string {
  const dims = c.dims(c.input(0));
  return c.reshape(
    value,
    dims.map((dim, i) => (i === 1 ? dim : 1)),
  );
}

/** [N, C, …] → [C]. */
function channelSum(c: RuleContext, value: string): string {
  const axes = c.dims(value).map((_, i) => i);
  return c.sumOver(
    value,
    axes.filter((axis) => axis !== 1),
  );
}

/** 1/√(variance + ε) */
function inverseDeviation(c: RuleContext, variance: string): string {
  const epsilon = c.scalar(c.float('epsilon', 1e-5));
  return c.graph.emit('Reciprocal', [c.graph.emit('Sqrt', [c.add(variance, epsilon)])]);
}

/**
 * Mean and variance are the batch's and depend on x. With n elements a channel, s = 1/σ:
 * dx = γs (dy − Σdy/n) − (x − μ) γs³ Σ(dy (x − μ))/n
 */
function batchStatistics(c: RuleContext): void {
  const [x, gamma] = [c.input(0), c.input(1)];
  const [, mean, variance] = c.node.outputs as [string, string, string];
  const dims = c.dims(x);
  const n = product(dims) / dims[1]!;
  const inverse = inverseDeviation(c, variance);
  const centered = c.sub(x, perChannel(c, mean));
  const sum = channelSum(c, c.dy);
  const moment = channelSum(c, c.mul(c.dy, centered));
  c.give(2, sum);
  if (c.needs(1)) c.give(1, c.mul(moment, inverse));
  if (!c.needs(0)) return;
  const factor = c.mul(gamma, inverse);
  const slope = c.scale(c.mul(factor, c.mul(c.mul(inverse, inverse), moment)), -1 / n);
  const offset = c.scale(c.mul(factor, sum), -1 / n);
  const direct = c.mul(c.dy, perChannel(c, factor));
  const indirect = c.add(c.mul(centered, perChannel(c, slope)), perChannel(c, offset));
  c.give(0, c.add(direct, indirect));
}

/** Mean and variance are constants. */
function runningStatistics(c: RuleContext): void {
  const [x, gamma, , mean, variance] = c.node.inputs as [string, string, string, string, string];
  const inverse = inverseDeviation(c, variance);
  if (c.needs(0)) c.give(0, c.mul(c.dy, perChannel(c, c.mul(gamma, inverse))));
  if (c.needs(1)) {
    const centered = c.sub(x, perChannel(c, mean));
    c.give(1, c.mul(channelSum(c, c.mul(c.dy, centered)), inverse));
  }
  if (c.needs(2)) c.give(2, channelSum(c, c.dy));
}
