import { expectNumber, expectObject, expectOneOf } from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { checkRows, deviceOf, type Rows } from './rows.ts';

/**
 * Unit of a threshold over unit rows x and y:
 * - `'cosine'`: x·y, larger is more alike, −1 to 1;
 * - `'cosine-distance'`: 1 − x·y, 0 to 2;
 * - `'euclidean'`: ‖x − y‖, 0 to 2.
 */
export type BalanceMetric = 'cosine' | 'cosine-distance' | 'euclidean';

const METRICS: readonly BalanceMetric[] = ['cosine', 'cosine-distance', 'euclidean'];

export interface BalanceOptions extends KernelOptions {
  /**
   * Two rows are neighbours when they are strictly more alike than this: cosine over it, distance under it. In the unit
   * of `metric`. What is right depends on the encoder: {@link chooseThreshold} finds the one that keeps a given share.
   */
  readonly threshold: number;
  /** Unit of `threshold`. Defaults to `'cosine'`. */
  readonly metric?: BalanceMetric;
}

export interface BalanceResult {
  /** [N] group of a row: the smallest index in it. */
  readonly labels: Int32Array;
  /** [N] 1 for the row of a group that stays, the one nearest to the group's mean (ties: the smallest index), else 0. */
  readonly keep: Uint8Array;
  /** [N] cosine between a row and the mean of its group; 1 for a row alone, 0 for a fault. */
  readonly centrality: Float32Array;
  /** Number of groups, rows alone included; as many rows stay. */
  readonly groups: number;
  /** Number of pairs of neighbours. */
  readonly edges: number;
  /** Indices of rows that are zero, NaN or infinite, ascending. Each is a group of its own and stays. */
  readonly faults: Int32Array;
  /** The threshold as a cosine, which is what was compared. */
  readonly threshold: number;
}

/**
 * Semantic balance: groups rows that are near-duplicates of each other and names the central one of each group.
 *
 * All pairs are compared, exactly: neighbours are pairs over the threshold, groups are the connected components of that
 * graph (so two ends of a chain may be far apart), and of each group the row nearest to its mean stays. The answer is
 * the same, bit for bit, on every device and for every number of threads. Compare "image semantic balance" in CLIP-CID
 * (arXiv 2408.09441, section 3).
 *
 * @param rows [N, D]; need not be normalised. Time grows with N² · D, memory with N · D.
 * @throws TypeError, RangeError for options; CidError for devices, files, memory and abort.
 *
 * @example
 * const { keep, groups } = await balance({ data, rows: 3786, dim: 512 }, { threshold: 0.9 });
 */
export async function balance(rows: Rows, options: BalanceOptions): Promise<BalanceResult> {
  expectOptions('options', options, ['threshold', 'metric']);
  const threshold = cosineThreshold(options.threshold, options.metric);
  const { native } = checkRows('rows', rows);
  const result = await runNative(deviceOf(options, rows), 0, (addon, context) =>
    addon.balance(context, native, threshold),
  );
  return { ...result, threshold };
}

/** A threshold as a cosine, in float64: 1 − t for a cosine distance, 1 − t²/2 for a Euclidean one. */
export function cosineThreshold(threshold: number, metric: BalanceMetric = 'cosine'): number {
  expectOneOf('metric', metric, METRICS);
  if (metric === 'cosine') return expectNumber('threshold', threshold, -1, 1);
  expectNumber('threshold', threshold, 0, 2);
  return metric === 'cosine-distance' ? 1 - threshold : 1 - (threshold * threshold) / 2;
}

/** Figures of a balance, for a report. */
export interface BalanceSummary {
  readonly rows: number;
  readonly kept: number;
  readonly removed: number;
  /** kept / rows; 1 without rows. */
  readonly keepRatio: number;
  readonly groups: number;
  readonly edges: number;
  readonly faults: number;
  /** The largest group (ties: the smallest label); absent without rows. */
  readonly largest?: { readonly label: number; readonly size: number };
  /** Number of groups of each size that occurs, by size ascending. */
  readonly sizes: readonly { readonly size: number; readonly groups: number }[];
  /** Mean and smallest centrality over the rows in groups of two and more; absent when there is none. */
  readonly centrality?: { readonly mean: number; readonly min: number };
}

export function summarizeBalance(
  result: Pick<BalanceResult, 'labels' | 'keep' | 'centrality' | 'groups' | 'edges' | 'faults'>,
): BalanceSummary {
  expectObject('result', result);
  const { labels, keep, centrality } = result;
  const rows = labels.length;
  const sizeOf = new Int32Array(rows);
  for (const label of labels) sizeOf[label]!++;

  const histogram = new Map<number, number>();
  let largest: { label: number; size: number } | undefined;
  for (let label = 0; label < rows; label++) {
    const size = sizeOf[label]!;
    if (size === 0) continue;
    histogram.set(size, (histogram.get(size) ?? 0) + 1);
    if (largest === undefined || size > largest.size) largest = { label, size };
  }

  let kept = 0;
  let grouped = 0;
  let sum = 0;
  let min = Number.POSITIVE_INFINITY;
  for (let row = 0; row < rows; row++) {
    kept += keep[row]!;
    if (sizeOf[labels[row]!]! < 2) continue;
    grouped++;
    sum += centrality[row]!;
    min = Math.min(min, centrality[row]!);
  }
  return {
    rows,
    kept,
    removed: rows - kept,
    keepRatio: rows === 0 ? 1 : kept / rows,
    groups: result.groups,
    edges: result.edges,
    faults: result.faults.length,
    ...(largest === undefined ? {} : { largest }),
    sizes: [...histogram].sort((a, b) => a[0] - b[0]).map(([size, groups]) => ({ size, groups })),
    ...(grouped === 0 ? {} : { centrality: { mean: sum / grouped, min } }),
  };
}
