import { resolve } from 'node:path';
import type { Command } from 'commander';
import { type AestheticsConfig, parseAestheticsConfig } from '../../cskd/config.ts';
import type { PhaseOptions } from '../../cskd/run.ts';
import type { Device } from '../../native/devices.ts';
import { readRunRecord } from '../../run/folder.ts';
import { type CommonFlags, configWith, list, type Session, UsageError } from '../common.ts';
import { printStage, tellOf } from '../place.ts';
import type { Remembered } from '../remembered.ts';

/** Where a command works: in a run folder, or in a folder of its own. */
export interface AestheticsPlace {
  readonly config: AestheticsConfig;
  /** Whether `settings.folder` is a run folder. */
  readonly run: boolean;
  readonly settings: PhaseOptions;
}

/** Options of each command that its run remembers; images, models and encoders are the run's. */
const OWN: Readonly<Record<string, readonly string[]>> = {
  align: ['align', 'student', 'teacher', 'encoder', 'seed'],
  train: [
    ...['train', 'baselines', 'seed', 'labels.validation', 'labels.test'],
    ...['labels.count', 'labels.share', 'labels.splitSeed'],
  ],
  eval: ['eval', 'seed', 'labels.splitSeed'],
};

/**
 * Settles configuration and folder of a command; what earlier commands said of a run is remembered in its `run.json`.
 *
 * @param flags Those that count. Defaults to all of the command's.
 */
export async function openAesthetics(
  session: Session,
  command: Command,
  overrides: Record<string, unknown>,
  flags: CommonFlags = command.opts(),
): Promise<AestheticsPlace> {
  const { run, out } = flags;
  if ((run === undefined) === (out === undefined)) {
    throw new UsageError(
      `Expected either --run DIR or --out DIR but received ${run === undefined ? 'neither' : 'both'}`,
    );
  }
  if (flags.forget && run === undefined)
    throw new UsageError('Expected --run with --forget but received --out');
  const name = command.name();
  const remembered: Remembered | undefined =
    run === undefined
      ? undefined
      : {
          before: (await readRunRecord(run))?.config,
          own: OWN[name] ?? [],
          forget: flags.forget,
          command,
          tell: tellOf(name, session),
        };
  const config = await configWith(parseAestheticsConfig, flags, overrides, remembered);
  const { existing, signal, onProgress, log } = session;
  return {
    config,
    run: run !== undefined,
    settings: {
      folder: resolve(run ?? out!),
      existing,
      device: config.device as Device,
      threads: config.threads,
      maxDeviceMemory: config.maxDeviceMemory,
      signal,
      onProgress,
      log,
      onStage: (folder, result) => printStage(session, folder, result),
    },
  };
}

export interface ImageFlags {
  data?: string[];
  mix?: string[];
  imageField?: string;
}

/** Adds the flags that name images without labels. */
export function imageFlags(command: Command): Command {
  return command
    .option(
      '--data <source...>',
      'images without labels: folders, lists (.jsonl, .csv, .tsv, .parquet) or WebDataset tars',
    )
    .addOption(
      list('--mix <weights>', "shares of the sets of --data, such as '3,1' (default: every image once)"),
    )
    .option(
      '--image-field <name>',
      "field of a list that names the image (default: the first there is of 'image', 'path', 'file', …)",
    );
}

/** The flags as the configuration has them. */
export function imageSection({ data, mix, imageField }: ImageFlags): unknown {
  if (data === undefined) {
    if (mix === undefined) return undefined;
    throw new UsageError('Expected --data with --mix but received none');
  }
  const weights = mix?.map(Number);
  if (weights && (weights.length !== data.length || weights.some((weight) => !(weight > 0)))) {
    throw new UsageError(`Expected ${data.length} numbers over 0 for --mix but received ${mix!.join(',')}`);
  }
  return data.map((source, i) => ({
    data: source,
    ...(weights && { weight: weights[i] }),
    ...(imageField !== undefined && { imageField }),
  }));
}

/** What a list of rated images looks like. */
export const RATED_LISTS = `
A list of rated images has a row an image, with how often each score was given in columns named by the scores, or with a score (whose scale
is set in the section "labels" of a configuration file), and may say which images are for train, validation and test:
  image,split,1,2,3,4,5
  photos/1.jpg,train,0,2,7,9,3`;

export interface LabelFlags {
  labels?: string;
  labelCount?: number;
  labelShare?: number;
  splitSeed?: number;
}

export function labelSection({ labels, labelCount, labelShare, splitSeed }: LabelFlags): object {
  return { data: labels, count: labelCount, share: labelShare, splitSeed };
}

export interface LearnerFlags {
  backbone?: string;
  init?: string;
  features?: string;
  teacherBackbone?: string;
  teacherInit?: string;
}

/** Adds the flags that name encoders: the student's, which is the only one without a run folder, and the teacher's. */
export function learnerFlags(command: Command): Command {
  return command
    .option(
      '--backbone <name>',
      "the student's encoder: the image tower of 'mini-64', 'vit-b-32', … (sizes: clip-cid distill --help) (default: mini-64)",
    )
    .option('--init <path>', 'model folder or ONNX file to start from, instead of --backbone')
    .option(
      '--features <output>',
      "output of --init that holds its features (default: 'pooler_output', then 'image_embeds')",
    )
    .option('--teacher-backbone <name>', "the teacher's encoder, likewise")
    .option('--teacher-init <path>', 'model folder or ONNX file that the teacher starts from');
}

export function learnerSections(flags: LearnerFlags): { student: object; teacher: object } {
  const { backbone, init, features, teacherBackbone, teacherInit } = flags;
  return {
    student: { backbone, init: init && resolve(init), features },
    teacher: { backbone: teacherBackbone, init: teacherInit && resolve(teacherInit) },
  };
}
