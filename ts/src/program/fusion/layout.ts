import { product } from '../attributes.ts';
import type { Rewrite } from './matcher.ts';

/** What is a value's own elements in their own order, after all that was done to them: the value with another shape. */
export const undone: Rewrite = (m, node) => {
  const dims = m.originalDims(node.outputs[0]!);
  const { base, view } = m.trace(node.inputs[0]!);
  if (base === node.inputs[0]) return undefined;
  const seen = m.through(view, node, node.outputs[0]!, dims);
  return seen?.isWhole(product(m.dims(base))) ? m.reshape(base, dims) : undefined;
};
