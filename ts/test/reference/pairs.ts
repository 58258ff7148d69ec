import type { Matrix } from '../../src/kernels/rows.ts';
import { dot, isFault, unit, widen } from './canonical.ts';

/** All pairs over a cosine, by first and second. */
export function pairs(matrix: Matrix, threshold: number, base?: Matrix): [number, number, number][] {
  const units = (rows: Matrix) => widen(rows).map((row) => (isFault(row) ? undefined : unit(row)));
  const rows = units(matrix);
  const others = base === undefined ? rows : units(base);
  const found: [number, number, number][] = [];
  for (const [i, row] of rows.entries()) {
    for (let j = base === undefined ? i + 1 : 0; j < others.length; j++) {
      const other = others[j];
      if (row === undefined || other === undefined) continue;
      const cosine = dot(row, other);
      if (cosine > threshold) found.push([i, j, cosine]);
    }
  }
  return found;
}
