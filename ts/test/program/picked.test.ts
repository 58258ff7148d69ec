import { afterEach, describe, expect, test } from 'vitest';
import { intAttribute } from '../../src/program/attributes.ts';
import { GraphBuilder } from '../../src/program/builder.ts';
import type { Executor, Tensor } from '../../src/program/executor.ts';
import { fuse } from '../../src/program/fuse.ts';
import type { Graph } from '../../src/program/graph.ts';
import { createNativeExecutor } from '../../src/program/native/executor.ts';
import { explain } from '../../src/program/native/explain.ts';
import { specialize } from '../../src/program/static.ts';
import { type Feeds, gradientsOf, runGraph, spread } from './support/gradient.ts';
import { parametersOf } from './support/models.ts';

const open: Executor[] = [];
afterEach(async () => {
  for (const executor of open.splice(0)) await executor.dispose();
});

const [tokens, width, heads, out] = [9, 16, 2, 5];

interface Attending {
  readonly name: string;
  /** The token whose embedding is read: a number, or the one of the largest `ids`. */
  readonly at: number | 'largest';
  readonly causal?: boolean;
  /** Weights lie as [columns, width], and a transposition is written out. */
  readonly turned?: boolean;
  readonly bias?: boolean;
  /** Queries, keys and values are a product each. */
  readonly apart?: boolean;
  /** The product of all three is an output too. */
  readonly shown?: boolean;
}

/** `x` [batch, tokens, width] → `embedding` [batch, out]: one attention with what is added to its result, of which a token is read. */
function attending({ at, causal, turned, bias = true, apart, shown }: Attending): Graph {
  const b = new GraphBuilder('attending');
  const x = b.input('x', 'float32', ['batch', tokens, width]);
  const linear = (value: string, name: string, to: number) => {
    const w = b.parameter(`${name}.weight`, turned ? [to, width] : [width, to]);
    const y = b.op('MatMul', [value, turned ? b.op('Transpose', [w], { perm: [1, 0] }) : w]);
    return bias ? b.op('Add', [y, b.parameter(`${name}.bias`, [to])]) : y;
  };
  const rows = linear(x, 'first', width);
  const normed = b.op('LayerNormalization', [
    rows,
    b.parameter('norm.weight', [width]),
    b.parameter('norm.bias', [width]),
  ]);
  const turn = (value: string) => b.op('Transpose', [value], { perm: [0, 2, 1, 3] });
  let parts: string[];
  if (apart) {
    parts = ['q', 'k', 'v'].map((name) =>
      b.op('Reshape', [linear(normed, name, width), b.ints([0, 0, heads, width / heads])]),
    );
  } else {
    const qkv = linear(normed, 'qkv', 3 * width);
    if (shown) b.output('qkv', qkv, ['batch', tokens, 3 * width]);
    const split = b.op('Reshape', [qkv, b.ints([0, 0, 3 * heads, width / heads])]);
    parts = b.ops('Split', [split, b.ints([heads, heads, heads])], { axis: 2 }, { outputs: 3 }) as string[];
  }
  const [q, k, v] = parts.map(turn) as [string, string, string];
  const turnedKeys = b.op('Transpose', [k], { perm: [0, 1, 3, 2] });
  let scores = b.op('MatMul', [b.op('Mul', [q, b.scalar(0.5)]), turnedKeys]);
  if (causal) {
    const data = Float32Array.from({ length: tokens * tokens }, (_, i) =>
      i % tokens > Math.floor(i / tokens) ? -1e9 : 0,
    );
    scores = b.op('Add', [scores, b.constant({ type: 'float32', dims: [tokens, tokens], data })]);
  }
  const mixed = turn(b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }), v]));
  const merged = b.op('Reshape', [mixed, b.ints([0, 0, width])]);
  const sum = b.op('Add', [rows, linear(merged, 'out', width)]);
  const scalar = (value: number) =>
    b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(BigInt(value)) });
  let picked: string;
  if (at === 'largest') {
    const ids = b.input('ids', 'int64', ['batch', tokens]);
    const end = b.op('ArgMax', [ids], { axis: 1, keepdims: 1 });
    const batch = b.op('Gather', [b.op('Shape', [ids]), scalar(0)]);
    const range = b.op('Unsqueeze', [b.op('Range', [scalar(0), batch, scalar(1)]), b.ints([1])]);
    picked = b.op('GatherND', [sum, b.op('Concat', [range, end], { axis: 1 })]);
  } else {
    picked = b.op('Gather', [sum, scalar(at)], { axis: 1 });
  }
  const embedding = b.op('MatMul', [picked, b.parameter('projection', [width, out])]);
  b.output('embedding', embedding, ['batch', out]);
  return b.build();
}

const CASES: Attending[] = [
  { name: 'the first token', at: 0 },
  { name: 'the first token, weights turned', at: 0, turned: true },
  { name: 'the first token, without biases', at: 0, bias: false },
  { name: 'a token in the middle under a causal mask', at: 4, causal: true },
  { name: 'the last token under a causal mask', at: tokens - 1, causal: true },
  { name: 'the token of the largest id', at: 'largest' },
  { name: 'the token of the largest id under a causal mask', at: 'largest', causal: true },
  { name: 'the same, of three products', at: 'largest', causal: true, apart: true },
];

function feedsOf(graph: Graph, batch: number): { inputs: Record<string, Tensor>; all: Feeds } {
  const inputs: Record<string, Tensor> = {
    x: {
      type: 'float32',
      dims: [batch, tokens, width],
      data: spread(batch * tokens * width, 3),
    },
  };
  if (graph.inputs.some(({ name }) => name === 'ids')) {
    const data = BigInt64Array.from({ length: batch * tokens }, (_, i) => BigInt((i * 7 + (i % 5)) % 23));
    inputs.ids = { type: 'int64', dims: [batch, tokens], data };
  }
  const all: Feeds = { ...inputs };
  for (const { name, dims, value } of parametersOf(graph)) all[name] = { type: 'float32', dims, data: value };
  return { inputs, all };
}

const attentionsOf = (graph: Graph, batch: number) => {
  const { inputs } = feedsOf(graph, batch);
  const dims = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, tensor.dims]));
  const fused = fuse(specialize(graph, dims, { training: true }));
  return fused
    .toGraph()
    .nodes.filter(({ op }) => op === 'Attention')
    .map((node) => ({
      node,
      queries: fused.dims(node.inputs[0]!)[1],
      keys: fused.dims(node.inputs[1]! || node.inputs[0]!)[1],
    }));
};

const norm = (values: Float32Array) => Math.hypot(...values);

function expectSame(
  actual: ReadonlyMap<string, Float32Array>,
  expected: ReadonlyMap<string, Float32Array>,
  bound: number,
): void {
  for (const [name, gradient] of expected) {
    const error = norm(gradient.map((value, i) => value - actual.get(name)![i]!));
    // A bias of keys shifts all scores of a row alike.
    expect(error, name).toBeLessThan(bound * norm(gradient) + 1e-5);
  }
}

describe.each(CASES)('an attention of which one token is read: $name', (given) => {
  const graph = attending(given);

  test('has one query an item, with the gradients of all', async () => {
    const batch = 3;
    const [{ node, queries, keys }] = attentionsOf(graph, batch) as [ReturnType<typeof attentionsOf>[0]];
    expect([queries, keys]).toEqual([1, tokens]);
    expect(intAttribute(node, 'paired', 0)).toBe(given.apart ? 0 : 1);
    expect(intAttribute(node, 'causal', 0)).toBe(0);
    expect(node.inputs.length).toBe(given.causal && given.at !== tokens - 1 ? 4 : 3);
    const { all } = feedsOf(graph, batch);
    const weights = { embedding: spread(batch * out, 5) };
    const separate = await gradientsOf(graph, all, weights);
    expectSame(await gradientsOf(graph, all, weights, { fused: true }), separate, 1e-4);
  });

  test.each([3, 4096])('the same on our own operations, batch %i', async (batch) => {
    const { inputs, all } = feedsOf(graph, batch);
    const parameters = parametersOf(graph);
    // The larger batch runs in parts, with the gradients of weights over all of them.
    const parts = explain(graph, parameters, batch).training!.parts;
    if (batch > 3) expect(parts).toBeGreaterThan(1);
    else expect(parts).toBe(1);
    const weights = { embedding: spread(batch * out, 5) };
    const executor = await createNativeExecutor({ graphs: { model: graph }, parameters, threads: 2 });
    open.push(executor);
    const { embedding } = await executor.forward('model', inputs, { keep: true });
    const dims = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, tensor.dims]));
    const expected = (await runGraph(specialize(graph, dims, { training: true }).toGraph(), all)).embedding!
      .data as Float32Array;
    const values = embedding!.data as Float32Array;
    expect(norm(values.map((value, i) => value - expected[i]!))).toBeLessThan(1e-5 * norm(expected));
    const seed = { type: 'float32', dims: [batch, out], data: weights.embedding } as const;
    await executor.backward('model', inputs, { embedding: seed });
    await executor.update({ rate: 0, decay: 0, betas: [0, 0.9], epsilon: 1e-6 });
    const { first } = await executor.save();
    const gradients = new Map(
      executor.parameters.map(({ name, offset, length }) => [name, first.subarray(offset, offset + length)]),
    );
    expectSame(gradients, await gradientsOf(graph, all, weights), 1e-4);
  });
});

test('products of queries, keys and values stay whole where somebody reads them', () => {
  const graph = attending({ name: 'shown', at: 0, shown: true });
  const [{ node, queries }] = attentionsOf(graph, 3) as [ReturnType<typeof attentionsOf>[0]];
  expect(intAttribute(node, 'packed', 0)).toBe(1);
  expect(queries).toBe(tokens);
});
