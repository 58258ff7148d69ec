import { isDense } from './chains.ts';
import { type Draft, elementBytes, refsOf, type Storage } from './draft.ts';
import { memoryOf } from './encode.ts';

/** Operations that run for each part of the batch before the next phase begins. */
export interface PhaseDraft {
  readonly drafts: readonly Draft[];
  readonly parts: number;
  /** Whether parts may run at the same time, each on one thread. */
  readonly apart: boolean;
}

/** Bytes in the arena or a thread's own memory, for every part. */
export interface Block {
  readonly own: boolean;
  readonly offset: number;
  /** From one part to the next; 0 where all parts use the same. */
  readonly step: number;
  readonly bytes: number;
}

export interface MemoryPlan {
  readonly arenaBytes: number;
  /** What each thread needs for parts that run apart. */
  readonly ownBytes: number;
  readonly blocks: ReadonlyMap<Storage, Block>;
  /** What the forward pass leaves for the backward pass, all parts of it. */
  readonly saved: readonly { readonly name: string; readonly bytes: number }[];
}

const ALIGNMENT = 64;

const roundUp = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

interface Life {
  readonly storage: Storage;
  /** First and last operation that touch it, by number. */
  first: number;
  last: number;
  /** Differs from part to part, and outlasts one. */
  whole: boolean;
  /** Lives within one part of a phase whose parts run apart. */
  own: boolean;
}

/**
 * Lays out the arena: values that are never needed at the same time share memory. What lives within one part of a phase needs room
 * for that part alone, or, where parts run apart, for one of each thread; what outlasts it, for all parts. Inputs are there from the beginning, outputs until the phases of
 * `forward` have run, and their gradients, `late`, come then.
 */
export function planMemory(
  phases: readonly PhaseDraft[],
  forward: number,
  kept: {
    readonly inputs: readonly Storage[];
    readonly outputs: readonly Storage[];
    readonly late: readonly Storage[];
  },
): MemoryPlan {
  const lives = new Map<Storage, Life>();
  const bounds: { begin: number; end: number; parts: number; apart: boolean }[] = [];
  let position = 0;
  for (const { drafts, parts, apart } of phases) {
    bounds.push({ begin: position, end: position + drafts.length - 1, parts, apart });
    for (const draft of drafts) {
      for (const { storage } of refsOf(draft)) touch(lives, storage, position);
      position++;
    }
  }
  // Between the last operation forward and the first backward.
  const middle = forward < bounds.length ? bounds[forward]!.begin - 0.5 : position - 0.5;
  for (const storage of kept.inputs) touch(lives, storage, -1);
  for (const storage of [...kept.outputs, ...kept.late]) touch(lives, storage, middle);

  for (const life of lives.values()) {
    const only = bounds.find(({ begin, end }) => life.first >= begin && life.last <= end);
    life.own = only?.apart === true;
    if (only) continue;
    life.whole = life.storage.ofBatch;
    // Every part of a phase needs it.
    for (const { begin, end, parts } of bounds) {
      if (parts === 1) continue;
      if (life.first > begin && life.first <= end) life.first = begin;
      if (life.last >= begin && life.last < end) life.last = end;
    }
  }
  const parts = Math.max(...phases.map((phase) => phase.parts));
  const bytesOf = ({ storage, whole }: Life) =>
    storage.count * elementBytes(storage.type) * (whole ? parts : 1);
  const shared = inPlace(phases, lives, bytesOf);

  // Groups of storages that share a block, the largest first, each at the lowest place that is free while it lives.
  const groups = new Map<Storage, { first: number; last: number; bytes: number; members: Life[] }>();
  for (const life of lives.values()) {
    const root = rootOf(shared, life.storage);
    const group = groups.get(root);
    const bytes = roundUp(bytesOf(life));
    if (!group) {
      groups.set(root, { first: life.first, last: life.last, bytes, members: [life] });
      continue;
    }
    group.first = Math.min(group.first, life.first);
    group.last = Math.max(group.last, life.last);
    group.bytes = Math.max(group.bytes, bytes);
    group.members.push(life);
  }
  const placed: { own: boolean; first: number; last: number; offset: number; end: number }[] = [];
  const blocks = new Map<Storage, Block>();
  let [arenaBytes, ownBytes] = [0, 0];
  const sorted = [...groups.values()].sort((a, b) => b.bytes - a.bytes || a.first - b.first);
  for (const group of sorted) {
    const { own } = group.members[0]!;
    const others = placed
      .filter((other) => other.own === own && other.first <= group.last && other.last >= group.first)
      .sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const other of others) {
      if (other.offset - offset >= group.bytes) break;
      offset = Math.max(offset, other.end);
    }
    const end = offset + group.bytes;
    placed.push({ own, first: group.first, last: group.last, offset, end });
    if (own) ownBytes = Math.max(ownBytes, end);
    else arenaBytes = Math.max(arenaBytes, end);
    for (const life of group.members) {
      const bytes = bytesOf(life);
      blocks.set(life.storage, { own, offset, step: life.whole ? bytes / parts : 0, bytes });
    }
  }
  const saved = [...lives.values()]
    .filter(({ first, last }) => first < middle && last > middle)
    .map((life) => ({ name: life.storage.name, bytes: bytesOf(life) }));
  return { arenaBytes, ownBytes, blocks, saved };
}

function touch(lives: Map<Storage, Life>, storage: Storage, position: number): void {
  if (storage.space !== 'arena') return;
  const life = lives.get(storage);
  if (!life) {
    lives.set(storage, { storage, first: position, last: position, whole: false, own: false });
    return;
  }
  life.first = Math.min(life.first, position);
  life.last = Math.max(life.last, position);
}

function rootOf(shared: ReadonlyMap<Storage, Storage>, storage: Storage): Storage {
  let root = storage;
  for (let next = shared.get(root); next; next = shared.get(root)) root = next;
  return root;
}

/** Results of chains that take the memory of an operand which is not needed any more. */
function inPlace(
  phases: readonly PhaseDraft[],
  lives: ReadonlyMap<Storage, Life>,
  bytesOf: (life: Life) => number,
): Map<Storage, Storage> {
  const shared = new Map<Storage, Storage>();
  let position = 0;
  for (const { drafts } of phases) {
    for (const draft of drafts) {
      const at = position++;
      if (draft.kind !== 'chain' || draft.nodes.length === 0) continue;
      // A product is made before the chain has read its operands.
      const product = draft.head && memoryOf(draft).storage;
      const taken = new Set<Storage>();
      for (const output of draft.outputs) {
        const own = lives.get(output);
        if (!own || output === product || own.first !== at) continue;
        const free = draft.nodes
          .flatMap(({ operands }) => operands)
          .find((operand) => {
            if (typeof operand === 'number' || !isDense(operand, draft.count)) return false;
            const life = lives.get(operand.storage);
            return (
              life !== undefined &&
              life.last === at &&
              life.first < at &&
              life.whole === own.whole &&
              life.own === own.own &&
              bytesOf(life) === bytesOf(own) &&
              !taken.has(operand.storage) &&
              operand.storage !== draft.head?.a.storage &&
              operand.storage !== draft.head?.b.storage &&
              !draft.outputs.includes(operand.storage)
            );
          });
        if (free === undefined || typeof free === 'number') continue;
        taken.add(free.storage);
        shared.set(output, free.storage);
      }
    }
  }
  return shared;
}
