import { expectInt32, expectNumber, failRange } from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { type BalanceMetric, type BalanceOptions, checkKeep, seedOf } from './balance.ts';
import { cosineThreshold } from './metric.ts';
import { checkRows, deviceOf, type Rows } from './rows.ts';

export interface IncrementalOptions extends KernelOptions, Pick<BalanceOptions, 'keep' | 'maxDiameter'> {
  /** Two rows are neighbours when they are strictly more alike than this; in the unit of `metric`. That of the earlier balance, usually. */
  readonly threshold: number;
  /** Unit of `threshold`. Defaults to `'cosine'`. */
  readonly metric?: BalanceMetric;
  /** [S] group of each stored row, any integers; decides what is a bridge. Defaults to a group of its own for each. */
  readonly storedGroups?: Int32Array;
}

export interface IncrementalResult {
  /** [N] for a duplicate, the stored row that it is most like (ties: the smaller index); −1 for other rows. */
  readonly duplicateOf: Int32Array;
  /** [N] cosine of the two; 0 for rows that are no duplicates. */
  readonly similarity: Float32Array;
  /** [N] group of a row among the new ones: the smallest index in it; −1 for a duplicate. */
  readonly labels: Int32Array;
  /** [N] 1 for the new rows that stay: one of each group. */
  readonly keep: Uint8Array;
  /** [N] cosine between a row and the mean of its group; 1 for a row alone, 0 for a duplicate and for a fault. */
  readonly centrality: Float32Array;
  /** Number of groups among the new rows, rows alone included; as many new rows stay. */
  readonly groups: number;
  /** Number of pairs of neighbours among the new rows without the duplicates. */
  readonly edges: number;
  /** Number of duplicates. */
  readonly duplicates: number;
  /** Number of pairs of a new row and a stored row that are neighbours. */
  readonly links: number;
  /**
   * Duplicates, ascending, with neighbours in two stored groups and more. A balance of all rows at once would have made one group of
   * these; they stay apart.
   */
  readonly bridges: Int32Array;
  /** New rows that are zero, NaN or infinite, ascending. Each is a group of its own and stays. */
  readonly faults: Int32Array;
  /** Stored rows that are: they are nobody's neighbours. */
  readonly storedFaults: Int32Array;
  /** The threshold as a cosine, which is what was compared. */
  readonly threshold: number;
  /** How the pairs of new rows were filtered before the exact decision, in words. */
  readonly plan: string;
}

const OWN = ['threshold', 'metric', 'storedGroups', 'keep', 'maxDiameter'] as const;

/**
 * Balances new rows against those that earlier balances kept. A new row with a stored neighbour is a duplicate and goes; the other
 * new rows are balanced among themselves. What was decided about stored rows never changes.
 *
 * What to store between runs: the rows that were kept. After this one, append its rows with `keep` 1 to them (and, for
 * `storedGroups`, their labels counted on from those there are).
 *
 * This is not quite a balance of everything: a chain does not run through a row that goes, so a new row that is near only to a
 * duplicate stays, and stored groups that a new row would join stay apart; such rows are told in `bridges`. The answer is the
 * same, bit for bit, on every device and for every number of threads.
 *
 * @param rows [N, D] the new rows; need not be normalised. Time grows with N · (S + N) · D.
 * @param stored [S, D] rows that were kept earlier; S may be 0.
 * @throws TypeError, RangeError for options; CidError for devices, files, memory and abort.
 *
 * @example
 * const { keep, duplicateOf } = await balanceAgainst(arrivals, representatives, { threshold: 0.9 });
 */
export async function balanceAgainst(
  rows: Rows,
  stored: Rows,
  options: IncrementalOptions,
): Promise<IncrementalResult> {
  expectOptions('options', options, OWN);
  const { threshold: given, metric, storedGroups, keep: policy, maxDiameter, ...kernel } = options;
  const threshold = cosineThreshold(given, metric);
  const input = checkRows('rows', rows);
  const base = checkRows('stored', stored);
  if (base.dim !== input.dim) failRange(`${base.dim}, as in stored,`, 'rows.dim', input.dim);
  const seed = seedOf(policy);
  const keep = checkKeep(policy, input.rows);
  if (maxDiameter !== undefined) expectNumber('maxDiameter', maxDiameter, 0, 2);
  if (storedGroups !== undefined) expectInt32('storedGroups', storedGroups, base.rows, '[S]');
  const result = await runNative(deviceOf(kernel, rows, stored), seed, (addon, context) =>
    addon.balanceAgainst(context, input.native, base.native, {
      threshold,
      ...keep,
      ...(maxDiameter === undefined ? {} : { leastScore: 1 - maxDiameter }),
      ...(storedGroups === undefined ? {} : { groups: storedGroups }),
    }),
  );
  return { ...result, threshold };
}
