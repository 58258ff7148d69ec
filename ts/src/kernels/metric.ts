import { expectNumber, expectOneOf } from '../native/check.ts';

/**
 * Unit of a threshold over unit rows x and y:
 * - `'cosine'`: x·y, larger is more alike, −1 to 1;
 * - `'cosine-distance'`: 1 − x·y, 0 to 2;
 * - `'euclidean'`: ‖x − y‖, 0 to 2.
 */
export type BalanceMetric = 'cosine' | 'cosine-distance' | 'euclidean';

const METRICS: readonly BalanceMetric[] = ['cosine', 'cosine-distance', 'euclidean'];

/** A threshold as a cosine, in float64: 1 − t for a cosine distance, 1 − t²/2 for a Euclidean one. */
export function cosineThreshold(
  threshold: number,
  metric: BalanceMetric = 'cosine',
  name = 'threshold',
): number {
  expectOneOf('metric', metric, METRICS);
  if (metric === 'cosine') return expectNumber(name, threshold, -1, 1);
  expectNumber(name, threshold, 0, 2);
  return metric === 'cosine-distance' ? 1 - threshold : 1 - (threshold * threshold) / 2;
}
