import { intAttribute, intsAttribute, product } from '../attributes.ts';
import type { AttributeInputs } from '../builder.ts';
import type { Emitter } from '../emitter.ts';
import type { GraphNode } from '../graph.ts';
import type { Window } from '../shapes/reduction.ts';
import type { FusedOperators } from './types.ts';

/**
 * Gradients of convolutions and poolings. Windows are written out (`windowAttributes`), and `dims` is the shape of the result
 * where the inputs don't say it.
 */
export const convolutionOperators: FusedOperators = {
  /** dy, w → dx. */
  ConvInputGradient: {
    shape: (c) => [{ type: c.type(0), dims: intsAttribute(c.node, 'dims')! }],
    decompose: (e, node) => {
      const [dy, w] = node.inputs as [string, string];
      const dims = intsAttribute(node, 'dims')!;
      const window = writtenWindow(node);
      const group = intAttribute(node, 'group', 1);
      if (!isPointwise(window, group)) return [spread(e, dy, w, dims, window, group)];
      const [features, channels] = e.dims(w) as [number, number];
      const matrix = e.reshape(w, [features, channels]);
      return [e.reshape(e.matmul(matrix, flatten(e, dy), { transA: true }), dims)];
    },
  },
  /** dy, x → dw. */
  ConvWeightGradient: {
    shape: (c) => [{ type: c.type(0), dims: intsAttribute(c.node, 'dims')! }],
    decompose: (e, node) => {
      const [dy, x] = node.inputs as [string, string];
      const dims = intsAttribute(node, 'dims')!;
      const window = writtenWindow(node);
      const group = intAttribute(node, 'group', 1);
      const gradient = isPointwise(window, group)
        ? pointwiseWeight(e, dy, x)
        : windowedWeight(e, dy, x, dims, window, group);
      return [e.reshape(gradient, dims)];
    },
  },
  /** dy, and where each maximum lies as an index into all of x, → dx. */
  MaxPoolGradient: {
    shape: (c) => [{ type: c.type(0), dims: intsAttribute(c.node, 'dims')! }],
    decompose: (e, node) => {
      const [dy, indices] = node.inputs as [string, string];
      const dims = intsAttribute(node, 'dims')!;
      const count = product(e.dims(dy));
      const scattered = e.graph.emit(
        'ScatterElements',
        [e.zeros([product(dims)]), e.reshape(indices, [count]), e.reshape(dy, [count])],
        { axis: 0, reduction: 'add' },
      );
      return [e.reshape(scattered, dims)];
    },
  },
  /** dy → dx. */
  AveragePoolGradient: {
    shape: (c) => [{ type: c.type(0), dims: intsAttribute(c.node, 'dims')! }],
    decompose: (e, node) => {
      const [dy] = node.inputs as [string];
      const dims = intsAttribute(node, 'dims')!;
      const window = writtenWindow(node);
      const channels = dims[1]!;
      const ones = e.graph.filled([channels, 1, ...window.kernel], 1);
      const countPadding = intAttribute(node, 'count_include_pad', 0) === 1;
      return [spread(e, share(e, dy, dims, window, countPadding), ones, dims, window, channels)];
    },
  },
};

/** A window as attributes of a node, with nothing left to a default or to be worked out. */
export function windowAttributes({ kernel, strides, dilations, pads }: Window): AttributeInputs {
  return { kernel_shape: kernel, strides, dilations, pads };
}

/** The window of a node of which nothing is left out. */
export function writtenWindow(node: GraphNode): Window {
  return {
    kernel: intsAttribute(node, 'kernel_shape')!,
    strides: intsAttribute(node, 'strides')!,
    dilations: intsAttribute(node, 'dilations')!,
    pads: intsAttribute(node, 'pads')!,
  };
}

/** A kernel of one point that is put at every point. */
function isPointwise({ kernel, strides, pads }: Window, group: number): boolean {
  return group === 1 && [...kernel, ...strides].every((size) => size === 1) && pads.every((pad) => pad === 0);
}

/** Value [N, C, …] → [N, C, P]. */
function flatten(e: Emitter, value: string): string {
  const dims = e.dims(value);
  return e.reshape(value, [dims[0]!, dims[1]!, product(dims.slice(2))]);
}

/** Value [N, C, …] → [C, N·P]. */
function channelsFirst(e: Emitter, value: string): string {
  const dims = e.dims(value);
  const perm = dims.map((_, i) => (i < 2 ? 1 - i : i));
  return e.reshape(e.transpose(value, perm), [dims[1]!, product(dims) / dims[1]!]);
}

/** dw = Σ dy xᵀ over images. */
function pointwiseWeight(e: Emitter, dy: string, x: string): string {
  // One product an image and a sum, or, where images have few points, one product of transposed copies.
  return product(e.dims(dy).slice(2)) >= 64
    ? e.sumOver(e.matmul(flatten(e, dy), flatten(e, x), { transB: true }), [0])
    : e.matmul(channelsFirst(e, dy), channelsFirst(e, x), { transB: true });
}

/** dw = dy · columnsᵀ, where columns hold the inputs under every position of the window. */
function windowedWeight(
  e: Emitter,
  dy: string,
  x: string,
  dims: readonly number[],
  window: Window,
  group: number,
): string {
  const channels = e.dims(x)[1]!;
  const taps = product(window.kernel);
  const columns = windowColumns(e, x, e.dims(dy).slice(2), window);
  const points = e.dims(columns)[2]!;
  const rows = channelsFirst(e, dy);
  if (group === 1) return e.matmul(rows, e.reshape(columns, [channels * taps, points]), { transB: true });
  return e.matmul(
    e.reshape(rows, [group, dims[0]! / group, points]),
    e.reshape(columns, [group, (channels / group) * taps, points]),
    { transB: true },
  );
}

/** Input [N, C, …] → [C, taps, N·P]: for each tap of the kernel, the input under it at every position. */
function windowColumns(
  e: Emitter,
  x: string,
  output: readonly number[],
  { kernel, strides, dilations, pads }: Window,
): string {
  const rank = kernel.length;
  const axes = kernel.map((_, i) => i + 2);
  const perm = e.dims(x).map((_, i) => (i < 2 ? 1 - i : i));
  const padded = e.pad(e.transpose(x, perm), [0, 0, ...pads.slice(0, rank)], [0, 0, ...pads.slice(rank)]);
  const [channels, images] = e.dims(padded) as [number, number];
  const taps = Array.from({ length: product(kernel) }, (_, tap) => {
    let rest = tap;
    const starts: number[] = [];
    for (let i = rank - 1; i >= 0; i--) {
      starts.unshift((rest % kernel[i]!) * dilations[i]!);
      rest = Math.floor(rest / kernel[i]!);
    }
    const ends = starts.map((start, i) => start + (output[i]! - 1) * strides[i]! + 1);
    return e.reshape(e.slice(padded, axes, starts, ends, strides), [channels, 1, images * product(output)]);
  });
  return e.concat(taps, 1);
}

/** The transposed convolution: every output's gradient spread over the inputs under its window. */
function spread(
  e: Emitter,
  dy: string,
  w: string,
  target: readonly number[],
  window: Window,
  group: number,
): string {
  const { kernel, strides, dilations, pads } = window;
  const output = e.dims(dy).slice(2);
  // Inputs at the far end that no window reached.
  const extra = kernel.map((size, i) => {
    const covered = (output[i]! - 1) * strides[i]! + dilations[i]! * (size - 1) + 1;
    return target[i + 2]! + pads[i]! + pads[i + kernel.length]! - covered;
  });
  const attributes = { ...windowAttributes(window), group, output_padding: extra };
  return e.graph.emit('ConvTranspose', [dy, w], attributes);
}

/** dy divided by the number of inputs in each window, which is smaller at the edges unless padding counts. */
function share(
  e: Emitter,
  dy: string,
  target: readonly number[],
  { kernel, strides, dilations, pads }: Window,
  countPadding: boolean,
): string {
  if (countPadding || pads.every((pad) => pad === 0)) return e.scale(dy, 1 / product(kernel));
  const output = e.dims(dy).slice(2);
  const counts = output.map((length, axis) =>
    Array.from({ length }, (_, position) => {
      const start = position * strides[axis]! - pads[axis]!;
      const taps = Array.from({ length: kernel[axis]! }, (_, tap) => start + tap * dilations[axis]!);
      return taps.filter((at) => at >= 0 && at < target[axis + 2]!).length;
    }),
  );
  const inverse = counts.reduce<number[]>(
    (all, axis) => all.flatMap((value) => axis.map((count) => value / count)),
    [1],
  );
  return e.mul(dy, e.reshape(e.graph.floats(inverse), [1, 1, ...output]));
}
