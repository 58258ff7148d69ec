import { expect, test } from 'vitest';
import { decodeModel, encodeModel } from '../../src/onnx/model.ts';
import { product } from '../../src/program/attributes.ts';
import { GraphBuilder } from '../../src/program/builder.ts';
import { exportModel } from '../../src/program/export.ts';
import { importModel } from '../../src/program/import.ts';
import { specialize } from '../../src/program/static.ts';
import { runGraph, spread } from './support/gradient.ts';
import { convolutional, parametersOf, text, vit } from './support/models.ts';

const GRAPHS = [
  vit({ image: 16, patch: 8, width: 12, depth: 1, heads: 3, out: 5 }),
  text({ vocabulary: 11, length: 6, width: 8, depth: 1, heads: 2, out: 5 }),
  convolutional(),
];

const valuesOf = (graph: (typeof GRAPHS)[number]) =>
  new Map(parametersOf(graph).map(({ name, value }) => [name, value]));

test.each(GRAPHS)('$name comes back from its own file: graph, parameters, what is learned', (graph) => {
  const parameters = parametersOf(graph);
  const model = exportModel(graph, valuesOf(graph), { metadata: { note: 'x' } });
  expect(model.metadataProps[0]).toMatchObject({ key: 'note', value: 'x' });
  const imported = importModel(decodeModel(encodeModel(model)));
  expect(imported.graph).toEqual(graph);
  expect(
    imported.parameters.map(({ name, dims, value, trainable }) => ({ name, dims, value, trainable })),
  ).toEqual(parameters.map(({ name, dims, value, trainable }) => ({ name, dims, value, trainable })));
  const frozen = importModel(model, { frozen: (name) => name.endsWith('weight') });
  expect(
    frozen.parameters.filter(({ trainable }) => trainable).some(({ name }) => name.endsWith('weight')),
  ).toBe(false);
});

test.each(GRAPHS)('$name in float16: the same graph, values to 11 bits, half the size', (graph) => {
  const values = valuesOf(graph);
  const full = encodeModel(exportModel(graph, values));
  const half = encodeModel(exportModel(graph, values, { float16: true }));
  expect(half.length).toBeLessThan(full.length);
  const imported = importModel(decodeModel(half));
  expect(imported.graph.nodes).toEqual(graph.nodes);
  const byName = (a: { name: string }, b: { name: string }) => a.name.localeCompare(b.name);
  expect(imported.graph.parameters.toSorted(byName)).toEqual(graph.parameters.toSorted(byName));
  for (const { name, value } of imported.parameters) {
    values.get(name)!.forEach((expected, i) => {
      expect(Math.abs(value[i]! - expected)).toBeLessThanOrEqual(2 ** -11 * Math.abs(expected) + 2 ** -25);
    });
  }
});

test('missing and misshapen values are named', () => {
  const graph = GRAPHS[0]!;
  expect(() => exportModel(graph, new Map())).toThrow(/Expected 2304 values for parameter patch.weight/);
  const values = valuesOf(graph).set('ln.bias', new Float32Array(3));
  expect(() => exportModel(graph, values)).toThrow(
    /Expected 12 values for parameter ln.bias but received 3 values/,
  );
});

test('a value that float16 cannot hold is refused, an infinity is not', () => {
  const graph = GRAPHS[0]!;
  const values = valuesOf(graph);
  values.get('patch.weight')![7] = Number.POSITIVE_INFINITY;
  expect(() => exportModel(graph, values, { float16: true })).not.toThrow();
  values.get('patch.weight')![7] = 70_000;
  expect(() => exportModel(graph, values, { float16: true })).toThrow(
    /'patch.weight' has values that are too large for float16/,
  );
});

test('chains of Shape, Gather and Concat fold to plain shapes, with every kind of constant', async () => {
  const b = new GraphBuilder('chain');
  const x = b.input('x', 'float32', ['batch', 4, 6]);
  const shape = b.op('Shape', [x]);
  const zero = b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(0n) });
  const batch = b.op('Unsqueeze', [b.op('Gather', [shape, zero]), b.ints([0])]);
  const last = b.op('Slice', [shape, b.ints([-1]), b.ints([2 ** 31])]);
  const half = b.op('Cast', [b.op('Floor', [b.op('Div', [b.op('Cast', [last], { to: 1 }), b.scalar(2)])])], {
    to: 7,
  });
  const target = b.op('Concat', [batch, half, b.ints([-1])], { axis: 0 });
  const ones = b.op('ConstantOfShape', [b.ints([8, 8])], {
    value: { kind: 'tensor', value: { type: 'float32', dims: [1], data: Float32Array.of(1) } },
  });
  const mask = b.op('Where', [
    b.op('Cast', [b.op('Trilu', [ones], { upper: 0 })], { to: 9 }),
    b.scalar(0),
    b.scalar(-9),
  ]);
  b.output(
    'y',
    b.op('Add', [b.op('Reshape', [x, target]), b.op('Slice', [mask, b.ints([7]), b.ints([8]), b.ints([0])])]),
    [],
  );
  const graph = specialize(b.build(), { x: [2, 4, 6] }, { training: false });
  const program = graph.toGraph();
  expect(program.nodes.map(({ op }) => op)).toEqual(['Reshape', 'Add', 'Identity']);
  expect(graph.dims('y')).toEqual([2, 3, 8]);
  const data = spread(48, 1);
  const { y } = await runGraph(program, { x: { type: 'float32', dims: [2, 4, 6], data } });
  // The last row of the lower triangle lets everything through.
  expect(y!.data).toEqual(data);
  expect(product(y!.dims)).toBe(48);
});

test('models out of reach are named', () => {
  const graph = GRAPHS[0]!;
  const model = exportModel({ ...graph, opset: 9 }, valuesOf(graph));
  expect(() => importModel(model)).toThrow(expect.objectContaining({ code: 'MODEL_UNSUPPORTED' }));
  const b = new GraphBuilder('custom');
  b.output(
    'y',
    b.op('Swirl', [b.input('x', 'float32', [2])], {}, { domain: 'org.example', name: 'twist' }),
    [2],
  );
  expect(() => specialize(b.build(), { x: [2] }, { training: false })).toThrow(
    expect.objectContaining({
      code: 'MODEL_UNSUPPORTED',
      message: expect.stringContaining("org.example.Swirl (node 'twist')"),
    }),
  );
});
