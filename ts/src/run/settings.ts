import type { Device } from '../native/devices.ts';
import type { OnProgress } from './progress.ts';
import type { Existing } from './stage.ts';

/** What every stage takes beside its own options. */
export interface StageSettings {
  /** Where the results go: the stage's folder, with its `manifest.json`. */
  readonly folder: string;
  /** What to do with results that are there. Defaults to 'resume'. */
  readonly existing?: Existing | undefined;
  /** Where kernels and training run. Defaults to 'auto'. */
  readonly device?: Device | undefined;
  /** Threads for kernels, inference and decoding, 1 to 1,024. Defaults to the process's number. */
  readonly threads?: number | undefined;
  /** Bytes that a comparison may hold beyond its results. Defaults to what the device has to spare. */
  readonly maxMemory?: number | undefined;
  /** Bytes of a GPU's memory that a comparison, or training, may hold. Defaults to most of what is free. */
  readonly maxDeviceMemory?: number | undefined;
  /** Stops at the next safe point; the call then rejects with ABORTED, and the same call goes on from there. Defaults to none. */
  readonly signal?: AbortSignal | undefined;
  /** Told how far it is. Defaults to none. */
  readonly onProgress?: OnProgress | undefined;
  /** Notes for people: what is skipped, resumed, made anew. Defaults to none. */
  readonly log?: ((line: string) => void) | undefined;
}

/** An object without its undefined fields, for interfaces where a field is either there or not. */
export function defined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}
