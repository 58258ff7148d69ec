import {
  type ChainDraft,
  type ChainNode,
  type ChainOperand,
  type Draft,
  type FixedDraft,
  type ProductHead,
  type Ref,
  refsOf,
  type Storage,
} from './draft.ts';
import type { Raw } from './lowering.ts';

/** What a chain of the native core has room for. */
const MOST_INPUTS = 12;
const MOST_OUTPUTS = 6;
const MOST_STEPS = 40;
const MOST_FACTORS = 4;

/** A chain that grows. It runs where its last operation stands; what reads its results ends it. */
interface Group {
  readonly head: ProductHead | undefined;
  readonly count: number;
  readonly integers: boolean;
  readonly nodes: ChainNode[];
  /** Place in the order of operations. */
  position: number;
}

/**
 * Gathers elementwise operations over the same elements into chains, behind the product that they work on where there is one:
 * one pass over memory for all of them. `wanted` are storages that are read when everything has run.
 */
export function chain(raws: readonly Raw[], wanted: ReadonlySet<Storage>): Draft[] {
  const placed: { position: number; draft: Exclude<Draft, ChainDraft> | Group }[] = [];
  let open: Group[] = [];
  const close = (touched: (storage: Storage) => boolean, but?: Group) => {
    open = open.filter((group) => group === but || !storagesOf(group).some(touched));
  };
  const closeReaders = (written: Storage, but?: Group) => {
    open = open.filter(
      (group) => group === but || !inputsOf(group).some(({ storage }) => storage === written),
    );
  };
  sunk(withResiduals(raws, wanted), wanted).forEach((raw, position) => {
    if (raw.kind === 'fixed') {
      const touched = new Set(refsOf(raw).map(({ storage }) => storage));
      close((storage) => touched.has(storage));
      placed.push({ position, draft: raw });
      return;
    }
    if (raw.kind === 'product') {
      const { head } = raw;
      const touched = new Set([head.a.storage, head.b.storage, head.c.storage]);
      close((storage) => touched.has(storage));
      const group: Group = { head, count: head.c.storage.count, integers: false, nodes: [], position };
      placed.push({ position, draft: group });
      if (mayLead(head)) open.push(group);
      return;
    }
    const { node } = raw;
    const read = node.operands.flatMap((operand) => (typeof operand === 'number' ? [] : [operand.storage]));
    const joins = (candidate: Group) => mayJoin(candidate, raw.count, raw.integers, node, read);
    const makes = (candidate: Group) => storagesOf(candidate).some((storage) => read.includes(storage));
    const group = open.findLast((candidate) => makes(candidate) && joins(candidate)) ?? open.findLast(joins);
    // What other chains made of its operands has to be there before it runs, and what they read of its result too.
    close((storage) => read.includes(storage) || storage === node.out, group);
    closeReaders(node.out, group);
    if (group) {
      group.nodes.push(node);
      group.position = position;
      return;
    }
    const made: Group = {
      head: undefined,
      count: raw.count,
      integers: raw.integers,
      nodes: [node],
      position,
    };
    placed.push({ position, draft: made });
    open.push(made);
  });
  const order = placed
    .map(({ position, draft }) => ({ position: 'kind' in draft ? position : draft.position, draft }))
    .sort((a, b) => a.position - b.position)
    .map(({ draft }) => draft);
  return withOutputs(order, wanted);
}

/** Places of what is added to the input's gradient, and of that gradient, in the code of a layer norm's gradient. */
const [RESIDUAL, DX] = [7, 8];

/** What is added to the gradient of a layer norm's input, as where a residual branches off, is added where that is made. */
function withResiduals(raws: readonly Raw[], wanted: ReadonlySet<Storage>): readonly Raw[] {
  const norms = new Map<Storage, { readonly norm: FixedDraft; readonly position: number }>();
  raws.forEach((raw, position) => {
    if (raw.kind !== 'fixed' || raw.op !== 'layerNormGradient') return;
    const dx = raw.code[DX] as Ref | null;
    if (dx && !wanted.has(dx.storage)) norms.set(dx.storage, { norm: raw, position });
  });
  if (norms.size === 0) return raws;
  const reads = new Map<Storage, number>();
  for (const raw of raws) {
    for (const storage of storagesRead(raw)) reads.set(storage, (reads.get(storage) ?? 0) + 1);
  }
  const result: (Raw | undefined)[] = [...raws];
  raws.forEach((raw, at) => {
    if (raw.kind !== 'node' || raw.node.step !== 'add' || raw.node.out.space !== 'arena') return;
    const { operands, out } = raw.node;
    const index = operands.findIndex((operand) => typeof operand !== 'number' && norms.has(operand.storage));
    const [own, other] = [operands[index], operands[1 - index]];
    if (typeof own !== 'object' || typeof other !== 'object' || own.storage === other.storage) return;
    if (!isDense(own, raw.count) || !isDense(other, raw.count)) return;
    const { norm, position } = norms.get(own.storage)!;
    // It is written by the norm and read here alone; and nobody waits for what else the norm makes.
    const made = new Set(refsOf(norm).flatMap(({ storage, access }) => (access === 'read' ? [] : [storage])));
    const isWaitedFor = raws
      .slice(position + 1, at)
      .some((between) => storagesRead(between).some((storage) => made.has(storage)));
    if (reads.get(own.storage) !== 2 || isWaitedFor) return;
    const code = [...norm.code];
    code[RESIDUAL] = { storage: other.storage, offset: 0, access: 'read' };
    code[DX] = { storage: out, offset: 0, access: 'write' };
    result[position] = undefined;
    result[at] = { ...norm, code, nodes: [...norm.nodes, raw.node.node] };
  });
  return result.filter((raw) => raw !== undefined);
}

/**
 * Sums into gradients moved behind the elementwise operations that follow: they would stand between a product and what is done to
 * its result, and nothing waits for them. So are elementwise operations that only such products read: an activation that is made again
 * then joins the chain in which its gradient is.
 */
function sunk(raws: readonly Raw[], wanted: ReadonlySet<Storage>): readonly Raw[] {
  const readers = new Map<Storage, Raw[]>();
  for (const raw of raws) {
    for (const storage of storagesRead(raw)) {
      const list = readers.get(storage);
      if (list) list.push(raw);
      else readers.set(storage, [raw]);
    }
  }
  const isProductSum = (raw: Raw) => raw.kind === 'product' && raw.head.accumulate;
  const waits = (raw: Raw) => {
    if (raw.kind !== 'node') return isProductSum(raw) || isSum(raw);
    const { out } = raw.node;
    return !wanted.has(out) && readers.get(out)?.every(isProductSum) === true;
  };
  const result: Raw[] = [];
  let waiting: Raw[] = [];
  for (const raw of raws) {
    if (waits(raw)) {
      waiting.push(raw);
      continue;
    }
    if (raw.kind !== 'node') {
      result.push(...waiting);
      waiting = [];
    }
    result.push(raw);
  }
  return [...result, ...waiting];
}

/** What an operation reads, and where it is one of a fixed form, what it writes. */
export function storagesRead(raw: Raw): Storage[] {
  if (raw.kind === 'product') return [raw.head.a.storage, raw.head.b.storage];
  if (raw.kind === 'node')
    return raw.node.operands.flatMap((operand) => (typeof operand === 'number' ? [] : [operand.storage]));
  return refsOf(raw).map(({ storage }) => storage);
}

const isSum = (raw: Raw) =>
  raw.kind === 'fixed' &&
  raw.op === 'reduce' &&
  refsOf(raw).every(({ access, storage }) => access === 'read' || storage.space === 'gradients');

const storagesOf = ({ head, nodes }: Group): Storage[] => [
  ...(head ? [head.c.storage] : []),
  ...nodes.map(({ out }) => out),
];

/** A chain needs a product that is dense and whole. */
const mayLead = ({ batches, accumulate, rowC, n, c }: ProductHead) =>
  batches[0] === 1 && batches[1] === 1 && !accumulate && rowC === n && c.offset === 0;

function mayJoin(
  group: Group,
  count: number,
  integers: boolean,
  node: ChainNode,
  read: readonly Storage[],
): boolean {
  if (group.count !== count || group.integers !== integers) return false;
  const own = storagesOf(group);
  // Updates in place are made once, and nothing is read again after.
  if (own.includes(node.out) || inputsOf(group).some(({ storage }) => storage === node.out)) return false;
  if (own.some((storage) => storage.space !== 'arena' && read.includes(storage))) return false;
  const joined = read.some((storage) => own.includes(storage));
  // Results are in registers, which only whole rows of them can be read from.
  const dense = node.operands.every(
    (operand) => typeof operand === 'number' || !own.includes(operand.storage) || isDense(operand, count),
  );
  const shares = inputsOf(group).some(
    (input) =>
      isDense(input, count) &&
      node.operands.some((operand) => typeof operand !== 'number' && same(input, operand)),
  );
  if (!dense || !(joined || shares)) return false;
  const grown = { ...group, nodes: [...group.nodes, node] };
  return (
    grown.nodes.length <= MOST_STEPS &&
    storagesOf(grown).length <= MOST_OUTPUTS + grown.nodes.length - 1 &&
    inputsOf(grown).length + (group.head ? 1 : 0) <= MOST_INPUTS &&
    factorsOf(grown) !== undefined
  );
}

export const isDense = ({ factors, offset }: ChainOperand, count: number): boolean =>
  offset === 0 && factors.length === 1 && factors[0]!.stride === 1 && factors[0]!.size === count;

export function same(a: ChainOperand, b: ChainOperand): boolean {
  return (
    a.storage === b.storage &&
    a.offset === b.offset &&
    a.factors.length === b.factors.length &&
    a.factors.every(({ size, stride }, i) => size === b.factors[i]!.size && stride === b.factors[i]!.stride)
  );
}

/** Operands that come from outside, each once. */
export function inputsOf({
  head,
  nodes,
}: {
  readonly head: ProductHead | undefined;
  readonly nodes: readonly ChainNode[];
}): ChainOperand[] {
  const made = new Set<Storage>(head ? [head.c.storage] : []);
  const inputs: ChainOperand[] = [];
  for (const { operands, out } of nodes) {
    for (const operand of operands) {
      if (typeof operand === 'number' || made.has(operand.storage)) continue;
      if (!inputs.some((input) => same(input, operand))) inputs.push(operand);
    }
    if (out.space === 'arena') made.add(out);
  }
  return inputs;
}

/**
 * Sizes of the axes over which all inputs of a chain have strides: the coarsest cut of its elements that cuts every operand where
 * it needs it. Behind a product the last axis is a row of it. Undefined where there would be too many axes.
 */
export function factorsOf(group: {
  readonly head: ProductHead | undefined;
  readonly count: number;
  readonly nodes: readonly ChainNode[];
}): number[] | undefined {
  // Elements from each cut to the end.
  const cuts = new Set<number>();
  if (group.head) cuts.add(group.head.n);
  for (const { factors } of inputsOf(group)) {
    let rest = 1;
    for (const { size } of factors.toReversed()) {
      cuts.add(rest);
      rest *= size;
    }
  }
  cuts.delete(1);
  const sorted = [...cuts].filter((cut) => cut < group.count).sort((a, b) => a - b);
  const axes: number[] = [];
  let before = 1;
  for (const cut of [...sorted, group.count]) {
    if (cut % before !== 0) return undefined;
    axes.unshift(cut / before);
    before = cut;
  }
  if (group.head && axes.at(-1) !== group.head.n) return undefined;
  return axes.length <= MOST_FACTORS ? axes : undefined;
}

/** Strides of an operand over axes that cut its factors. */
export function stridesOver({ factors }: ChainOperand, axes: readonly number[]): number[] {
  const rest = factors.map(({ size, stride }) => ({ size, stride }));
  const strides: number[] = [];
  for (const axis of axes.toReversed()) {
    let last = rest.at(-1);
    while (last && last.size === 1) {
      rest.pop();
      last = rest.at(-1);
    }
    if (!last) {
      strides.unshift(0);
      continue;
    }
    strides.unshift(last.stride);
    last.stride *= axis;
    last.size /= axis;
  }
  return strides;
}

/** Decides which results are stored: all that another operation reads, and what is updated in place. */
function withOutputs(
  order: readonly (Exclude<Draft, ChainDraft> | Group)[],
  wanted: ReadonlySet<Storage>,
): Draft[] {
  const readers = new Map<Storage, Set<unknown>>();
  const note = (storage: Storage, reader: unknown) => {
    const set = readers.get(storage);
    if (set) set.add(reader);
    else readers.set(storage, new Set([reader]));
  };
  for (const draft of order) {
    if ('kind' in draft) {
      for (const { storage, access } of refsOf(draft)) if (access !== 'write') note(storage, draft);
      continue;
    }
    if (draft.head) for (const { storage } of [draft.head.a, draft.head.b]) note(storage, draft);
    for (const { operands } of draft.nodes) {
      for (const operand of operands) if (typeof operand !== 'number') note(operand.storage, draft);
    }
  }
  return order.map((draft): Draft => {
    if ('kind' in draft) return draft;
    const { head, count, integers, nodes } = draft;
    const leaves = (storage: Storage) =>
      storage.space !== 'arena' ||
      wanted.has(storage) ||
      [...(readers.get(storage) ?? [])].some((reader) => reader !== draft);
    const outputs = storagesOf(draft).filter(leaves);
    // A product needs memory that is its own until the chain has read it.
    const room = (storage: Storage) => storage.space === 'arena' && storage.type === 'float32';
    if (head && !outputs.some(room)) outputs.unshift(head.c.storage);
    return { kind: 'chain', head, count, integers, nodes, outputs };
  });
}
