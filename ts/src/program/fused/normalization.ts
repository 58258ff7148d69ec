import { floatAttribute, positiveAxis, product } from '../attributes.ts';
import type { Emitter } from '../emitter.ts';
import type { FusedOperators } from './types.ts';

/** Gradients of norms: dy, x, γ and what the norm kept → dx, dγ, dβ. */
export const normalizationOperators: FusedOperators = {
  // With c = x − μ, s = 1/σ, over N elements a row: dx = s (γ dy − mean(γ dy) − c s² mean(γ dy c)), dγ = Σ s dy c
  LayerNormalizationGradient: {
    shape: (c) => [c.info(1), c.info(2), c.info(2)],
    decompose: (e, node, shape) => {
      const [dy, x, gamma, mean, inverse] = node.inputs as [string, string, string, string, string];
      const dims = shape.dims(1);
      const axis = node.attributes.axis;
      const from = positiveAxis(axis?.kind === 'int' ? axis.value : -1, dims.length);
      const [rows, size] = [product(dims.slice(0, from)), product(dims.slice(from))];
      const centered = e.sub(x, mean);
      const t = e.mul(dy, centered);
      const flat = (value: string) => e.reshape(value, [rows, size]);
      // The sum over rows and their scales are one product.
      const dGamma = e.reshape(e.matmul(e.reshape(inverse, [1, rows]), flat(t)), e.dims(gamma));
      const dBeta = e.reshape(e.columnSum(flat(dy)), e.dims(gamma));
      // Means over rows as products with γ as a column.
      const column = e.reshape(gamma, [size, 1]);
      const rowMean = (value: string) =>
        e.reshape(e.matmul(flat(value), column, { alpha: 1 / size }), e.dims(mean));
      const slope = e.mul(e.mul(inverse, inverse), rowMean(t));
      const direct = e.sub(e.mul(dy, gamma), rowMean(dy));
      return [e.mul(e.sub(direct, e.mul(centered, slope)), inverse), dGamma, dBeta];
    },
  },
  // Mean and variance are the batch's and depend on x. With n elements a channel, s = 1/σ:
  // dx = γs (dy − Σdy/n) − (x − μ) γs³ Σ(dy (x − μ))/n
  BatchNormalizationGradient: {
    shape: (c) => [c.info(1), c.info(2), c.info(2)],
    decompose: (e, node) => {
      const [dy, x, gamma, mean, variance] = node.inputs as [string, string, string, string, string];
      const dims = e.dims(x);
      const n = product(dims) / dims[1]!;
      const inverse = inverseDeviation(e, variance, floatAttribute(node, 'epsilon', 1e-5));
      const centered = e.sub(x, perChannel(e, mean, dims.length));
      const sum = channelSum(e, dy);
      const moment = channelSum(e, e.mul(dy, centered));
      const factor = e.mul(gamma, inverse);
      const slope = e.scale(e.mul(factor, e.mul(e.mul(inverse, inverse), moment)), -1 / n);
      const offset = e.scale(e.mul(factor, sum), -1 / n);
      const direct = e.mul(dy, perChannel(e, factor, dims.length));
      const indirect = e.add(
        e.mul(centered, perChannel(e, slope, dims.length)),
        perChannel(e, offset, dims.length),
      );
      return [e.add(direct, indirect), e.mul(moment, inverse), sum];
    },
  },
};

/** [C] → [1, C, 1, …], to combine with a value of this rank. */
export function perChannel(e: Emitter, value: string, rank: number): string {
  const [channels] = e.dims(value) as [number];
  return e.reshape(
    value,
    Array.from({ length: rank }, (_, i) => (i === 1 ? channels : 1)),
  );
}

/** [N, C, …] → [C]. */
export function channelSum(e: Emitter, value: string): string {
  return e.sumOver(
    value,
    e.dims(value).flatMap((_, axis) => (axis === 1 ? [] : [axis])),
  );
}

/** 1/√(variance + ε) */
export function inverseDeviation(e: Emitter, variance: string, epsilon: number): string {
  const deviation = e.graph.emit('Sqrt', [e.add(variance, e.scalar(epsilon))]);
  return e.graph.emit('Reciprocal', [deviation]);
}
