import type { NativePairs } from '../native/addon.ts';
import { expectInteger, failRange } from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { type BalanceMetric, cosineThreshold } from './balance.ts';
import { checkRows, deviceOf, type Rows } from './rows.ts';

export interface PairsOptions extends KernelOptions {
  /** Pairs strictly more alike than this are found: cosine over it, distance under it. In the unit of `metric`. */
  readonly threshold: number;
  /** Unit of `threshold`. Defaults to `'cosine'`. */
  readonly metric?: BalanceMetric;
  /** [M, D] Finds pairs of a row and a row of this, instead of pairs among the rows. */
  readonly base?: Rows;
  /** Most pairs of a batch, and of those held for a slow reader, 1 to 16,777,216; a pair takes 16 bytes. Defaults to 65,536. */
  readonly batchSize?: number;
}

/** Some pairs, by place in three arrays of one length, at least 1. */
export interface PairBatch {
  /** The smaller row of a pair; with a base, the row. */
  readonly first: Int32Array;
  /** The larger row of a pair; with a base, the row of the base. */
  readonly second: Int32Array;
  /** Cosine of a pair, exact to float64. */
  readonly dots: Float64Array;
}

/** What `batchSize` may be at most, as the native core has it. */
const MOST_PAIRS = 2 ** 24;

/**
 * All pairs over a threshold, exactly, each once, in batches as they are found.
 *
 * Nothing runs before the first batch is asked for, and the search waits while the reader is busy, so memory does not grow with the
 * number of pairs. Leaving the loop ends the search. Which pairs come is always the same; their order, and how they fall
 * into batches, is not. Zero, NaN and infinite rows are in no pair.
 *
 * @param rows [N, D]; need not be normalised. Time grows with N² · D, or with N · M · D.
 * @throws TypeError, RangeError for options; CidError for devices, files, memory and abort. All of it when the loop starts.
 *
 * @example
 * for await (const { first, second, dots } of pairs(rows, { threshold: 0.95 })) {
 *   for (const [at, cosine] of dots.entries()) console.log(first[at], second[at], cosine);
 * }
 */
export async function* pairs(rows: Rows, options: PairsOptions): AsyncGenerator<PairBatch, void, undefined> {
  expectOptions('options', options, ['threshold', 'metric', 'base', 'batchSize']);
  const threshold = cosineThreshold(options.threshold, options.metric);
  const capacity = expectInteger('batchSize', options.batchSize ?? 65_536, 1, MOST_PAIRS);
  const input = checkRows('rows', rows);
  const base = options.base === undefined ? undefined : checkRows('base', options.base);
  if (base !== undefined && base.dim !== input.dim)
    failRange(`${base.dim}, as in base,`, 'rows.dim', input.dim);
  const inputs = options.base === undefined ? [rows] : [rows, options.base];

  let wake = () => {};
  let stream: NativePairs | undefined;
  let ended = false;
  const finished = runNative(deviceOf(options, ...inputs), 0, (addon, context) => {
    stream = addon.pairs(context, input.native, base?.native, threshold, capacity, () => wake());
    stream.keepAwake(false);
    return stream.finished;
  }).finally(() => {
    ended = true;
    wake();
  });
  // It is awaited below, but perhaps only after the reader has come back, too late for Node to call it handled.
  finished.catch(() => {});
  try {
    for (;;) {
      // Looked at first: what was found before a failure is not handed out after it.
      const last = ended;
      if (last) await finished;
      const batch = stream?.take();
      if (batch !== undefined) yield batch;
      else if (last) return;
      else await asleep();
    }
  } finally {
    stream?.close();
    stream?.keepAwake(true);
    await finished.catch(() => {});
  }

  /** Until there is something to take or the search ended. Only here the search keeps the process up: it waits for a reader otherwise. */
  async function asleep(): Promise<void> {
    stream?.keepAwake(true);
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
    stream?.keepAwake(false);
  }
}
