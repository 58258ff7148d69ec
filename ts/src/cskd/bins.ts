import { expectInteger, expectNumber, failRange, failType } from '../native/check.ts';

/** Checks bin centres: at least two finite numbers, ascending. Returns them. */
export function expectCentres(name: string, centres: readonly number[]): readonly number[] {
  if (!Array.isArray(centres)) failType('a list of scores', name, centres);
  const fits =
    centres.length >= 2 && centres.every((c, k) => Number.isFinite(c) && (k === 0 || c > centres[k - 1]!));
  if (!fits) failRange('at least two numbers, ascending,', name, centres);
  return centres;
}

/** `count` centres from `from` to `to`, both included, at equal distances. */
export function evenCentres(from: number, to: number, count: number): number[] {
  expectInteger('count', count, 2);
  if (!(expectNumber('to', to) > expectNumber('from', from))) failRange(`a number over ${from}`, 'to', to);
  return Array.from({ length: count }, (_, k) => from + ((to - from) * k) / (count - 1));
}

/**
 * A score as a distribution: its weight on the two neighbouring centres, linearly by distance, so that the distribution's mean
 * is the score again.
 *
 * @param score From the first to the last centre; beyond them is a RangeError.
 * @returns [K], summing to 1.
 */
export function softBins(score: number, centres: readonly number[]): Float64Array {
  const last = centres.length - 1;
  expectNumber('score', score, centres[0]!, centres[last]!);
  const distribution = new Float64Array(centres.length);
  let k = 0;
  while (k < last - 1 && score > centres[k + 1]!) k++;
  const share = (score - centres[k]!) / (centres[k + 1]! - centres[k]!);
  distribution[k] = 1 - share;
  distribution[k + 1] = share;
  return distribution;
}

/** Mean score of each row of [N, K] distributions, in the unit of the centres. */
export function meanScores(distributions: ArrayLike<number>, centres: readonly number[]): Float64Array {
  const bins = centres.length;
  return Float64Array.from({ length: distributions.length / bins }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < bins; k++) sum += distributions[i * bins + k]! * centres[k]!;
    return sum;
  });
}

/** Standard deviation of each row of [N, K] distributions, in the unit of the centres: how much raters differ. */
export function scoreDeviations(distributions: ArrayLike<number>, centres: readonly number[]): Float64Array {
  const bins = centres.length;
  const means = meanScores(distributions, centres);
  return means.map((mean, i) => {
    let sum = 0;
    for (let k = 0; k < bins; k++) sum += distributions[i * bins + k]! * (centres[k]! - mean) ** 2;
    return Math.sqrt(sum);
  });
}
