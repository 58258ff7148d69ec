import { expectNumber, failRange } from '../native/check.ts';
import { expectOptions, type KernelOptions } from '../native/context.ts';
import { type BalanceResult, balance } from './balance.ts';
import type { Rows } from './rows.ts';

export interface ChooseThresholdOptions extends KernelOptions {
  /** Share of the rows that should stay, over 0 and at most 1. */
  readonly keepRatio: number;
  /** Lowest cosine looked at, −1 to 1. Defaults to 0. */
  readonly floor?: number;
  /** A keep ratio as near as this to the one asked for ends the search, 0 to 1. Defaults to 0.001. */
  readonly tolerance?: number;
}

export interface ChosenThreshold {
  /** Cosine, for `balance` with the metric `'cosine'`. */
  readonly threshold: number;
  /** Share of the rows that stays at it. */
  readonly keepRatio: number;
  /** Whether `keepRatio` is within the tolerance of what was asked for. */
  readonly reached: boolean;
  /** When it was not reached: why, in a sentence. */
  readonly reason?: string;
  /** The balance at `threshold`. */
  readonly result: BalanceResult;
  /** Number of balances that the search took. */
  readonly steps: number;
}

/** Smaller than the rounding of a cosine of float32 unit rows, so thresholds this near cannot be told apart soundly. */
const RESOLUTION = 2 ** -26;

/**
 * Finds the threshold at which {@link balance} keeps a given share of the rows.
 *
 * The share is a step function of the threshold that never falls: a higher threshold has fewer neighbours, so more
 * groups. It is searched by bisection, a balance each step, about a dozen of them. A step joins a whole chain of groups
 * when pairs tie or nearly tie, so some shares lie inside a step and no threshold has them: then the nearer side of the
 * step is returned (the higher threshold when both are as near), with `reached: false` and the reason.
 *
 * @throws TypeError, RangeError for options and for no rows; CidError as for {@link balance}.
 */
export async function chooseThreshold(rows: Rows, options: ChooseThresholdOptions): Promise<ChosenThreshold> {
  expectOptions('options', options, ['keepRatio', 'floor', 'tolerance']);
  const { keepRatio: target, floor = 0, tolerance = 0.001, ...kernel } = options;
  expectNumber('keepRatio', target, 0, 1);
  expectNumber('floor', floor, -1, 1);
  expectNumber('tolerance', tolerance, 0, 1);
  if (target === 0) failRange('a share over 0', 'keepRatio', target);

  let steps = 0;
  const at = async (threshold: number): Promise<Side> => {
    const result = await balance(rows, { ...kernel, threshold });
    if (result.labels.length === 0) failRange('at least one row', 'rows', 0);
    steps++;
    return { threshold, result, keepRatio: result.groups / result.labels.length };
  };
  const near = (side: Side) => Math.abs(side.keepRatio - target) <= tolerance;
  const answer = (side: Side, reason?: string): ChosenThreshold => ({
    ...side,
    reached: near(side),
    ...(near(side) || reason === undefined ? {} : { reason }),
    steps,
  });

  let high = await at(1);
  if (near(high) || high.keepRatio < target) {
    return answer(high, 'Rows that are duplicates of each other are joined at every threshold');
  }
  let low = await at(floor);
  if (near(low) || low.keepRatio > target) {
    return answer(low, `Even at the floor of ${floor} too few rows are neighbours; give a lower floor`);
  }
  while (high.threshold - low.threshold > RESOLUTION) {
    const middle = await at((low.threshold + high.threshold) / 2);
    if (near(middle)) return answer(middle);
    if (middle.keepRatio < target) low = middle;
    else high = middle;
  }
  return answer(
    target - low.keepRatio < high.keepRatio - target ? low : high,
    `The share that stays steps from ${low.keepRatio} to ${high.keepRatio} at a cosine of about ${high.threshold}: ` +
      'tied pairs are joined together or not at all',
  );
}

interface Side {
  readonly threshold: number;
  readonly keepRatio: number;
  readonly result: BalanceResult;
}
