import { describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../src/program/builder.ts';
import type { Graph } from '../../src/program/graph.ts';
import { forwardProducts } from '../../src/program/native/costs.ts';
import { type Explanation, explain, type OperationCosts } from '../../src/program/native/explain.ts';
import { parametersOf, text, vit } from './support/models.ts';

const size = { image: 16, patch: 4, width: 24, depth: 3, heads: 2, out: 8 };
const textSize = { vocabulary: 50, length: 9, width: 16, depth: 1, heads: 2, out: 8 };
const of = (graph: Graph, batch: number): Explanation => explain(graph, parametersOf(graph), batch);
const sum = (costs: readonly OperationCosts[], field: 'flops' | 'runs' | 'bytes') =>
  costs.reduce((before, cost) => before + cost[field], 0);

describe('a vision transformer', () => {
  const batch = 3;
  const explanation = of(vit(size), batch);
  const [tokens, { width, out, depth }] = [17, size];
  // Behind the last attention's keys and values only the first token counts.
  const rows = batch * (tokens * (depth - 1) + 1);
  const linear = 2 * width * width * (2 * depth * batch * tokens + 10 * rows);
  const attention = 4 * rows * tokens * width;
  const products = 2 * batch * 16 * 48 * width + linear + attention + 2 * batch * width * out;

  test('has the products of its layers', () => {
    expect(forwardProducts(vit(size), { pixels: [batch, 3, 16, 16] })).toBe(products);
    const forward = explanation.training!.forward;
    expect(forward.find(({ op }) => op === 'attention')).toMatchObject({
      runs: depth,
      flops: attention,
    });
    // Twice the work backward, save for the gradient of the pixels, which nobody needs.
    const dense = (costs: readonly OperationCosts[]) =>
      sum(
        costs.filter(({ op }) => op.startsWith('product')),
        'flops',
      );
    expect(dense(explanation.training!.backward) / dense(forward)).toBeGreaterThan(1.85);
    expect(dense(explanation.training!.backward) / dense(forward)).toBeLessThan(2.1);
  });

  test('says what was fused, and where', () => {
    const fused = new Map(explanation.fused.map(({ op, nodes }) => [op, nodes.length]));
    expect(Object.fromEntries(fused)).toMatchObject({ Attention: 3, Gelu: 3, LayerNormalization: 7 });
    expect(fused.has('Reshape')).toBe(false);
    const { given, shaped, fused: left } = explanation.nodes;
    expect(given).toBeGreaterThanOrEqual(shaped);
    expect(shaped).toBeGreaterThan(left);
  });

  test('plans memory for outputs alone and for training', () => {
    const { inference, training, state, parameters } = explanation;
    const count = parametersOf(vit(size)).reduce((all, { value }) => all + value.length, 0);
    expect(parameters).toEqual({ all: count, learned: count });
    expect(state).toEqual({ parameters: 4 * count, gradients: 4 * count, moments: 8 * count });
    expect(inference!.saved).toEqual([]);
    expect(inference!.backward).toEqual([]);
    expect(training!.activations).toBeGreaterThan(inference!.activations);
    const saved = training!.saved.map(({ bytes }) => bytes);
    expect(saved).toEqual(saved.toSorted((a, b) => b - a));
    expect(saved.reduce((a, b) => a + b)).toBeLessThanOrEqual(training!.activations);
    expect(of(vit(size), 6).training!.activations).toBeGreaterThan(1.85 * training!.activations);
  });

  test('has no pass over memory for sums of residuals, nor for activations that are made again', () => {
    const runs = (op: string) => explanation.training!.backward.find((costs) => costs.op === op)?.runs;
    expect(runs('chain')).toBe(1);
    expect(runs('layerNormGradient')).toBe(2 * depth + 1);
  });

  test('names inputs and outputs with their shapes', () => {
    expect(explanation.inputs).toEqual([{ name: 'pixels', type: 'float32', dims: [3, 3, 16, 16] }]);
    expect(explanation.outputs).toEqual([{ name: 'embedding', type: 'float32', dims: [3, 8] }]);
    expect(explanation.unsupported).toEqual([]);
  });
});

test('what is left of a pattern is named', () => {
  const b = new GraphBuilder('apart');
  const x = b.input('x', 'float32', ['batch', 4, 8]);
  const turned = b.op('Transpose', [x], { perm: [0, 2, 1] });
  // Over the queries: no attention that anybody has a kernel for.
  const weights = b.op('Softmax', [b.op('MatMul', [x, turned])], { axis: 1 }, { name: 'over queries' });
  const mixed = b.op('MatMul', [weights, x]);
  const mean = b.op('ReduceMean', [b.op('Mul', [mixed, mixed]), b.ints([2])], { keepdims: 1 });
  const root = b.op('Sqrt', [b.op('Add', [mean, b.scalar(1e-5)])], {}, { name: 'root' });
  const normed = b.op('Div', [mixed, root]);
  const last = b.op('Softmax', [normed], { axis: -1 }, { name: 'last' });
  b.output('y', b.op('Erf', [last], {}, { name: 'erf' }), ['batch', 4, 8]);
  const { unfused, unsupported } = of(b.build(), 2);
  expect(unsupported).toEqual([]);
  expect(unfused).toEqual([
    { op: 'Softmax', node: 'over queries', of: 'Attention' },
    { op: 'Sqrt', node: 'root', of: 'LayerNormalization' },
    { op: 'Erf', node: 'erf', of: 'Gelu' },
  ]);
  expect(of(vit(size), 2).unfused).toEqual([]);
});

test('rows of a table count, not the table', () => {
  const { training } = of(text({ ...textSize, vocabulary: 100_000 }), 2);
  const gather = training!.forward.find(({ op }) => op === 'gather')!;
  expect(gather.bytes).toBeLessThan(100_000);
});

test('open axes other than the batch are asked for by name', () => {
  const b = new GraphBuilder('open');
  const x = b.input('x', 'float32', ['batch', 'length', 4]);
  b.output('y', b.op('MatMul', [x, b.parameter('w', [4, 4])]), ['batch', 'length', 4]);
  const graph = b.build();
  expect(() => of(graph, 2)).toThrow(
    "Expected a size for the open axis 'length' of input 'x', as --size length=N or in `sizes`, but received none",
  );
  const { outputs } = explain(graph, parametersOf(graph), 2, { length: 7 });
  expect(outputs[0]!.dims).toEqual([2, 7, 4]);
});

test('every operator without a rule is named, before anything is planned', () => {
  const b = new GraphBuilder('strange');
  const x = b.input('x', 'float32', ['batch', 4]);
  const first = b.op('Mystery', [x], {}, { name: 'one' });
  b.output('y', b.op('Riddle', [first], {}, { name: 'two' }), ['batch', 4]);
  const explanation = of(b.build(), 2);
  expect(explanation).toMatchObject({ inference: undefined, training: undefined });
  expect(explanation.unsupported).toEqual([
    { op: 'Mystery', node: 'one', why: 'is not supported in training' },
    { op: 'Riddle', node: 'two', why: 'is not supported in training' },
  ]);
});

test('what has no native operation is named once, though both passes lack it', () => {
  const b = new GraphBuilder('volume');
  const x = b.input('x', 'float32', ['batch', 2, 5, 5, 5]);
  const w = b.parameter('w', [2, 2, 3, 3, 3]);
  b.output('y', b.op('Conv', [x, w], { kernel_shape: [3, 3, 3] }, { name: 'c' }), ['batch', 2, 3, 3, 3]);
  const { unsupported, inference, training } = of(b.build(), 2);
  expect(unsupported[0]).toEqual({
    op: 'Conv',
    node: 'c',
    why: 'over more than two axes has no native operation',
  });
  expect(unsupported.filter(({ node }) => node === 'c')).toHaveLength(1);
  expect([inference, training]).toEqual([undefined, undefined]);
});
