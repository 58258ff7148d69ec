import {
  expectFloat64,
  expectInt32,
  expectInteger,
  expectNumber,
  expectObject,
  failRange,
} from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { type BalanceMetric, cosineThreshold } from './metric.ts';
import { checkRows, deviceOf, type Rows } from './rows.ts';

/** Plain fields of a {@link SpanningForest}, to store it with. */
export interface SpanningForestFields {
  /** N, the rows it spans. */
  readonly rows: number;
  /** Cosine: thresholds from here on are answered. −1 to 1. */
  readonly floor: number;
  /** [E] smaller row of an edge, E at most N − 1. */
  readonly first: Int32Array;
  /** [E] larger row of an edge. */
  readonly second: Int32Array;
  /** [E] cosine of an edge, exact to float64; never rises. Edges of one cosine come by `first`, then `second`. */
  readonly dots: Float64Array;
}

/** A threshold for a share of the rows. */
export interface ForestCut {
  /** Cosine. */
  readonly threshold: number;
  /** Groups at it, as many as rows that stay. */
  readonly groups: number;
  /** Whether `groups` is within the tolerance of what was asked for. */
  readonly reached: boolean;
  /** When it was not reached: why, in a sentence. */
  readonly reason?: string;
}

/**
 * The maximum spanning forest of rows under their cosines: N − 1 edges at most, which give the groups of {@link balance} for every
 * threshold at or above its floor, at once. Made by {@link balanceForest}; {@link balance} takes it instead of comparing all
 * pairs again.
 */
export class SpanningForest implements SpanningForestFields {
  readonly rows: number;
  readonly floor: number;
  readonly first: Int32Array;
  readonly second: Int32Array;
  readonly dots: Float64Array;

  /** From stored fields. @throws TypeError, RangeError where they are not a forest's. */
  constructor(fields: SpanningForestFields) {
    expectObject('forest', fields);
    const { rows, floor, first, second, dots } = fields;
    this.rows = expectInteger('forest.rows', rows, 0, 2 ** 31 - 1);
    this.floor = expectNumber('forest.floor', floor, -1, 1);
    this.dots = expectFloat64('forest.dots', dots);
    this.first = expectInt32('forest.first', first, dots.length);
    this.second = expectInt32('forest.second', second, dots.length);
    const parents = Int32Array.from({ length: rows }, (_, row) => row);
    for (let edge = 0; edge < dots.length; edge++) {
      const [a, b, dot] = [first[edge]!, second[edge]!, dots[edge]!];
      if (!(a >= 0 && a < b && b < rows)) failRange(`two of ${rows} rows`, `edge ${edge} of forest`, [a, b]);
      if (!(dot > floor) || dot > dots[edge - 1]!)
        failRange('a cosine over the floor and not over the one before', `forest.dots[${edge}]`, dot);
      if (!unite(parents, a, b)) failRange('rows that are apart', `edge ${edge} of forest`, [a, b]);
    }
  }

  /**
   * Groups at a threshold, those of {@link balance} without `maxDiameter`.
   *
   * @param threshold In the unit of `metric`, at or above the floor.
   * @returns labels [N], the smallest index in a row's group, and the number of groups.
   */
  at(threshold: number, metric: BalanceMetric = 'cosine'): { labels: Int32Array; groups: number } {
    const cosine = this.expectCovered(cosineThreshold(threshold, metric));
    const labels = Int32Array.from({ length: this.rows }, (_, row) => row);
    const edges = over(this.dots, cosine);
    for (let edge = 0; edge < edges; edge++) unite(labels, this.first[edge]!, this.second[edge]!);
    for (let row = 0; row < labels.length; row++) labels[row] = find(labels, row);
    return { labels, groups: this.rows - edges };
  }

  /**
   * The threshold at which a share of the rows stays: just below the weight of the merge that leaves as many groups, so that pairs of
   * exactly that cosine count as neighbours. Pairs of one cosine are joined together or not at all, so some shares are not to be had;
   * then it is the side that is nearer, the higher threshold when both are as near.
   *
   * @param targetKeep Share of the rows, over 0 and at most 1.
   * @param tolerance A share as near as this counts as reached, 0 to 1. Defaults to 0.001.
   */
  cut(targetKeep: number, tolerance = 0.001): ForestCut {
    const { rows, dots, floor } = this;
    const merges = mergesFor(rows, targetKeep);
    expectNumber('tolerance', tolerance, 0, 1);
    const answer = (threshold: number, reason: string): ForestCut => {
      const groups = rows - over(dots, threshold);
      const reached = Math.abs(groups / rows - targetKeep) <= Math.max(tolerance, 0.5 / rows);
      return { threshold, groups, reached, ...(reached ? {} : { reason }) };
    };
    if (merges > dots.length) {
      const advice = floor > -1 ? '; give a lower floor' : '';
      return answer(floor, `Even at the floor of ${floor} too few rows are neighbours${advice}`);
    }
    // The threshold after so many merges.
    const below = (count: number) => (count === 0 ? 1 : Math.min(1, nextDown(dots[count - 1]!)));
    const low = below(merges);
    if (low === 1) return answer(1, 'Rows that are duplicates of each other are joined at every threshold');
    const weight = dots[merges - 1]!;
    const [more, fewer] = [over(dots, low), over(dots, weight)];
    const high = below(fewer);
    return answer(
      more - merges < merges - over(dots, high) ? low : high,
      `The share that stays steps from ${(rows - more) / rows} to ${(rows - fewer) / rows} at a cosine of about ${weight}: ` +
        'tied pairs are joined together or not at all',
    );
  }

  /** @internal A cosine that the forest answers. */
  expectCovered(cosine: number): number {
    if (cosine < this.floor)
      failRange(`a cosine of at least ${this.floor}, the floor of the forest,`, 'threshold', cosine);
    return cosine;
  }
}

export interface BalanceForestOptions extends KernelOptions {
  /**
   * Lowest threshold that the forest should answer, in the unit of `metric`. The nearer it is to the thresholds of interest, the fewer
   * pairs are decided exactly. Defaults to a cosine of −1: all of them.
   */
  readonly floor?: number;
  /** Unit of `floor`. Defaults to `'cosine'`. */
  readonly metric?: BalanceMetric;
  /**
   * Share of the rows, over 0 and at most 1: the forest then only goes as far down as {@link SpanningForest.cut} needs for it, which spares
   * the time for most pairs, and has a floor of its own.
   */
  readonly targetKeep?: number;
}

/**
 * The maximum spanning forest of all pairs of rows over a floor: one pass over all pairs, after which every threshold above is
 * answered without another. Memory grows with N, not with the number of pairs.
 *
 * @param rows [N, D]; need not be normalised. Zero, NaN and infinite rows are in no edge.
 * @throws TypeError, RangeError for options; CidError for devices, files, memory and abort.
 *
 * @example
 * const forest = await balanceForest(rows, { floor: 0.8 });
 * for (const threshold of [0.85, 0.9, 0.95]) console.log(threshold, forest.at(threshold).groups);
 */
export async function balanceForest(rows: Rows, options: BalanceForestOptions = {}): Promise<SpanningForest> {
  return (await collectForest(rows, options)).forest;
}

/** A forest, and in words how its pairs were found. */
export async function collectForest(
  rows: Rows,
  options: BalanceForestOptions,
): Promise<{ forest: SpanningForest; plan: string }> {
  expectOptions('options', options, ['floor', 'metric', 'targetKeep']);
  const { metric = 'cosine', targetKeep } = options;
  const floor = options.floor === undefined ? -1 : cosineThreshold(options.floor, metric, 'floor');
  const checked = checkRows('rows', rows);
  const merges = targetKeep === undefined ? undefined : mergesFor(checked.rows, targetKeep);
  const found = await runNative(deviceOf(options, rows), 0, (addon, context) =>
    addon.forest(context, checked.native, {
      // Nothing to merge: only what is joined at every threshold is of interest.
      floor: merges === 0 ? 1 : floor,
      ...(merges === undefined || merges === 0 ? {} : { merges }),
    }),
  );
  const { first, second, dots, plan } = found;
  const forest = new SpanningForest({ rows: checked.rows, floor: found.floor, first, second, dots });
  return { forest, plan };
}

/** Merges that leave a share of the rows, to the nearest whole row and at least one. */
function mergesFor(rows: number, targetKeep: number): number {
  expectNumber('targetKeep', targetKeep, 0, 1);
  if (targetKeep === 0) failRange('a share over 0', 'targetKeep', targetKeep);
  if (rows === 0) failRange('at least one row', 'rows', 0);
  return rows - Math.max(1, Math.round(targetKeep * rows));
}

/** How many of `dots`, which never rise, are over the threshold. */
function over(dots: Float64Array, threshold: number): number {
  let [low, high] = [0, dots.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (dots[middle]! > threshold) low = middle + 1;
    else high = middle;
  }
  return low;
}

function find(parents: Int32Array, row: number): number {
  let at = row;
  while (parents[at] !== at) {
    parents[at] = parents[parents[at]!]!;
    at = parents[at]!;
  }
  return at;
}

/** Whether they were apart. */
function unite(parents: Int32Array, a: number, b: number): boolean {
  const [first, second] = [find(parents, a), find(parents, b)];
  parents[Math.max(first, second)] = Math.min(first, second);
  return first !== second;
}

/** The float64 just below a finite number. */
export function nextDown(value: number): number {
  if (value === 0) return -Number.MIN_VALUE;
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  view.setBigInt64(0, view.getBigInt64(0) + (value > 0 ? -1n : 1n));
  return view.getFloat64(0);
}
