import { floatAttribute, intAttribute, numbersOf } from '../attributes.ts';
import { type Emitter, MICROSOFT, OWN } from '../emitter.ts';
import type { GraphNode } from '../graph.ts';
import type { ShapeContext } from '../shapes/context.ts';
import type { FusedOperator, FusedOperators } from './types.ts';

/** What a causal mask adds to a score that may not count. */
export const NEVER = -1e9;

/** Sizes of an attention: queries [batch, queries, width], keys and values [batch, keys, width], `heads` of `depth` columns each. */
export interface AttentionShape {
  readonly batch: number;
  readonly queries: number;
  readonly keys: number;
  readonly heads: number;
  readonly depth: number;
  readonly scale: number;
  readonly causal: boolean;
  /** Queries, keys and values are the three thirds of one value's columns, [batch, tokens, 3 · width]; the other two inputs are left out. */
  readonly packed: boolean;
  /** Keys and values are the two halves of the second input's columns, [batch, keys, 2 · width]; the third is left out. */
  readonly paired: boolean;
}

/** `first` is the input that holds the queries. */
export function attentionShape(node: GraphNode, c: ShapeContext, first: number): AttentionShape {
  const packed = intAttribute(node, 'packed', 0) === 1;
  const heads = intAttribute(node, 'heads', 1);
  const [batch, queries, columns] = c.dims(first) as [number, number, number];
  const width = packed ? columns / 3 : columns;
  return {
    batch,
    queries,
    keys: packed ? queries : c.dims(first + 1)[1]!,
    heads,
    depth: width / heads,
    scale: floatAttribute(node, 'scale', 1),
    causal: intAttribute(node, 'causal', 0) === 1,
    packed,
    paired: intAttribute(node, 'paired', 0) === 1,
  };
}

/** [batch, tokens, width] → [batch, heads, tokens, depth]; queries, keys and values. */
function split(e: Emitter, node: GraphNode, shape: AttentionShape, first: number): [string, string, string] {
  const { batch, queries, keys, heads, depth } = shape;
  const turn = (value: string) => e.transpose(value, [0, 2, 1, 3]);
  if (shape.packed) {
    const rows = e.reshape(node.inputs[first]!, [batch, queries, 3 * heads, depth]);
    const sizes = e.graph.ints([heads, heads, heads]);
    const parts = e.graph.emitAll('Split', [rows, sizes], { axis: 2 }, 3);
    return parts.map(turn) as [string, string, string];
  }
  if (shape.paired) {
    const q = e.reshape(node.inputs[first]!, [batch, queries, heads, depth]);
    const rows = e.reshape(node.inputs[first + 1]!, [batch, keys, 2 * heads, depth]);
    const parts = e.graph.emitAll('Split', [rows, e.graph.ints([heads, heads])], { axis: 2 }, 2);
    return [q, ...parts].map(turn) as [string, string, string];
  }
  const parts = node.inputs
    .slice(first, first + 3)
    .map((value, i) => turn(e.reshape(value, [batch, i === 0 ? queries : keys, heads, depth])));
  return parts as [string, string, string];
}

/** [batch, heads, tokens, depth] → [batch, tokens, width]. */
function merge(e: Emitter, value: string): string {
  const [batch, heads, tokens, depth] = e.dims(value) as [number, number, number, number];
  return e.reshape(e.transpose(value, [0, 2, 1, 3]), [batch, tokens, heads * depth]);
}

/** scale · q kᵀ + mask, [batch, heads, queries, keys]. */
function scores(e: Emitter, q: string, k: string, mask: string | undefined, shape: AttentionShape): string {
  const product = e.graph.emit('FusedMatMul', [q, k], { transB: 1, alpha: shape.scale }, MICROSOFT);
  if (mask) return e.add(product, mask);
  return shape.causal ? e.add(product, e.graph.causal(shape.queries, shape.keys, NEVER)) : product;
}

const attention: FusedOperator = {
  // The second output is the logarithm of each row's sum of exponentials.
  shape: (c) => {
    const { batch, queries, heads, depth } = attentionShape(c.node, c, 0);
    const dims = [
      [batch, queries, heads * depth],
      [batch, heads, queries],
    ];
    return c.node.outputs.map((_, i) => ({ type: c.type(0), dims: dims[i]! }));
  },
  gradient: (c) => {
    const [, lse] = c.graph.outputsOf(c.node, 2) as [string, string];
    const [q, k, v, mask] = [0, 1, 2, 3].map((i) => c.node.inputs[i] ?? '') as [
      string,
      string,
      string,
      string,
    ];
    const count = c.int('packed', 0) === 1 ? 1 : c.int('paired', 0) === 1 ? 2 : 3;
    if (mask !== '' && c.needs(3))
      throw c.unsupported('has a mask that is learned: that has no gradient rule');
    const inputs = [c.dy, q, k, v, mask, c.y, lse];
    const gradients = c.graph.emitAll('AttentionGradient', inputs, c.node.attributes, count, OWN);
    gradients.forEach((gradient, i) => {
      c.give(i, gradient);
    });
  },
  decompose: (e, node, c) => {
    const shape = attentionShape(node, c, 0);
    const [q, k, v] = split(e, node, shape, 0);
    const scored = scores(e, q, k, node.inputs[3], shape);
    const y = merge(e, e.matmul(e.graph.emit('Softmax', [scored], { axis: -1 }), v));
    if (node.outputs.length === 1) return [y];
    return [y, e.graph.emit('ReduceLogSumExp', [scored], { axes: [3], keepdims: 0 })];
  },
  items: (v) =>
    v.node.inputs.every((name, i) => {
      if (name === '') return true;
      // A mask is the items' own, or all share it.
      if (i < 3) return v.held(i);
      return v.held(i)
        ? v.dims(i).length === 4 && v.dims(i)[0] === v.batch
        : v.dims(i).length < 4 || v.dims(i)[0] === 1;
    })
      ? true
      : undefined,
};

/** dy, q, k, v, mask, y, log-sum-exps → dq, dk, dv, or that of all three packed, or dq and that of both. */
const attentionGradient: FusedOperator = {
  shape: (c) => c.node.outputs.map((_, i) => c.info(i + 1)),
  decompose: (e, node, c) => {
    const shape = attentionShape(node, c, 1);
    const { batch, queries, heads, depth } = shape;
    const [q, k, v] = split(e, node, shape, 1);
    const lse = e.reshape(node.inputs[6]!, [batch, heads, queries, 1]);
    const p = e.graph.emit('Exp', [e.sub(scores(e, q, k, node.inputs[4], shape), lse)]);
    const turned = (value: string) =>
      e.transpose(e.reshape(value, [batch, queries, heads, depth]), [0, 2, 1, 3]);
    const [dy, y] = [turned(node.inputs[0]!), turned(node.inputs[5]!)];
    const delta = e.reshape(e.sumOver(e.mul(dy, y), [3]), [batch, heads, queries, 1]);
    const ds = e.mul(p, e.sub(e.matmul(dy, v, { transB: true }), delta));
    const alpha = shape.scale;
    const parts = [
      e.matmul(ds, k, { alpha }),
      e.matmul(ds, q, { transA: true, alpha }),
      e.matmul(p, dy, { transA: true }),
    ].map((value) => merge(e, value));
    if (shape.packed) return [e.concat(parts, 2)];
    return shape.paired ? [parts[0]!, e.concat(parts.slice(1), 2)] : parts;
  },
};

export const attentionOperators: FusedOperators = {
  Attention: attention,
  AttentionGradient: attentionGradient,
};

/** Whether a mask is 0 on and below the diagonal of its last two axes, and hides all that is above. */
export function isCausal(dims: readonly number[], constant: { data: ArrayLike<number | bigint> }): boolean {
  const [rows, columns] = dims.slice(-2);
  if (rows === undefined || rows !== columns || constant.data.length !== rows * columns) return false;
  return numbersOf(constant as Parameters<typeof numbersOf>[0]).every((value, i) =>
    i % rows > Math.floor(i / rows) ? value <= NEVER / 10 : value === 0,
  );
}
