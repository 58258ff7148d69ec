import { floatAttribute, intAttribute, positiveAxis, product, stringAttribute } from '../attributes.ts';
import { type Emitter, OWN } from '../emitter.ts';
import type { GraphNode } from '../graph.ts';
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
  // x, γ, β, mean, variance and a residual that is added → activation(batch norm), and the batch's mean and variance.
  BatchNormalizationActivation: {
    shape: (c) => c.node.outputs.map((_, i) => (i === 0 ? c.info(0) : c.info(1))),
    gradient: (c) => {
      const [x, gamma, beta, mean, variance, residual = ''] = c.node.inputs as [
        string,
        string,
        string,
        string,
        string,
        string?,
      ];
      const training = c.int('training_mode', 0) === 1;
      const statistics = training ? c.node.outputs.slice(1, 3) : [mean, variance];
      const inputs = [c.dy, x, gamma, beta, ...statistics, c.y, residual];
      const count = residual === '' ? 3 : 4;
      const gradients = c.graph.emitAll(
        'BatchNormalizationActivationGradient',
        inputs,
        c.node.attributes,
        count,
        OWN,
      );
      for (const [i, input] of [0, 1, 2, 5].slice(0, count).entries()) c.give(input, gradients[i]!);
    },
    decompose: (e, node) => {
      const [x, gamma, beta, mean, variance, residual = ''] = node.inputs as [
        string,
        string,
        string,
        string,
        string,
        string?,
      ];
      const { activation, ...attributes } = node.attributes;
      const training = intAttribute(node, 'training_mode', 0) === 1;
      const inputs = [x, gamma, beta, mean, variance];
      const [normed, ...statistics] = e.graph.emitAll(
        'BatchNormalization',
        inputs,
        attributes,
        training ? 3 : 1,
      );
      const sum = residual === '' ? normed! : e.add(normed!, residual);
      const kind = activation?.kind === 'string' ? activation.value : '';
      return [kind === '' ? sum : e.graph.emit(kind, [sum]), ...statistics];
    },
    items: (v) => {
      if (intAttribute(v.node, 'training_mode', 0) === 1) return undefined;
      const residual = v.node.inputs[5] ?? '';
      return v.held(0) && (residual === '' || v.held(5)) ? true : undefined;
    },
  },
  // dy, x, γ, β, mean, variance, y, residual → dx, dγ, dβ, and the residual's gradient where there is one.
  BatchNormalizationActivationGradient: {
    shape: (c) => [c.info(1), c.info(2), c.info(2), c.info(1)].slice(0, c.node.outputs.length),
    decompose: (e, node) => {
      const [dy, x, gamma, beta, mean, variance, y, residual = ''] = node.inputs as [
        string,
        string,
        string,
        string,
        string,
        string,
        string,
        string?,
      ];
      const rank = e.dims(x).length;
      const epsilon = floatAttribute(node, 'epsilon', 1e-5);
      const g = behindActivation(e, node, dy, y, () => {
        const inverse = inverseDeviation(e, variance, epsilon);
        const centered = e.sub(x, perChannel(e, mean, rank));
        const scaled = e.mul(centered, perChannel(e, e.mul(gamma, inverse), rank));
        const normed = e.add(scaled, perChannel(e, beta, rank));
        return residual === '' ? normed : e.add(normed, residual);
      });
      const attributes = { epsilon };
      const training = intAttribute(node, 'training_mode', 0) === 1;
      const gradients = training
        ? e.graph.emitAll('BatchNormalizationGradient', [g, x, gamma, mean, variance], attributes, 3, OWN)
        : withGiven(e, g, x, gamma, mean, inverseDeviation(e, variance, epsilon));
      return residual === '' ? gradients : [...gradients, g];
    },
  },
};

/** dy times the slope of the activation that the node names; `input` writes what the activation was given. */
function behindActivation(e: Emitter, node: GraphNode, dy: string, y: string, input: () => string): string {
  switch (stringAttribute(node, 'activation', '')) {
    case 'Relu':
      return e.mul(dy, e.graph.emit('Sign', [y]));
    case 'HardSwish':
      return e.graph.emit('HardSwishGradient', [dy, input()], {}, OWN);
    default:
      return dy;
  }
}

/** Gradients where mean and variance do not depend on x: dx, dγ, dβ. */
export function withGiven(
  e: Emitter,
  dy: string,
  x: string,
  gamma: string,
  mean: string,
  inverse: string,
): [string, string, string] {
  const rank = e.dims(x).length;
  const centered = e.sub(x, perChannel(e, mean, rank));
  return [
    e.mul(dy, perChannel(e, e.mul(gamma, inverse), rank)),
    e.mul(channelSum(e, e.mul(dy, centered)), inverse),
    channelSum(e, dy),
  ];
}

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
