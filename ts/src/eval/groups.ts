import { failRange } from '../native/check.ts';

export interface PairScore {
  /** Share of the pairs that were put together and belong together. 1 when none was put together. */
  readonly precision: number;
  /** Share of the pairs that belong together and were put together. 1 when none belongs together. */
  readonly recall: number;
  /** Harmonic mean of the two. */
  readonly f1: number;
  /** Pairs put together, belonging together, and both. */
  readonly grouped: number;
  readonly true: number;
  readonly both: number;
}

/**
 * Agreement of a grouping with a known one, over all unordered pairs of rows.
 *
 * @param labels [N] group of each row.
 * @param truth [N] known group of each row; negative for a row that belongs together with no other.
 */
export function pairPrecisionRecall(labels: ArrayLike<number>, truth: ArrayLike<number>): PairScore {
  if (labels.length !== truth.length) failRange(`${labels.length} groups`, 'truth', truth);
  const groups = new Map<number, number>();
  const known = new Map<number, number>();
  const cells = new Map<string, number>();
  const count = <K>(map: Map<K, number>, key: K) => map.set(key, (map.get(key) ?? 0) + 1);
  for (let row = 0; row < labels.length; row++) {
    count(groups, labels[row]!);
    if (truth[row]! < 0) continue;
    count(known, truth[row]!);
    count(cells, `${labels[row]} ${truth[row]}`);
  }
  const pairs = (map: Map<unknown, number>) => {
    let sum = 0;
    for (const size of map.values()) sum += (size * (size - 1)) / 2;
    return sum;
  };
  const [grouped, right, both] = [pairs(groups), pairs(known), pairs(cells)];
  const precision = grouped === 0 ? 1 : both / grouped;
  const recall = right === 0 ? 1 : both / right;
  const f1 = precision + recall === 0 ? 0 : (2 * precision * recall) / (precision + recall);
  return { precision, recall, f1, grouped, true: right, both };
}
