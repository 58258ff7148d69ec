import {
  intAttribute,
  numbersOf,
  positiveAxis,
  product,
  stringAttribute,
  tensorAttribute,
} from '../../attributes.ts';
import type { GraphNode } from '../../graph.ts';
import { permutation, sliceRanges } from '../../shapes/layout.ts';
import type { Factor, Ref } from '../draft.ts';
import { type Lowering, type LoweringRule, type LoweringRules, NotNative } from '../lowering.ts';

const MOST_AXES = 8;

const relabel: LoweringRule = (l, node) => l.alias(node.outputs[0]!, node.inputs[0]!);

function stridesOf(dims: readonly number[]): number[] {
  return dims.map((_, axis) => product(dims.slice(axis + 1)));
}

/** Copies a block of `dims` elements from one place to another, each with its strides. */
function copy(
  l: Lowering,
  type: number,
  dims: readonly number[],
  from: { ref: Ref; strides: readonly number[] },
  to: { ref: Ref; strides: readonly number[] },
): void {
  // Axes that follow one another on both sides become one.
  const axes: { size: number; from: number; to: number }[] = [];
  dims.forEach((size, axis) => {
    if (size === 1) return;
    const next = { size, from: from.strides[axis]!, to: to.strides[axis]! };
    const before = axes.at(-1);
    if (before && before.from === size * next.from && before.to === size * next.to) {
      axes[axes.length - 1] = { ...next, size: before.size * size };
    } else {
      axes.push(next);
    }
  });
  if (axes.length === 0) axes.push({ size: 1, from: 1, to: 1 });
  if (axes.length > MOST_AXES) throw new NotNative(`moves more than ${MOST_AXES} axes`);
  l.fixed('copy', [
    type,
    axes.length,
    ...axes.flatMap((axis) => [axis.size, axis.from, axis.to]),
    from.ref,
    to.ref,
  ]);
}

function fill(l: Lowering, type: number, count: number, value: number, to: Ref): void {
  l.fixed('fill', [type, count, value, to]);
}

const transpose: LoweringRule = (l, node) => {
  const [x] = node.inputs as [string];
  const y = node.outputs[0]!;
  const perm = permutation(node, l.dims(x).length);
  const strides = stridesOf(l.dims(x));
  const from = { ref: l.read(x), strides: perm.map((axis) => strides[axis]!) };
  copy(l, l.typeNumber(x), l.dims(y), from, { ref: l.write(y), strides: stridesOf(l.dims(y)) });
};

/** A box of x, `starts` being the element where it begins, along each axis. */
function slice(l: Lowering, x: string, y: string, starts: readonly number[], steps: readonly number[]): void {
  const [dims, own] = [l.dims(y), l.dims(x)];
  const strides = stridesOf(own);
  const offset = starts.reduce((sum, start, axis) => sum + start * strides[axis]!, 0);
  // Whole rows of the first axis that is cut, for one index of those before it, lie together.
  const first = dims.findIndex((dim) => dim !== 1);
  const together =
    steps.every((step) => step === 1) && dims.every((dim, axis) => axis <= first || dim === own[axis]);
  if (first < 0 || together) {
    l.alias(y, x, offset);
    return;
  }
  if (dims.length === 2 && steps.every((step) => step === 1) && l.place(x).storage.space === 'parameters') {
    l.window(y, x, { offset, row: own[1]! });
    return;
  }
  const ref = l.read(x);
  copy(
    l,
    l.typeNumber(x),
    dims,
    {
      ref: { ...ref, offset: ref.offset + offset },
      strides: strides.map((stride, axis) => stride * steps[axis]!),
    },
    { ref: l.write(y), strides: stridesOf(dims) },
  );
}

const split: LoweringRule = (l, node) => {
  const [x] = node.inputs as [string];
  const axis = positiveAxis(intAttribute(node, 'axis', 0), l.dims(x).length);
  let start = 0;
  for (const output of node.outputs) {
    const starts = l.dims(x).map((_, i) => (i === axis ? start : 0));
    if (output !== '') {
      slice(
        l,
        x,
        output,
        starts,
        starts.map(() => 1),
      );
    }
    start += l.dims(output)[axis]!;
  }
};

const concat: LoweringRule = (l, node) => {
  const y = node.outputs[0]!;
  const dims = l.dims(y);
  const axis = positiveAxis(intAttribute(node, 'axis', 0), dims.length);
  const strides = stridesOf(dims);
  const to = l.write(y);
  let start = 0;
  for (const input of node.inputs) {
    const own = l.dims(input);
    if (product(own) > 0) {
      const ref = { ...to, offset: to.offset + start * strides[axis]! };
      copy(l, l.typeNumber(y), own, { ref: l.read(input), strides: stridesOf(own) }, { ref, strides });
    }
    start += own[axis]!;
  }
};

const pad: LoweringRule = (l, node) => {
  const [x, , value = ''] = node.inputs as [string, string, string?];
  const y = node.outputs[0]!;
  const mode = stringAttribute(node, 'mode', 'constant');
  const with0 = value === '' ? 0 : l.number(value);
  if (mode !== 'constant' || with0 === undefined)
    throw new NotNative(`in mode '${mode}' has no native operation`);
  const own = l.dims(x);
  const begins = l.context(node).numbers(1).slice(0, own.length);
  if (
    l
      .context(node)
      .numbers(1)
      .some((pads) => pads < 0)
  )
    throw new NotNative('that cuts has no native operation');
  const strides = stridesOf(l.dims(y));
  const to = l.write(y);
  fill(l, l.typeNumber(y), l.count(y), with0, to);
  const offset = begins.reduce((sum, begin, axis) => sum + begin * strides[axis]!, 0);
  const inner = { ...to, offset: to.offset + offset, access: 'update' as const };
  copy(l, l.typeNumber(x), own, { ref: l.read(x), strides: stridesOf(own) }, { ref: inner, strides });
};

/** Broadcasts to the output's shape. */
const expand: LoweringRule = (l, node) => {
  const [x] = node.inputs as [string];
  const y = node.outputs[0]!;
  if (l.count(x) === l.count(y)) l.alias(y, x);
  else l.repeat(y, x);
};

const tile: LoweringRule = (l, node) => {
  const [x] = node.inputs as [string];
  const y = node.outputs[0]!;
  const own = l.dims(x);
  const repeats = l.context(node).numbers(1);
  const [strides, target] = [stridesOf(own), stridesOf(l.dims(y))];
  copy(
    l,
    l.typeNumber(x),
    own.flatMap((dim, axis) => [repeats[axis]!, dim]),
    { ref: l.read(x), strides: strides.flatMap((stride) => [0, stride]) },
    { ref: l.write(y), strides: target.flatMap((stride, axis) => [stride * own[axis]!, stride]) },
  );
};

const indexNumber = (l: Lowering, indices: string) => {
  const type = l.type(indices);
  if (type !== 'int64' && type !== 'int32') throw new NotNative(`takes indices of type ${type}`);
  return l.typeNumber(indices);
};

const gather: LoweringRule = (l, node) => {
  const [x, indices] = node.inputs as [string, string];
  const y = node.outputs[0]!;
  const dims = l.dims(x);
  const axis = positiveAxis(intAttribute(node, 'axis', 0), dims.length);
  const constant = l.graph.constants.get(indices);
  if (constant?.data.length === 1) {
    const at = positiveAxis(numbersOf(constant)[0]!, dims[axis]!);
    if (at < 0 || at >= dims[axis]!) throw new NotNative(`takes index ${at} of ${dims[axis]}`);
    return pick(l, x, y, axis, at);
  }
  const outer = product(dims.slice(0, axis));
  const inner = product(dims.slice(axis + 1));
  gatherRows(
    l,
    x,
    l.read(indices),
    indexNumber(l, indices),
    l.write(y),
    [outer, dims[axis]!, inner, l.count(indices)],
    0,
  );
};

/** One index along an axis, which is dropped or of one element in y. */
function pick(l: Lowering, x: string, y: string, axis: number, at: number): void {
  const dims = l.dims(x);
  const [outer, inner] = [product(dims.slice(0, axis)), product(dims.slice(axis + 1))];
  const offset = at * inner;
  if (outer === 1) {
    l.alias(y, x, offset);
    return;
  }
  const ref = l.read(x);
  const from = { ref: { ...ref, offset: ref.offset + offset }, strides: [dims[axis]! * inner, 1] };
  copy(l, l.typeNumber(x), [outer, inner], from, { ref: l.write(y), strides: [inner, 1] });
}

function gatherRows(
  l: Lowering,
  x: string,
  indices: Ref,
  indexType: number,
  y: Ref,
  sizes: readonly [outer: number, size: number, inner: number, count: number],
  apart: 0 | 1,
): void {
  l.fixed('gather', [...sizes, indexType, apart, l.typeNumber(x), l.read(x), indices, y]);
}

/** Indices [count, depth] into the first axes of x, made one index a row. */
const gatherNd: LoweringRule = (l, node) => {
  const [x, indices] = node.inputs as [string, string];
  const y = node.outputs[0]!;
  if (intAttribute(node, 'batch_dims', 0) !== 0)
    throw new NotNative('with batch_dims has no native operation');
  const dims = l.dims(x);
  const depth = l.dims(indices).at(-1)!;
  const count = l.count(indices) / depth;
  const inner = product(dims.slice(depth));
  const rows = product(dims.slice(0, depth));
  const place = l.place(indices);
  let flat: { storage: Ref['storage']; offset: number } = place;
  if (depth > 1) {
    const factors: Factor[] = [{ size: count, stride: depth }];
    for (let axis = 0; axis < depth; axis++) {
      const part = { storage: place.storage, offset: place.offset + axis, factors };
      // Negative ones count from the end of their axis.
      const size = dims[axis]!;
      const positive = l.fresh('int64', count, `${y}.index`);
      const shifted = l.fresh('int64', count, `${y}.index`);
      const negative = l.fresh('bool', count, `${y}.index`);
      l.stepInto(negative, 'less', [part, 0], {}, true);
      l.stepInto(shifted, 'add', [part, size], {}, true);
      const all = (storage: Ref['storage']) => l.dense({ storage, offset: 0 });
      l.stepInto(positive, 'select', [all(negative), all(shifted), part], {}, true);
      if (axis === 0) {
        flat = { storage: positive, offset: 0 };
        continue;
      }
      const scaled = l.fresh('int64', count, `${y}.index`);
      const sum = l.fresh('int64', count, `${y}.index`);
      l.stepInto(scaled, 'multiply', [all(flat.storage), size], {}, true);
      l.stepInto(sum, 'add', [all(scaled), all(positive)], {}, true);
      flat = { storage: sum, offset: 0 };
    }
  }
  const type = depth > 1 ? l.numberOf('int64') : indexNumber(l, indices);
  gatherRows(l, x, l.ref(flat), type, l.write(y), [1, rows, inner, count], 0);
};

const pickRow: LoweringRule = (l, node) => {
  const [x, index] = node.inputs as [string, string];
  const [batch, rows, width] = l.dims(x) as [number, number, number];
  gatherRows(
    l,
    x,
    l.read(index),
    indexNumber(l, index),
    l.write(node.outputs[0]!),
    [batch, rows, width, 1],
    1,
  );
};

const pickRowGradient: LoweringRule = (l, node) => {
  const [dy, index] = node.inputs as [string, string];
  const [batch, size, width] = l.dims(node.outputs[0]!) as [number, number, number];
  const operands = [l.read(dy), l.read(index), l.write(node.outputs[0]!)];
  l.fixed('scatter', [batch, size, width, 1, indexNumber(l, index), 1, 0, ...operands], batch * width);
};

const scatterRows: LoweringRule = (l, node) => {
  const [indices, rows] = node.inputs as [string, string];
  const [before, size, after] = l.dims(node.outputs[0]!) as [number, number, number];
  const { ref, accumulate } = l.writeSum(node.outputs[0]!);
  const count = l.count(indices);
  const code = [before, size, after, count, indexNumber(l, indices), 0, accumulate ? 1 : 0];
  l.fixed('scatter', [...code, l.read(rows), l.read(indices), ref], before * count * after);
};

/** Rows added to a parameter's gradient at their indices. */
export function scatterIntoGradient(l: Lowering, parameter: string, indices: string, rows: string): void {
  const [size, ...rest] = l.dims(parameter) as [number, ...number[]];
  const gradient = l.ref({ storage: l.gradient(parameter), offset: 0 }, 'update');
  const code = [1, size, product(rest), l.count(indices), indexNumber(l, indices), 0, 1];
  l.fixed('scatter', [...code, l.read(rows), l.read(indices), gradient], l.count(rows));
}

const constantOfShape: LoweringRule = (l, node: GraphNode) => {
  const y = node.outputs[0]!;
  const value = Number(tensorAttribute(node, 'value')?.data[0] ?? 0);
  fill(l, l.typeNumber(y), l.count(y), value, l.write(y));
};

export const layoutRules: LoweringRules = {
  Reshape: relabel,
  Flatten: relabel,
  Squeeze: relabel,
  Unsqueeze: relabel,
  Transpose: transpose,
  Slice: (l, node) => {
    const [x] = node.inputs as [string];
    const ranges = sliceRanges(l.context(node));
    const at = (axis: number) => ranges.find((range) => range.axis === axis);
    const axes = l.dims(x).map((_, axis) => axis);
    if (ranges.some(({ step }) => step < 0)) throw new NotNative('backwards has no native operation');
    slice(
      l,
      x,
      node.outputs[0]!,
      axes.map((axis) => at(axis)?.start ?? 0),
      axes.map((axis) => at(axis)?.step ?? 1),
    );
  },
  Split: split,
  Concat: concat,
  Pad: pad,
  Expand: expand,
  Tile: tile,
  Gather: gather,
  GatherND: gatherNd,
  PickRow: pickRow,
  PickRowGradient: pickRowGradient,
  ScatterRows: scatterRows,
  ConstantOfShape: constantOfShape,
};
