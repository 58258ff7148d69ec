import type { Transferable, Worker } from 'node:worker_threads';
import { CidError, type CidErrorCode } from '../native/errors.ts';

/** What goes to the worker: one call. */
export interface ChannelCall {
  readonly id: number;
  readonly method: string;
  readonly argument: unknown;
}

/** What comes back: the call's result or its error. */
export interface ChannelReply {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: { readonly code?: CidErrorCode; readonly name: string; readonly message: string };
}

interface Pending {
  readonly call: ChannelCall;
  readonly transfer: readonly Transferable[];
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Calls that the worker may have at once: one that runs and one that it goes on with. */
const IN_FLIGHT = 2;

/**
 * Calls to a worker thread, answered in the order made. Only a few are with the worker at a time, so that the arguments of the
 * others are not copied yet. An idle worker does not keep the process alive.
 */
export class WorkerChannel {
  readonly #worker: Worker;
  readonly #what: string;
  readonly #waiting: Pending[] = [];
  readonly #running = new Map<number, Pending>();
  #next = 0;
  #failure: Error | undefined;
  #disposing: Promise<void> | undefined;

  /** `what` names the owner in messages, 'the session' for one. */
  constructor(worker: Worker, what: string) {
    this.#worker = worker;
    this.#what = what;
    worker.on('message', (reply: ChannelReply) => this.#settle(reply));
    worker.on('error', (error) => this.#fail(error instanceof Error ? error : new Error(String(error))));
    worker.on('exit', () => this.#fail(new CidError('INTERNAL', `The thread of ${what} ended`)));
    worker.unref();
  }

  call<T>(method: string, argument: unknown, transfer: readonly Transferable[] = []): Promise<T> {
    if (this.#disposing) {
      return Promise.reject(new CidError('DISPOSED', `Use of ${this.#what} after it was disposed of`));
    }
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise<T>((resolve, reject) => {
      const call = { id: this.#next++, method, argument };
      this.#waiting.push({ call, transfer, resolve: resolve as (result: unknown) => void, reject });
      this.#send();
    });
  }

  /** Waits for the calls made, calls `dispose` of the worker, and ends it. Idempotent. */
  dispose(): Promise<void> {
    if (!this.#disposing) {
      const last = this.#failure ? Promise.resolve() : this.call<void>('dispose', undefined);
      this.#disposing = last
        .catch(() => undefined)
        .then(async () => {
          await this.#worker.terminate();
        });
    }
    return this.#disposing;
  }

  #send(): void {
    while (this.#waiting.length > 0 && this.#running.size < IN_FLIGHT) {
      const pending = this.#waiting.shift()!;
      this.#running.set(pending.call.id, pending);
      this.#worker.ref();
      try {
        this.#worker.postMessage(pending.call, pending.transfer);
      } catch (error) {
        this.#running.delete(pending.call.id);
        pending.reject(error as Error);
      }
    }
    if (this.#running.size === 0) this.#worker.unref();
  }

  #settle(reply: ChannelReply): void {
    const pending = this.#running.get(reply.id);
    if (!pending) return;
    this.#running.delete(reply.id);
    if (reply.error) pending.reject(toError(reply.error));
    else pending.resolve(reply.result);
    this.#send();
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const pending of [...this.#running.values(), ...this.#waiting]) pending.reject(this.#failure);
    this.#running.clear();
    this.#waiting.length = 0;
  }
}

function toError({ code, name, message }: NonNullable<ChannelReply['error']>): Error {
  if (code !== undefined) return new CidError(code, message);
  if (name === 'TypeError') return new TypeError(message);
  if (name === 'RangeError') return new RangeError(message);
  return new CidError('INTERNAL', message);
}
