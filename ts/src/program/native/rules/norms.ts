import { floatAttribute, intAttribute, positiveAxis, product } from '../../attributes.ts';
import { type AttentionShape, attentionShape } from '../../fused/attention.ts';
import type { GraphNode } from '../../graph.ts';
import type { Ref } from '../draft.ts';
import type { Lowering, LoweringRule, LoweringRules } from '../lowering.ts';

/** Rows and columns about the axis from which a norm goes over its input. */
function rowsOf(l: Lowering, node: GraphNode, value: string): { rows: number; size: number } {
  const dims = l.dims(value);
  const axis = positiveAxis(intAttribute(node, 'axis', -1), dims.length);
  return { rows: product(dims.slice(0, axis)), size: product(dims.slice(axis)) };
}

const layerNormalization: LoweringRule = (l, node) => {
  const [x, gamma, beta = ''] = node.inputs as [string, string, string?];
  const [y, mean, inverse] = node.outputs as [string, string?, string?];
  const { rows, size } = rowsOf(l, node, x);
  const epsilon = floatAttribute(node, 'epsilon', 1e-5);
  const operands = [l.read(x), l.read(gamma), beta === '' ? null : l.read(beta)];
  l.fixed(
    'layerNorm',
    [rows, size, epsilon, ...operands, l.write(y), l.writeUsed(mean), l.writeUsed(inverse)],
    8 * rows * size,
  );
};

const layerNormalizationGradient: LoweringRule = (l, node) => {
  const [dy, x, gamma, mean, inverse] = node.inputs as [string, string, string, string, string];
  const [dx, dGamma, dBeta] = node.outputs as [string, string, string];
  const { rows, size } = rowsOf(l, node, x);
  const operands = [dy, x, gamma, mean, inverse].map((value) => l.read(value));
  const sums = [dGamma, dBeta].map((value) => l.sum(value));
  l.fixed('layerNormGradient', [rows, size, ...operands, null, l.writeUsed(dx), ...sums], 14 * rows * size);
};

/** Which input q, k and v lie in, and in which of the columns of its rows, in units of their width. */
function layoutOf({
  packed,
  paired,
}: AttentionShape): readonly (readonly [input: number, at: number, of: number])[] {
  if (packed) return [0, 1, 2].map((at) => [0, at, 3]);
  if (!paired) return [0, 1, 2].map((input) => [input, 0, 1]);
  return [
    [0, 0, 1],
    [1, 0, 2],
    [1, 1, 2],
  ];
}

/** Columns of a row of q, k and v, and where each begins. */
function attentionOperands(
  l: Lowering,
  node: GraphNode,
  first: number,
): { code: number[]; places: (at: (input: number) => Ref) => Ref[]; mask: Ref | null; flops: number } {
  const shape = attentionShape(node, l.context(node), first);
  const { batch, queries, keys, heads, depth } = shape;
  const width = heads * depth;
  const lying = layoutOf(shape);
  const mask = node.inputs[first + 3] ?? '';
  const strides = [0, 0, 0];
  if (mask !== '') {
    const dims = [...[1, 1, 1, 1].slice(l.dims(mask).length), ...l.dims(mask)];
    for (const axis of [0, 1, 2]) strides[axis] = dims[axis] === 1 ? 0 : product(dims.slice(axis + 1));
  }
  const code = [
    batch,
    queries,
    keys,
    heads,
    depth,
    ...lying.map(([, , of]) => of * width),
    shape.scale,
    shape.causal ? 1 : 0,
    l.precisionNumber,
    ...strides,
  ];
  const places = (at: (input: number) => Ref) =>
    lying.map(([input, column]) => {
      const ref = at(input);
      return { ...ref, offset: ref.offset + column * width };
    });
  // Under a causal mask half of the scores count.
  const scores = (batch * heads * queries * keys * depth * 2) / (shape.causal ? 2 : 1);
  return { code, places, mask: mask === '' ? null : l.read(mask), flops: scores };
}

const attention: LoweringRule = (l, node) => {
  const { code, places, mask, flops } = attentionOperands(l, node, 0);
  const operands = places((i) => l.read(node.inputs[i]!));
  const [y, lse] = node.outputs as [string, string?];
  l.fixed('attention', [...code, ...operands, mask, l.write(y), l.writeUsed(lse)], 2 * flops);
};

const attentionGradient: LoweringRule = (l, node) => {
  const { code, places, mask, flops } = attentionOperands(l, node, 1);
  const operands = places((i) => l.read(node.inputs[i + 1]!));
  const dy = l.read(node.inputs[0]!);
  const [y, lse] = [l.read(node.inputs[5]!), l.read(node.inputs[6]!)];
  const written = node.outputs.map((value) => l.write(value));
  const gradients = places((i) => written[i]!);
  l.fixed('attentionGradient', [...code, dy, ...operands, mask, y, lse, ...gradients], 5 * flops);
};

export const normRules: LoweringRules = {
  LayerNormalization: layerNormalization,
  LayerNormalizationGradient: layerNormalizationGradient,
  Attention: attention,
  AttentionGradient: attentionGradient,
};
