import { intAttribute } from '../attributes.ts';
import type { FusedOperators } from './types.ts';

/** Rows that are taken by an index that is data, and their gradients. */
export const rowOperators: FusedOperators = {
  /** indices [n], rows [before, n, after] → [before, size, after], where each row is added at its index; negative ones count from the end. */
  ScatterRows: {
    shape: (c) => [{ type: c.type(1), dims: c.dims(1).with(1, intAttribute(c.node, 'size', 0)) }],
    // A product with a one-hot matrix, because its sums have one order: scattering with several threads has none.
    decompose: (e, node) => {
      const [indices, rows] = node.inputs as [string, string];
      const [before, count, after] = e.dims(rows) as [number, number, number];
      const size = intAttribute(node, 'size', 0);
      const depth = e.graph.ints([size]);
      const values = e.graph.floats([0, 1]);
      if (before > 1) {
        return [e.matmul(e.graph.emit('OneHot', [indices, depth, values], { axis: 0 }), rows)];
      }
      const oneHot = e.graph.emit('OneHot', [indices, depth, values], { axis: -1 });
      const sums = e.matmul(oneHot, e.reshape(rows, [count, after]), { transA: true });
      return [e.reshape(sums, [1, size, after])];
    },
  },
  /** x [batch, rows, width] and an index an item, [batch], → the row of each item at its index, [batch, width]. */
  PickRow: {
    shape: (c) => {
      const [batch, , width] = c.dims(0) as [number, number, number];
      return [{ type: c.type(0), dims: [batch, width] }];
    },
    gradient: (c) => {
      const size = c.dims(c.input(0))[1]!;
      c.give(0, c.graph.emit('PickRowGradient', [c.dy, c.input(1)], { size }, c.node.domain));
    },
    decompose: (e, node) => {
      const [x, index] = node.inputs as [string, string];
      const [batch, rows, width] = e.dims(x) as [number, number, number];
      const oneHot = e.graph.emit('OneHot', [index, e.graph.ints([rows]), e.graph.floats([0, 1])], {
        axis: -1,
      });
      return [e.reshape(e.matmul(e.reshape(oneHot, [batch, 1, rows]), x), [batch, width])];
    },
    items: (v) => (v.held(0) && v.held(1) ? true : undefined),
  },
  /** dy [batch, width], index → [batch, size, width], zero but for the picked rows. */
  PickRowGradient: {
    shape: (c) => {
      const [batch, width] = c.dims(0) as [number, number];
      return [{ type: c.type(0), dims: [batch, intAttribute(c.node, 'size', 0), width] }];
    },
    decompose: (e, node) => {
      const [dy, index] = node.inputs as [string, string];
      const [batch, width] = e.dims(dy) as [number, number];
      const size = intAttribute(node, 'size', 0);
      const oneHot = e.graph.emit('OneHot', [index, e.graph.ints([size]), e.graph.floats([0, 1])], {
        axis: -1,
      });
      return [e.mul(e.reshape(oneHot, [batch, size, 1]), e.reshape(dy, [batch, 1, width]))];
    },
  },
};
