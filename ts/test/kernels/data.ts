import type { Dtype, Matrix } from '../../src/kernels/rows.ts';
import { fromBfloat16, toFloat16 } from '../reference/canonical.ts';

/** Numbers in [0, 1) by seed; small and good enough for test data. */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers by seed. */
export function normals(seed: number): () => number {
  const uniform = generator(seed);
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

export interface RowsRecipe {
  rows: number;
  dim: number;
  seed: number;
  /**
   * normal: directions at random. tight: all of them round one direction, at 1e-3 of it, so that float32 cannot tell many
   * pairs apart. cancelling: products whose sums are far smaller than they are. clusters: a few directions with noise. integers: small integers, with many ties. duplicates: few rows,
   * again and again.
   */
  kind: Kind;
}

export const KINDS = ['normal', 'tight', 'cancelling', 'clusters', 'integers', 'duplicates'] as const;
export type Kind = (typeof KINDS)[number];

/** Rows by recipe; none is zero. */
export function makeRows({ rows, dim, seed, kind }: RowsRecipe): Matrix {
  const normal = normals(seed);
  const data = new Float32Array(rows * dim);
  const centres = Float32Array.from({ length: 4 * dim }, normal);
  for (let row = 0; row < rows; row++) {
    const target = data.subarray(row * dim, (row + 1) * dim);
    const centre = (row * 7 + (seed % 3)) % 4;
    for (let column = 0; column < dim; column++) {
      const value = normal();
      if (kind === 'normal') target[column] = value;
      else if (kind === 'tight') target[column] = centres[column]! + 1e-3 * value;
      else if (kind === 'cancelling') {
        const sign = column % 2 === 0 || row % 2 === 0 ? 1 : -1;
        target[column] = sign * centres[column - (column % 2)]! + 1e-5 * value;
      } else if (kind === 'clusters') target[column] = centres[centre * dim + column]! + 0.3 * value;
      else if (kind === 'integers') target[column] = Math.round(1.5 * value);
      else target[column] = row < 5 ? value : data[(row % 5) * dim + column]!;
    }
    if (target.every((value) => value === 0)) target[row % dim] = 1;
  }
  return { data, rows, dim };
}

/** The same rows in another element type, rounded to it. */
export function convert(matrix: Matrix, dtype: Dtype): Matrix {
  if (dtype === 'float32') return matrix;
  const { rows, dim } = matrix;
  const one = dtype === 'float16' ? toFloat16 : toBfloat16;
  return { data: Uint16Array.from(matrix.data as Float32Array, one), rows, dim, dtype };
}

/** Cut to bfloat16 towards zero, but never a NaN of an infinity. */
function toBfloat16(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  const bits = view.getUint32(0) >>> 16;
  if (Number.isNaN(fromBfloat16(bits)) !== Number.isNaN(value)) throw new Error('conversion');
  return bits;
}

/** One matrix cut into chunks of the given numbers of rows, the last taking what is left. */
export function chunked(matrix: Matrix, counts: readonly number[]): Matrix[] {
  const { data, rows, dim, dtype } = matrix;
  const chunks: Matrix[] = [];
  let from = 0;
  for (const count of [...counts, rows]) {
    const to = Math.min(rows, from + count);
    chunks.push({
      data: data.slice(from * dim, to * dim),
      rows: to - from,
      dim,
      ...(dtype === undefined ? {} : { dtype }),
    });
    from = to;
  }
  return chunks;
}

/** Rows in the order given. */
export function reorder(matrix: Matrix, order: readonly number[]): Matrix {
  const { data, dim } = matrix;
  const ordered = new Float32Array(order.length * dim);
  for (const [index, row] of order.entries()) {
    ordered.set(data.subarray(row * dim, (row + 1) * dim), index * dim);
  }
  return { data: ordered, rows: order.length, dim };
}

/** 0 to count − 1 in an order by seed. */
export function permutation(count: number, seed: number): number[] {
  const uniform = generator(seed);
  const order = Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last--) {
    const other = Math.floor(uniform() * (last + 1));
    [order[last], order[other]] = [order[other]!, order[last]!];
  }
  return order;
}

/** The float64 just below. */
export function nextDown(value: number): number {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  view.setBigInt64(0, view.getBigInt64(0) + (value > 0 ? -1n : 1n));
  return view.getFloat64(0);
}
