import { expectInteger } from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { type BalanceMetric, cosineThreshold } from './balance.ts';
import { checkRows, deviceOf, type Rows } from './rows.ts';

export interface EstimateOptions extends KernelOptions {
  /** As `balance` will be given it. */
  readonly threshold: number;
  /** Unit of `threshold`. Defaults to `'cosine'`. */
  readonly metric?: BalanceMetric;
  /** Which rows are looked at, 0 to 2^53 − 1. Defaults to 0. */
  readonly seed?: number;
}

export interface BalanceEstimate {
  /** Pairs over the threshold that are to be expected, with an interval of about 95 %. */
  readonly pairs: { readonly expected: number; readonly low: number; readonly high: number };
  /** Time that it would take on this machine as it is now. */
  readonly seconds: number;
  /** Bytes that it would hold beyond its rows and results, at most. */
  readonly memory: number;
  /** Rows that were compared with how many others. Both are N when all were, and `pairs` is then exact. */
  readonly sample: { readonly queries: number; readonly keys: number };
  /** How the sample was compared, as `balance` says it in its own `plan`. */
  readonly plan: string;
  /** The threshold as a cosine. */
  readonly threshold: number;
}

/** Dots · dim of the sample: about a second of one core of 2020. */
const WORK = 2 ** 36;

/**
 * What a `balance` of these rows would find, take and hold, from a comparison of some rows with some others that takes about a
 * second.
 *
 * The number of pairs is unbiased for a random order as well as for a sorted one, but rows that come in few and very large
 * groups make its interval wide, and groups that are too rare to be met are outside it. The time is that of this machine
 * with what else runs on it; it does not count reading rows again that do not fit `maxMemory`.
 *
 * @param rows [N, D].
 * @throws TypeError, RangeError for options; CidError for devices, files, memory and abort.
 *
 * @example
 * const { pairs, seconds } = await estimateBalance(rows, { threshold: 0.9 });
 */
export async function estimateBalance(rows: Rows, options: EstimateOptions): Promise<BalanceEstimate> {
  expectOptions('options', options, ['threshold', 'metric', 'seed']);
  const threshold = cosineThreshold(options.threshold, options.metric);
  const seed = expectInteger('seed', options.seed ?? 0);
  const { native } = checkRows('rows', rows);
  const found = await runNative(deviceOf(options, rows), seed, (addon, context) =>
    addon.estimate(context, native, threshold, WORK),
  );
  const { pairs: expected, low, high, seconds, memory, queries, keys, plan } = found;
  return { pairs: { expected, low, high }, seconds, memory, sample: { queries, keys }, plan, threshold };
}
