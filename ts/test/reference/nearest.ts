import type { Matrix } from '../../src/kernels/rows.ts';
import { dot, unit, widen } from './canonical.ts';

/** Every score of a query, sorted: larger first, ties to the smaller index. */
export function nearest(
  queries: Matrix,
  base: Matrix,
  k: number,
  metric: 'cosine' | 'dot',
): { indices: Int32Array; scores: Float32Array } {
  const prepare = (matrix: Matrix) => widen(matrix).map((row) => (metric === 'cosine' ? unit(row)! : row));
  const keys = prepare(base);
  const best = prepare(queries).flatMap((query) => {
    const scores = keys.map((key) => dot(query, key));
    return [...scores.keys()]
      .sort((i, j) => scores[j]! - scores[i]! || i - j)
      .slice(0, k)
      .map((index) => ({ index, score: scores[index]! }));
  });
  return {
    indices: Int32Array.from(best, ({ index }) => index),
    scores: Float32Array.from(best, ({ score }) => score),
  };
}
