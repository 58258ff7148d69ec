import { intAttribute, intsAttribute, positiveAxis, product } from '../../attributes.ts';
import type { GraphNode } from '../../graph.ts';
import { reducedAxes } from '../../shapes/reduction.ts';
import type { Ref } from '../draft.ts';
import { type Lowering, type LoweringRule, type LoweringRules, NotNative } from '../lowering.ts';

const REDUCTIONS = ['sum', 'sumOfSquares', 'maximum', 'minimum', 'logSumExp'] as const;
type Reduction = (typeof REDUCTIONS)[number];

/** Sizes before, of and after an axis. */
function about(dims: readonly number[], axis: number): [outer: number, size: number, inner: number] {
  return [product(dims.slice(0, axis)), dims[axis]!, product(dims.slice(axis + 1))];
}

/** Runs of neighbouring axes, all of which are reduced or none, as they lie. */
function runs(dims: readonly number[], reduced: readonly boolean[]): { size: number; reduced: boolean }[] {
  const result: { size: number; reduced: boolean }[] = [];
  dims.forEach((size, axis) => {
    if (size === 1) return;
    const before = result.at(-1);
    if (before?.reduced === reduced[axis]) before.size *= size;
    else result.push({ size, reduced: reduced[axis]! });
  });
  return result;
}

/** The axes of a value in the order in which they lie: an image's pixels first, where what is left is in order all the same. */
function lying(l: Lowering, value: string, axes: readonly number[]): { order: number[]; ref: Ref } {
  const plain = l.dims(value).map((_, axis) => axis);
  if (!l.isPixels(value)) return { order: plain, ref: l.read(value) };
  const order = [...plain.slice(2), 0, 1];
  const left = order.filter((axis) => !axes.includes(axis) && l.dims(value)[axis] !== 1);
  const ordered = left.every((axis, i) => i === 0 || left[i - 1]! < axis);
  return ordered ? { order, ref: l.readPixels(value) } : { order: plain, ref: l.read(value) };
}

/** Reduces a value over axes, one run of them after the other, into a place of the result's size. */
function reduce(
  l: Lowering,
  from: string,
  axes: readonly number[],
  reduction: Reduction,
  into: { readonly ref: Ref; readonly accumulate: boolean },
  scale = 1,
): void {
  if (l.type(from) !== 'float32') throw new NotNative(`of ${l.type(from)} has no native operation`);
  const { order, ref } = lying(l, from, axes);
  let rest = runs(
    order.map((axis) => l.dims(from)[axis]!),
    order.map((axis) => axes.includes(axis)),
  );
  let at = ref;
  if (!rest.some(({ reduced }) => reduced)) rest = [...rest, { size: 1, reduced: true }];
  let kind = reduction;
  for (;;) {
    // The last run first: it lies together.
    const index = rest.findLastIndex(({ reduced }) => reduced);
    const outer = product(rest.slice(0, index).map(({ size }) => size));
    const inner = product(rest.slice(index + 1).map(({ size }) => size));
    const { size } = rest[index]!;
    rest = rest.toSpliced(index, 1);
    const last = !rest.some(({ reduced }) => reduced);
    const to = last
      ? into.ref
      : l.ref({ storage: l.fresh('float32', outer * inner, `${from}.part`), offset: 0 }, 'write');
    const sum = kind === 'sum' || kind === 'sumOfSquares';
    l.fixed(
      'reduce',
      [
        outer,
        size,
        inner,
        REDUCTIONS.indexOf(kind),
        last && sum ? scale : 1,
        last && into.accumulate ? 1 : 0,
        at,
        to,
      ],
      outer * size * inner,
    );
    if (last) return;
    at = { ...to, access: 'read' };
    // Squares are taken once.
    if (kind === 'sumOfSquares') kind = 'sum';
  }
}

const reduction =
  (kind: Reduction, finish?: string): LoweringRule =>
  (l, node) => {
    const [x] = node.inputs as [string];
    const y = node.outputs[0]!;
    const axes = reducedAxes(l.context(node));
    const scale = node.op === 'ReduceMean' ? 1 / product(axes.map((axis) => l.dims(x)[axis]!)) : 1;
    const into = finish ? { ref: l.write(y), accumulate: false } : l.writeSum(y);
    if (into.accumulate && kind !== 'sum' && kind !== 'sumOfSquares') throw new NotNative('is no sum');
    reduce(l, x, axes, kind, into, scale);
    if (finish) l.step(y, finish, [y]);
  };

const softmax =
  (op: string, logarithm: boolean): LoweringRule =>
  (l, node) => {
    const dims = l.dims(node.outputs[0]!);
    const axis = positiveAxis(intAttribute(node, 'axis', -1), dims.length);
    const operands = node.inputs.map((input) => l.read(input));
    const flops = 8 * product(dims);
    l.fixed(op, [...about(dims, axis), logarithm ? 1 : 0, ...operands, l.write(node.outputs[0]!)], flops);
  };

const argument =
  (least: boolean): LoweringRule =>
  (l, node: GraphNode) => {
    const [x] = node.inputs as [string];
    const dims = l.dims(x);
    const axis = positiveAxis(intAttribute(node, 'axis', 0), dims.length);
    const last = intAttribute(node, 'select_last_index', 0);
    const code = [...about(dims, axis), l.typeNumber(x), least ? 1 : 0, last];
    l.fixed('argument', [...code, l.read(x), l.write(node.outputs[0]!)], product(dims));
  };

/** Over all pixels. */
const globalAverage: LoweringRule = (l, node) => {
  const [x] = node.inputs as [string];
  const dims = l.dims(x);
  const axes = dims.map((_, axis) => axis).slice(2);
  const into = { ref: l.write(node.outputs[0]!), accumulate: false };
  reduce(l, x, axes, 'sum', into, 1 / product(dims.slice(2)));
};

export const reductionRules: LoweringRules = {
  GlobalAveragePool: globalAverage,
  SumOver: (l, node) =>
    reduce(l, node.inputs[0]!, intsAttribute(node, 'axes')!, 'sum', l.writeSum(node.outputs[0]!)),
  ReduceSum: reduction('sum'),
  ReduceMean: reduction('sum'),
  ReduceSumSquare: reduction('sumOfSquares'),
  ReduceL2: reduction('sumOfSquares', 'squareRoot'),
  ReduceMax: reduction('maximum'),
  ReduceMin: reduction('minimum'),
  ReduceLogSumExp: reduction('logSumExp'),
  Softmax: softmax('softmax', false),
  LogSoftmax: softmax('softmax', true),
  SoftmaxGradient: softmax('softmaxGradient', false),
  LogSoftmaxGradient: softmax('softmaxGradient', true),
  ArgMax: argument(false),
  ArgMin: argument(true),
};
