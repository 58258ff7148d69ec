import { setImmediate } from 'node:timers/promises';
import type { ScoreScale } from '../data/rated/scale.ts';
import { expectInteger, expectNumber, failRange } from '../native/check.ts';
import { abortError, CidError } from '../native/errors.ts';
import { Random, streams } from '../student/random.ts';

/** Scores of N images, and where known the shares of their ratings. */
export interface Scores {
  /** [N]. */
  readonly scores: ArrayLike<number>;
  /** [N, bins] rows that sum to 1. */
  readonly distributions?: ArrayLike<number>;
}

export interface MeasureScoresOptions {
  /** A score over this is a high one. Defaults to that of the scale. */
  readonly threshold?: number;
  /** Of the resamples. Defaults to 0. */
  readonly seed?: number;
  /** Resamples that the intervals are taken from; 0 for no intervals. Defaults to 1000. */
  readonly resamples?: number;
  /** Share of the resamples within an interval. Defaults to 0.95. */
  readonly confidence?: number;
  /** Stops the work soon after it aborts; the call then rejects with a CidError ABORTED. Defaults to none. */
  readonly signal?: AbortSignal;
}

/** A figure, and how far it would move with other images of the same kind. */
export interface Estimate {
  /** Null where it is not defined. */
  readonly value: number | null;
  /** Ends of the interval; null where it is not defined, or none was asked for. */
  readonly low: number | null;
  readonly high: number | null;
  /** Why there is no value, or no interval. */
  readonly reason?: string;
}

/** How well predicted scores agree with given ones. */
export interface ScoreMetrics {
  readonly images: number;
  /** Spearman's rank correlation: Pearson's of the ranks, equal values sharing the mean of theirs. */
  readonly srcc: Estimate;
  /** Pearson's linear correlation of the scores as they are; no curve is fitted first. */
  readonly plcc: Estimate;
  /** Share of the images that both put on the same side of `threshold`; a score equal to it is a low one. */
  readonly accuracy: Estimate;
  /** Mean squared difference of the scores, on the scale of the data set, squared. */
  readonly mse: Estimate;
  /** Earth mover's distance with r = 1: mean over images of (1/bins) Σ|d|, d the differences of the cumulative shares. */
  readonly emd1?: Estimate;
  /** With r = 2, as NIMA defines it: mean over images of √((1/bins) Σd²). */
  readonly emd2?: Estimate;
  /** What is trained on: mean over images of (1/bins) Σd², without the root. */
  readonly squaredEmd?: Estimate;
  readonly threshold: number;
  readonly seed: number;
  readonly resamples: number;
  readonly confidence: number;
}

/**
 * Agreement of predicted with given scores: correlations, accuracy, errors, each with a percentile interval over resamples of the images
 * (Efron's bootstrap). All figures see the same resamples, and so do two models measured with the same seed on the same images. A
 * correlation of something that does not vary is not defined: its value is null and `reason` says what is constant. The distances between
 * distributions are there when both have them; their bins count as equally far apart.
 *
 * @throws RangeError for options and lengths; CidError INVALID_DATA for a score or share that is not finite, naming the first.
 */
export async function measureScores(
  predicted: Scores,
  truth: Scores & { readonly scale: ScoreScale },
  options: MeasureScoresOptions = {},
): Promise<ScoreMetrics> {
  const { scale } = truth;
  const threshold = expectNumber('threshold', options.threshold ?? scale.threshold);
  const seed = expectInteger('seed', options.seed ?? 0);
  const resamples = expectInteger('resamples', options.resamples ?? 1000);
  const confidence = expectNumber('confidence', options.confidence ?? 0.95, 0, 1);
  const images = truth.scores.length;
  if (images === 0) failRange('at least one image', 'truth.scores', truth.scores);
  if (predicted.scores.length !== images) {
    failRange(`${images} scores`, 'predicted.scores', predicted.scores.length);
  }
  const x = finite('predicted score', predicted.scores, 1);
  const y = finite('given score', truth.scores, 1);

  const square = Float64Array.from(x, (score, i) => (score - y[i]!) ** 2);
  const agrees = Float64Array.from(x, (score, i) => Number(score > threshold === y[i]! > threshold));
  const settings = { seed, resamples, confidence };
  const distance = distances(predicted.distributions, truth.distributions, images, scale.bins);
  const estimates = await bootstrap(
    {
      srcc: rankCorrelation(x, y),
      plcc: correlation(x, y),
      accuracy: mean(agrees),
      mse: mean(square),
      ...distance,
    },
    images,
    settings,
    options.signal,
  );
  return { images, ...estimates, threshold, ...settings };
}

/** A figure of images that count as often as `counts` says: its value, or why there is none. */
type Figure = (counts: Float64Array) => number | string;

const mean =
  (values: Float64Array): Figure =>
  (counts) => {
    let sum = 0;
    let total = 0;
    for (let i = 0; i < values.length; i++) {
      sum += counts[i]! * values[i]!;
      total += counts[i]!;
    }
    return sum / total;
  };

/** Milliseconds for which the event loop is kept waiting. */
const LONGEST = 20;

const NAMES = ['the predicted scores', 'the given scores'];

/** Why a correlation over the images that count is not defined. */
function undefinedBecause(columns: readonly Float64Array[], counts: Float64Array): string | undefined {
  const varies = columns.map((values) => {
    const first = counts.findIndex((count) => count > 0);
    return counts.some((count, i) => count > 0 && values[i] !== values[first]);
  });
  if (varies.every(Boolean)) return undefined;
  if (counts.reduce((sum, count) => sum + count, 0) < 2) return 'there is one image only';
  const constant = NAMES.filter((_, k) => !varies[k]);
  return `${constant.join(' and ')} are all equal`;
}

function pearson(x: Float64Array, y: Float64Array, counts: Float64Array): number {
  const [mx, my] = [mean(x)(counts) as number, mean(y)(counts) as number];
  let [xx, yy, xy] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    const count = counts[i]!;
    if (count === 0) continue;
    const [dx, dy] = [x[i]! - mx, y[i]! - my];
    xx += count * dx * dx;
    yy += count * dy * dy;
    xy += count * dx * dy;
  }
  return Math.min(1, Math.max(-1, xy / Math.sqrt(xx * yy)));
}

const correlation =
  (x: Float64Array, y: Float64Array): Figure =>
  (counts) =>
    undefinedBecause([x, y], counts) ?? pearson(x, y, counts);

/** Pearson's correlation of average ranks. Sorting is done once: ranks of a resample follow from its counts. */
function rankCorrelation(x: Float64Array, y: Float64Array): Figure {
  const orders = [x, y].map((values) =>
    Int32Array.from(values, (_, i) => i).sort((a, b) => values[a]! - values[b]!),
  );
  const ranks = [new Float64Array(x.length), new Float64Array(x.length)] as const;
  return (counts) => {
    const reason = undefinedBecause([x, y], counts);
    if (reason !== undefined) return reason;
    for (const [k, values] of [x, y].entries()) averageRanks(values, orders[k]!, counts, ranks[k as 0 | 1]);
    return pearson(...ranks, counts);
  };
}

/** Ranks from 1 of values that count several times or not at all; equal ones share their mean. */
function averageRanks(
  values: Float64Array,
  order: Int32Array,
  counts: Float64Array,
  ranks: Float64Array,
): void {
  let before = 0;
  for (let from = 0; from < order.length; ) {
    const value = values[order[from]!]!;
    let to = from;
    let tied = 0;
    while (to < order.length && values[order[to]!] === value) tied += counts[order[to++]!]!;
    for (let i = from; i < to; i++) ranks[order[i]!] = before + (tied + 1) / 2;
    before += tied;
    from = to;
  }
}

function distances(
  predicted: ArrayLike<number> | undefined,
  truth: ArrayLike<number> | undefined,
  images: number,
  bins: number,
): { emd1?: Figure; emd2?: Figure; squaredEmd?: Figure } {
  if (!predicted || !truth) return {};
  for (const [name, values] of Object.entries({ predicted, truth })) {
    if (values.length !== images * bins)
      failRange(`${images} rows of ${bins} shares`, `${name}.distributions`, values.length);
  }
  const p = finite('predicted distribution', predicted, bins);
  const t = finite('given distribution', truth, bins);
  const [first, root, square] = [1, 2, 3].map(() => new Float64Array(images)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (let i = 0; i < images; i++) {
    let difference = 0;
    for (let k = i * bins; k < (i + 1) * bins; k++) {
      difference += p[k]! - t[k]!;
      first[i]! += Math.abs(difference) / bins;
      square[i]! += (difference * difference) / bins;
    }
    root[i] = Math.sqrt(square[i]!);
  }
  return { emd1: mean(first), emd2: mean(root), squaredEmd: mean(square) };
}

function finite(what: string, values: ArrayLike<number>, width: number): Float64Array {
  const copy = Float64Array.from(values);
  const bad = copy.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0)
    throw new CidError('INVALID_DATA', `The ${what} of image ${Math.floor(bad / width)} is ${copy[bad]}`);
  return copy;
}

async function bootstrap<T extends Readonly<Record<string, Figure>>>(
  figures: T,
  images: number,
  { seed, resamples, confidence }: { seed: number; resamples: number; confidence: number },
  signal: AbortSignal | undefined,
): Promise<{ [name in keyof T]: Estimate }> {
  const once = new Float64Array(images).fill(1);
  const values = Object.entries(figures).map(([name, figure]) => ({ name, figure, value: figure(once) }));
  const drawn = values.map((): number[] => []);
  const counts = new Float64Array(images);
  let rested = performance.now();
  for (let r = 0; r < resamples; r++) {
    if (performance.now() - rested > LONGEST) {
      await setImmediate();
      if (signal?.aborted) throw abortError();
      rested = performance.now();
    }
    const random = new Random(seed, streams.bootstrap, r);
    counts.fill(0);
    for (let i = 0; i < images; i++) counts[random.below(images)]!++;
    for (const [k, { figure }] of values.entries()) {
      const value = figure(counts);
      if (typeof value === 'number') drawn[k]!.push(value);
    }
  }
  const tail = (1 - confidence) / 2;
  return Object.fromEntries(
    values.map(({ name, value }, k): [string, Estimate] => {
      if (typeof value === 'string') return [name, { value: null, low: null, high: null, reason: value }];
      const found = drawn[k]!.sort((a, b) => a - b);
      if (resamples > 0 && found.length < resamples / 2) {
        const reason = 'no interval: it is not defined for most resamples';
        return [name, { value, low: null, high: null, reason }];
      }
      if (resamples === 0) return [name, { value, low: null, high: null }];
      return [name, { value, low: quantile(found, tail), high: quantile(found, 1 - tail) }];
    }),
  ) as { [name in keyof T]: Estimate };
}

/** Of sorted values, linear between the two beside it. */
function quantile(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (at - below) * (sorted[above]! - sorted[below]!);
}

/** An estimate for a person: `0.713 [0.702, 0.724]`. */
export function formatEstimate({ value, low, high, reason }: Estimate, digits = 3): string {
  if (value === null) return `not defined: ${reason}`;
  const interval = low === null || high === null ? '' : ` [${low.toFixed(digits)}, ${high.toFixed(digits)}]`;
  return `${value.toFixed(digits)}${interval}`;
}
