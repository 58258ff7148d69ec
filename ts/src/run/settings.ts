import type { Device } from '../native/devices.ts';
import type { OnProgress } from './progress.ts';
import type { Existing } from './stage.ts';

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
  /** Bytes of a GPU's memory that a comparison, or training, may hold. Defaults to most of what is free. */
  readonly maxDeviceMemory?: number | undefined;
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
