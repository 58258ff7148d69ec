import type { Matrix } from '../../src/kernels/rows.ts';
import { balance } from './balance.ts';
import { widen } from './canonical.ts';
import { pairs } from './pairs.ts';

/** New rows against stored ones: those with a neighbour there go, the others are balanced as if those were rows of zeros. */
export function balanceAgainst(matrix: Matrix, stored: Matrix, threshold: number, groups?: Int32Array) {
  const links = pairs(matrix, threshold, stored);
  const duplicateOf = new Int32Array(matrix.rows).fill(-1);
  const similarity = new Float32Array(matrix.rows);
  const bridges: number[] = [];
  for (let row = 0; row < matrix.rows; row++) {
    const own = links.filter(([i]) => i === row).sort((a, b) => b[2] - a[2] || a[1] - b[1]);
    if (own.length === 0) continue;
    [, duplicateOf[row], similarity[row]] = own[0]!;
    if (new Set(own.map(([, s]) => groups?.[s] ?? s)).size > 1) bridges.push(row);
  }
  const rest = withoutDuplicates(matrix, duplicateOf);
  const result = balance(rest, threshold);
  for (const [row, of] of duplicateOf.entries()) {
    if (of === -1) continue;
    result.labels[row] = -1;
    result.keep[row] = 0;
    result.centrality[row] = 0;
    result.groups--;
  }
  const faults = result.faults.filter((row) => duplicateOf[row] === -1);
  return {
    ...result,
    faults,
    duplicateOf,
    similarity,
    bridges: Int32Array.from(bridges),
    links: links.length,
  };
}

/** The same matrix with a row of zeros for each duplicate. */
export function withoutDuplicates(matrix: Matrix, duplicateOf: Int32Array): Matrix {
  const data = Float32Array.from(
    widen(matrix).flatMap((row, index) => [...(duplicateOf[index] === -1 ? row : row.fill(0))]),
  );
  return { data, rows: matrix.rows, dim: matrix.dim };
}
