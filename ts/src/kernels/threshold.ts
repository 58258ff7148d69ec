import type { KernelOptions } from '../native/context.ts';
import { expectOptions } from '../native/context.ts';
import { type BalanceResult, balance } from './balance.ts';
import type { Rows } from './rows.ts';

export interface ChooseThresholdOptions extends KernelOptions {
  /** Share of the rows that should stay, over 0 and at most 1. */
  readonly keepRatio: number;
  /** Lowest cosine looked at, −1 to 1. Defaults to −1. */
  readonly floor?: number;
  /** A keep ratio as near as this to the one asked for counts as reached, 0 to 1. Defaults to 0.001. */
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
}

/**
 * Finds the threshold at which {@link balance} keeps a given share of the rows, in one pass over their pairs: see
 * {@link SpanningForest.cut}, which says what comes of a share that no threshold has.
 *
 * @throws TypeError, RangeError for options and for no rows; CidError as for {@link balance}.
 */
export async function chooseThreshold(rows: Rows, options: ChooseThresholdOptions): Promise<ChosenThreshold> {
  expectOptions('options', options, ['keepRatio', 'floor', 'tolerance']);
  const { keepRatio: targetKeep, ...others } = options;
  const { reached, reason, ...result } = await balance(rows, { ...others, targetKeep });
  return {
    threshold: result.threshold,
    keepRatio: result.groups / result.labels.length,
    reached: reached === true,
    ...(reason === undefined ? {} : { reason }),
    result,
  };
}
