import { intAttribute, intsAttribute, positiveAxis, product, tensorAttribute } from '../attributes.ts';
import type { GraphNode } from '../graph.ts';
import type { ShapeContext, ShapeRules } from './context.ts';

/** Shapes of what moves elements without changing them. */
export const layoutShapes: ShapeRules = {
  Reshape: (c) => [{ type: c.type(0), dims: reshaped(c) }],
  Flatten: (c) => {
    const dims = c.dims(0);
    const axis = positiveAxis(intAttribute(c.node, 'axis', 1), dims.length);
    return [{ type: c.type(0), dims: [product(dims.slice(0, axis)), product(dims.slice(axis))] }];
  },
  Squeeze: (c) => {
    const dims = c.dims(0);
    const axes = axesOf(c, dims.length);
    const kept = dims.filter((dim, i) => (axes ? !axes.includes(i) : dim !== 1));
    return [{ type: c.type(0), dims: kept }];
  },
  Unsqueeze: (c) => {
    const given = c.has(1) ? c.numbers(1) : intsAttribute(c.node, 'axes');
    if (!given) throw c.invalid('has no axes');
    const rank = c.dims(0).length + given.length;
    const axes = given.map((axis) => positiveAxis(axis, rank));
    const rest = [...c.dims(0)];
    const dims = Array.from({ length: rank }, (_, i) => (axes.includes(i) ? 1 : rest.shift()!));
    return [{ type: c.type(0), dims }];
  },
  Transpose: (c) => {
    const dims = c.dims(0);
    return [{ type: c.type(0), dims: permutation(c.node, dims.length).map((axis) => dims[axis]!) }];
  },
  Concat: (c) => {
    const dims = [...c.dims(0)];
    const axis = positiveAxis(intAttribute(c.node, 'axis', 0), dims.length);
    for (let i = 1; i < c.inputCount; i++) {
      const other = c.dims(i);
      if (other.length !== dims.length || other.some((dim, j) => j !== axis && dim !== dims[j])) {
        throw c.invalid(`cannot concatenate shapes [${c.dims(0)}] and [${other}] along axis ${axis}`);
      }
      dims[axis] = dims[axis]! + other[axis]!;
    }
    return [{ type: c.type(0), dims }];
  },
  Split: (c) => {
    const dims = c.dims(0);
    const axis = positiveAxis(intAttribute(c.node, 'axis', 0), dims.length);
    const count = c.node.outputs.length;
    const even = Math.ceil(dims[axis]! / count);
    const sizes =
      (c.has(1) ? c.numbers(1) : intsAttribute(c.node, 'split')) ??
      c.node.outputs.map((_, i) => Math.min(even, dims[axis]! - even * i));
    return sizes.map((size) => ({ type: c.type(0), dims: dims.with(axis, size) }));
  },
  Slice: (c) => {
    const dims = [...c.dims(0)];
    for (const { axis, length } of sliceRanges(c)) dims[axis] = length;
    return [{ type: c.type(0), dims }];
  },
  Gather: (c) => {
    const dims = c.dims(0);
    const axis = positiveAxis(intAttribute(c.node, 'axis', 0), dims.length);
    return [{ type: c.type(0), dims: [...dims.slice(0, axis), ...c.dims(1), ...dims.slice(axis + 1)] }];
  },
  GatherND: (c) => {
    const batch = intAttribute(c.node, 'batch_dims', 0);
    const indices = c.dims(1);
    return [
      { type: c.type(0), dims: [...indices.slice(0, -1), ...c.dims(0).slice(batch + indices.at(-1)!)] },
    ];
  },
  GatherElements: (c) => [{ type: c.type(0), dims: c.dims(1) }],
  ScatterElements: (c) => [c.info(0)],
  ScatterND: (c) => [c.info(0)],
  Expand: (c) => [{ type: c.type(0), dims: c.broadcast(c.dims(0), c.numbers(1)) }],
  Tile: (c) => {
    const repeats = c.numbers(1);
    return [{ type: c.type(0), dims: c.dims(0).map((dim, i) => dim * repeats[i]!) }];
  },
  Pad: (c) => {
    const dims = c.dims(0);
    const pads = c.numbers(1);
    return [{ type: c.type(0), dims: dims.map((dim, i) => dim + pads[i]! + pads[i + dims.length]!) }];
  },
  Shape: (c) => {
    const rank = c.dims(0).length;
    const { start, end } = shapeRange(c.node, rank);
    return [{ type: 'int64', dims: [Math.max(0, end - start)] }];
  },
  Constant: (c) => {
    const value = tensorAttribute(c.node, 'value');
    if (!value) throw c.invalid('has no tensor value');
    return [{ type: value.type, dims: value.dims }];
  },
  ConstantOfShape: (c) => [{ type: tensorAttribute(c.node, 'value')?.type ?? 'float32', dims: c.numbers(0) }],
  Range: (c) => {
    const [start, limit, delta] = [c.numbers(0)[0]!, c.numbers(1)[0]!, c.numbers(2)[0]!];
    return [{ type: c.type(0), dims: [Math.max(0, Math.ceil((limit - start) / delta))] }];
  },
  OneHot: (c) => {
    const dims = [...c.dims(0)];
    const axis = positiveAxis(intAttribute(c.node, 'axis', -1), dims.length + 1);
    dims.splice(axis, 0, c.numbers(1)[0]!);
    return [{ type: c.type(2), dims }];
  },
};

/** `perm` of a Transpose; the reverse of all axes when it has none. */
export function permutation(node: GraphNode, rank: number): readonly number[] {
  return intsAttribute(node, 'perm') ?? Array.from({ length: rank }, (_, i) => rank - 1 - i);
}

/** Axes at input 1 (operator sets from 13 or 18 on) or in the attribute; undefined when neither is there. */
export function axesOf(c: ShapeContext, rank: number): number[] | undefined {
  const axes = c.has(1) ? c.numbers(1) : intsAttribute(c.node, 'axes');
  return axes?.map((axis) => positiveAxis(axis, rank));
}

export function shapeRange(node: GraphNode, rank: number): { start: number; end: number } {
  const clamp = (value: number) => Math.min(Math.max(positiveAxis(value, rank), 0), rank);
  return { start: clamp(intAttribute(node, 'start', 0)), end: clamp(intAttribute(node, 'end', rank)) };
}

function reshaped(c: ShapeContext): number[] {
  const from = c.dims(0);
  const keepZeros = intAttribute(c.node, 'allowzero', 0) === 1;
  const dims = c.numbers(1).map((dim, i) => (dim === 0 && !keepZeros ? from[i]! : dim));
  const open = dims.indexOf(-1);
  if (open >= 0) dims[open] = product(from) / product(dims.filter((_, i) => i !== open));
  if (product(dims) !== product(from)) throw c.invalid(`cannot reshape [${from}] to [${c.numbers(1)}]`);
  return dims;
}

export interface SliceRange {
  readonly axis: number;
  readonly start: number;
  readonly step: number;
  readonly length: number;
}

/** Ranges of a Slice with its negative and open ends resolved. */
export function sliceRanges(c: ShapeContext): SliceRange[] {
  const dims = c.dims(0);
  const starts = c.numbers(1);
  const ends = c.numbers(2);
  const axes = c.has(3) ? c.numbers(3) : starts.map((_, i) => i);
  const steps = c.has(4) ? c.numbers(4) : starts.map(() => 1);
  return starts.map((from, i) => {
    const axis = positiveAxis(axes[i]!, dims.length);
    const size = dims[axis]!;
    const step = steps[i]!;
    const low = step > 0 ? 0 : -1;
    const high = step > 0 ? size : size - 1;
    const clamp = (value: number) => Math.min(Math.max(value < 0 ? value + size : value, low), high);
    const start = step > 0 ? clamp(from) : Math.max(clamp(from), 0);
    const length = Math.max(0, Math.ceil((clamp(ends[i]!) - start) / step));
    return { axis, start, step, length };
  });
}
