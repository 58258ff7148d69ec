import { product } from '../../../src/program/attributes.ts';
import { GraphBuilder } from '../../../src/program/builder.ts';
import type { Graph } from '../../../src/program/graph.ts';
import { specialize } from '../../../src/program/static.ts';
import type { Feeds } from './gradient.ts';
import { spread } from './gradient.ts';

export type Build = (b: GraphBuilder) => string | readonly string[];

/** An operator, or a form of one, with parameters that its gradient is taken by. */
export interface Case {
  readonly name: string;
  /** Values of parameters, where those of `spread` won't do. */
  readonly values?: Record<string, (values: Float32Array) => Float32Array>;
  readonly build: Build;
  /** Data inputs. */
  readonly feeds?: Feeds;
  readonly opset?: number;
}

const int64 = (values: readonly number[], dims = [values.length]) =>
  ({ type: 'int64', dims, data: BigInt64Array.from(values, BigInt) }) as const;

const positive = (values: Float32Array) => values.map((value) => Math.abs(value) + 0.5);
/** Away from where the operator has a corner at these points, since a difference across it is no slope. */
const awayFrom =
  (...corners: number[]) =>
  (values: Float32Array) =>
    values.map((value) => {
      const near = corners.find((corner) => Math.abs(value - corner) < 0.1);
      return near === undefined ? value : near + (value >= near ? 0.1 : -0.1);
    });
const scaled = (factor: number) => (values: Float32Array) => values.map((value) => value * factor);

const unary = (
  op: string,
  attributes = {},
  values?: (v: Float32Array) => Float32Array,
  domain = '',
): Case => ({
  name: `${op} ${JSON.stringify(attributes)}`,
  ...(values ? { values: { x: values } } : {}),
  build: (b) => b.op(op, [b.parameter('x', [3, 5])], attributes, { domain }),
});

const binary = (op: string, a: number[], c: number[], values = {}): Case => ({
  name: `${op} [${a}] [${c}]`,
  values,
  build: (b) => b.op(op, [b.parameter('a', a), b.parameter('b', c)]),
});

const conv = (
  name: string,
  x: number[],
  w: number[],
  attributes: Record<string, number | number[] | string>,
): Case => ({
  name: `Conv ${name}`,
  build: (b) =>
    b.op('Conv', [b.parameter('x', x), b.parameter('w', w), b.parameter('bias', [w[0]!])], attributes),
});

const pool = (op: string, x: number[], attributes: Record<string, number | number[]>): Case => ({
  name: `${op} ${JSON.stringify(attributes)}`,
  build: (b) => b.op(op, [b.parameter('x', x)], attributes),
});

const reduce = (
  op: string,
  axes: number[],
  keepdims: number,
  values?: (v: Float32Array) => Float32Array,
): Case => ({
  name: `${op} ${axes} keepdims ${keepdims}`,
  ...(values ? { values: { x: values } } : {}),
  build: (b) => {
    const x = b.parameter('x', [3, 4, 5]);
    return op === 'ReduceSum' ? b.op(op, [x, b.ints(axes)], { keepdims }) : b.op(op, [x], { axes, keepdims });
  },
});

const normalization = (op: string, training: number): Case => ({
  name: `${op} ${training ? 'with the batch' : 'with running'} statistics`,
  values: { variance: positive, gamma: positive },
  build: (b) => {
    const x = b.parameter('x', [4, 3, 2, 5]);
    const [gamma, beta] = [b.parameter('gamma', [3]), b.parameter('beta', [3])];
    const mean = training
      ? b.parameter('mean', [3])
      : b.constant({ type: 'float32', dims: [3], data: spread(3, 5) });
    const variance = training
      ? b.parameter('variance', [3])
      : b.constant({ type: 'float32', dims: [3], data: positive(spread(3, 6)) });
    return b.op(op, [x, gamma, beta, mean, variance], { epsilon: 1e-3 });
  },
});

export const CASES: Case[] = [
  binary('Add', [3, 4], [3, 4]),
  binary('Add', [2, 3, 4], [4]),
  binary('Add', [2, 1, 4], [3, 1]),
  binary('Sub', [3, 4], [3, 1]),
  binary('Mul', [2, 3, 4], [1, 3, 1]),
  binary('Mul', [3, 4], []),
  binary('Div', [2, 3], [2, 3], { b: positive }),
  binary('Div', [2, 3, 2], [3, 1], { b: positive }),
  binary('Max', [3, 4], [3, 4]),
  binary('Min', [3, 4], [4]),
  {
    name: 'Sum of three',
    build: (b) => b.op('Sum', [b.parameter('a', [2, 3]), b.parameter('b', [3]), b.parameter('c', [2, 1])]),
  },
  unary('Neg'),
  unary('Sqrt', {}, positive),
  unary('Exp'),
  unary('Log', {}, positive),
  unary('Abs', {}, awayFrom(0)),
  unary('Sin'),
  unary('Cos'),
  unary('Reciprocal', {}, positive),
  {
    name: 'Pow 2',
    build: (b) => b.op('Pow', [b.parameter('x', [3, 4]), b.scalar(2)]),
  },
  {
    name: 'Pow 2.5',
    values: { x: positive },
    build: (b) => b.op('Pow', [b.parameter('x', [3, 4]), b.scalar(2.5)]),
  },
  {
    name: 'Where',
    build: (b) => {
      const mask = b.constant({ type: 'bool', dims: [3, 1], data: Uint8Array.of(1, 0, 1) });
      return b.op('Where', [mask, b.parameter('x', [3, 4]), b.parameter('y', [4])]);
    },
  },
  unary('Relu', {}, awayFrom(0)),
  unary('LeakyRelu', { alpha: 0.1 }, awayFrom(0)),
  unary('Elu', { alpha: 0.7 }, awayFrom(0)),
  unary('Softplus'),
  unary('Tanh'),
  unary('Sigmoid'),
  unary('Erf'),
  unary('HardSigmoid', { alpha: 0.5, beta: 0.5 }, (v) => awayFrom(-1, 1)(scaled(2)(v))),
  unary('HardSwish', {}, (v) => awayFrom(-3, 3)(scaled(5)(v))),
  unary('Gelu', {}, scaled(3), 'com.microsoft'),
  unary('QuickGelu', { alpha: 1.702 }, scaled(3), 'com.microsoft'),
  unary('Softmax', { axis: -1 }),
  unary('Softmax', { axis: 0 }),
  unary('LogSoftmax', { axis: 1 }),
  {
    name: 'Clip',
    values: { x: awayFrom(-0.5, 0.5) },
    build: (b) => b.op('Clip', [b.parameter('x', [3, 5]), b.scalar(-0.5), b.scalar(0.5)]),
  },
  unary('Identity'),
  unary('Transpose', { perm: [1, 0] }),
  {
    name: 'Transpose of three axes',
    build: (b) => b.op('Transpose', [b.parameter('x', [2, 3, 4])], { perm: [1, 2, 0] }),
  },
  {
    name: 'Reshape, Flatten, Squeeze and Unsqueeze',
    build: (b) => {
      const x = b.op('Reshape', [b.parameter('x', [2, 3, 4]), b.ints([0, -1, 2])]);
      const flat = b.op('Flatten', [x], { axis: 2 });
      return b.op('Squeeze', [b.op('Unsqueeze', [flat, b.ints([0, 3])]), b.ints([0])]);
    },
  },
  {
    name: 'Concat',
    build: (b) => b.op('Concat', [b.parameter('a', [2, 3]), b.parameter('b', [2, 2])], { axis: -1 }),
  },
  {
    name: 'Split, one part unused',
    build: (b) => {
      const [first, , third] = b.ops(
        'Split',
        [b.parameter('x', [2, 7]), b.ints([2, 4, 1])],
        { axis: 1 },
        { outputs: 3 },
      );
      return [first!, third!];
    },
  },
  {
    name: 'Slice',
    build: (b) => b.op('Slice', [b.parameter('x', [4, 5]), b.ints([1, -3]), b.ints([9, -1]), b.ints([0, 1])]),
  },
  {
    name: 'Pad',
    build: (b) => b.op('Pad', [b.parameter('x', [2, 3]), b.ints([1, 0, 0, 2])]),
  },
  {
    name: 'Expand',
    build: (b) => b.op('Expand', [b.parameter('x', [3, 1]), b.ints([2, 3, 4])]),
  },
  {
    name: 'Tile',
    build: (b) => b.op('Tile', [b.parameter('x', [2, 3]), b.ints([2, 3])]),
  },
  {
    name: 'Gather of one index',
    build: (b) => {
      const index = b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(-2n) });
      return b.op('Gather', [b.parameter('x', [2, 4, 3]), index], { axis: 1 });
    },
  },
  {
    name: 'Gather of rows of a parameter, with repeats',
    feeds: { ids: int64([3, 0, 3, -1], [2, 2]) },
    build: (b) => b.op('Gather', [b.parameter('x', [5, 3]), b.input('ids', 'int64', [2, 2])]),
  },
  {
    name: 'Gather along axis 0 of a value',
    feeds: { ids: int64([1, 1, -1]) },
    build: (b) => b.op('Gather', [b.op('Exp', [b.parameter('x', [4, 3])]), b.input('ids', 'int64', [3])]),
  },
  {
    name: 'Gather along axis 1 of a value',
    feeds: { ids: int64([1, 1, -1]) },
    build: (b) =>
      b.op('Gather', [b.op('Exp', [b.parameter('x', [2, 4, 3])]), b.input('ids', 'int64', [3])], { axis: 1 }),
  },
  {
    name: 'GatherND',
    feeds: { at: int64([0, 2, 1, -1, 0, 2], [3, 2]) },
    build: (b) => b.op('GatherND', [b.parameter('x', [2, 3, 4]), b.input('at', 'int64', [3, 2])]),
  },
  binary('MatMul', [3, 4], [4, 5]),
  binary('MatMul', [2, 3, 4], [4, 5]),
  binary('MatMul', [2, 3, 4], [2, 4, 5]),
  binary('MatMul', [2, 1, 3, 4], [3, 4, 2]),
  ...[0, 1].flatMap((transA) =>
    [0, 1].flatMap((transB): Case[] => [
      {
        name: `Gemm transA ${transA} transB ${transB}`,
        build: (b) =>
          b.op(
            'Gemm',
            [
              b.parameter('a', transA ? [4, 3] : [3, 4]),
              b.parameter('b', transB ? [5, 4] : [4, 5]),
              b.parameter('bias', [5]),
            ],
            { transA, transB, alpha: 0.5, beta: 2 },
          ),
      },
      {
        name: `FusedMatMul transA ${transA} transB ${transB}`,
        build: (b) =>
          b.op(
            'FusedMatMul',
            [
              b.parameter('a', transA ? [2, 4, 3] : [2, 3, 4]),
              b.parameter('b', transB ? [2, 5, 4] : [2, 4, 5]),
            ],
            { transA, transB, alpha: 0.5 },
            { domain: 'com.microsoft' },
          ),
      },
    ]),
  ),
  {
    name: 'LayerNormalization',
    build: (b) =>
      b.op(
        'LayerNormalization',
        [b.parameter('x', [2, 3, 6]), b.parameter('gamma', [6]), b.parameter('beta', [6])],
        { axis: -1, epsilon: 1e-3 },
      ),
  },
  {
    name: 'LayerNormalization over two axes',
    build: (b) =>
      b.op(
        'LayerNormalization',
        [b.parameter('x', [2, 3, 4]), b.parameter('gamma', [3, 4]), b.parameter('beta', [3, 4])],
        { axis: 1, epsilon: 1e-3 },
      ),
  },
  normalization('BatchNormalization', 1),
  normalization('BatchNormalization', 0),
  ...[[0], [1], [2], [0, 1], [1, 2], [0, 2], [0, 1, 2]].flatMap((axes) => [
    reduce('ReduceSum', axes, 0),
    reduce('ReduceMean', axes, 1),
  ]),
  reduce('ReduceL2', [-1], 1),
  reduce('ReduceSumSquare', [1], 0),
  reduce('ReduceLogSumExp', [1, 2], 1),
  conv('of one point', [2, 3, 3, 4], [4, 3, 1, 1], {}),
  conv('of one point, many positions', [2, 3, 8, 9], [4, 3, 1, 1], {}),
  conv('of one point, with a stride', [2, 3, 5, 4], [4, 3, 1, 1], { strides: [2, 2] }),
  conv('padded', [2, 3, 6, 5], [4, 3, 3, 3], { pads: [1, 1, 1, 1] }),
  conv('with strides, dilations and uneven padding', [2, 2, 9, 8], [3, 2, 3, 2], {
    strides: [2, 3],
    dilations: [2, 1],
    pads: [1, 0, 2, 1],
  }),
  conv('in groups', [2, 4, 5, 5], [6, 2, 3, 3], { group: 2, pads: [1, 1, 1, 1], strides: [2, 2] }),
  conv('by channel', [2, 4, 6, 6], [4, 1, 3, 3], { group: 4, pads: [1, 1, 1, 1] }),
  conv('of patches', [2, 3, 8, 8], [5, 3, 4, 4], { strides: [4, 4] }),
  conv('of one axis', [2, 3, 9], [4, 3, 3], { strides: [2], pads: [1, 1] }),
  conv('padded to keep the size', [2, 2, 5, 6], [3, 2, 3, 3], { auto_pad: 'SAME_UPPER', strides: [2, 2] }),
  pool('MaxPool', [2, 2, 7, 6], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }),
  pool('AveragePool', [2, 2, 7, 6], { kernel_shape: [3, 2], strides: [2, 2] }),
  pool('AveragePool', [2, 2, 6, 6], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }),
  pool('AveragePool', [2, 2, 6, 6], {
    kernel_shape: [3, 3],
    strides: [1, 1],
    pads: [1, 1, 1, 1],
    count_include_pad: 1,
  }),
  pool('GlobalAveragePool', [2, 3, 4, 5], {}),
];

/** The graph of a case, the values of its inputs and parameters, and weights of its outputs for a loss Σ output · weights. */
export function caseGraph({ build, values, feeds }: Case): {
  graph: Graph;
  all: Feeds;
  weights: Record<string, Float32Array>;
} {
  const builder = new GraphBuilder('case');
  const made = build(builder);
  const outputs = typeof made === 'string' ? [made] : made;
  const draft = builder.build();
  const dims = Object.fromEntries(Object.entries(feeds ?? {}).map(([name, tensor]) => [name, tensor.dims]));
  const shapes = specialize(draft, dims, { training: true });
  outputs.forEach((value, i) => {
    builder.output(`y${i}`, value, shapes.dims(value));
  });
  const graph = builder.build();
  const all: Feeds = { ...feeds };
  graph.parameters.forEach(({ name, dims: shape }, i) => {
    const data = spread(product(shape), i + 1);
    all[name] = { type: 'float32', dims: shape, data: values?.[name]?.(data) ?? data };
  });
  const weights = Object.fromEntries(
    outputs.map((value, i) => [`y${i}`, spread(product(shapes.dims(value)), 100 + i)]),
  );
  return { graph, all, weights };
}
