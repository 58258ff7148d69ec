import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readNpy, writeNpy } from '../data/npy.ts';
import { openStore, STORE_FILE, type Store } from '../data/store.ts';
import {
  type BalanceMetric,
  type BalanceOptions,
  type BalanceResult,
  type BalanceSummary,
  balance,
  cosineThreshold,
  summarizeBalance,
} from '../kernels/balance.ts';
import { CidError } from '../native/errors.ts';
import { type FileChunk, writeFileAtomic, writeJson } from '../run/files.ts';
import { hashFile } from '../run/hash.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import { compareAgainst } from './against.ts';
import { identifyStore } from './inputs.ts';
import type { KeptItem } from './items.ts';
import { PAIRS_FILES, type PairsFormat, writePairs } from './pairs.ts';
import { compareWithinClusters, expectClusters } from './semdedup.ts';
import { toTheEnd } from './stage.ts';

export interface BalanceStageOptions extends StageSettings {
  /** Folder of an embedding store, ours or clip-retrieval's; its images need not be at hand. */
  readonly embeddings: string;
  /** Two images are near-duplicates when their embeddings are more alike than this, in the unit of `metric`. Either this or `keepRatio`. */
  readonly threshold?: number | undefined;
  /** Unit of `threshold`. Defaults to 'cosine'. */
  readonly metric?: BalanceMetric | undefined;
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
  /** Also write all pairs over the threshold with their cosines, to `pairs.npy` or `pairs.tsv`. They are compared once more for it. */
  readonly pairs?: PairsFormat | undefined;
  /**
   * SemDeDup within this many clusters instead, to compare balance with; needs `threshold`. `keep` is its order: 'hard' (its default),
   * 'easy' or 'random'.
   */
  readonly semdedup?: number | undefined;
  /** Folder of an earlier embedding store: near-duplicates of its images are dropped too. Needs `threshold`. */
  readonly against?: string | undefined;
  /** Of `against`: `keep.npy` of its balance; only images that stayed there count. Defaults to all. */
  readonly againstKeep?: string | undefined;
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
  /** Cosine to the mean of the group; with SemDeDup, to the image it was dropped for. */
  readonly centrality: number;
  readonly key?: string;
  readonly image?: string;
  readonly caption?: string;
}

/** Images that were dropped for one of an earlier store. */
export interface AgainstReport {
  /** Images of the earlier store that count. */
  readonly stored: number;
  readonly duplicates: number;
  /** Pairs of an image and one of the earlier store over the threshold. */
  readonly links: number;
  /** Images near to several of the earlier store, which a balance of all together would have made one group of; the first hundred rows. */
  readonly bridges: { readonly count: number; readonly rows: readonly number[] };
}

/** `report.json` of the stage. */
export interface BalanceReport extends BalanceSummary {
  readonly method: 'balance' | 'semdedup';
  readonly against?: AgainstReport;
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
const DUPLICATES = 'duplicates.npy';

/**
 * Finds groups of near-duplicates in an embedding store and keeps one item of each. Writes `groups.npy` (int32 [N], label of
 * a row's group), `keep.npy` (uint8 [N]), `kept.jsonl` (a line a kept item, see {@link KeptItem}) and `report.json`
 * ({@link BalanceReport}); with `pairs` these too. With `against`, `duplicates.npy` (int32 [N]) has the row of the earlier store
 * that an item was dropped for, or −1, and such an item is in no group: −1.
 */
export async function balanceStage(options: BalanceStageOptions): Promise<StageResult> {
  const { tolerance = 0.001 } = options;
  const threshold =
    options.threshold === undefined ? undefined : cosineThreshold(options.threshold, options.metric);
  checkModes(options);
  const keepRatio = options.keepRatio ?? KEEP_RATIO;
  const store = await identifyStore(options.embeddings);
  const earlier = options.against === undefined ? undefined : await identifyStore(options.against);
  return runStage({
    name: 'balance',
    folder: options.folder,
    inputs: {
      embeddings: store.hash,
      ...(earlier === undefined ? {} : { against: earlier.hash }),
      ...(options.againstKeep === undefined ? {} : { againstKeep: await hashFile(options.againstKeep) }),
      ...(options.scores === undefined ? {} : { scores: await hashFile(options.scores) }),
    },
    options: {
      ...(threshold === undefined ? { keepRatio, tolerance } : { threshold }),
      ...choice(options),
    },
    owns: [...OUTPUTS, DUPLICATES, ...Object.values(PAIRS_FILES)],
    ...defined({ existing: options.existing, log: options.log }),
    check: async () => {
      if (store.rows === 0)
        throw new CidError('INVALID_DATA', `There are no embeddings in ${options.embeddings}`);
      if (options.semdedup === undefined) await policy(options, store.rows);
      else expectClusters(store, options.semdedup);
    },
    work: async () => {
      // Damage that came after a store was written would quietly change the groups. Those without checksums were just read.
      for (const folder of [options.embeddings, options.against]) {
        if (folder !== undefined && existsSync(join(folder, STORE_FILE))) await openStore(folder);
      }
      const wanted = threshold === undefined ? { targetKeep: keepRatio, tolerance } : { threshold };
      const found = await compare(store, earlier, wanted, options);
      const { result } = found;
      const rule = threshold === undefined ? foundRule(result, keepRatio, options) : givenRule(threshold);
      const report = await writeResults(options.folder, store, found, rule);
      const outputs: string[] = [...OUTPUTS];
      if (found.incremental !== undefined) outputs.push(DUPLICATES);
      if (options.pairs !== undefined) {
        outputs.push(await writePairs(store, result.threshold, result.edges, options.pairs, options));
      }
      const { rows, kept, groups, edges, faults, against } = report;
      return {
        outputs,
        summary: {
          rows,
          kept,
          keepRatio: report.keepRatio,
          ...(against === undefined
            ? {}
            : { duplicates: against.duplicates, bridges: against.bridges.count }),
          groups,
          edges,
          faults,
          threshold: rule.threshold,
        },
      };
    },
  });
}

/** What the comparison gave. With `against`, the result is that of the items that are no duplicates; their labels are −1. */
interface Found {
  readonly method: BalanceReport['method'];
  readonly result: BalanceResult;
  readonly incremental?: Awaited<ReturnType<typeof compareAgainst>>;
}

async function compare(
  store: Store,
  earlier: Store | undefined,
  wanted: Pick<BalanceOptions, 'threshold' | 'targetKeep' | 'tolerance'>,
  options: BalanceStageOptions,
): Promise<Found> {
  const { semdedup: clusters, seed = 0, keep, maxDiameter } = options;
  if (clusters !== undefined) {
    const order = (keep ?? 'hard') as 'hard' | 'easy' | 'random';
    const within = { threshold: wanted.threshold!, clusters, order, seed };
    return { method: 'semdedup', result: await compareWithinClusters(store, within, options) };
  }
  const choices = { ...(await policy(options, store.rows)), ...defined({ maxDiameter }) };
  if (earlier === undefined) {
    const result = await toTheEnd(options, 'balance', (kernel) =>
      balance(store.image, { ...wanted, ...choices, ...kernel }),
    );
    return { method: 'balance', result };
  }
  const within = { threshold: wanted.threshold!, ...choices };
  const incremental = await compareAgainst(store, earlier, options.againstKeep, within, options);
  return { method: 'balance', result: incremental, incremental };
}

/** Fails with INVALID_CONFIG for options that exclude each other. */
function checkModes(options: BalanceStageOptions): void {
  const { threshold, keepRatio, semdedup, against, againstKeep, pairs, maxDiameter, keep } = options;
  const fail = (expected: string, received: string): never => {
    throw new CidError('INVALID_CONFIG', `Expected ${expected} but received ${received}`);
  };
  if (threshold !== undefined && keepRatio !== undefined) {
    fail(
      'either a threshold (balance.threshold, --threshold) or a share to keep (balance.keepRatio, --keep-ratio)',
      'both',
    );
  }
  const mode = semdedup !== undefined ? 'semdedup' : against !== undefined ? 'against' : undefined;
  if (semdedup !== undefined && against !== undefined)
    fail('either balance.semdedup or balance.against', 'both');
  if (againstKeep !== undefined && against === undefined)
    fail('balance.against (--against) for balance.againstKeep', 'nothing');
  if (mode === undefined) return;
  if (threshold === undefined)
    fail(`a threshold (balance.threshold, --threshold) for balance.${mode}`, 'nothing');
  if (pairs !== undefined) fail(`no balance.pairs (--pairs) with balance.${mode}`, `'${pairs}'`);
  if (mode !== 'semdedup') return;
  if (maxDiameter !== undefined)
    fail('no balance.maxDiameter (--max-diameter) with balance.semdedup', String(maxDiameter));
  if (keep !== undefined && !['hard', 'easy', 'random'].includes(keep))
    fail(
      "'hard', 'easy' or 'random' for balance.keep (--keep), which is the order of balance.semdedup,",
      `'${keep}'`,
    );
}

/** What of the options decides which images stay, beside the threshold; what is as by default is left out. */
function choice({ semdedup, seed = 0, maxDiameter, pairs, ...options }: BalanceStageOptions) {
  const keep = options.keep ?? (semdedup === undefined ? 'central' : 'hard');
  if (semdedup !== undefined) return { semdedup, keep, seed };
  return {
    ...(keep === 'central' ? {} : { keep }),
    ...(keep === 'random' ? { seed } : {}),
    ...(maxDiameter === undefined ? {} : { maxDiameter }),
    ...(pairs === undefined ? {} : { pairs }),
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
  { method, result, incremental }: Found,
  rule: ThresholdRule,
): Promise<BalanceReport> {
  const { labels, keep, centrality } = result;
  const sizes = new Int32Array(labels.length);
  for (const label of labels) if (label >= 0) sizes[label]!++;
  const members = largestGroups(labels, sizes, keep, centrality);
  const wanted = new Map([...members.values()].flat().map((row) => [row, {} as Record<string, unknown>]));

  await writeNpy(join(folder, 'groups.npy'), labels, [labels.length]);
  await writeNpy(join(folder, 'keep.npy'), keep, [keep.length]);
  if (incremental !== undefined) {
    await writeNpy(join(folder, DUPLICATES), incremental.duplicateOf, [labels.length]);
  }
  await writeFileAtomic(join(folder, 'kept.jsonl'), keptLines(store, result, sizes, wanted));

  const summary = method === 'semdedup' ? plainSummary(result) : summarizeBalance(withoutDuplicates(result));
  const report: BalanceReport = {
    ...summary,
    // Of all items, not only of those that were compared with each other.
    rows: labels.length,
    removed: labels.length - summary.kept,
    keepRatio: summary.kept / labels.length,
    method,
    ...(incremental === undefined ? {} : { against: describeAgainst(incremental) }),
    rule,
    plan: result.plan,
    funnel: [
      ...(store.skipped > 0 ? [{ step: 'in the source', items: store.rows + store.skipped }] : []),
      { step: 'embedded', items: store.rows },
      ...(incremental === undefined
        ? []
        : [{ step: 'not in the earlier store', items: store.rows - incremental.duplicates }]),
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

/** SemDeDup has no means of groups, and so no figures of how far they reach. */
function plainSummary(result: BalanceResult): BalanceSummary {
  const { centrality: _, chaining: __, ...summary } = summarizeBalance(result);
  return summary;
}

/** The rows that are in a group. */
function withoutDuplicates(result: BalanceResult): BalanceResult {
  const { labels, keep, centrality } = result;
  if (!labels.includes(-1)) return result;
  const place = new Int32Array(labels.length);
  let count = 0;
  for (const [row, label] of labels.entries()) place[row] = label === -1 ? -1 : count++;
  const rest = {
    labels: new Int32Array(count),
    keep: new Uint8Array(count),
    centrality: new Float32Array(count),
  };
  for (const [row, at] of place.entries()) {
    if (at === -1) continue;
    rest.labels[at] = place[labels[row]!]!;
    rest.keep[at] = keep[row]!;
    rest.centrality[at] = centrality[row]!;
  }
  return { ...result, ...rest };
}

function describeAgainst({
  stored,
  duplicates,
  links,
  bridges,
}: NonNullable<Found['incremental']>): AgainstReport {
  return {
    stored,
    duplicates,
    links,
    bridges: { count: bridges.length, rows: [...bridges.subarray(0, 100)] },
  };
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
