import type { NativeBalanceOptions } from '../native/addon.ts';
import {
  expectInteger,
  expectNumber,
  expectObject,
  expectOneOf,
  failRange,
  failType,
} from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { collectForest, type ForestCut, SpanningForest } from './forest.ts';
import { type BalanceMetric, cosineThreshold } from './metric.ts';
import { checkRows, deviceOf, type Rows } from './rows.ts';

export { type BalanceMetric, cosineThreshold } from './metric.ts';

/**
 * Which row of a group stays; ties go to the smaller index, and zero, NaN and infinite rows always stay.
 * - `'central'`: the most like the group's mean, by cosine; of two rows, which are equally near, the first;
 * - `'easy'`: the same row, under the name it has beside `'hard'`;
 * - `'hard'`: the least like the group's mean; of two rows the first;
 * - `'first'`: the smallest index;
 * - `best`: the highest of the caller's scores, [N], none of them NaN;
 * - `random`: one drawn by a seed, 0 to 2^53 − 1, and the indices of the rows.
 */
export type KeepPolicy =
  | 'central'
  | 'easy'
  | 'hard'
  | 'first'
  | { readonly best: Float32Array | Float64Array | readonly number[] }
  | { readonly random: number };

const POLICIES = ['central', 'easy', 'hard', 'first'] as const;

export interface BalanceOptions extends KernelOptions {
  /**
   * Two rows are neighbours when they are strictly more alike than this: cosine over it, distance under it. In the unit
   * of `metric`. What is right depends on the encoder. Either this or `targetKeep`.
   */
  readonly threshold?: number;
  /**
   * Share of the rows that should stay, over 0 and at most 1; the threshold is found as by {@link SpanningForest.cut}. Either this or
   * `threshold`.
   */
  readonly targetKeep?: number;
  /** Unit of `threshold` and `floor`. Defaults to `'cosine'`. */
  readonly metric?: BalanceMetric;
  /** Of `targetKeep`: lowest threshold looked at, in the unit of `metric`. Defaults to a cosine of −1. */
  readonly floor?: number;
  /** Of `targetKeep`: a share as near as this counts as reached, 0 to 1. Defaults to 0.001. */
  readonly tolerance?: number;
  /** Defaults to `'central'`. */
  readonly keep?: KeepPolicy;
  /**
   * Greatest cosine distance, 0 to 2, between a row and the mean of its group. Neighbours of neighbours may be far apart; a group with a row
   * farther out is split by a stricter threshold, that of its own weakest link, and its parts are looked at again. `targetKeep` and `edges`
   * are those before the splitting. Defaults to none.
   */
  readonly maxDiameter?: number;
  /** Forest of these rows, from {@link balanceForest}: their pairs are then not compared again. */
  readonly forest?: SpanningForest;
}

export interface BalanceResult {
  /** [N] group of a row: the smallest index in it. */
  readonly labels: Int32Array;
  /** [N] 1 for the row of a group that stays, else 0. */
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
  /** How the pairs were filtered before the exact decision, in words; empty where a forest was given. */
  readonly plan: string;
  /** With `targetKeep`: whether the share that stays, before the splitting by `maxDiameter`, is within the tolerance. */
  readonly reached?: boolean;
  /** When it is not: why, in a sentence. */
  readonly reason?: string;
}

/**
 * Semantic balance: groups rows that are near-duplicates of each other and names the one of each group that stays.
 *
 * All pairs are compared, exactly: neighbours are pairs over the threshold, groups are the connected components of that
 * graph (so two ends of a chain may be far apart), and of each group one row stays, by default the one nearest to its mean. The
 * answer is the same, bit for bit, on every device and for every number of threads. Compare "image semantic balance" in CLIP-CID
 * (arXiv 2408.09441, section 3).
 *
 * @param rows [N, D]; need not be normalised. Time grows with N² · D, memory with N · D.
 * @throws TypeError, RangeError for options; CidError for devices, files, memory and abort.
 *
 * @example
 * const { keep, groups } = await balance({ data, rows: 3786, dim: 512 }, { threshold: 0.9 });
 * const { threshold, reached } = await balance(rows, { targetKeep: 0.563, maxDiameter: 0.2 });
 */
export async function balance(rows: Rows, options: BalanceOptions): Promise<BalanceResult> {
  expectOptions('options', options, OPTIONS);
  const { metric = 'cosine', maxDiameter } = options;
  const checked = checkRows('rows', rows);
  const seed = seedOf(options.keep);
  const keep = checkKeep(options.keep, checked.rows);
  if (maxDiameter !== undefined) expectNumber('maxDiameter', maxDiameter, 0, 2);
  if (options.targetKeep !== undefined && options.threshold !== undefined)
    failRange('no threshold beside targetKeep', 'threshold', options.threshold);
  let forest = checkForest(options.forest, checked.rows);
  let plan: string | undefined;
  let cut: ForestCut | undefined;
  let threshold: number;
  const kernel = deviceOf(kernelOf(options), rows);
  const progress = twoPhases(kernel);
  if (options.targetKeep === undefined) {
    threshold = cosineThreshold(options.threshold as number, metric);
    forest?.expectCovered(threshold);
  } else {
    const { targetKeep, floor } = options;
    if (forest === undefined) {
      const wanted = { ...progress.first, metric, targetKeep, ...(floor === undefined ? {} : { floor }) };
      ({ forest, plan } = await collectForest(rows, wanted));
    }
    cut = forest.cut(targetKeep, options.tolerance);
    threshold = cut.threshold;
  }
  const native: NativeBalanceOptions = {
    threshold,
    ...keep,
    ...(maxDiameter === undefined ? {} : { leastScore: 1 - maxDiameter }),
    ...(forest === undefined
      ? {}
      : { forest: { first: forest.first, second: forest.second, dots: forest.dots } }),
  };
  const last = plan === undefined ? kernel : progress.second;
  const result = await runNative(last, seed, (addon, context) =>
    addon.balance(context, checked.native, native),
  );
  return {
    ...result,
    threshold,
    plan: plan ?? result.plan,
    ...(cut === undefined ? {} : { reached: cut.reached }),
    ...(cut?.reason === undefined ? {} : { reason: cut.reason }),
  };
}

const OPTIONS = [
  'threshold',
  'targetKeep',
  'metric',
  'floor',
  'tolerance',
  'keep',
  'maxDiameter',
  'forest',
] as const;

/** The options that every kernel takes. */
function kernelOf(options: BalanceOptions): KernelOptions {
  const own: readonly string[] = OPTIONS;
  return Object.fromEntries(Object.entries(options).filter(([name]) => !own.includes(name)));
}

/** A keep policy as the native core takes it; its seed is that of the call. */
export function checkKeep(
  keep: KeepPolicy = 'central',
  rows: number,
): Pick<NativeBalanceOptions, 'keep' | 'scores'> {
  if (typeof keep === 'string') return { keep: expectOneOf('keep', keep, POLICIES) };
  expectObject('keep', keep, ['best', 'random']);
  if ('random' in keep === 'best' in keep)
    failType("'central', 'easy', 'hard', 'first', { best } or { random }", 'keep', keep);
  if ('random' in keep) return { keep: 'random' };
  const { best } = keep;
  if (!(best instanceof Float32Array || best instanceof Float64Array || Array.isArray(best)))
    failType('an array of numbers', 'keep.best', best);
  if (best.length !== rows) failRange(`${rows} scores [N]`, 'keep.best', best);
  const scores = Float64Array.from(best as ArrayLike<number>);
  const bad = scores.findIndex(Number.isNaN);
  if (bad >= 0) failRange('a number', `keep.best[${bad}]`, best[bad]);
  return { keep: 'best', scores };
}

export function seedOf(keep: KeepPolicy | undefined): number {
  const random = typeof keep === 'object' && keep !== null && 'random' in keep;
  return random ? expectInteger('keep.random', keep.random) : 0;
}

function checkForest(forest: SpanningForest | undefined, rows: number): SpanningForest | undefined {
  if (forest === undefined) return undefined;
  if (!(forest instanceof SpanningForest)) failType('a SpanningForest', 'forest', forest);
  if (forest.rows !== rows) failRange(`${rows}, the number of rows,`, 'forest.rows', forest.rows);
  return forest;
}

/** Share of the work that comes before the groups are known, about. */
const FIRST_PHASE = 0.95;

/** Kernel options for two calls that report as one: of 1,000 parts. */
function twoPhases({ onProgress, ...kernel }: KernelOptions): {
  first: KernelOptions;
  second: KernelOptions;
} {
  if (onProgress === undefined) return { first: kernel, second: kernel };
  const phase = (from: number, share: number): KernelOptions => ({
    ...kernel,
    onProgress: ({ done, total }) =>
      onProgress({ done: 1000 * (from + (share * done) / total), total: 1000 }),
  });
  return { first: phase(0, FIRST_PHASE), second: phase(FIRST_PHASE, 1 - FIRST_PHASE) };
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
  /** How far groups are chains, whose ends are unlike each other; absent without groups of two and more. */
  readonly chaining?: ChainingSummary;
}

/** Figures of the groups of two and more rows. */
export interface ChainingSummary {
  /** Pairs of rows of one group. */
  readonly pairs: number;
  /** Share of those that are neighbours themselves; 1 where all are, so that nothing is chained. Over 1 after splitting by `maxDiameter`. */
  readonly neighbours: number;
  /** Rows that are not over the threshold to the mean of their group, and the groups that have such rows. */
  readonly outside: { readonly rows: number; readonly groups: number };
  /** Groups by their smallest centrality, in ten ranges of equal width from the smallest that occurs to 1. */
  readonly lowest: readonly { readonly from: number; readonly to: number; readonly groups: number }[];
}

export function summarizeBalance(
  result: Pick<BalanceResult, 'labels' | 'keep' | 'centrality' | 'groups' | 'edges' | 'faults' | 'threshold'>,
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
  for (let row = 0; row < rows; row++) {
    kept += keep[row]!;
    if (sizeOf[labels[row]!]! < 2) continue;
    grouped++;
    sum += centrality[row]!;
  }
  const lowest = lowestCentralities(labels, sizeOf, centrality);
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
    ...(grouped === 0
      ? {}
      : {
          centrality: { mean: sum / grouped, min: lowest.reduce((a, b) => Math.min(a, b)) },
          chaining: chaining(result, sizeOf, histogram, lowest),
        }),
  };
}

/** Smallest centrality of each group of two and more. */
function lowestCentralities(labels: Int32Array, sizeOf: Int32Array, centrality: Float32Array): Float32Array {
  const place = new Int32Array(labels.length).fill(-1);
  let groups = 0;
  for (let label = 0; label < labels.length; label++) if (sizeOf[label]! > 1) place[label] = groups++;
  const lowest = new Float32Array(groups).fill(Number.POSITIVE_INFINITY);
  for (let row = 0; row < labels.length; row++) {
    const group = place[labels[row]!]!;
    if (group >= 0) lowest[group] = Math.min(lowest[group]!, centrality[row]!);
  }
  return lowest;
}

const RANGES = 10;

function chaining(
  { labels, centrality, edges, threshold }: Parameters<typeof summarizeBalance>[0],
  sizeOf: Int32Array,
  histogram: ReadonlyMap<number, number>,
  lowest: Float32Array,
): ChainingSummary {
  let pairs = 0;
  for (const [size, groups] of histogram) pairs += groups * ((size * (size - 1)) / 2);
  let outside = 0;
  for (let row = 0; row < labels.length; row++) {
    if (sizeOf[labels[row]!]! > 1 && !(centrality[row]! > threshold)) outside++;
  }
  const from = lowest.reduce((a, b) => Math.min(a, b), 1);
  const counts = new Array<number>(RANGES).fill(0);
  let groups = 0;
  for (const value of lowest) {
    const range = from === 1 ? RANGES - 1 : Math.floor(((value - from) / (1 - from)) * RANGES);
    counts[Math.min(range, RANGES - 1)]!++;
    if (!(value > threshold)) groups++;
  }
  const border = (range: number) => from + ((1 - from) * range) / RANGES;
  return {
    pairs,
    neighbours: edges / pairs,
    outside: { rows: outside, groups },
    lowest: counts.map((count, range) => ({ from: border(range), to: border(range + 1), groups: count })),
  };
}
