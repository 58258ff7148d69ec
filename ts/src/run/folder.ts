import { existsSync } from 'node:fs';
import { arch, availableParallelism, cpus, platform, release } from 'node:os';
import { join, resolve } from 'node:path';
import { CidError } from '../native/errors.ts';
import { packageVersion } from '../native/loader.ts';
import { readJson, removeTemporaries, writeJson } from './files.ts';
import type { Json } from './hash.ts';
import { lockFolder } from './lock.ts';

/** Content of `run.json`. */
export interface RunRecord {
  version: 1;
  /** Version of this package. */
  package: string;
  /** Configuration with its defaults filled in, that of the stage that ended last. */
  config: Json;
  seed: number;
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

const RUN_FILE = 'run.json';

/** A run folder that this process has locked. */
export interface Run {
  /** Absolute. */
  readonly folder: string;
  /** Its `metrics.jsonl`. */
  readonly metrics: string;
  /** Folder of a stage. */
  stage(name: StageName): string;
  /** Writes `run.json`: called when a stage has ended, so that it never tells of options that were refused. */
  remember(config: Json, seed: number): Promise<void>;
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
  analyze: 'analysis',
} as const;

export type StageName = keyof typeof STAGE_FOLDERS;

/**
 * Locks a run folder, made when it is not there. Fails with `RUN_LOCKED` while another process works in it.
 */
export async function openRun(folder: string): Promise<Run> {
  const lock = await lockFolder(folder);
  const root = resolve(folder);
  try {
    await removeTemporaries(root);
    return {
      folder: root,
      metrics: join(root, 'metrics.jsonl'),
      stage: (name) => join(root, STAGE_FOLDERS[name]),
      remember: (config, seed) => writeRecord(root, config, seed),
      dispose: () => lock.release(),
    };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

/** The `run.json` of a folder, or undefined when there is none. Fails with `FILE_FORMAT` when it is something else. */
export async function readRunRecord(folder: string): Promise<RunRecord | undefined> {
  const path = join(folder, RUN_FILE);
  if (!existsSync(path)) return undefined;
  const value = (await readJson(path)) as Partial<RunRecord> | null;
  if (typeof value !== 'object' || value === null || value.version !== 1) {
    throw new CidError('FILE_FORMAT', `${path} is not the record of a run of clip-cid`);
  }
  return value as RunRecord;
}

async function writeRecord(folder: string, resolved: Json, seed: number): Promise<void> {
  // What a run may compute on is the machine's of the day, not the run's.
  const config =
    typeof resolved === 'object' && resolved !== null && !Array.isArray(resolved)
      ? Object.fromEntries(
          Object.entries(resolved).filter(
            ([name]) => !['device', 'threads', 'maxMemory', 'maxDeviceMemory'].includes(name),
          ),
        )
      : resolved;
  const before = await readRunRecord(folder);
  const now = new Date().toISOString();
  const record: RunRecord = {
    version: 1,
    package: packageVersion,
    config,
    seed,
    environment: environment(),
    started: before?.started ?? now,
    updated: now,
  };
  await writeJson(join(folder, RUN_FILE), record);
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
