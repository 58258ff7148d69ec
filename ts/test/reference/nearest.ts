import type { Matrix } from '../../src/kernels/rows.ts';
import { dot, unit, widen } from './canonical.ts';

interface Found {
  indices: Int32Array;
  scores: Float32Array;
}

/** Every score of a query, sorted: larger first, ties to the smaller index. */
export function nearest(queries: Matrix, base: Matrix, k: number, metric: 'cosine' | 'dot'): Found {
  const prepare = (matrix: Matrix) => widen(matrix).map((row) => (metric === 'cosine' ? unit(row)! : row));
  const keys = prepare(base);
  return best(
    prepare(queries).map((query) => keys.map((key) => dot(query, key))),
    k,
  );
}

/**
 * Score: cosine of the images times cosine of the texts; 0 where one of them is over the cut-off. Without queries the pairs are
 * their own, and no pair finds itself.
 */
export function nearestProduct(
  images: Matrix,
  texts: Matrix,
  k: number,
  cutoff: number,
  queries?: { images: Matrix; texts: Matrix },
): Found {
  const prepare = (matrix: Matrix) => widen(matrix).map((row) => unit(row)!);
  const baseImages = prepare(images);
  const baseTexts = prepare(texts);
  const queryImages = queries ? prepare(queries.images) : baseImages;
  const queryTexts = queries ? prepare(queries.texts) : baseTexts;
  const scores = queryImages.map((image, query) =>
    baseImages.map((other, index) => {
      const x = dot(image, other);
      const y = dot(queryTexts[query]!, baseTexts[index]!);
      return x > cutoff || y > cutoff ? 0 : x * y;
    }),
  );
  return best(scores, k, queries === undefined);
}

function best(scores: number[][], k: number, withoutSelf = false): Found {
  const found = scores.flatMap((row, query) =>
    [...row.keys()]
      .filter((index) => !withoutSelf || index !== query)
      .sort((i, j) => row[j]! - row[i]! || i - j)
      .slice(0, k)
      .map((index) => ({ index, score: row[index]! })),
  );
  return {
    indices: Int32Array.from(found, ({ index }) => index),
    scores: Float32Array.from(found, ({ score }) => score),
  };
}
