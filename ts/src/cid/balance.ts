import { join } from 'node:path';
import { writeNpy } from '../data/npy.ts';
import { openStore, type Store } from '../data/store.ts';
import { type BalanceResult, type BalanceSummary, balance, summarizeBalance } from '../kernels/balance.ts';
import { chooseThreshold } from '../kernels/threshold.ts';
import { CidError } from '../native/errors.ts';
import { type FileChunk, writeFileAtomic, writeJson } from '../run/files.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import { identifyStore } from './inputs.ts';
import type { KeptItem } from './items.ts';
import { defined, kernelOptions, type StageSettings } from './stage.ts';

export interface BalanceStageOptions extends StageSettings {
  /** Folder of an embedding store, ours or clip-retrieval's; its images need not be at hand. */
  readonly embeddings: string;
  /** Two images are near-duplicates when the cosine of their embeddings is over this, −1 to 1. Either this or `keepRatio`. */
  readonly threshold?: number | undefined;
  /** Share of the images that should stay, over 0 and at most 1: the threshold is then searched for. Defaults to 0.563, the paper's. */
  readonly keepRatio?: number | undefined;
  /** A share within this of `keepRatio` ends the search. Defaults to 0.001. */
  readonly tolerance?: number | undefined;
}

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
  /** What is left after each step, from the source to the kept items. */
  readonly funnel: readonly { readonly step: string; readonly items: number }[];
  /** Rows that are zero, NaN or infinite: each alone and kept. The first hundred. */
  readonly faultyRows: readonly number[];
  /** Largest groups first (ties: the smaller label). */
  readonly largestGroups: readonly GroupSample[];
}

/** Share of LAION400M that stays in CLIP-CID (arXiv 2408.09441). */
const KEEP_RATIO = 0.563;

/** The search halves the interval [0, 1] until neighbouring thresholds cannot be told apart. */
const MOST_PASSES = 28;

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
    inputs: { embeddings: store.hash },
    options: threshold === undefined ? { keepRatio: keepRatio, tolerance } : { threshold },
    owns: OUTPUTS,
    ...defined({ existing: options.existing, log: options.log }),
    work: async () => {
      // Damage that came after the store was written would quietly change the groups.
      await openStore(options.embeddings);
      if (store.rows === 0)
        throw new CidError('INVALID_DATA', `There are no embeddings in ${options.embeddings}`);
      const { result, rule } =
        threshold === undefined
          ? await search(store, keepRatio, tolerance, options)
          : await compare(store, threshold, options);
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

async function compare(store: Store, threshold: number, options: BalanceStageOptions) {
  const result = await balance(store.image, { threshold, ...kernelOptions(options, 'balance') });
  const rule: ThresholdRule = {
    kind: 'threshold',
    threshold,
    text: `Two images count as near-duplicates when the cosine of their embeddings is over ${threshold}, as was asked for.`,
  };
  return { result, rule };
}

async function search(store: Store, keepRatio: number, tolerance: number, options: BalanceStageOptions) {
  const { onProgress } = options;
  // Each pass over all pairs counts from nothing; people see the passes.
  let passes = 0;
  let last = 0;
  const found = await chooseThreshold(store.image, {
    keepRatio,
    tolerance,
    ...kernelOptions(options, 'balance'),
    onProgress: ({ done, total }) => {
      if (done < last) passes++;
      last = done;
      const share = Math.min(passes + done / total, MOST_PASSES - 1);
      onProgress?.({ label: 'balance', done: share, total: MOST_PASSES, unit: 'passes at most' });
    },
  });
  onProgress?.({ label: 'balance', done: found.steps, total: found.steps, unit: 'passes' });
  const asked = `The cosine over which two images count as near-duplicates was searched for so that a share of ${keepRatio} stays`;
  if (!found.reached)
    options.log?.(`balance: a share of ${keepRatio} was not reached. ${found.reason ?? ''}`.trim());
  const rule: ThresholdRule = {
    kind: 'keep-ratio',
    threshold: found.threshold,
    keepRatio,
    reached: found.reached,
    text: found.reached
      ? `${asked}: it is ${found.threshold}.`
      : `${asked}, which no threshold gives; the nearest is ${found.threshold} with ${found.keepRatio}. ${found.reason ?? ''}`.trim(),
  };
  return { result: found.result, rule };
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
