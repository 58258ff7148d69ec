import { join } from 'node:path';
import { readNpy, writeNpy } from '../data/npy.ts';
import { openStore, type Store } from '../data/store.ts';
import {
  type BalanceOptions,
  type BalanceResult,
  type BalanceSummary,
  balance,
  summarizeBalance,
} from '../kernels/balance.ts';
import { CidError } from '../native/errors.ts';
import { type FileChunk, writeFileAtomic, writeJson } from '../run/files.ts';
import { hashFile } from '../run/hash.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import { identifyStore } from './inputs.ts';
import type { KeptItem } from './items.ts';
import { defined, kernelOptions, type StageSettings } from './stage.ts';

export interface BalanceStageOptions extends StageSettings {
  /** Folder of an embedding store, ours or clip-retrieval's; its images need not be at hand. */
  readonly embeddings: string;
  /** Two images are near-duplicates when the cosine of their embeddings is over this, −1 to 1. Either this or `keepRatio`. */
  readonly threshold?: number | undefined;
  /** Share of the images that should stay, over 0 and at most 1: the threshold follows from it. Defaults to 0.563, the paper's. */
  readonly keepRatio?: number | undefined;
  /** A share within this of `keepRatio` counts as reached. Defaults to 0.001. */
  readonly tolerance?: number | undefined;
  /** Which image of a group stays; 'random' by `seed`, 'best' by `scores`. Defaults to 'central'. */
  readonly keep?: KeepName | undefined;
  /** Of 'random'. Defaults to 0. */
  readonly seed?: number | undefined;
  /** Of 'best': an .npy file with a score for each embedding, float32 [N]; the highest of a group stays. */
  readonly scores?: string | undefined;
  /** Greatest cosine distance to the mean of a group, 0 to 2; groups that reach farther are split. Defaults to none. */
  readonly maxDiameter?: number | undefined;
  /** Bytes that the comparison may hold beyond its results. Defaults to what the device has to spare. */
  readonly maxMemory?: number | undefined;
}

/** Names of the keep policies. */
export type KeepName = 'central' | 'easy' | 'hard' | 'first' | 'best' | 'random';

/** How the threshold came about. */
export interface ThresholdRule {
  readonly kind: 'threshold' | 'keep-ratio';
  /** Cosine. */
  readonly threshold: number;
  /** In a sentence, for the report. */
  readonly text: string;
  /** Of 'keep-ratio': what was asked for, and whether it was reached. */
  readonly keepRatio?: number;
  readonly reached?: boolean;
}

/** A group of near-duplicates with its first members, for a gallery. */
export interface GroupSample {
  readonly label: number;
  readonly size: number;
  /** The kept one first, then by likeness to the mean of the group. */
  readonly members: readonly GroupMember[];
}

export interface GroupMember {
  readonly row: number;
  readonly kept: boolean;
  /** Cosine to the mean of the group. */
  readonly centrality: number;
  readonly key?: string;
  readonly image?: string;
  readonly caption?: string;
}

/** `report.json` of the stage. */
export interface BalanceReport extends BalanceSummary {
  readonly rule: ThresholdRule;
  /** How the pairs were filtered before the exact decision, in words. */
  readonly plan: string;
  /** What is left after each step, from the source to the kept items. */
  readonly funnel: readonly { readonly step: string; readonly items: number }[];
  /** Rows that are zero, NaN or infinite: each alone and kept. The first hundred. */
  readonly faultyRows: readonly number[];
  /** Largest groups first (ties: the smaller label). */
  readonly largestGroups: readonly GroupSample[];
}

/** Share of LAION400M that stays in CLIP-CID (arXiv 2408.09441). */
const KEEP_RATIO = 0.563;

const GROUPS = 48;
const MEMBERS = 24;
const OUTPUTS = ['groups.npy', 'keep.npy', 'kept.jsonl', 'report.json'] as const;

/**
 * Finds groups of near-duplicates in an embedding store and keeps the central item of each. Writes `groups.npy` (int32 [N], label of
 * a row's group), `keep.npy` (uint8 [N]), `kept.jsonl` (a line a kept item, see {@link KeptItem}) and `report.json`
 * ({@link BalanceReport}).
 */
export async function balanceStage(options: BalanceStageOptions): Promise<StageResult> {
  const { threshold, tolerance = 0.001 } = options;
  if (threshold !== undefined && options.keepRatio !== undefined) {
    throw new CidError(
      'INVALID_CONFIG',
      'Expected either a threshold (balance.threshold, --threshold) or a share to keep (balance.keepRatio, --keep-ratio) but received both',
    );
  }
  const keepRatio = options.keepRatio ?? KEEP_RATIO;
  const store = await identifyStore(options.embeddings);
  return runStage({
    name: 'balance',
    folder: options.folder,
    inputs: {
      embeddings: store.hash,
      ...(options.scores === undefined ? {} : { scores: await hashFile(options.scores) }),
    },
    options: {
      ...(threshold === undefined ? { keepRatio, tolerance } : { threshold }),
      ...choice(options),
    },
    owns: OUTPUTS,
    ...defined({ existing: options.existing, log: options.log }),
    work: async () => {
      // Damage that came after the store was written would quietly change the groups.
      await openStore(options.embeddings);
      if (store.rows === 0)
        throw new CidError('INVALID_DATA', `There are no embeddings in ${options.embeddings}`);
      const wanted = threshold === undefined ? { targetKeep: keepRatio, tolerance } : { threshold };
      const result = await balance(store.image, {
        ...wanted,
        ...(await policy(options, store.rows)),
        ...defined({ maxDiameter: options.maxDiameter, maxMemory: options.maxMemory }),
        ...kernelOptions(options, 'balance'),
      });
      const rule = threshold === undefined ? foundRule(result, keepRatio, options) : givenRule(threshold);
      const report = await writeResults(options.folder, store, result, rule);
      const { rows, kept, groups, edges, faults } = report;
      return {
        outputs: OUTPUTS,
        summary: {
          rows,
          kept,
          keepRatio: report.keepRatio,
          groups,
          edges,
          faults,
          threshold: rule.threshold,
        },
      };
    },
  });
}

/** What of the options decides which images stay, beside the threshold; what is as by default is left out. */
function choice({ keep = 'central', seed = 0, maxDiameter }: BalanceStageOptions) {
  return {
    ...(keep === 'central' ? {} : { keep }),
    ...(keep === 'random' ? { seed } : {}),
    ...(maxDiameter === undefined ? {} : { maxDiameter }),
  };
}

async function policy(
  { keep = 'central', seed = 0, scores }: BalanceStageOptions,
  rows: number,
): Promise<Pick<BalanceOptions, 'keep'>> {
  if ((keep === 'best') !== (scores !== undefined)) {
    throw new CidError(
      'INVALID_CONFIG',
      "Expected scores (balance.scores, --scores) if and only if the keep policy is 'best'",
    );
  }
  if (keep === 'random') return { keep: { random: seed } };
  if (keep !== 'best') return { keep };
  const { data, shape } = await readNpy(scores!);
  if (!(data instanceof Float32Array) || shape.length !== 1 || shape[0] !== rows || data.some(Number.isNaN)) {
    throw new CidError(
      'INVALID_DATA',
      `Expected float32 [${rows}], a score for each embedding and none NaN, in ${scores}`,
    );
  }
  return { keep: { best: data } };
}

function givenRule(threshold: number): ThresholdRule {
  return {
    kind: 'threshold',
    threshold,
    text: `Two images count as near-duplicates when the cosine of their embeddings is over ${threshold}, as was asked for.`,
  };
}

function foundRule(
  { threshold, reached = false, reason = '', labels, groups }: BalanceResult,
  keepRatio: number,
  options: BalanceStageOptions,
): ThresholdRule {
  const asked = `The cosine over which two images count as near-duplicates was chosen so that a share of ${keepRatio} stays`;
  if (!reached) options.log?.(`balance: a share of ${keepRatio} was not reached. ${reason}`.trim());
  return {
    kind: 'keep-ratio',
    threshold,
    keepRatio,
    reached,
    text: reached
      ? `${asked}: it is ${threshold}.`
      : `${asked}, which no threshold gives; the nearest is ${threshold} with ${groups / labels.length}. ${reason}`.trim(),
  };
}

async function writeResults(
  folder: string,
  store: Store,
  result: BalanceResult,
  rule: ThresholdRule,
): Promise<BalanceReport> {
  const { labels, keep, centrality } = result;
  const sizes = new Int32Array(labels.length);
  for (const label of labels) sizes[label]!++;
  const members = largestGroups(labels, sizes, keep, centrality);
  const wanted = new Map([...members.values()].flat().map((row) => [row, {} as Record<string, unknown>]));

  await writeNpy(join(folder, 'groups.npy'), labels, [labels.length]);
  await writeNpy(join(folder, 'keep.npy'), keep, [keep.length]);
  await writeFileAtomic(join(folder, 'kept.jsonl'), keptLines(store, result, sizes, wanted));

  const summary = summarizeBalance(result);
  const report: BalanceReport = {
    ...summary,
    rule,
    plan: result.plan,
    funnel: [
      ...(store.skipped > 0 ? [{ step: 'in the source', items: store.rows + store.skipped }] : []),
      { step: 'embedded', items: store.rows },
      { step: 'kept', items: summary.kept },
    ],
    faultyRows: [...result.faults.subarray(0, 100)],
    largestGroups: [...members].map(([label, rows]) => ({
      label,
      size: sizes[label]!,
      members: rows.map((row) => ({
        row,
        kept: keep[row] === 1,
        centrality: centrality[row]!,
        ...describeMember(wanted.get(row)!),
      })),
    })),
  };
  await writeJson(join(folder, 'report.json'), report);
  return report;
}

/** First members of the largest groups of two and more, by label. */
function largestGroups(
  labels: Int32Array,
  sizes: Int32Array,
  keep: Uint8Array,
  centrality: Float32Array,
): Map<number, number[]> {
  const order: number[] = [];
  for (let label = 0; label < sizes.length; label++) if (sizes[label]! > 1) order.push(label);
  order.sort((a, b) => sizes[b]! - sizes[a]! || a - b);
  const members = new Map<number, number[]>(order.slice(0, GROUPS).map((label) => [label, []]));
  for (let row = 0; row < labels.length; row++) members.get(labels[row]!)?.push(row);
  for (const [label, rows] of members) {
    rows.sort((a, b) => keep[b]! - keep[a]! || centrality[b]! - centrality[a]! || a - b);
    members.set(label, rows.slice(0, MEMBERS));
  }
  return members;
}

/** Lines of `kept.jsonl`; on the way, metadata of the rows in `wanted` is filled in. */
async function* keptLines(
  store: Store,
  { labels, keep }: BalanceResult,
  sizes: Int32Array,
  wanted: Map<number, Record<string, unknown>>,
): AsyncGenerator<FileChunk> {
  let row = 0;
  let lines: string[] = [];
  for await (const fields of store.metadata()) {
    if (wanted.has(row)) wanted.set(row, fields);
    if (keep[row] === 1) {
      const group = labels[row]!;
      const item: KeptItem = { ...fields, row, group, groupSize: sizes[group]! };
      lines.push(`${JSON.stringify(item)}\n`);
    }
    row++;
    if (lines.length === 1000) {
      yield lines.join('');
      lines = [];
    }
  }
  yield lines.join('');
}

function describeMember(fields: Record<string, unknown>): Pick<GroupMember, 'key' | 'image' | 'caption'> {
  const caption = Array.isArray(fields.caption) ? fields.caption[0] : fields.caption;
  return defined({
    key: fields.key === undefined ? undefined : String(fields.key),
    image: typeof fields.image === 'string' ? fields.image : undefined,
    caption: typeof caption === 'string' ? caption : undefined,
  });
}
