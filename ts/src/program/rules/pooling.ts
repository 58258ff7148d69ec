import { intsAttribute, product } from '../attributes.ts';
import { OWN } from '../emitter.ts';
import { windowAttributes } from '../fused/convolution.ts';
import { windowOf } from '../shapes/reduction.ts';
import type { GradientRules, RuleContext } from './context.ts';

/** What a pooling's gradient needs to know of its window and of its input. */
const attributesOf = (c: RuleContext) => ({
  ...windowAttributes(windowOf(c.shape, intsAttribute(c.node, 'kernel_shape')!)),
  dims: c.dims(c.input(0)),
});

export const poolingRules: GradientRules = {
  // The operator's second output is where each maximum lies, as an index into the whole tensor.
  MaxPool: (c) => {
    if (c.int('storage_order', 0) !== 0) throw c.unsupported('in column order has no gradient rule');
    const [, indices] = c.graph.outputsOf(c.node, 2) as [string, string];
    c.give(0, c.graph.emit('MaxPoolGradient', [c.dy, indices], attributesOf(c), OWN));
  },
  AveragePool: (c) => {
    if (c.int('ceil_mode', 0) === 1) throw c.unsupported('with ceil_mode has no gradient rule');
    const attributes = { ...attributesOf(c), count_include_pad: c.int('count_include_pad', 0) };
    c.give(0, c.graph.emit('AveragePoolGradient', [c.dy], attributes, OWN));
  },
  GlobalAveragePool: (c) => {
    const dims = c.dims(c.input(0));
    c.give(0, c.expand(c.scale(c.dy, 1 / product(dims.slice(2))), dims));
  },
};
