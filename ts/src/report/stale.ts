import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { SCORES_FOLDER } from '../cskd/summary.ts';
import { openStore } from '../data/store.ts';
import { hashModel } from '../encoder/identity.ts';
import { readRunRecord, STAGE_FOLDERS } from '../run/folder.ts';
import { readStage, type StageManifest } from '../run/stage.ts';

/** A stage whose result is of other inputs than those that the run now has. */
export interface StaleStage {
  /** Its folder in the run. */
  readonly folder: string;
  /** Why, in a few words each. */
  readonly reasons: readonly string[];
  /** The command that makes it anew. */
  readonly command: string;
}

/** What a stage took in: from another stage of the run, or the model that the run's configuration names. */
type Source =
  | { readonly stage: string; readonly what: 'store' | 'model' | 'teacher-model' | { readonly file: string } }
  | { readonly configured: 'teacher' | 'clip' };

/** The aligned encoder that training starts from is identified by its image side. */
const ENCODER = { file: 'model/onnx/vision_model.onnx' } as const;

/**
 * Stages of a run that are done, but with inputs that have been made anew or changed since, or whose inputs are such: a student of an earlier
 * clustering, for one. Compares the hashes in the stages' records with what is there; images and lists outside of the run are not read.
 * In the order of the work.
 */
export async function staleStages(runFolder: string): Promise<StaleStage[]> {
  const stages = await readStages(runFolder);
  const config = (await readRunRecord(runFolder))?.config as Readonly<Record<string, unknown>> | undefined;
  const hashes = new Map<string, Promise<string | undefined>>();
  const once = (key: string, make: () => Promise<string | undefined>) => {
    const known = hashes.get(key) ?? make().catch(() => undefined);
    hashes.set(key, known);
    return known;
  };
  const hashOf = (source: Source): Promise<string | undefined> => {
    if ('configured' in source) {
      const path = config?.[source.configured];
      return once(source.configured, async () => (typeof path === 'string' ? hashModel(path) : undefined));
    }
    const { stage, what } = source;
    if (typeof what === 'object') {
      const { outputs } = stages.get(stage)!;
      return Promise.resolve(outputs.find(({ path }) => path === what.file)?.hash);
    }
    const folder = join(runFolder, stage);
    return once(`${stage}/${what}`, async () =>
      what === 'store' ? (await openStore(folder, { verify: false })).hash : hashModel(join(folder, what)),
    );
  };

  // What is not there, or cannot be read, tells nothing.
  const differs = async (source: Source, hash: string): Promise<boolean> => {
    const now = await hashOf(source);
    return now !== undefined && now !== hash;
  };

  const found = new Map<string, string[]>();
  const reasonsOf = async (folder: string): Promise<string[]> => {
    const known = found.get(folder);
    if (known) return known;
    const reasons: string[] = [];
    found.set(folder, reasons);
    const manifest = stages.get(folder);
    if (manifest?.status !== 'done') return reasons;
    for (const [input, hash] of Object.entries(manifest.inputs ?? {})) {
      const source = sourceOf(folder, input, runFolder);
      if (source === undefined) continue;
      if ('configured' in source) {
        if (await differs(source, hash))
          reasons.push(`the ${source.configured} is another one now, or was changed`);
        continue;
      }
      const { stage } = source;
      const maker = stages.get(stage);
      if (maker === undefined) continue;
      if (maker.status !== 'done') reasons.push(`${stage} is being made anew, and unfinished`);
      else if (await differs(source, hash)) reasons.push(`${stage} was made anew since`);
      else if ((await reasonsOf(stage)).length > 0) reasons.push(`${stage} is out of date itself`);
    }
    found.set(folder, [...new Set(reasons)]);
    return found.get(folder)!;
  };
  const stale: StaleStage[] = [];
  for (const folder of stages.keys()) {
    const reasons = await reasonsOf(folder);
    if (reasons.length > 0) stale.push({ folder, reasons, command: commandOf(folder, runFolder) });
  }
  return stale.sort((a, b) => rank(a.folder) - rank(b.folder) || (a.folder < b.folder ? -1 : 1));
}

/** In a line: what is out of date, why, and what helps. */
export function describeStale({ folder, reasons, command }: StaleStage): string {
  return `${folder} is out of date: ${reasons.join('; ')}. To make it anew: ${command}`;
}

async function readStages(runFolder: string): Promise<Map<string, StageManifest>> {
  const stages = new Map<string, StageManifest>();
  for (const entry of await readdir(runFolder, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const manifest = await readStage(join(runFolder, entry.name)).catch(() => undefined);
    if (manifest) stages.set(entry.name, manifest);
  }
  return stages;
}

/** Where a stage's input comes from; undefined for what lies outside of the run. */
function sourceOf(folder: string, input: string, runFolder: string): Source | undefined {
  const [, scorer] = /^scorer-(.+)$/.exec(folder) ?? [];
  const [pseudo, plain = ''] = /^pseudo(-plain)?-\d+$/.exec(folder) ?? [];
  const aligned = /^align-(teacher|student)$/.test(folder);
  switch (input) {
    case 'embeddings':
      return { stage: STAGE_FOLDERS.embed, what: 'store' };
    case 'kept':
      return { stage: STAGE_FOLDERS.balance, what: { file: 'kept.jsonl' } };
    case 'centroids':
      return { stage: STAGE_FOLDERS.cluster, what: { file: 'centroids.npy' } };
    case 'labels':
      // Of a scorer these are people's.
      return isStudent(folder) ? { stage: STAGE_FOLDERS.cluster, what: { file: 'labels.npy' } } : undefined;
    case 'model':
      if (folder === STAGE_FOLDERS.embed) return { configured: 'teacher' };
      if (pseudo !== undefined) return scorerModel(`teacher${plain}`, runFolder);
      return folder.startsWith('features-') ? { configured: 'clip' } : undefined;
    case 'clip':
      return aligned ? { configured: 'clip' } : undefined;
    case 'init':
      if (scorer === 'student' || scorer === 'aligned') return { stage: 'align-student', what: ENCODER };
      return scorer === 'teacher' ? { stage: 'align-teacher', what: ENCODER } : undefined;
    case 'teacher-init':
      return scorer === 'student' ? { stage: 'align-teacher', what: ENCODER } : undefined;
  }
  if (folder === SCORES_FOLDER) return scorerModel(input, runFolder);
  if (input === 'teacher') {
    if (isStudent(folder) || folder === STAGE_FOLDERS.eval) return { configured: 'teacher' };
    if (scorer !== undefined)
      return scorerModel(scorer === 'unlabelled' ? 'teacher-plain' : 'teacher', runFolder);
  }
  if (aligned && /^features-\d+$/.test(input)) return { stage: input, what: 'store' };
  if (scorer !== undefined && /^pseudo-\d+$/.test(input)) {
    const stage = scorer === 'unlabelled' ? input.replace('-', '-plain-') : input;
    return { stage, what: 'store' };
  }
  const stage =
    folder === STAGE_FOLDERS.eval
      ? EVALUATED[input]
      : folder === STAGE_FOLDERS.analyze
        ? /^after-(teacher|student)$/.exec(input)?.[0].replace('after', 'align')
        : undefined;
  return stage === undefined ? undefined : { stage, what: 'model' };
}

const isStudent = (folder: string) => folder === STAGE_FOLDERS.distill || folder === STAGE_FOLDERS.baseline;

/** Folders of the students by the names that they have in an evaluation. */
export const EVALUATED: Readonly<Record<string, string>> = {
  student: STAGE_FOLDERS.distill,
  baseline: STAGE_FOLDERS.baseline,
  pretrained: STAGE_FOLDERS.pretrain,
};

/** A teacher may have been trained beside its student, in whose folder it then is. */
function scorerModel(name: string, runFolder: string): Source {
  const student =
    name === 'teacher' ? 'scorer-student' : name === 'teacher-plain' ? 'scorer-unlabelled' : undefined;
  if (student !== undefined && existsSync(join(runFolder, student, 'teacher-model')))
    return { stage: student, what: 'teacher-model' };
  return { stage: `scorer-${name}`, what: 'model' };
}

/** Folders in the order of the work, with the commands that make them. */
const COMMANDS: readonly (readonly [folder: RegExp, command: string])[] = [
  [/^embeddings$/, 'embed'],
  [/^balance$/, 'balance'],
  [/^cluster$/, 'cluster'],
  [/^pretrain$/, 'pretrain'],
  [/^student$/, 'distill'],
  // Only a configuration says what the second student has otherwise.
  [/^baseline$/, 'run CONFIG'],
  [/^eval$/, 'eval'],
  [/^(features|align)-/, 'aesthetics align'],
  [/^scorer-teacher/, 'aesthetics train'],
  [/^(pseudo|scorer)-/, 'aesthetics train'],
  [/^scores$/, 'aesthetics eval'],
  [/^analysis$/, 'aesthetics analyze'],
];

function rank(folder: string): number {
  const place = COMMANDS.findIndex(([pattern]) => pattern.test(folder));
  return place < 0 ? COMMANDS.length : place;
}

function commandOf(folder: string, runFolder: string): string {
  const command = COMMANDS[rank(folder)]?.[1] ?? folder;
  const place = /^[\w./-]+$/.test(runFolder) ? runFolder : `'${runFolder.replaceAll("'", `'\\''`)}'`;
  return `clip-cid ${command} --run ${place} --force`;
}
