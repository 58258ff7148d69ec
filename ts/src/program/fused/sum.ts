import { intsAttribute } from '../attributes.ts';
import type { FusedOperators } from './types.ts';

export const sumOperators: FusedOperators = {
  /** Sum over `axes`, which are dropped. ONNX's own operator takes axes as a value and is slow where rows are added up. */
  SumOver: {
    shape: (c) => {
      const axes = intsAttribute(c.node, 'axes')!;
      return [{ type: c.type(0), dims: c.dims(0).filter((_, i) => !axes.includes(i)) }];
    },
    decompose: (e, node) => [e.sumOver(node.inputs[0]!, intsAttribute(node, 'axes')!)],
  },
};
