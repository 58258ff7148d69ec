import { expectInteger, expectNumber, failRange } from '../../native/check.ts';

/** The bins that ratings fall into: `bins` centres in equal steps from `low` to `high`. */
export interface ScoreScale {
  /** Centre of the first bin. */
  readonly low: number;
  /** Centre of the last bin. */
  readonly high: number;
  /** At least 2. */
  readonly bins: number;
  /** A score over this counts as high where scores are cut in two: 5 for AVA, as in its paper; the middle of the scale elsewhere. */
  readonly threshold: number;
}

/** AVA's: ratings 1 to 10. A mean over 5 is a high one (Murray et al., 2012). */
export const avaScale: ScoreScale = { low: 1, high: 10, bins: 10, threshold: 5 };
/** PARA's: ratings 1 to 5 in steps of a half. */
export const paraScale: ScoreScale = { low: 1, high: 5, bins: 9, threshold: 3 };
/** Bins for AADB's scores, which have none of their own: its scores are means of five ratings brought to 0 to 1. A choice of ours. */
export const aadbScale: ScoreScale = { low: 0, high: 1, bins: 5, threshold: 0.5 };

/** A scale from its ends; `threshold` defaults to the middle. Throws TypeError and RangeError. */
export function scoreScale(low: number, high: number, bins: number, threshold?: number): ScoreScale {
  expectNumber('scale.low', low);
  expectNumber('scale.high', high);
  if (high <= low) failRange(`a number over scale.low, ${low},`, 'scale.high', high);
  expectInteger('scale.bins', bins, 2, 1000);
  if (threshold !== undefined) expectNumber('scale.threshold', threshold, low, high);
  return { low, high, bins, threshold: threshold ?? (low + high) / 2 };
}

/** Whether two scales have the same bins; where they cut scores in two is another matter. */
export function sameBins(a: ScoreScale, b: ScoreScale): boolean {
  return a.low === b.low && a.high === b.high && a.bins === b.bins;
}

/** `10 bins from 1 to 10`. */
export function describeScale({ low, high, bins }: ScoreScale): string {
  return `${bins} bins from ${low} to ${high}`;
}

/** [bins] centre of each bin. */
export function binCentres({ low, high, bins }: ScoreScale): Float64Array {
  return Float64Array.from({ length: bins }, (_, k) => low + ((high - low) * k) / (bins - 1));
}

/**
 * A score as shares of the two bins that it lies between, linear in the distance: their mean is the score again. Adds `weight` in all
 * to `out`, [bins]. The score is within the scale.
 */
export function softBin(
  score: number,
  { low, high, bins }: ScoreScale,
  out: Float32Array | Float64Array,
  weight = 1,
): void {
  const at = ((score - low) / (high - low)) * (bins - 1);
  const below = Math.min(Math.max(Math.floor(at), 0), bins - 2);
  const above = Math.min(Math.max(at - below, 0), 1);
  out[below]! += weight * (1 - above);
  out[below + 1]! += weight * above;
}

/** Mean of a distribution over the bins; its entries need not sum to 1. NaN where they sum to 0. */
export function meanScore(distribution: ArrayLike<number>, centres: ArrayLike<number>): number {
  let sum = 0;
  let total = 0;
  for (let k = 0; k < centres.length; k++) {
    sum += centres[k]! * distribution[k]!;
    total += distribution[k]!;
  }
  return sum / total;
}
