import { product } from '../attributes.ts';
import { type Window, windowOf } from '../shapes/reduction.ts';
import type { GradientRules, RuleContext } from './context.ts';

export const convolutionRules: GradientRules = {
  Conv: (c) => {
    const [x, w] = [c.input(0), c.input(1)];
    const group = c.int('group', 1);
    const window = windowOf(c.shape, c.dims(w).slice(2));
    const plain =
      group === 1 &&
      [...window.kernel, ...window.strides].every((size) => size === 1) &&
      window.pads.every((pad) => pad === 0);
    if (c.needs(2))
      c.give(
        2,
        c.sumOver(
          c.dy,
          c
            .dims(c.dy)
            .map((_, i) => i)
            .filter((i) => i !== 1),
        ),
      );
    if (c.needs(1)) c.give(1, plain ? pointwiseWeight(c) : windowedWeight(c, window, group));
    if (c.needs(0)) c.give(0, plain ? pointwiseInput(c) : spread(c, c.dy, w, c.dims(x), window, group));
  },
};

/** Value [N, C, …] → [N, C, P]. */
function flatten(c: RuleContext, value: string): string {
  const dims = c.dims(value);
  return c.reshape(value, [dims[0]!, dims[1]!, product(dims.slice(2))]);
}

/** Value [N, C, …] → [C, N·P]. */
function channelsFirst(c: RuleContext, value: string): string {
  const dims = c.dims(value);
  const perm = dims.map((_, i) => (i < 2 ? 1 - i : i));
  return c.reshape(c.transpose(value, perm), [dims[1]!, product(dims) / dims[1]!]);
}

/** A kernel of one point: dw = Σ dy xᵀ over images. */
function pointwiseWeight(c: RuleContext): string {
  const [x, w] = [c.input(0), c.input(1)];
  const points = product(c.dims(c.dy).slice(2));
  // One product an image and a sum, or, where images have few points, one product of transposed copies.
  const gradient =
    points >= 64
      ? c.sumOver(c.matmul(flatten(c, c.dy), flatten(c, x), { transB: true }), [0])
      : c.matmul(channelsFirst(c, c.dy), channelsFirst(c, x), { transB: true });
  return c.reshape(gradient, c.dims(w));
}

function pointwiseInput(c: RuleContext): string {
  const w = c.dims(c.input(1));
  const matrix = c.reshape(c.input(1), [w[0]!, w[1]!]);
  return c.reshape(c.matmul(matrix, flatten(c, c.dy), { transA: true }), c.dims(c.input(0)));
}

/** dw = dy · columnsᵀ, where columns hold the inputs under every position of the window. */
function windowedWeight(c: RuleContext, window: Window, group: number): string {
  const w = c.dims(c.input(1));
  const channels = c.dims(c.input(0))[1]!;
  const taps = product(window.kernel);
  const columns = windowColumns(c, window);
  const points = c.dims(columns)[2]!;
  const dy = channelsFirst(c, c.dy);
  const gradient =
    group === 1
      ? c.matmul(dy, c.reshape(columns, [channels * taps, points]), { transB: true })
      : c.matmul(
          c.reshape(dy, [group, w[0]! / group, points]),
          c.reshape(columns, [group, (channels / group) * taps, points]),
          { transB: true },
        );
  return c.reshape(gradient, w);
}

/** Input [N, C, …] → [C, taps, N·P]: for each tap of the kernel, the input under it at every position. */
function windowColumns(c: RuleContext, { kernel, strides, dilations, pads }: Window): string {
  const x = c.input(0);
  const rank = kernel.length;
  const output = c.dims(c.dy).slice(2);
  const axes = kernel.map((_, i) => i + 2);
  const perm = c.dims(x).map((_, i) => (i < 2 ? 1 - i : i));
  const padded = c.pad(c.transpose(x, perm), [0, 0, ...pads.slice(0, rank)], [0, 0, ...pads.slice(rank)]);
  const [channels, images] = c.dims(padded) as [number, number];
  const taps = Array.from({ length: product(kernel) }, (_, tap) => {
    let rest = tap;
    const starts: number[] = [];
    for (let i = rank - 1; i >= 0; i--) {
      starts.unshift((rest % kernel[i]!) * dilations[i]!);
      rest = Math.floor(rest / kernel[i]!);
    }
    const ends = starts.map((start, i) => start + (output[i]! - 1) * strides[i]! + 1);
    return c.reshape(c.slice(padded, axes, starts, ends, strides), [channels, 1, images * product(output)]);
  });
  return c.concat(taps, 1);
}

/** The transposed convolution: every output's gradient spread over the inputs under its window. */
export function spread(
  c: RuleContext,
  dy: string,
  w: string,
  target: readonly number[],
  { kernel, strides, dilations, pads }: Window,
  group: number,
): string {
  const output = c.dims(dy).slice(2);
  // Inputs at the far end that no window reached.
  const extra = kernel.map((size, i) => {
    const covered = (output[i]! - 1) * strides[i]! + dilations[i]! * (size - 1) + 1;
    return target[i + 2]! + pads[i]! + pads[i + kernel.length]! - covered;
  });
  return c.graph.emit('ConvTranspose', [dy, w], {
    kernel_shape: kernel,
    strides,
    dilations,
    pads,
    group,
    output_padding: extra,
  });
}
