import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import type { Config } from '../cid/config.ts';
import { CAPTION_FIELDS, IMAGE_FIELDS } from '../data/fields.ts';
import type { Device } from '../native/devices.ts';
import { openRun, type Run, readRunRecord, STAGE_FOLDERS, type StageName } from '../run/folder.ts';
import type { Json } from '../run/hash.ts';
import { words } from '../run/progress.ts';
import type { StageSettings } from '../run/settings.ts';
import { requireStage, type StageResult } from '../run/stage.ts';
import { type CommonFlags, configOf, type Session, UsageError } from './common.ts';
import type { Remembered } from './remembered.ts';

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

/** Options of each stage's command that its run remembers; data and models are the run's for all stages. */
const OWN: Partial<Record<StageName, readonly string[]>> = {
  embed: ['embed', 'encoder', 'imageField', 'captionField'],
  balance: ['balance', 'seed'],
  cluster: ['cluster', 'seed'],
  distill: ['distill', 'seed'],
  pretrain: ['pretrain', 'imageField', 'captionField', 'seed'],
  eval: ['eval', 'seed'],
};

/** What a stage's command takes over from its run folder; nothing without one. */
export async function rememberedBy(
  stage: StageName,
  session: Session,
  command: Command,
): Promise<Remembered | undefined> {
  const { run, forget } = command.opts<CommonFlags>();
  if (run === undefined) return undefined;
  const before = (await readRunRecord(run))?.config;
  return { before, own: OWN[stage] ?? [], forget, command, tell: tellOf(stage, session) };
}

/** Says on standard error what is taken over, and how to leave it behind. */
export function tellOf(stage: string, { log }: Session): Remembered['tell'] {
  return (options) =>
    log(`${stage}: ${options.join(', ')}, as in the run before; --forget goes back to the defaults`);
}

/**
 * Settles configuration and folder of a stage's command. In a run folder, what earlier commands said of the run (data, teacher,
 * seed, …) is remembered in its `run.json`, and a configuration file and flags are laid over that.
 */
export async function openPlace(
  stage: StageName,
  session: Session,
  command: Command,
  overrides: Record<string, unknown>,
): Promise<Place> {
  const flags = command.opts<CommonFlags>();
  if ((flags.run === undefined) === (flags.out === undefined)) {
    throw new UsageError(
      `Expected either --run DIR or --out DIR but received ${flags.run === undefined ? 'neither' : 'both'}`,
    );
  }
  if (flags.forget && flags.run === undefined)
    throw new UsageError('Expected --run with --forget but received --out');
  const config = await configOf(flags, overrides, await rememberedBy(stage, session, command));
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
      await warnIfStale(session, stage, run, name);
      return join(run.stage(name), file);
    },
    finish: async (session, result) => {
      await run?.remember(config as Json, config.seed);
      printStage(session, folder, result);
    },
    dispose: async () => run?.dispose(),
  };
}

/** A stage over one that is out of date itself is hardly what was meant. */
async function warnIfStale({ log }: Session, stage: StageName, run: Run, earlier: StageName): Promise<void> {
  const { describeStale, staleStages } = await import('../report/stale.ts');
  const found = (await staleStages(run.folder)).find(({ folder }) => folder === STAGE_FOLDERS[earlier]);
  if (found) log(`${stage}: warning: ${describeStale(found)}`);
}

/** What a teacher is, and what a student becomes. */
export const MODEL_FOLDER = `
A model folder has config.json, preprocessor_config.json, tokenizer.json, tokenizer_config.json, and onnx/vision_model.onnx with
onnx/text_model.onnx, or onnx/model.onnx with both: a CLIP as it is exported for transformers.js. A student is such a folder too.`;

const LISTS = `
A list has an image a row: its path, relative to the list or as file.tar#member, and its caption. Other fields, such as label or category,
are kept, and models can be measured by them. A line of a .jsonl, and the head and a line of a .csv (.tsv has tabs instead of commas):
  {"image": "photos/1.jpg", "caption": "a dog on a beach", "category": "animals"}
  image,caption,category
  photos/1.jpg,a dog on a beach,animals`;

/** Adds the flags that name a data set. */
export function sourceFlags(command: Command): Command {
  return command
    .option(
      '--data <source>',
      'images with captions: a list (.jsonl, .csv, .tsv, .parquet; see below), a folder (photo.jpg with its caption in photo.txt), or WebDataset tars',
    )
    .option(
      '--image-field <name>',
      `field of a list that names the image (default: the first there is of ${IMAGE_FIELDS.join(', ')})`,
    )
    .option(
      '--caption-field <name>',
      `field of a list that holds the caption (default: the first there is of ${CAPTION_FIELDS.join(', ')})`,
    )
    .addHelpText('after', LISTS);
}

/** Prints how a stage ended. */
export function printStage(session: Session, folder: string, { manifest, skipped }: StageResult): void {
  const { stage, summary } = manifest;
  const state = skipped ? 'was done already' : 'done';
  const facts = Object.entries(summary).flatMap(([name, value]) => {
    // How fast it was has been said while it ran.
    if (name === 'speed') return [];
    return `  ${words(name)}: ${name === 'model' ? join(folder, String(value)) : show(value)}`;
  });
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
    .map(([name, field]) => `${words(name)} ${show(field as Json)}`)
    .join(', ');
}
