import { CidError } from '../native/errors.ts';
import type { BatchSource } from './types.ts';

/** Bytes of batches prepared ahead where none are given. */
export const PREFETCH_BYTES = 2 ** 30;

/** Most batches that are prepared ahead, however small: more would not even out anything. */
const MOST_AHEAD = 8;

/** Batches over which the source's rate is taken. */
const RATE_OVER = 4;

/** A batch, and how it came. */
export interface Prepared<Batch> {
  readonly batch: Batch;
  /** Seconds between asking for it and having it. */
  readonly waited: number;
  /** Rows a second that the source made while it was at work, over the last few batches. */
  readonly rate: number;
}

/**
 * Batches of steps `from` to `to`, prepared ahead: as many as fit in `bytes`, and at least one beside the one in use. The first are under way at
 * once. What fails while nobody waits for it fails when it is asked for.
 */
export class Prefetch<Batch> {
  readonly #source: BatchSource<Batch>;
  readonly #to: number;
  readonly #ahead: number;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #pending: { batch: Promise<Batch>; busy: number }[] = [];
  #next: number;
  /** Preparations under way, since when, and the seconds in which there were any before. */
  #active = 0;
  #since = 0;
  #busy = 0;
  /** Those seconds when the last few batches were done. */
  readonly #marks = [0];

  constructor(source: BatchSource<Batch>, from: number, to: number, bytes: number, signal?: AbortSignal) {
    this.#source = source;
    this.#next = from;
    this.#to = to;
    const fitting = source.batchBytes === undefined ? 1 : Math.floor(bytes / source.batchBytes);
    this.#ahead = Math.max(1, Math.min(MOST_AHEAD, fitting));
    this.#signal = signal ? AbortSignal.any([signal, this.#stop.signal]) : this.#stop.signal;
    this.#fill();
  }

  /** The next batch. Fails with what its preparation failed with: ABORTED where the signal aborts. */
  async next(): Promise<Prepared<Batch>> {
    const first = this.#pending[0];
    if (!first) throw new CidError('INTERNAL', 'There are no more batches');
    const asked = performance.now();
    const batch = await first.batch;
    const waited = (performance.now() - asked) / 1000;
    this.#pending.shift();
    this.#fill();
    return { batch, waited, rate: this.#rate(first.busy) };
  }

  /** Stops what is under way, and waits until it has ended. Idempotent. */
  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.allSettled(this.#pending.map(({ batch }) => batch));
  }

  #fill(): void {
    while (this.#pending.length < this.#ahead && this.#next < this.#to) {
      const { stepsPerEpoch } = this.#source;
      const step = this.#next++;
      this.#begin();
      const entry = {
        busy: 0,
        batch: this.#source
          .batch(Math.floor(step / stepsPerEpoch), step % stepsPerEpoch, this.#signal)
          .finally(() => {
            entry.busy = this.#end();
          }),
      };
      // It may fail before it is waited for; the failure is the waiting side's.
      entry.batch.catch(() => undefined);
      this.#pending.push(entry);
    }
  }

  #rate(busy: number): number {
    const marks = this.#marks;
    // A later batch may have been done before.
    marks.push(Math.max(busy, marks.at(-1)!));
    if (marks.length > RATE_OVER + 1) marks.shift();
    const seconds = marks.at(-1)! - marks[0]!;
    return ((marks.length - 1) * this.#source.batchSize) / Math.max(seconds, 1e-6);
  }

  #begin(): void {
    if (this.#active++ === 0) this.#since = performance.now();
  }

  /** Seconds in which something was under way so far. */
  #end(): number {
    const now = performance.now();
    this.#busy += (now - this.#since) / 1000;
    this.#since = now;
    this.#active--;
    return this.#busy;
  }
}
