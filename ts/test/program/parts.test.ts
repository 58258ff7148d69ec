import { expect, test } from 'vitest';
import { product } from '../../src/program/attributes.ts';
import { GraphBuilder } from '../../src/program/builder.ts';
import { fuse } from '../../src/program/fuse.ts';
import type { Graph } from '../../src/program/graph.ts';
import { separatesItems } from '../../src/program/items.ts';
import { createExecutor } from '../../src/program/ort/executor.ts';
import { type PartCosts, partSizes as sizesOf } from '../../src/program/parts.ts';
import { type InputDims, specialize } from '../../src/program/static.ts';
import { gradientsOf, runGraph, spread } from './support/gradient.ts';
import { convolutional, parametersOf, text, vit } from './support/models.ts';
import { torchCase } from './support/torch.ts';

const VIT = { image: 16, patch: 2, width: 32, depth: 1, heads: 2, out: 8 };
const BOTH = { training: true, backward: true };
const COSTS: PartCosts = { cacheBytes: 4 * 2 ** 20, valuesPerParameter: 4, even: false };
const partSizes = (...args: [Graph, InputDims, { training: boolean; backward: boolean }]) =>
  sizesOf(...args, COSTS);

type Build = (b: GraphBuilder, x: string) => string;

function separate(build: Build, dims = ['batch', 3, 4] as (string | number)[], batch = 2): boolean {
  const b = new GraphBuilder('case');
  const y = build(b, b.input('x', 'float32', dims));
  b.output('y', y, []);
  const shape = dims.map((dim) => (dim === 'batch' ? batch : Number(dim)));
  return separatesItems(fuse(specialize(b.build(), { x: shape }, { training: true })), batch);
}

test('operators that keep items apart are known, and those that mix them', () => {
  const apart: Build[] = [
    (b, x) => b.op('Softmax', [x], { axis: -1 }),
    (b, x) => b.op('Add', [x, b.parameter('p', [3, 1])]),
    (b, x) => b.op('Transpose', [x], { perm: [0, 2, 1] }),
    (b, x) => b.op('MatMul', [x, b.parameter('w', [4, 5])]),
    (b, x) => b.op('MatMul', [b.parameter('w', [5, 3]), x]),
    (b, x) => b.op('MatMul', [x, b.op('Transpose', [x], { perm: [0, 2, 1] })]),
    (b, x) =>
      b.op('Reshape', [
        b.op('MatMul', [b.op('Reshape', [x, b.ints([-1, 4])]), b.parameter('w', [4, 4])]),
        b.ints([-1, 3, 4]),
      ]),
    (b, x) => b.op('ReduceMean', [x], { axes: [1] }),
  ];
  for (const build of apart) expect(separate(build), String(build)).toBe(true);
  const mixed: Build[] = [
    (b, x) => b.op('Softmax', [x], { axis: 0 }),
    (b, x) => b.op('Sub', [x, b.op('ReduceMean', [x], { axes: [0] })]),
    (b, x) => b.op('Add', [x, b.parameter('p', [2, 3, 4])]),
    (b, x) =>
      b.op('Transpose', [b.op('Exp', [b.op('Transpose', [x], { perm: [1, 0, 2] })])], { perm: [1, 0, 2] }),
    (b, x) => b.op('Slice', [b.op('Concat', [x, x], { axis: 0 }), b.ints([0]), b.ints([2]), b.ints([0])]),
    (b, x) => b.op('Gather', [x, b.ints([1, 0])], { axis: 0 }),
    // The parameter's own axis comes in front of the items', which the softmax then goes over.
    (b, x) =>
      b.op('Reshape', [
        b.op('Softmax', [b.op('MatMul', [x, b.parameter('w', [1, 1, 4, 5])])], { axis: 1 }),
        b.ints([-1, 15]),
      ]),
    (b, x) =>
      b.op('Reshape', [
        b.op('Softmax', [b.op('MatMul', [b.parameter('w', [1, 1, 5, 3]), x])], { axis: 1 }),
        b.ints([-1, 20]),
      ]),
  ];
  for (const build of mixed) expect(separate(build), String(build)).toBe(false);
  // A product of all items with all items, as in a contrastive loss.
  expect(
    separate((b, x) => b.op('MatMul', [x, b.op('Transpose', [x], { perm: [1, 0] })]), ['batch', 4]),
  ).toBe(false);
});

test('transformers go in parts, batch norms in training do not', async () => {
  const graph = vit(VIT);
  const dims = (batch: number) => ({ pixels: [batch, 3, 16, 16] });
  expect(partSizes(graph, dims(800), BOTH)).toEqual([400, 400]);
  expect(partSizes(graph, dims(811), BOTH)).toEqual([406, 405]);
  expect(partSizes(graph, dims(60), BOTH)).toEqual([60]);
  expect(partSizes(graph, dims(1), BOTH)).toEqual([1]);
  expect(partSizes(convolutional(), { pixels: [4096, 3, 16, 16] }, BOTH)).toEqual([4096]);
  expect(
    partSizes(convolutional(), { pixels: [4096, 3, 16, 16] }, { training: false, backward: false }).length,
  ).toBeGreaterThan(1);
  // PyTorch's own attention has the batch as its second axis, until it is fused.
  const { model } = await torchCase('vit');
  expect(partSizes(model.graph, { input: [4096, 3, 16, 16] }, BOTH).length).toBeGreaterThan(1);
  // A last token that is looked up by an index over the batch becomes the item's own row.
  const size = { vocabulary: 11, length: 6, width: 8, depth: 1, heads: 2, out: 8 };
  expect(partSizes(text(size), { ids: [65536, 6] }, BOTH).length).toBeGreaterThan(1);
});

test('what takes numbers from the size of the batch stays whole', () => {
  const sizes = (build: Build) => {
    const b = new GraphBuilder('case');
    b.output('y', build(b, b.input('x', 'float32', ['batch', 600_000])), ['batch', 600_000]);
    return partSizes(b.build(), { x: [12, 600_000] }, BOTH).length;
  };
  expect(sizes((b, x) => b.op('Exp', [x]))).toBe(6);
  // Rows of a matrix of six: half an item, or two.
  const six: Build = (b, x) =>
    b.op('Reshape', [
      b.op('Softmax', [b.op('Reshape', [x, b.ints([6, -1])])], { axis: -1 }),
      b.ints([-1, 600_000]),
    ]);
  expect(sizes(six)).toBe(1);
  // Rows of a matrix of twelve are items in the whole, and less in a part.
  const twelve: Build = (b, x) =>
    b.op('Reshape', [
      b.op('Softmax', [b.op('Reshape', [x, b.ints([12, -1])])], { axis: -1 }),
      b.ints([-1, 600_000]),
    ]);
  expect(sizes(twelve)).toBe(1);
  const mean: Build = (b, x) => {
    const count = b.op('Gather', [b.op('Shape', [x]), b.ints([0])], { axis: 0 });
    return b.op('Div', [x, b.op('Cast', [count], { to: 1 })]);
  };
  expect(sizes(mean)).toBe(1);
});

test('parts give the outputs and gradients of the whole', async () => {
  const graph = vit(VIT);
  const parameters = parametersOf(graph);
  const pixels = { type: 'float32', dims: [200, 3, 16, 16], data: spread(200 * 768, 3) } as const;
  const weights = { embedding: spread(200 * 8, 4) };
  const feeds = {
    pixels,
    ...Object.fromEntries(
      parameters.map(({ name, dims, value }) => [name, { type: 'float32', dims, data: value } as const]),
    ),
  };
  const whole = await runGraph(
    specialize(graph, { pixels: pixels.dims }, { training: true }).toGraph(),
    feeds,
  );
  const expected = await gradientsOf(graph, feeds, weights);

  const executor = await createExecutor({ graphs: { vit: graph }, parameters, threads: 2 });
  const { embedding } = await executor.forward('vit', { pixels });
  expect(embedding!.dims).toEqual([200, 8]);
  const error = (actual: Float32Array, value: Float32Array) =>
    Math.hypot(...actual.map((x, i) => x - value[i]!)) / Math.hypot(...value);
  expect(error(embedding!.data as Float32Array, whole.embedding!.data as Float32Array)).toBeLessThan(1e-5);
  await executor.backward(
    'vit',
    { pixels },
    { embedding: { type: 'float32', dims: [200, 8], data: weights.embedding } },
  );
  // A step with β₁ = 0 leaves the gradients in the first moments.
  await executor.update({ rate: 0, decay: 0, betas: [0, 0.9], epsilon: 1e-6 });
  const { first } = await executor.save();
  for (const { name, offset, length, dims } of executor.parameters) {
    expect(length).toBe(product(dims));
    // Keys' biases have no gradient but rounding.
    if (name.endsWith('attention.k.bias')) continue;
    expect(error(first.subarray(offset, offset + length), expected.get(name)!), name).toBeLessThan(1e-4);
  }
  await executor.dispose();
});
