import type { Matrix } from '../../src/kernels/rows.ts';
import { dot, unit, widen } from './canonical.ts';
import { philox64 } from './philox.ts';

export interface ReferenceSemdedup {
  keep: Uint8Array;
  duplicateOf: Int32Array;
  similarity: Float32Array;
  pairs: number;
}

/** Every row against those before it in its cluster. */
export function semdedup(
  matrix: Matrix,
  centroids: Float32Array,
  labels: Int32Array,
  threshold: number,
  order: 'hard' | 'easy' | 'random',
  seed: number,
): ReferenceSemdedup {
  const { dim } = matrix;
  const rows = widen(matrix).map((row) => unit(row)!);
  const scores = rows.map((row, i) => dot(row, centroids.subarray(labels[i]! * dim, (labels[i]! + 1) * dim)));
  const draws = rows.map((_, i) => philox64(seed, 32, i));
  const compare = {
    hard: (i: number, j: number) => scores[i]! - scores[j]!,
    easy: (i: number, j: number) => scores[j]! - scores[i]!,
    random: (i: number, j: number) => (draws[i]! < draws[j]! ? -1 : draws[i]! > draws[j]! ? 1 : 0),
  }[order];

  const keep = new Uint8Array(rows.length).fill(1);
  const duplicateOf = new Int32Array(rows.length).fill(-1);
  const similarity = new Float32Array(rows.length);
  let pairs = 0;
  for (const label of new Set(labels)) {
    const members = [...rows.keys()]
      .filter((i) => labels[i] === label)
      .sort((i, j) => compare(i, j) || i - j);
    for (const [place, j] of members.entries()) {
      const earlier = members
        .slice(0, place)
        .map((i) => ({ i, cosine: dot(rows[i]!, rows[j]!) }))
        .filter(({ cosine }) => cosine > threshold)
        .sort((a, b) => b.cosine - a.cosine || a.i - b.i);
      pairs += earlier.length;
      if (earlier.length === 0) continue;
      keep[j] = 0;
      duplicateOf[j] = earlier[0]!.i;
      similarity[j] = earlier[0]!.cosine;
    }
  }
  return { keep, duplicateOf, similarity, pairs };
}
