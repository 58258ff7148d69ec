import { positiveAxis, product } from '../attributes.ts';
import { OWN } from '../emitter.ts';
import { permutation, sliceRanges } from '../shapes/layout.ts';
import type { GradientRule, GradientRules, RuleContext } from './context.ts';

/** The elements are the same in the same order. */
const relabel: GradientRule = (c) => c.give(0, c.reshape(c.dy, c.dims(c.input(0))));

const pass: GradientRule = (c) => c.give(0, c.dy);

export const layoutRules: GradientRules = {
  Identity: pass,
  Dropout: pass,
  Cast: (c) => {
    if (c.shape.type(0) !== 'float32') return;
    c.give(0, c.graph.info(c.y).type === 'float32' ? c.dy : c.graph.emit('Cast', [c.dy], { to: 1 }));
  },
  Reshape: relabel,
  Flatten: relabel,
  Squeeze: relabel,
  Unsqueeze: relabel,
  Transpose: (c) => {
    const perm = permutation(c.node, c.dims(c.input(0)).length);
    c.give(
      0,
      c.transpose(
        c.dy,
        perm.map((_, axis) => perm.indexOf(axis)),
      ),
    );
  },
  Concat: (c) => {
    const axis = positiveAxis(c.int('axis', 0), c.dims(c.y).length);
    let offset = 0;
    c.node.inputs.forEach((input, i) => {
      const end = offset + c.dims(input)[axis]!;
      if (c.needs(i)) c.give(i, c.slice(c.dy, [axis], [offset], [end]));
      offset = end;
    });
  },
  Split: (c) => {
    const axis = positiveAxis(c.int('axis', 0), c.dims(c.input(0)).length);
    c.give(
      0,
      c.concat(
        c.node.outputs.map((_, i) => c.gradient(i)),
        axis,
      ),
    );
  },
  Slice: (c) => {
    const dims = c.dims(c.input(0));
    const begins = dims.map(() => 0);
    const ends = dims.map(() => 0);
    for (const { axis, start, step, length } of sliceRanges(c.shape)) {
      if (step !== 1) throw c.unsupported('with a step other than 1 has no gradient rule');
      begins[axis] = start;
      ends[axis] = dims[axis]! - start - length;
    }
    c.give(0, c.pad(c.dy, begins, ends));
  },
  Pad: (c) => {
    const mode = c.node.attributes.mode;
    if (mode?.kind === 'string' && mode.value !== 'constant') {
      throw c.unsupported(`in mode '${mode.value}' has no gradient rule`);
    }
    const dims = c.dims(c.input(0));
    const begins = c.shape.numbers(1).slice(0, dims.length);
    const axes = dims.map((_, i) => i);
    c.give(
      0,
      c.slice(
        c.dy,
        axes,
        begins,
        begins.map((begin, i) => begin + dims[i]!),
      ),
    );
  },
  Expand: (c) => c.give(0, c.sumTo(c.dy, c.dims(c.input(0)))),
  Tile: (c) => {
    const dims = c.dims(c.input(0));
    const repeats = c.shape.numbers(1);
    const parts = c.reshape(
      c.dy,
      dims.flatMap((dim, i) => [repeats[i]!, dim]),
    );
    c.give(
      0,
      c.sumOver(
        parts,
        dims.map((_, i) => 2 * i),
      ),
    );
  },
  Gather: (c) => {
    const [data, indices] = [c.input(0), c.input(1)];
    const dims = c.dims(data);
    const axis = positiveAxis(c.int('axis', 0), dims.length);
    const constant = c.graph.constants.get(indices);
    if (constant?.data.length === 1) {
      const size = dims[axis]!;
      const at = positiveAxis(Number(constant.data[0]), size);
      const begins = dims.map((_, i) => (i === axis ? at : 0));
      const ends = dims.map((_, i) => (i === axis ? size - 1 - at : 0));
      c.give(0, c.pad(c.reshape(c.dy, dims.with(axis, 1)), begins, ends));
      return;
    }
    // A table that is a parameter gets its few rows, not a gradient of its own size.
    if (axis === 0 && c.needs(0) && c.giveRows(0, indices, c.dy)) return;
    const rows = c.reshape(indices, [product(c.dims(indices))]);
    c.give(0, scatterRows(c, rows, dims, axis));
  },
  GatherND: (c) => {
    const [data, indices] = [c.input(0), c.input(1)];
    const dims = c.dims(data);
    const depth = c.dims(indices).at(-1)!;
    if (c.int('batch_dims', 0) !== 0) throw c.unsupported('with batch_dims has no gradient rule');
    const indexed = dims.slice(0, depth);
    const flat = [product(indexed), ...dims.slice(depth)];
    const rows = flatIndices(c, indices, indexed);
    c.give(0, c.reshape(scatterRows(c, rows, flat, 0), dims));
  },
};

/** Indices [..., depth] into axes of the given sizes → indices [count] into these axes as one. */
function flatIndices(c: RuleContext, indices: string, sizes: readonly number[]): string {
  const { graph } = c;
  const depth = sizes.length;
  const count = product(c.dims(indices)) / depth;
  const rows = c.reshape(graph.emit('Cast', [indices], { to: 7 }), [count, depth]);
  const negative = graph.emit('Less', [rows, graph.ints([0])]);
  const positive = graph.emit('Where', [negative, c.add(rows, graph.ints(sizes)), rows]);
  const parts = sizes.map((_, axis) => c.reshape(c.slice(positive, [1], [axis], [axis + 1]), [count]));
  return parts.reduce((sum, part, axis) => c.add(c.mul(sum, graph.ints([sizes[axis]!])), part));
}

/** Rows of dy added to a tensor of zeros at the rows' indices along an axis. */
function scatterRows(c: RuleContext, rows: string, dims: readonly number[], axis: number): string {
  const after = product(dims.slice(axis + 1));
  const before = product(dims.slice(0, axis));
  const flat = c.reshape(c.dy, [before, c.dims(rows)[0]!, after]);
  return c.reshape(c.graph.emit('ScatterRows', [rows, flat], { size: dims[axis]! }, OWN), dims);
}
