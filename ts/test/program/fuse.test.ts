import { expect, test } from 'vitest';
import { product } from '../../src/program/attributes.ts';
import { decompose } from '../../src/program/decompose.ts';
import { OWN } from '../../src/program/emitter.ts';
import { fuse } from '../../src/program/fuse.ts';
import type { Graph } from '../../src/program/graph.ts';
import { specialize } from '../../src/program/static.ts';
import { type Feeds, gradientsOf, runGraph, spread } from './support/gradient.ts';
import { parametersOf, text, vit } from './support/models.ts';
import { torchCase } from './support/torch.ts';

const VIT = { image: 16, patch: 8, width: 12, depth: 2, heads: 3, out: 5 };
const TEXT = { vocabulary: 11, length: 6, width: 8, depth: 2, heads: 2, out: 5 };

function counts(graph: Graph): Record<string, number> {
  const result: Record<string, number> = {};
  for (const { op } of graph.nodes) result[op] = (result[op] ?? 0) + 1;
  return result;
}

function feedsOf(graph: Graph, inputs: Feeds): Feeds {
  const feeds = { ...inputs };
  for (const { name, dims, value } of parametersOf(graph))
    feeds[name] = { type: 'float32', dims, data: value };
  return feeds;
}

const cases: { name: string; graph: Graph; inputs: Feeds; expected: Record<string, number | undefined> }[] = [
  {
    name: 'a vision transformer',
    graph: vit(VIT),
    inputs: { pixels: { type: 'float32', dims: [2, 3, 16, 16], data: spread(2 * 3 * 256, 9) } },
    // Patches are a product of their own; the last projection has no bias.
    expected: {
      LayerNormalization: 5,
      Gelu: 2,
      Gemm: 13,
      Attention: 2,
      FusedMatMul: undefined,
      Softmax: undefined,
      MatMul: 1,
      Erf: undefined,
      Sqrt: undefined,
    },
  },
  {
    name: 'a text transformer',
    graph: text(TEXT),
    inputs: {
      ids: {
        type: 'int64',
        dims: [2, 6],
        data: BigInt64Array.from([3, 1, 10, 0, 0, 0, 2, 5, 4, 3, 10, 0], BigInt),
      },
    },
    expected: {
      LayerNormalization: 5,
      QuickGelu: 2,
      Gemm: 12,
      Attention: 2,
      PickRow: 2,
      MatMul: 1,
      Softmax: undefined,
      Sigmoid: undefined,
      Shape: undefined,
    },
  },
];

test.each(cases)(
  '$name becomes fewer operators with the same values',
  async ({ graph, inputs, expected }) => {
    const dims = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, tensor.dims]));
    const plain = specialize(graph, dims, { training: true });
    const fused = fuse(plain).toGraph();
    expect(counts(fused)).toMatchObject(Object.fromEntries(Object.entries(expected).filter(([, n]) => n)));
    for (const op of Object.keys(expected)) expect(counts(fused)[op], op).toBe(expected[op]);

    const feeds = feedsOf(graph, inputs);
    const standard = decompose(fuse(plain), [OWN]).toGraph();
    const [before, after] = [await runGraph(plain.toGraph(), feeds), await runGraph(standard, feeds)];
    const values = before.embedding!.data as Float32Array;
    values.forEach((value, i) => {
      expect(after.embedding!.data[i]).toBeCloseTo(value, 4);
    });

    const taken = decompose(fuse(plain)).toGraph();
    expect(taken.nodes.every(({ domain }) => domain === '')).toBe(true);
    const alone = (await runGraph(taken, feeds)).embedding!.data;
    values.forEach((value, i) => {
      expect(alone[i]).toBeCloseTo(value, 4);
    });

    const weights = { embedding: spread(product(plain.dims('embedding')), 3) };
    const separate = await gradientsOf(graph, feeds, weights);
    const together = await gradientsOf(graph, feeds, weights, { fused: true });
    for (const [name, gradient] of separate) {
      const norm = Math.hypot(...gradient);
      const error = Math.hypot(...gradient.map((value, i) => value - together.get(name)![i]!));
      // The bias of keys shifts all scores of a row alike: its gradient is 0 up to rounding.
      expect(error, name).toBeLessThan(1e-4 * norm + 1e-5);
    }
  },
);

test.each(['vit', 'text'])(
  "PyTorch's own attention in %s, with the batch as its second axis, is fused like ours",
  async (name) => {
    const { model, inputs } = await torchCase(name);
    const plain = specialize(model.graph, { input: inputs.input.dims }, { training: true });
    const found = counts(fuse(plain).toGraph());
    expect(found).toMatchObject({ Attention: 2 });
    // Only the patches are moved.
    expect(found.Transpose ?? 0).toBe(name === 'vit' ? 1 : 0);
    expect(found.Split ?? 0).toBe(0);
    expect(found.Softmax ?? 0).toBe(0);
    // The row that is read is picked for the last attention's query and from what is added to its result. Weights and biases of the
    // query are apart from those of keys and values.
    expect(found.Slice ?? 0).toBe(name === 'vit' ? 6 : 4);
    expect(found.PickRow ?? 0).toBe(name === 'vit' ? 0 : 2);
    // Of embeddings, and of the causal mask.
    expect(found.Gather ?? 0).toBe(name === 'vit' ? 0 : 2);
  },
);

test('rows that nothing reads are not computed', async () => {
  const model = vit({ ...VIT, depth: 3 });
  const dims = { pixels: [2, 3, 16, 16] };
  const fused = (graph: Graph) => fuse(specialize(graph, dims, { training: true }));
  const rows = (graph: Graph) => {
    const shapes = fused(graph);
    return shapes
      .toGraph()
      .nodes.filter(({ op }) => op === 'Gelu')
      .map(({ outputs }) => product(shapes.dims(outputs[0]!).slice(0, -1)));
  };
  // Behind the last attention one token an item is left.
  expect(rows(model)).toEqual([10, 10, 2]);
  // Not where another output has all of them.
  const read = model.nodes.findLast(({ op }) => op === 'Gather' || op === 'Slice')!.inputs[0]!;
  const tokens = { name: read, type: 'float32' as const, dims: ['batch', 5, VIT.width] };
  const both: Graph = { ...model, outputs: [...model.outputs, tokens] };
  expect(rows(both)).toEqual([10, 10, 10]);

  const pixels = { type: 'float32' as const, dims: dims.pixels, data: spread(2 * 3 * 256, 9) };
  const feeds = feedsOf(model, { pixels });
  const run = async (graph: Graph) => (await runGraph(decompose(fused(graph)).toGraph(), feeds)).embedding!;
  const whole = await run(both);
  (await run(model)).data.forEach((value, i) => {
    expect(whole.data[i]).toBeCloseTo(Number(value), 5);
  });
});
