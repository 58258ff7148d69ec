import { intAttribute, numbersOf, product } from '../attributes.ts';
import { OWN } from '../emitter.ts';
import type { Matcher, Rewrite } from './matcher.ts';

/** One row of each item, at an index that is the largest of the item's own: as text towers read their end token. */
function pick(m: Matcher, x: string, index: string): string | undefined {
  const found = m.trace(index);
  const [batch, rows] = m.dims(x) as [number, number];
  const argument = m.made(found.base, 'ArgMax');
  if (!argument || !found.view.isWhole(batch)) return undefined;
  const from = m.dims(argument.inputs[0]!);
  const axis = intAttribute(argument, 'axis', 0);
  if (from.length !== 2 || from[0] !== batch || from[1] !== rows || (axis !== 1 && axis !== -1))
    return undefined;
  return m.graph.emit('PickRow', [x, m.reshape(found.base, [batch])], {}, OWN);
}

/** A product with one-hot rows: (range = index) · x */
export const pickByProduct: Rewrite = (m, node) => {
  const [row, x] = node.inputs as [string, string];
  const dims = m.dims(x);
  if (dims.length !== 3 || m.dims(row).length !== 3 || m.dims(row)[1] !== 1) return undefined;
  const traced = m.trace(row);
  const cast = m.made(traced.base, 'Cast');
  const equal = cast && m.made(cast.inputs[0]!, 'Equal');
  if (!equal || !traced.view.isWhole(product(m.dims(traced.base)))) return undefined;
  for (const [range, index] of [equal.inputs, equal.inputs.toReversed()] as [string, string][]) {
    const counted = m.graph.constants.get(range);
    if (!counted || counted.data.length !== dims[1] || numbersOf(counted).some((value, i) => value !== i))
      continue;
    if (m.dims(range).at(-1) !== dims[1]) continue;
    const rows = pick(m, x, index);
    if (rows !== undefined) return m.reshape(rows, [dims[0]!, 1, dims[2]!]);
  }
  return undefined;
};

/** x[arange, index] as GatherND. */
export const pickByIndices: Rewrite = (m, node) => {
  const [x, indices] = node.inputs as [string, string];
  const concat = m.made(indices, 'Concat');
  const dims = m.dims(x);
  if (dims.length !== 3 || concat?.inputs.length !== 2 || m.dims(indices).length !== 2) return undefined;
  const [items, index] = concat.inputs as [string, string];
  const counted = m.graph.constants.get(items);
  const inOrder = counted?.data.length === dims[0] && numbersOf(counted).every((value, i) => value === i);
  return inOrder && intAttribute(node, 'batch_dims', 0) === 0 ? pick(m, x, index) : undefined;
};

/** x[arange, index] as Gather from rows that are one axis: row index + item · rows. */
export const pickByRows: Rewrite = (m, node) => {
  const [flat, sum] = node.inputs as [string, string];
  const { base, view } = m.trace(flat);
  const dims = m.dims(base);
  const added = m.made(sum, 'Add');
  if (!added || dims.length !== 3 || m.dims(flat).length !== 2 || intAttribute(node, 'axis', 0) !== 0)
    return undefined;
  if (m.dims(sum).length !== 1 || !view.isWhole(product(dims)) || m.dims(flat)[1] !== dims[2])
    return undefined;
  for (const [index, start] of [added.inputs, added.inputs.toReversed()] as [string, string][]) {
    const starts = m.graph.constants.get(start);
    if (starts?.data.length !== dims[0]) continue;
    if (numbersOf(starts).every((value, i) => value === i * dims[1]!)) return pick(m, base, index);
  }
  return undefined;
};
