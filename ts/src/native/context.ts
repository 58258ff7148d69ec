import type { NativeAddon, NativeContext } from './addon.ts';
import { expectFunction, expectInteger, expectObject, expectOneOf, failType } from './check.ts';
import { chooseDevice, type Device, threads } from './devices.ts';
import { abortError, CidError, type CidErrorCode } from './errors.ts';
import { loadAddon } from './loader.ts';

/** How far an operation is; `done` and `total` in a unit of its own, such as tiles or rows. */
export interface KernelProgress {
  readonly done: number;
  readonly total: number;
}

/** Options that every operation of the native core takes. */
export interface KernelOptions {
  /** Defaults to `'auto'`. */
  readonly device?: Device;
  /** Threads of this call on the CPU, 1 to 1,024. Defaults to the process's number. Results do not depend on it. */
  readonly threads?: number;
  /**
   * Bytes that the call may hold beyond its inputs in memory and its results, at least 16 MiB; with file-backed rows it works through
   * them in blocks that fit. Defaults to what the device has to spare. Results do not depend on it.
   */
  readonly maxMemory?: number;
  /**
   * Bytes of a GPU's memory that the call may hold, matrices that were uploaded left out, at least 1 MiB; rows that do not fit are copied there block by block
   * while others are worked on. Defaults to nine tenths of what is free. Results do not depend on it.
   */
  readonly maxDeviceMemory?: number;
  /**
   * Precision of the filter in front of the exact decision: `'float32'`, `'bfloat16'` or `'int8'`. Results do not depend on it, time does.
   * Defaults to what is expected to be fastest on a sample of the rows; a processor that lacks one takes the next more precise.
   */
  readonly filter?: 'auto' | 'float32' | 'bfloat16' | 'int8';
  /**
   * Leading coordinates that the filter compares after a rotation that gathers the rows' variation there; 0 for all of them. Results do not
   * depend on it. Defaults to the fastest on a sample.
   */
  readonly prefix?: number;
  /** Stops the work soon after it aborts; the call then rejects with a CidError ABORTED. */
  readonly signal?: AbortSignal;
  /** Called at most about ten times a second. An error thrown in it stops the work, and the call rejects with it. */
  readonly onProgress?: (progress: KernelProgress) => void;
}

/** Names of {@link KernelOptions}, for the check of option objects. */
export const KERNEL_OPTIONS: readonly string[] = [
  'device',
  'threads',
  'maxMemory',
  'maxDeviceMemory',
  'filter',
  'prefix',
  'signal',
  'onProgress',
];

const FILTERS = ['auto', 'float32', 'bfloat16', 'int8'] as const;
const LEAST_MEMORY = 16 * 2 ** 20;
const LEAST_DEVICE_MEMORY = 2 ** 20;

/**
 * Runs one call of the native core: checks the common options, chooses the device, ties the signal to the core's cancel
 * flag, and turns what the core rejects with into a CidError.
 *
 * @param seed Seed of the counter-based generator, 0 to 2^53 − 1; 0 for work without randomness.
 */
export async function runNative<T>(
  options: KernelOptions,
  seed: number,
  work: (addon: NativeAddon, context: NativeContext) => Promise<T>,
): Promise<T> {
  const { signal, onProgress } = options;
  const count =
    options.threads === undefined ? threads() : expectInteger('threads', options.threads, 1, 1024);
  expectInteger('seed', seed);
  const { maxMemory, maxDeviceMemory, prefix } = options;
  if (maxMemory !== undefined) expectInteger('maxMemory', maxMemory, LEAST_MEMORY);
  if (maxDeviceMemory !== undefined) expectInteger('maxDeviceMemory', maxDeviceMemory, LEAST_DEVICE_MEMORY);
  const filter = expectOneOf('filter', options.filter ?? 'auto', FILTERS);
  if (prefix !== undefined) expectInteger('prefix', prefix, 0, 65_536);
  if (signal !== undefined && !(signal instanceof AbortSignal)) failType('an AbortSignal', 'signal', signal);
  if (onProgress !== undefined) expectFunction('onProgress', onProgress);
  const { device } = chooseDevice(options.device);
  if (signal?.aborted) throw abortError();

  const cancel = new Int32Array(1);
  const stop = () => Atomics.store(cancel, 0, 1);
  // An exception may not leave a callback that the core makes: there is nobody above it to catch it.
  let thrown: { error: unknown } | undefined;
  const progress = (done: number, total: number) => {
    if (thrown !== undefined) return;
    try {
      onProgress!({ done, total });
    } catch (error) {
      thrown = { error };
      stop();
    }
  };

  signal?.addEventListener('abort', stop, { once: true });
  try {
    const result = await work(loadAddon(), {
      device,
      threads: count,
      seed,
      cancel,
      ...(maxMemory === undefined ? {} : { maxMemory }),
      ...(maxDeviceMemory === undefined ? {} : { maxDeviceMemory }),
      ...(filter === 'auto' ? {} : { filter }),
      ...(prefix === undefined ? {} : { prefix }),
      ...(onProgress === undefined ? {} : { progress }),
    });
    if (thrown !== undefined) throw thrown.error;
    return result;
  } catch (error) {
    if (thrown !== undefined) throw thrown.error;
    throw fromNative(error);
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** Checks that options are an object without names that nobody knows. */
export function expectOptions(name: string, options: unknown, keys: readonly string[]): void {
  expectObject(name, options, [...keys, ...KERNEL_OPTIONS]);
}

/** An error of the core as a CidError with a stack of this call; misuse that the core found stays what it is. */
export function fromNative(error: unknown): unknown {
  if (error instanceof CidError || error instanceof TypeError || error instanceof RangeError) return error;
  if (!(error instanceof Error)) return new CidError('INTERNAL', String(error));
  const { code } = error as { code?: string };
  return new CidError((code ?? 'INTERNAL') as CidErrorCode, error.message, { cause: error });
}
