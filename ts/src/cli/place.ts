import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import type { Config } from '../cid/config.ts';
import type { Device } from '../native/devices.ts';
import { openRun, type Run, readRunRecord, type StageName } from '../run/folder.ts';
import type { Json } from '../run/hash.ts';
import type { StageSettings } from '../run/settings.ts';
import { requireStage, type StageResult } from '../run/stage.ts';
import { type CommonFlags, configOf, type Session, UsageError } from './common.ts';

/** Where a command of one stage works: in a run folder, or in a folder of its own. */
export interface Place {
  readonly config: Config;
  /** Folder of the stage. */
  readonly folder: string;
  /** The run folder, when there is one. */
  readonly run: Run | undefined;
  settings(session: Session): StageSettings;
  /**
   * Folder of an earlier stage, or a file in it: what a flag names, or else the run's, which must be done; `undefined` when there
   * is neither.
   */
  earlier(stage: StageName, flag: string | undefined, file?: string): Promise<string | undefined>;
  /** Prints how the stage ended, and lets the run remember its configuration. */
  finish(session: Session, result: StageResult): Promise<void>;
  dispose(): Promise<void>;
}

/**
 * Settles configuration and folder of a stage's command. In a run folder, what earlier commands said of the run (data, teacher,
 * seed, …) is remembered in its `run.json`, and a configuration file and flags are laid over that.
 */
export async function openPlace(
  stage: StageName,
  flags: CommonFlags,
  overrides: Record<string, unknown>,
): Promise<Place> {
  if ((flags.run === undefined) === (flags.out === undefined)) {
    throw new UsageError(
      `Expected either --run DIR or --out DIR but received ${flags.run === undefined ? 'neither' : 'both'}`,
    );
  }
  const before = flags.run === undefined ? undefined : (await readRunRecord(flags.run))?.config;
  const config = await configOf(flags, overrides, before);
  const run = flags.run === undefined ? undefined : await openRun(flags.run);
  const folder = run ? run.stage(stage) : resolve(flags.out!);
  return {
    config,
    folder,
    run,
    settings: ({ existing, signal, onProgress, log }) => ({
      folder,
      existing,
      device: config.device as Device,
      threads: config.threads,
      maxMemory: config.maxMemory,
      maxDeviceMemory: config.maxDeviceMemory,
      signal,
      onProgress,
      log,
    }),
    earlier: async (name, flag, file = '') => {
      if (flag !== undefined) return resolve(flag);
      if (!run) return undefined;
      await requireStage(run.stage(name), name);
      return join(run.stage(name), file);
    },
    finish: async (session, result) => {
      await run?.remember(config as Json, config.seed);
      printStage(session, folder, result);
    },
    dispose: async () => run?.dispose(),
  };
}

/** Adds the flags that name a data set. */
export function sourceFlags(command: Command): Command {
  return command
    .option(
      '--data <source>',
      'images with captions: a list (.jsonl, .csv, .tsv, .parquet; fields such as image and caption), a folder (photo.jpg with its caption in photo.txt), or WebDataset tars',
    )
    .option(
      '--image-field <name>',
      'field of a list that names the image (default: found by its usual names)',
    )
    .option(
      '--caption-field <name>',
      'field of a list that holds the caption (default: found by its usual names)',
    );
}

/** Prints how a stage ended. */
export function printStage(session: Session, folder: string, { manifest, skipped }: StageResult): void {
  const { stage, summary } = manifest;
  const state = skipped ? 'was done already' : 'done';
  const facts = Object.entries(summary).map(([name, value]) => `  ${name}: ${show(value)}`);
  session.print(
    { stage, status: skipped ? 'skipped' : 'done', folder, ...summary },
    [`${stage}: ${state}, in ${folder}`, ...facts].join('\n'),
  );
}

function show(value: Json): string {
  if (typeof value === 'number')
    return Number.isInteger(value) ? value.toLocaleString('en-US') : String(+value.toPrecision(6));
  if (typeof value !== 'object' || value === null) return String(value);
  return Object.entries(value)
    .map(([name, field]) => `${name} ${show(field as Json)}`)
    .join(', ');
}
