import { intsAttribute, product } from '../attributes.ts';
import { type Window, windowOf } from '../shapes/reduction.ts';
import type { GradientRules, RuleContext } from './context.ts';
import { spread } from './convolution.ts';

export const poolingRules: GradientRules = {
  // The operator's second output is where each maximum lies, as an index into the whole tensor.
  MaxPool: (c) => {
    if (c.int('storage_order', 0) !== 0) throw c.unsupported('in column order has no gradient rule');
    const dims = c.dims(c.input(0));
    const [, indices] = c.graph.outputsOf(c.node, 2) as [string, string];
    const count = product(c.dims(c.y));
    const scattered = c.graph.emit(
      'ScatterElements',
      [c.zeros([product(dims)]), c.reshape(indices, [count]), c.reshape(c.dy, [count])],
      { axis: 0, reduction: 'add' },
    );
    c.give(0, c.reshape(scattered, dims));
  },
  AveragePool: (c) => {
    if (c.int('ceil_mode', 0) === 1) throw c.unsupported('with ceil_mode has no gradient rule');
    const dims = c.dims(c.input(0));
    const window = windowOf(c.shape, intsAttribute(c.node, 'kernel_shape')!);
    const channels = dims[1]!;
    const ones = c.graph.filled([channels, 1, ...window.kernel], 1);
    c.give(0, spread(c, share(c, window), ones, dims, window, channels));
  },
  GlobalAveragePool: (c) => {
    const dims = c.dims(c.input(0));
    c.give(0, c.expand(c.scale(c.dy, 1 / product(dims.slice(2))), dims));
  },
};

/** dy divided by the number of inputs in each window, which is smaller at the edges unless padding counts. */
function share(c: RuleContext, { kernel, strides, dilations, pads }: Window): string {
  if (c.int('count_include_pad', 0) === 1 || pads.every((pad) => pad === 0)) {
    return c.scale(c.dy, 1 / product(kernel));
  }
  const output = c.dims(c.y).slice(2);
  const counts = output.map((length, axis) =>
    Array.from({ length }, (_, position) => {
      const size = c.dims(c.input(0))[axis + 2]!;
      const start = position * strides[axis]! - pads[axis]!;
      const taps = Array.from({ length: kernel[axis]! }, (_, tap) => start + tap * dilations[axis]!);
      return taps.filter((at) => at >= 0 && at < size).length;
    }),
  );
  const inverse = counts.reduce<number[]>(
    (all, axis) => all.flatMap((value) => axis.map((count) => value / count)),
    [1],
  );
  const map = c.reshape(c.graph.floats(inverse), [1, 1, ...output]);
  return c.mul(c.dy, map);
}
