import { floatAttribute, positiveAxis } from '../attributes.ts';
import type { Emitter } from '../emitter.ts';
import type { GraphNode } from '../graph.ts';
import type { ShapeRule } from '../shapes/context.ts';
import type { FusedOperators } from './types.ts';

const like: ShapeRule = (c) => [c.info(0)];

const operands = (node: GraphNode) => node.inputs as [string, string];

/** Sum over the node's `axis`, kept as 1. */
function axisSum(e: Emitter, node: GraphNode, value: string): string {
  const dims = e.dims(value);
  const axis = node.attributes.axis;
  const at = positiveAxis(axis?.kind === 'int' ? axis.value : -1, dims.length);
  return e.reshape(e.sumOver(value, [at]), dims.with(at, 1));
}

/** Gradients of activations: dy, and the input or the output, → dx. */
export const activationOperators: FusedOperators = {
  // dy (Φ(x) + x φ(x)) in few passes over memory: Φ = ½ + ½ erf(x/√2), which HardSigmoid writes at once, and the bell by a division.
  GeluGradient: {
    shape: like,
    decompose: (e, node) => {
      const [dy, x] = operands(node);
      const scaled = e.scale(x, Math.SQRT1_2);
      const erf = e.graph.emit('Erf', [scaled]);
      const distribution = e.graph.emit('HardSigmoid', [erf], { alpha: 0.5, beta: 0.5 });
      const bell = e.div(x, e.graph.emit('Exp', [e.mul(scaled, scaled)]));
      const density = e.scale(bell, 1 / Math.sqrt(2 * Math.PI));
      return [e.mul(dy, e.add(distribution, density))];
    },
  },
  // With s = σ(αx): dy (s + αx s (1 − s))
  QuickGeluGradient: {
    shape: like,
    decompose: (e, node) => {
      const [dy, x] = operands(node);
      const alpha = floatAttribute(node, 'alpha', 1.702);
      const scaled = e.scale(x, alpha);
      const s = e.graph.emit('Sigmoid', [scaled]);
      return [e.mul(dy, e.mul(s, e.add(e.scalar(1), e.mul(scaled, e.sub(e.scalar(1), s)))))];
    },
  },
  // 0 below −3, x/3 + 1/2 up to 3, then 1
  HardSwishGradient: {
    shape: like,
    decompose: (e, node) => {
      const [dy, x] = operands(node);
      const line = e.add(e.scale(x, 1 / 3), e.scalar(0.5));
      const below = e.graph.emit('Less', [x, e.scalar(3)]);
      const slope = e.graph.emit('Where', [below, line, e.scalar(1)]);
      return [e.mul(dy, e.keep(e.graph.emit('Greater', [x, e.scalar(-3)]), slope))];
    },
  },
  // y (dy − Σ dy y)
  SoftmaxGradient: {
    shape: like,
    decompose: (e, node) => {
      const [dy, y] = operands(node);
      const t = e.mul(dy, y);
      return [e.sub(t, e.mul(y, axisSum(e, node, t)))];
    },
  },
  // dy − softmax Σ dy
  LogSoftmaxGradient: {
    shape: like,
    decompose: (e, node) => {
      const [dy, y] = operands(node);
      return [e.sub(dy, e.mul(e.graph.emit('Exp', [y]), axisSum(e, node, dy)))];
    },
  },
};
