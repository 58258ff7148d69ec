import { OWN } from '../emitter.ts';
import { windowAttributes } from '../fused/convolution.ts';
import { windowOf } from '../shapes/reduction.ts';
import type { GradientRules } from './context.ts';

export const convolutionRules: GradientRules = {
  Conv: (c) => {
    const [x, w] = [c.input(0), c.input(1)];
    const attributes = {
      ...windowAttributes(windowOf(c.shape, c.dims(w).slice(2))),
      group: c.int('group', 1),
    };
    if (c.needs(2)) {
      const axes = c.dims(c.dy).flatMap((_, axis) => (axis === 1 ? [] : [axis]));
      c.give(2, c.sumOver(c.dy, axes));
    }
    if (c.needs(1)) {
      c.give(1, c.graph.emit('ConvWeightGradient', [c.dy, x], { ...attributes, dims: c.dims(w) }, OWN));
    }
    if (c.needs(0)) {
      c.give(0, c.graph.emit('ConvInputGradient', [c.dy, w], { ...attributes, dims: c.dims(x) }, OWN));
    }
  },
};
