import type { Matrix } from '../kernels/rows.ts';
import { failType } from '../native/check.ts';
import { CidError } from '../native/errors.ts';

/** A float32 matrix in memory from the flat rows that an encoder gives. */
export function matrix(data: Float32Array, dim: number): Matrix {
  return { data, rows: data.length / dim, dim };
}

/** Rows divided by their length, in float64. A zero, NaN or infinite row is an error that names it. */
export function unitRows({ data, rows, dim }: Matrix): Float64Array {
  if (!(data instanceof Float32Array)) failType('a Float32Array', 'data', data);
  const out = Float64Array.from(data);
  for (let row = 0; row < rows; row++) {
    let square = 0;
    for (let d = row * dim; d < (row + 1) * dim; d++) square += out[d]! * out[d]!;
    if (!(square > 0 && square < Number.POSITIVE_INFINITY)) {
      throw new CidError('INVALID_DATA', `Row ${row} is zero, NaN or infinite`);
    }
    const scale = 1 / Math.sqrt(square);
    for (let d = row * dim; d < (row + 1) * dim; d++) out[d]! *= scale;
  }
  return out;
}

/** Mean of the unit rows of each run of `size` rows, as unit rows again: [rows / size, dim]. */
export function meanOfRuns(rows: Matrix, size: number): Matrix {
  const { dim } = rows;
  const unit = unitRows(rows);
  const count = rows.rows / size;
  const sums = new Float32Array(count * dim);
  for (let i = 0; i < count; i++) {
    for (let d = 0; d < dim; d++) {
      let sum = 0;
      for (let j = 0; j < size; j++) sum += unit[(i * size + j) * dim + d]!;
      sums[i * dim + d] = sum / size;
    }
  }
  return { data: Float32Array.from(unitRows({ data: sums, rows: count, dim })), rows: count, dim };
}
