import type { Device } from '../native/devices.ts';
import type { Json } from '../run/hash.ts';
import type { OnProgress } from '../run/progress.ts';
import type { Existing } from '../run/stage.ts';
import type { Config } from './config.ts';

/** What every stage takes beside its own options. */
export interface StageSettings {
  /** Where the results go: the stage's folder, with its `manifest.json`. */
  readonly folder: string;
  /** What to do with results that are there. Defaults to 'resume'. */
  readonly existing?: Existing | undefined;
  /** Defaults to 'auto'. */
  readonly device?: Device | undefined;
  /** Defaults to the process's number. */
  readonly threads?: number | undefined;
  /** Bytes that a comparison may hold beyond its results. Defaults to what the device has to spare. */
  readonly maxMemory?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
  /** Notes for people: what is skipped, resumed, made anew. */
  readonly log?: ((line: string) => void) | undefined;
}

/** An object without its undefined fields, for interfaces where a field is either there or not. */
export function defined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}

/**
 * The part of a model's options that shapes its embeddings, for a stage's record: the files that are used of its folder, where they
 * are named, and the providers, where they are not the CPU.
 */
export function encoderIdentity(encoder: Config['encoder'] = {}): { encoder?: Record<string, Json> } {
  const { providers = ['cpu'], ...files } = encoder;
  const decisive = defined({ ...files, ...(providers.join() === 'cpu' ? {} : { providers }) });
  return Object.keys(decisive).length === 0 ? {} : { encoder: decisive as Record<string, Json> };
}

/** The kernels' common options out of a stage's. */
export function kernelOptions(settings: StageSettings, label: string, unit?: string) {
  const { device, threads, maxMemory, signal, onProgress } = settings;
  return defined({
    device,
    threads,
    maxMemory,
    signal,
    onProgress:
      onProgress &&
      (({ done, total }: { done: number; total: number }) =>
        onProgress({ label, done, total, ...(unit === undefined ? {} : { unit }) })),
  });
}
