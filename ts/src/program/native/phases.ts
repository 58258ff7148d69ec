import { PRECISIONS } from '../precision.ts';
import {
  type ChainDraft,
  type Draft,
  elementBytes,
  type FixedDraft,
  type ProductHead,
  type Ref,
  refsOf,
  type Storage,
} from './draft.ts';
import type { PhaseDraft } from './memory.ts';
import type { DeviceTraits } from './program.ts';

/** What all parts of a phase share, packed weights above all, should stay in the last cache from part to part. */
const SHARED_BYTES = 12 * 2 ** 20;

/**
 * Drafts for one part of a batch as phases. Parts go through a phase apart, each on one thread from its first operation to its last, so
 * that what they make stays in that thread's caches and nobody waits for anybody. What adds up over the batch, gradients of
 * parameters, comes between phases, for all parts at once and on all threads: products of weights' gradients over the rows of all
 * parts, sums over rows as sums of each part's. So results do not depend on who does what.
 *
 * Phases are cut where what all parts share would leave the caches, and where little crosses. Undefined where there is something that
 * adds up in another way.
 *
 * @param kept Storages that are there for all parts in any case.
 */
export function phasesApart(
  drafts: readonly Draft[],
  parts: number,
  kept: ReadonlySet<Storage>,
  traits: DeviceTraits,
): PhaseDraft[] | undefined {
  const sorted = sort(drafts, parts);
  if (!sorted) return undefined;
  const { once, apart, together } = sorted;
  const waitedFor = new Set<Storage>();
  for (const draft of together) {
    for (const { storage } of refsOf(draft)) if (!kept.has(storage)) waitedFor.add(storage);
  }
  const cuts = [...cutsOf(apart, parts, kept, waitedFor), apart.length];
  const phases: PhaseDraft[] = [];
  // What runs between two phases.
  let between: Draft[] = [...once];
  const flush = () => {
    if (between.length > 0) phases.push({ drafts: between, parts: 1, apart: false });
    between = [];
  };
  const made = new Map<Storage, number>();
  apart.forEach((draft, at) => {
    for (const { storage, access } of refsOf(draft)) if (access !== 'read') made.set(storage, at);
  });
  const waiting = together.map((draft) => ({
    draft,
    from: Math.max(...refsOf(draft).map(({ storage }) => made.get(storage) ?? -1)),
  }));
  cuts.forEach((end, i) => {
    const begin = i === 0 ? 0 : cuts[i - 1]!;
    const { packs, drafts: packed } = packedRights(apart.slice(begin, end), traits);
    between.push(...packs);
    flush();
    if (end > begin) phases.push({ drafts: packed, parts, apart: true });
    between.push(...waiting.filter(({ from }) => from >= begin && from < end).map(({ draft }) => draft));
  });
  between.push(...waiting.filter(({ from }) => from < 0).map(({ draft }) => draft));
  flush();
  return phases;
}

/** Drafts as one phase whose parts go one after the other, on all threads. */
export function phasesInTurn(drafts: readonly Draft[], parts: number, traits: DeviceTraits): PhaseDraft[] {
  if (drafts.length === 0) return [];
  if (parts === 1) return [{ drafts, parts, apart: false }];
  const { packs, drafts: packed } = packedRights(drafts, traits);
  const phases = [{ drafts: packed, parts, apart: false }];
  return packs.length > 0 ? [{ drafts: packs, parts: 1, apart: false }, ...phases] : phases;
}

const bytesOf = ({ count, type }: Storage) => count * elementBytes(type);

interface Sorted {
  /** What depends on no input. */
  readonly once: Draft[];
  readonly apart: Draft[];
  /** What adds up over all parts. */
  readonly together: Draft[];
}

function sort(drafts: readonly Draft[], parts: number): Sorted | undefined {
  const sorted: Sorted = { once: [], apart: [], together: [] };
  for (const draft of drafts) {
    const written = refsOf(draft).filter(({ access }) => access !== 'read');
    if (draft.kind === 'fixed' && /^(conv|batchNorm)/.test(draft.op)) return undefined;
    if (written.every(({ storage }) => storage.space === 'arena' && storage.ofBatch)) {
      sorted.apart.push(draft);
    } else if (written.every(({ storage }) => storage.space === 'arena' && !storage.ofBatch)) {
      sorted.once.push(draft);
    } else {
      const split = draft.kind === 'fixed' ? fixedSums(draft, parts) : chainSums(draft, parts);
      if (!split) return undefined;
      sorted.apart.push(...split.apart);
      sorted.together.push(...split.together);
    }
  }
  return sorted;
}

interface Split {
  readonly apart: readonly Draft[];
  readonly together: readonly Draft[];
}

/** Whether a part's operand is all of its storage, so that those of all parts follow one another. */
const isWhole = ({ storage, offset }: Ref, count: number) =>
  storage.ofBatch && storage.space === 'arena' && offset === 0 && storage.count === count;

function fixedSums(draft: FixedDraft, parts: number): Split | undefined {
  const { op, code } = draft;
  if (op === 'reduce') {
    const [outer, size, inner, kind, scale, accumulate, x, y] = code as [...number[], Ref, Ref] as never as [
      number,
      number,
      number,
      number,
      number,
      number,
      Ref,
      Ref,
    ];
    if (outer !== 1 || kind > 1 || accumulate !== 1 || !isWhole(x, size * inner)) return undefined;
    const own = sumOf(y, inner);
    const first = { ...draft, code: [1, size, inner, kind, scale, 0, x, own.write] };
    return { apart: [first], together: [own.total(parts, draft)] };
  }
  if (op === 'layerNormGradient') {
    const size = code[1] as number;
    const own = code.slice(-2).map((ref) => (ref as Ref | null) && sumOf(ref as Ref, size));
    const fills = own.flatMap((sum) =>
      sum ? [{ ...draft, op: 'fill', code: [0, size, 0, sum.write], flops: 0 }] : [],
    );
    const first = {
      ...draft,
      code: [...code.slice(0, -2), ...own.map((sum) => sum && { ...sum.write, access: 'update' as const })],
    };
    return {
      apart: [...fills, first],
      together: own.flatMap((sum) => (sum ? [sum.total(parts, draft)] : [])),
    };
  }
  if (op === 'scatter') {
    const [before, size, inner, count, ...rest] = code as number[];
    const [rows, indices] = code.slice(-3) as [Ref, Ref, Ref];
    if (before !== 1 || !isWhole(rows, count! * inner!) || !isWhole(indices, count!)) return undefined;
    const all = [1, size!, inner!, count! * parts, ...rest];
    return { apart: [], together: [{ ...draft, code: all, flops: draft.flops * parts }] };
  }
  return undefined;
}

/** A part's own summand of a sum into a gradient, and what adds up all parts'. */
function sumOf(gradient: Ref, count: number) {
  const storage: Storage = {
    type: 'float32',
    count,
    space: 'arena',
    name: `${gradient.storage.name}, by part`,
    ofBatch: true,
  };
  const ref = (access: Ref['access']): Ref => ({ storage, offset: 0, access });
  return {
    write: ref('write'),
    total: (parts: number, { nodes }: FixedDraft): FixedDraft => ({
      kind: 'fixed',
      op: 'reduce',
      code: [1, parts, count, 0, 1, 1, ref('read'), gradient],
      flops: parts * count,
      nodes,
    }),
  };
}

function chainSums(draft: ChainDraft, parts: number): Split | undefined {
  const { head, nodes, outputs } = draft;
  if (head) {
    const { m, n, k, a, b, rowA, rowB, transposeA, transposeB, batches } = head;
    const adds = head.accumulate && nodes.length === 0 && transposeA && !transposeB;
    if (!adds || batches[0] * batches[1] !== 1 || rowA !== m || rowB !== n) return undefined;
    if (!isWhole(a, m * k) || !isWhole(b, k * n)) return undefined;
    return { apart: [], together: [{ ...draft, head: { ...head, k: k * parts } }] };
  }
  // gradient + value
  const [node] = nodes;
  if (nodes.length !== 1 || outputs.length !== 1 || node!.step !== 'add') return undefined;
  const [sum, value] = node!.operands;
  if (typeof sum !== 'object' || typeof value !== 'object' || sum.storage !== node!.out) return undefined;
  const { storage, offset, factors } = value;
  const dense = factors.length === 1 && factors[0]!.stride === 1 && factors[0]!.size === draft.count;
  const from: Ref = { storage, offset, access: 'read' };
  if (!dense || !isWhole(from, draft.count)) return undefined;
  const gradient: Ref = { storage: node!.out, offset: 0, access: 'update' };
  return {
    apart: [],
    together: [
      {
        kind: 'fixed',
        op: 'reduce',
        code: [1, parts, draft.count, 0, 1, 1, from, gradient],
        flops: parts * draft.count,
        nodes: [node!.node],
      },
    ],
  };
}

/**
 * Where to cut: the ways through memory that are fewest, from the first draft to each. What waits for the end of a phase to be added up
 * counts with its square, so that there is little of it at a time.
 */
function cutsOf(
  drafts: readonly Draft[],
  parts: number,
  kept: ReadonlySet<Storage>,
  waitedFor: ReadonlySet<Storage>,
): number[] {
  const crossing = crossings(drafts, parts, (storage) => kept.has(storage) || waitedFor.has(storage));
  const best = [{ cost: 0, from: 0 }];
  for (let end = 1; end <= drafts.length; end++) {
    const [shared, waiting] = [new Set<Storage>(), new Set<Storage>()];
    let [sharedBytes, waitingBytes] = [0, 0];
    let least = { cost: Number.POSITIVE_INFINITY, from: 0 };
    for (let from = end - 1; from >= 0; from--) {
      for (const { storage, access } of refsOf(drafts[from]!)) {
        if (!storage.ofBatch && !shared.has(storage) && !isTable(drafts[from]!)) {
          shared.add(storage);
          sharedBytes += bytesOf(storage);
        }
        if (access !== 'read' && waitedFor.has(storage) && !waiting.has(storage)) {
          waiting.add(storage);
          waitingBytes += parts * bytesOf(storage);
        }
      }
      const before = best[from]!.cost + (from > 0 ? crossing[from]! : 0);
      const cost =
        before +
        (sharedBytes <= SHARED_BYTES ? sharedBytes : parts * sharedBytes) +
        waitingBytes ** 2 / (2 * SHARED_BYTES);
      if (cost < least.cost) least = { cost, from };
    }
    best.push(least);
  }
  const cuts: number[] = [];
  for (let at = best[drafts.length]!.from; at > 0; at = best[at]!.from) cuts.unshift(at);
  return cuts;
}

/** Bytes that are written and read again because of a cut before each draft. */
function crossings(
  drafts: readonly Draft[],
  parts: number,
  isWhole: (storage: Storage) => boolean,
): number[] {
  const made = new Map<Storage, number>();
  const last = new Map<Storage, number>();
  drafts.forEach((draft, at) => {
    for (const { storage, access } of refsOf(draft)) {
      if (storage.space !== 'arena') continue;
      if (access !== 'read' && !made.has(storage)) made.set(storage, at);
      last.set(storage, at);
    }
  });
  const result = new Array<number>(drafts.length).fill(0);
  for (const [storage, from] of made) {
    const bytes = bytesOf(storage) * parts * (isWhole(storage) ? 1 : 2);
    for (let at = from + 1; at <= last.get(storage)!; at++) result[at]! += bytes;
  }
  return result;
}

/** Of a table only rows are read. */
const isTable = (draft: Draft) => draft.kind === 'fixed' && draft.op === 'gather';

/** Drafts that read the right sides of products packed where all parts share them, and what packs these. */
function packedRights(drafts: readonly Draft[], traits: DeviceTraits): { packs: Draft[]; drafts: Draft[] } {
  const packs = new Map<string, { readonly draft: Draft; readonly ref: ProductHead['b'] }>();
  const numbers = new Map<Storage, number>();
  const numberOf = (storage: Storage) => {
    if (!numbers.has(storage)) numbers.set(storage, numbers.size);
    return numbers.get(storage)!;
  };
  const packed = drafts.map((draft): Draft => {
    const { head } = draft as { head?: ProductHead };
    if (draft.kind !== 'chain' || !head || head.b.storage.ofBatch || head.m === 1) return draft;
    if (head.batches[0] * head.batches[1] !== 1) return draft;
    const { n, k, rowB, transposeB, precision, b } = head;
    const key = [numberOf(b.storage), b.offset, n, k, rowB, transposeB, precision].join();
    let pack = packs.get(key);
    if (!pack) {
      const count = traits.packedFloats(n, k, precision);
      if (count === 0) return draft;
      const storage: Storage = {
        type: 'float32',
        count,
        space: 'arena',
        name: `${b.storage.name}, packed`,
        ofBatch: false,
      };
      const ref: Ref = { storage, offset: 0, access: 'write' };
      pack = {
        draft: {
          kind: 'fixed',
          op: 'pack',
          code: [n, k, rowB, transposeB ? 1 : 0, PRECISIONS.indexOf(precision), count, b, ref],
          flops: 0,
          nodes: [head.node],
        },
        ref: { storage, offset: 0, access: 'read', packedFloats: count },
      };
      packs.set(key, pack);
    }
    return { ...draft, head: { ...head, b: pack.ref } };
  });
  return { packs: [...packs.values()].map(({ draft }) => draft), drafts: packed };
}
