import { CidError } from '../native/errors.ts';

/** What was prepared, and how it came. */
export interface Prepared<T> {
  readonly value: T;
  /** Seconds between asking for it and having it. */
  readonly waited: number;
  /** Seconds that went into it: in which anything was being prepared since the one before was done, its consumer at work or not. */
  readonly worked: number;
}

export interface PrefetchOptions<T> {
  /** Makes piece `index`; called in order, for the next before an earlier one is there. The signal stops it: it then rejects with ABORTED. */
  readonly prepare: (index: number, signal: AbortSignal) => Promise<T>;
  /** Pieces `from` to `to`. */
  readonly from: number;
  readonly to: number;
  /** Pieces that are prepared beside the one in use, at least 1. */
  readonly ahead: number;
  readonly signal?: AbortSignal | undefined;
}

/** Pieces of work prepared ahead of their use; the first ones are under way at once. What fails while nobody waits for it fails when it is asked for. */
export class Prefetch<T> {
  readonly #options: PrefetchOptions<T>;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #pending: { value: Promise<T>; busy: number; done: boolean }[] = [];
  #next: number;
  /** Preparations under way, since when, and the seconds in which there were any before. */
  #active = 0;
  #since = 0;
  #busy = 0;
  /** Those seconds when the last piece was done that was taken. */
  #taken = 0;

  constructor(options: PrefetchOptions<T>) {
    this.#options = options;
    this.#next = options.from;
    const { signal } = this.#stop;
    this.#signal = options.signal ? AbortSignal.any([options.signal, signal]) : signal;
    this.#fill();
  }

  /** The next piece. Fails with what its preparation failed with: ABORTED where the signal aborts. */
  async next(): Promise<Prepared<T>> {
    const first = this.#pending[0];
    if (!first) throw new CidError('INTERNAL', 'Nothing is left to be prepared');
    const asked = performance.now();
    const value = await first.value;
    const waited = (performance.now() - asked) / 1000;
    this.#pending.shift();
    this.#fill();
    // A later piece may have been done before.
    const worked = Math.max(0, first.busy - this.#taken);
    this.#taken += worked;
    return { value, waited, worked };
  }

  /** The piece that is next, where it is prepared; it stays to be taken. */
  ready(): Promise<T> | undefined {
    const first = this.#pending[0];
    return first?.done ? first.value : undefined;
  }

  /** Stops what is under way, and waits until it has ended. Idempotent. */
  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.allSettled(this.#pending.map(({ value }) => value));
  }

  #fill(): void {
    const { prepare, to, ahead } = this.#options;
    while (this.#pending.length < ahead && this.#next < to) {
      this.#begin();
      const entry = {
        busy: 0,
        done: false,
        value: prepare(this.#next++, this.#signal).finally(() => {
          entry.busy = this.#end();
          entry.done = true;
        }),
      };
      // It may fail before it is waited for; the failure is the waiting side's.
      entry.value.catch(() => undefined);
      this.#pending.push(entry);
    }
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
