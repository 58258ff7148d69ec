import { existsSync } from 'node:fs';
import { readdir, rename, rm, stat } from 'node:fs/promises';
import { join, relative, resolve, sep } from 'node:path';
import { CidError } from '../native/errors.ts';
import { packageVersion } from '../native/loader.ts';
import { makeFolder, readError, readJson, removeTemporaries, writeError, writeJson } from './files.ts';
import { hashFile, type Json, stableJson } from './hash.ts';
import { lockFolder } from './lock.ts';

/** A file that a stage made: path relative to its folder, with '/' between the parts. */
export interface StageOutput {
  path: string;
  bytes: number;
  /** Milliseconds; while size and time are those noted here, the hash is taken as it stands. */
  modified: number;
  /** SHA-256, hex. */
  hash: string;
}

/** `manifest.json` of a stage's folder. */
export interface StageManifest {
  version: 1;
  /** Version of this package that made it. */
  package: string;
  stage: string;
  status: 'running' | 'done';
  /** Hash of each input, by name. */
  inputs: Record<string, string>;
  /** Everything that shapes the result, as resolved. */
  options: Record<string, Json>;
  started: string;
  finished?: string;
  outputs: StageOutput[];
  /** What the stage says of itself: counts, scores. */
  summary: Record<string, Json>;
}

/**
 * What to do with results that are there already:
 * - `resume`: keep what matches, go on with what is unfinished, refuse what was made with other inputs or options;
 * - `replace-changed`: as `resume`, but what would be refused is made anew;
 * - `replace`: make anew in any case.
 */
export type Existing = 'resume' | 'replace-changed' | 'replace';

export interface StageContext {
  readonly folder: string;
  /** True when an earlier attempt with the same inputs and options was stopped, or lost outputs: its files may be gone on with. */
  readonly resumed: boolean;
}

export interface StageOptions {
  name: string;
  folder: string;
  inputs: Record<string, string>;
  /** All that shapes the result. What does not (device, threads of an operation that is exact, paths) stays out. */
  options: Record<string, Json>;
  /** Files and subfolders that the stage may write, relative to its folder: what is removed when it is made anew. */
  owns: readonly string[];
  /** Defaults to 'resume'. */
  existing?: Existing;
  log?: (line: string) => void;
  /**
   * Holds the options against the data, where there is work to do, and throws what is wrong with them: before anything is refused, moved or
   * written, so that nobody is sent for `--force` only to hear of the next mistake.
   */
  check?: () => Promise<void>;
  /** Does the work. Names the outputs, relative to the folder, those whose hash it knows with it; and the summary. */
  work: (context: StageContext) => Promise<StageWork>;
}

export interface StageWork {
  /** Files, or folders that stand for all files in them. */
  outputs: readonly (string | { path: string; hash: string })[];
  summary: Record<string, Json>;
}

export interface StageResult {
  /** True when everything was there already. */
  skipped: boolean;
  manifest: StageManifest;
}

/** Name of the record of a stage in its folder. */
export const STAGE_FILE = 'manifest.json';

/** Where, in the folder of a stage that is made anew, its earlier result waits until the new one is there. Nobody else's name. */
const EARLIER = '.clip-cid-earlier';

/**
 * Runs a stage, or what is left of it. With the same inputs and options a finished stage is skipped and a stopped one goes on;
 * with others it fails with `RUN_CHANGED`, which says what differs, unless `existing` allows to replace. The record is
 * written before the work starts and, with the outputs' hashes, after it ended: a stage that is killed is never taken for done.
 * A result that is replaced is removed when the new one is there, and comes back when the work ends before it has written anything.
 * The folder is locked meanwhile (`RUN_LOCKED`).
 */
export async function runStage(options: StageOptions): Promise<StageResult> {
  const lock = await lockFolder(options.folder);
  try {
    return await runLocked(options);
  } finally {
    await lock.release();
  }
}

async function runLocked(options: StageOptions): Promise<StageResult> {
  const { name, folder, inputs, existing = 'resume', log } = options;
  const settings = normalise(options.options);
  await removeTemporaries(folder);
  const found = await readBegun(options);
  let reasons = found ? compare(name, found, inputs, settings) : await foreignFiles(options);
  if (existing !== 'replace' && reasons.length === 0 && found?.status === 'done') {
    const { missing, edited } = await checkOutputs(folder, found.outputs);
    if (missing.length === 0 && edited.length === 0) return { skipped: true, manifest: found };
    if (edited.length === 0)
      log?.(`${name}: goes on, because ${missing.map((path) => `${path} is missing`).join('; ')}`);
    reasons = edited.map((path) => `${path} was changed after the stage had written it`);
  }
  const anew = existing === 'replace' || reasons.length > 0;
  const resumed = found !== undefined && !anew;
  await options.check?.();
  if (existing === 'resume' && anew) throw changed(name, folder, reasons);
  if (reasons.length > 0) log?.(`${name}: to be made anew, because ${reasons.join('; ')}`);
  if (anew) await putAside(options);

  const started: StageManifest = {
    version: 1,
    package: packageVersion,
    stage: name,
    status: 'running',
    inputs,
    options: settings,
    started: (resumed && found?.started) || new Date().toISOString(),
    outputs: [],
    summary: {},
  };
  await writeJson(join(folder, STAGE_FILE), started);
  const { outputs, summary } = await options.work({ folder, resumed }).catch(async (error: unknown) => {
    const back = await readBegun(options).catch(() => undefined);
    if (back && anew && !existsSync(join(folder, EARLIER))) {
      log?.(`${name}: what was there before is kept, since nothing came of the new one`);
    }
    throw error;
  });
  const manifest: StageManifest = {
    ...started,
    status: 'done',
    finished: new Date().toISOString(),
    outputs: await describeOutputs(folder, outputs),
    summary,
  };
  await writeJson(join(folder, STAGE_FILE), manifest);
  await remove(join(folder, EARLIER));
  return { skipped: false, manifest };
}

/** The record of what is there. None, or the earlier result's, where a stage failed or was stopped before it wrote anything. */
async function readBegun(options: StageOptions): Promise<StageManifest | undefined> {
  const { folder } = options;
  const earlier = join(folder, EARLIER);
  const record = await readStage(folder);
  if (record?.status === 'done') {
    // What was left when a process ended between the two last steps.
    await remove(earlier);
    return record;
  }
  // Without a record, what is here and what waits are parts of one result that was being moved when its process ended.
  if (record !== undefined && (await owned(options)).length > 0) return record;
  if (!existsSync(earlier)) return undefined;
  await remove(join(folder, STAGE_FILE));
  const waiting = await readdir(earlier);
  for (const name of waiting.filter((name) => name !== STAGE_FILE)) {
    await move(join(earlier, name), join(folder, name));
  }
  if (waiting.includes(STAGE_FILE)) await move(join(earlier, STAGE_FILE), join(folder, STAGE_FILE));
  await remove(earlier);
  return (await owned(options)).length > 0 ? readStage(folder) : undefined;
}

/** The record of a stage's folder, or undefined when there is none. Fails with `FILE_FORMAT` when it is something else. */
export async function readStage(folder: string): Promise<StageManifest | undefined> {
  const path = join(folder, STAGE_FILE);
  if (!existsSync(path)) return undefined;
  const value = (await readJson(path)) as Partial<StageManifest> | null;
  if (
    typeof value !== 'object' ||
    value === null ||
    value.version !== 1 ||
    typeof value.stage !== 'string' ||
    !Array.isArray(value.outputs)
  ) {
    throw new CidError('FILE_FORMAT', `${path} is not the record of a stage of clip-cid`);
  }
  return value as StageManifest;
}

/**
 * The record of a stage that another one builds on. Fails with `FILE_NOT_FOUND` when the stage was not run or is unfinished.
 */
export async function requireStage(folder: string, stage: string): Promise<StageManifest> {
  const found = await readStage(folder);
  if (!found)
    throw new CidError(
      'FILE_NOT_FOUND',
      `${folder} holds no result of ${stage}. Run clip-cid ${stage} first`,
    );
  if (found.stage !== stage)
    throw new CidError('FILE_FORMAT', `${folder} holds ${found.stage}, not ${stage}`);
  if (found.status !== 'done') {
    throw new CidError(
      'FILE_NOT_FOUND',
      `${stage} in ${folder} is unfinished. Run clip-cid ${stage} again to go on with it`,
    );
  }
  return found;
}

/** Hash of an output of a stage, as noted in its record. */
export function outputHash(manifest: StageManifest, path: string): string {
  const output = manifest.outputs.find((entry) => entry.path === path);
  if (!output) throw new CidError('FILE_FORMAT', `The record of ${manifest.stage} names no ${path}`);
  return output.hash;
}

// Through JSON once, so that an undefined field equals one that is not there.
function normalise(options: Record<string, Json>): Record<string, Json> {
  return JSON.parse(stableJson(options)) as Record<string, Json>;
}

function compare(
  stage: string,
  found: StageManifest,
  inputs: Record<string, string>,
  options: Record<string, Json>,
): string[] {
  if (found.stage !== stage) return [`the folder holds the results of ${found.stage}`];
  const differences: string[] = [];
  for (const name of union(found.inputs, inputs)) {
    if (found.inputs[name] === inputs[name]) continue;
    if (inputs[name] === undefined) differences.push(`it had the input ${name}`);
    else if (found.inputs[name] === undefined) differences.push(`it did not have the input ${name}`);
    else differences.push(`the input ${name} is another one or was changed`);
  }
  for (const name of union(found.options, options)) {
    const [before, now] = [show(found.options[name]), show(options[name])];
    if (before !== now) differences.push(`${name} was ${before} and is ${now}`);
  }
  return differences;
}

function union(a: object, b: object): string[] {
  return [...new Set([...Object.keys(a), ...Object.keys(b)])];
}

function show(value: Json | undefined): string {
  const text = value === undefined ? 'not set' : stableJson(value);
  return text.length <= 200 ? text : `${text.slice(0, 199)}…`;
}

/** What is there of the files that the stage writes. */
async function owned({ folder, owns }: StageOptions): Promise<string[]> {
  const names = await readdir(folder);
  return owns.filter((name) => names.includes(name));
}

// A folder that this program did not make is never written into by accident.
async function foreignFiles(options: StageOptions): Promise<string[]> {
  return (await owned(options)).map(
    (name) => `${name} is there, without a ${STAGE_FILE} that says how it was made`,
  );
}

function changed(stage: string, folder: string, differences: readonly string[]): CidError {
  return new CidError(
    'RUN_CHANGED',
    `${folder} holds another result of ${stage}: ${differences.join('; ')}. ` +
      'Use --force to replace it, or another folder',
  );
}

/** Puts what is there aside; what waits there already, from an attempt that came to nothing, is the better. */
async function putAside(options: StageOptions): Promise<void> {
  const { folder } = options;
  const earlier = join(folder, EARLIER);
  const keep = !existsSync(earlier);
  await makeFolder(earlier);
  // The record first: a result without one is known to be half moved.
  for (const name of [STAGE_FILE, ...(await owned(options))]) {
    const path = join(folder, name);
    if (!keep) await remove(path);
    else if (existsSync(path)) await move(path, join(earlier, name));
  }
}

async function move(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    throw writeError(to, error);
  }
}

async function remove(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true });
  } catch (error) {
    throw writeError(path, error);
  }
}

async function describeOutputs(folder: string, named: StageWork['outputs']): Promise<StageOutput[]> {
  const outputs: StageOutput[] = [];
  for (const entry of named) {
    const { path, hash } = typeof entry === 'string' ? { path: entry, hash: undefined } : entry;
    for (const file of await filesUnder(join(folder, path))) {
      const info = await stat(file);
      outputs.push({
        path: relative(resolve(folder), resolve(file)).split(sep).join('/'),
        bytes: info.size,
        modified: Math.floor(info.mtimeMs),
        hash: hash ?? (await hashFile(file)),
      });
    }
  }
  return outputs;
}

async function filesUnder(path: string): Promise<string[]> {
  try {
    if (!(await stat(path)).isDirectory()) return [path];
    const names = (await readdir(path)).sort();
    const nested = await Promise.all(names.map((name) => filesUnder(join(path, name))));
    return nested.flat();
  } catch (error) {
    throw readError(path, error);
  }
}

async function checkOutputs(
  folder: string,
  outputs: readonly StageOutput[],
): Promise<{ missing: string[]; edited: string[] }> {
  const missing: string[] = [];
  const edited: string[] = [];
  for (const output of outputs) {
    const path = join(folder, output.path);
    const info = await stat(path).catch(() => undefined);
    if (!info) missing.push(output.path);
    else if (info.size !== output.bytes) edited.push(output.path);
    else if (Math.floor(info.mtimeMs) !== output.modified && (await hashFile(path)) !== output.hash) {
      edited.push(output.path);
    }
  }
  return { missing, edited };
}
