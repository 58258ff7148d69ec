import { existsSync } from 'node:fs';
import { arch, availableParallelism, cpus, platform, release } from 'node:os';
import { join, resolve } from 'node:path';
import { packageVersion } from '../native/loader.ts';
import { readJson, removeTemporaries, writeJson } from './files.ts';
import type { Json } from './hash.ts';
import { type Lock, lockFolder } from './lock.ts';

/** Content of `run.json`. */
export interface RunRecord {
  version: 1;
  /** Version of this package. */
  package: string;
  /** Configuration of the whole run with its defaults filled in; absent when stages were run one by one. */
  config?: Json;
  seed?: number;
  environment: Environment;
  started: string;
  updated: string;
}

/** The machine and the programs that made a result. */
export interface Environment {
  node: string;
  platform: string;
  release: string;
  arch: string;
  cpu: string;
  cores: number;
}

/** A run folder that this process has locked. */
export interface Run {
  /** Absolute. */
  readonly folder: string;
  /** Its `metrics.jsonl`. */
  readonly metrics: string;
  /** Folder of a stage. */
  stage(name: StageName): string;
  /** Releases the lock. Idempotent. */
  dispose(): Promise<void>;
}

/** Stages and their folders in a run folder. */
export const STAGE_FOLDERS = {
  embed: 'embeddings',
  balance: 'balance',
  cluster: 'cluster',
  distill: 'student',
  baseline: 'baseline',
  pretrain: 'pretrain',
  eval: 'eval',
} as const;

export type StageName = keyof typeof STAGE_FOLDERS;

export interface OpenRunOptions {
  config?: Json;
  seed?: number;
}

/**
 * Locks a run folder (made when it is not there) and writes its `run.json`; a configuration that is not given stays as it was.
 * Fails with `RUN_LOCKED` while another process works in it.
 */
export async function openRun(folder: string, options: OpenRunOptions = {}): Promise<Run> {
  const lock: Lock = await lockFolder(folder);
  try {
    await removeTemporaries(folder);
    const path = join(folder, 'run.json');
    const before = existsSync(path) ? ((await readJson(path)) as Partial<RunRecord>) : {};
    const now = new Date().toISOString();
    const config = options.config ?? before.config;
    const seed = options.seed ?? before.seed;
    const record: RunRecord = {
      version: 1,
      package: packageVersion,
      ...(config === undefined ? {} : { config }),
      ...(seed === undefined ? {} : { seed }),
      environment: environment(),
      started: before.started ?? now,
      updated: now,
    };
    await writeJson(path, record);
  } catch (error) {
    await lock.release();
    throw error;
  }
  const root = resolve(folder);
  return {
    folder: root,
    metrics: join(root, 'metrics.jsonl'),
    stage: (name) => join(root, STAGE_FOLDERS[name]),
    dispose: () => lock.release(),
  };
}

export function environment(): Environment {
  return {
    node: process.version,
    platform: platform(),
    release: release(),
    arch: arch(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
  };
}
