import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { BalanceReport } from '../cid/balance.ts';
import type { ClusterReport } from '../cid/cluster.ts';
import { type NamedScores, readScores, SCORERS, SCORES_FOLDER, scorerFolder } from '../cskd/summary.ts';
import type { ModelAnalysis } from '../eval/analyze.ts';
import type { EvaluateResult } from '../eval/types.ts';
import { CidError } from '../native/errors.ts';
import { readJson } from '../run/files.ts';
import type { RunRecord } from '../run/folder.ts';
import { type MetricsRecord, readMetrics } from '../run/metrics.ts';
import { readStage, STAGE_FILE, type StageManifest } from '../run/stage.ts';
import type { NamedAnalysis } from './analysis.ts';
import { type StaleStage, staleStages } from './stale.ts';

/** An evaluated model under the name that it has in this run. */
export interface Evaluation {
  readonly name: string;
  readonly result: EvaluateResult;
}

/** Agreement of the groups with ones that are known: `eval/grouping.json`. */
export interface GroupingQuality {
  /** What counts as belonging together, in a sentence. */
  readonly title: string;
  readonly rows: readonly {
    readonly against: string;
    readonly precision: number;
    readonly recall: number;
    readonly f1: number;
    readonly grouped: number;
    readonly true: number;
    readonly both: number;
  }[];
}

/** Figures of scorers over several runs: `scores/spread.json`. */
export interface ScoreSpread {
  /** What the runs differ in, in a sentence. */
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly {
    readonly name: string;
    readonly values: readonly { readonly mean: number; readonly deviation: number }[];
  }[];
}

/** What a run folder holds; what is not there, or not finished, is undefined or empty. */
export interface RunContents {
  readonly run: RunRecord | undefined;
  /** In the order of {@link STAGES}, then by name. */
  readonly stages: readonly { readonly folder: string; readonly manifest: StageManifest }[];
  readonly balance: BalanceReport | undefined;
  readonly cluster: ClusterReport | undefined;
  readonly metrics: readonly MetricsRecord[];
  readonly evaluations: readonly Evaluation[];
  readonly grouping: GroupingQuality | undefined;
  readonly analyses: readonly NamedAnalysis[];
  readonly scores: readonly NamedScores[];
  readonly spread: ScoreSpread | undefined;
  /** Stages that are done, but of inputs that have changed since. */
  readonly stale: readonly StaleStage[];
}

const STAGES = [
  ...['embeddings', 'balance', 'cluster', 'pretrain', 'student', 'baseline', 'eval'],
  ...['align-teacher', 'align-student', ...SCORERS.map(scorerFolder), SCORES_FOLDER, 'analysis'],
];
/** Order of the models in tables: what is learned from first. */
const MODELS = ['teacher', 'student', 'baseline'];

/** Reads the results of a run. Fails with FILE_NOT_FOUND when there is no folder, and with FILE_FORMAT for a damaged file in it. */
export async function readRun(folder: string): Promise<RunContents> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => {
    throw new CidError('FILE_NOT_FOUND', `No such run folder: ${folder}`);
  });
  const folders = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  folders.sort((a, b) => rank(STAGES, a) - rank(STAGES, b) || (a < b ? -1 : 1));
  const stages: { folder: string; manifest: StageManifest }[] = [];
  for (const name of folders) {
    // A folder whose manifest.json is something else, such as the embedding store's, is no stage to list.
    const manifest = await readStage(join(folder, name)).catch(() => undefined);
    if (manifest) stages.push({ folder: name, manifest });
  }
  return {
    run: (await optional(join(folder, 'run.json'))) as RunRecord | undefined,
    stages,
    balance: (await optional(join(folder, 'balance', 'report.json'))) as BalanceReport | undefined,
    cluster: (await optional(join(folder, 'cluster', 'report.json'))) as ClusterReport | undefined,
    metrics: await readMetrics(join(folder, 'metrics.jsonl')),
    evaluations: await readEvaluations(join(folder, 'eval')),
    grouping: (await optional(join(folder, 'eval', 'grouping.json'))) as GroupingQuality | undefined,
    analyses: await readAnalyses(join(folder, 'analysis')),
    scores: await readScores(folder),
    spread: (await optional(join(folder, SCORES_FOLDER, 'spread.json'))) as ScoreSpread | undefined,
    stale: await staleStages(folder),
  };
}

async function readEvaluations(folder: string): Promise<Evaluation[]> {
  const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith('.json'));
  const found: Evaluation[] = [];
  for (const file of names) {
    const value = (await readJson(join(folder, file))) as Partial<EvaluateResult> | null;
    const isResult = typeof value?.model === 'object' && typeof value.data === 'object';
    if (isResult) found.push({ name: file.replace(/\.json$/, ''), result: value as EvaluateResult });
  }
  return found.sort((a, b) => rank(MODELS, a.name) - rank(MODELS, b.name) || (a.name < b.name ? -1 : 1));
}

/** What `clip-cid aesthetics analyze` wrote into a folder: models before alignment come first, then by name. */
export async function readAnalyses(folder: string): Promise<NamedAnalysis[]> {
  const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith('.json'));
  const found: NamedAnalysis[] = [];
  for (const file of names) {
    if (file === STAGE_FILE) continue;
    const value = (await readJson(join(folder, file))) as Partial<ModelAnalysis> | null;
    const isAnalysis = Array.isArray(value?.attention) && typeof value.embeddings === 'object';
    if (isAnalysis) found.push({ name: file.replace(/\.json$/, ''), analysis: value as ModelAnalysis });
  }
  const isLater = ({ name }: NamedAnalysis) => Number(!name.startsWith('before'));
  return found.sort((a, b) => isLater(a) - isLater(b) || (a.name < b.name ? -1 : 1));
}

function rank(order: readonly string[], name: string): number {
  const index = order.indexOf(name);
  return index < 0 ? order.length : index;
}

async function optional(path: string): Promise<unknown> {
  return existsSync(path) ? readJson(path) : undefined;
}
