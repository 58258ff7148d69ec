import { CidError } from '../../native/errors.ts';
import { product } from '../attributes.ts';
import { type Differentiated, differentiate, outputGradientName } from '../autodiff.ts';
import { fuse } from '../fuse.ts';
import type { DataType, Graph, GraphNode } from '../graph.ts';
import { startsOf } from '../parameters.ts';
import { type PartCosts, partSizes, withBatch } from '../parts.ts';
import type { Precision } from '../precision.ts';
import { type InputDims, type StaticGraph, specialize } from '../static.ts';
import { unbiasedFactor } from '../statistics.ts';
import { chain, storagesRead } from './chains.ts';
import { elementBytes, type Ref, type Storage } from './draft.ts';
import { encode } from './encode.ts';
import { type GradientPart, Lowering, type Raw, type Unsupported, type Window } from './lowering.ts';
import { type MemoryPlan, type PhaseDraft, planMemory } from './memory.ts';
import { phasesApart, phasesInTurn } from './phases.ts';
import { recompute } from './recompute.ts';
import { LOWERING_RULES } from './rules/index.ts';
import { scatterIntoGradient } from './rules/layout.ts';
import { checkSizes } from './sizes.ts';

/** What a planner has to know of the device. */
export interface DeviceTraits {
  /** Whether it pays to run a batch in parts, which stay in a processor's caches: not on a GPU, which a whole batch keeps busy. */
  readonly parts: boolean;
  /** Names of the native core's operations, in the order of their numbers. */
  readonly operations: readonly string[];
  /** How many parts run at the same time at most. */
  readonly threads: number;
  /** How many rows or columns of a product, or pixels of a convolution, it numbers; no limit on the CPU. */
  readonly mostLines: number;
  /** Elements of a packed right side of [k, n]; 0 where products read it as it lies. */
  packedFloats(n: number, k: number, precision: Precision): number;
}

/** A value that comes from or goes to the host. */
export interface ProgramValue {
  readonly name: string;
  readonly type: DataType;
  readonly dims: readonly number[];
  /** Number of the space that it lies in. */
  readonly space: number;
  readonly offset: number;
  readonly bytes: number;
}

/** A graph at fixed shapes as operations of the native core with their memory. */
export interface NativeProgram {
  readonly phases: readonly PhaseDraft[];
  /** Phases before the outputs are there. */
  readonly forwardPhases: number;
  readonly memory: MemoryPlan;
  readonly code: Float64Array;
  readonly constants: Uint8Array;
  readonly inputs: readonly ProgramValue[];
  readonly outputs: readonly ProgramValue[];
  /** By output; of 0 bytes for one that depends on no learned parameter. */
  readonly outputGradients: readonly ProgramValue[];
  /** What there is no native operation for; then there is no code. */
  readonly unsupported: readonly Unsupported[];
  readonly parts: number;
}

export interface ProgramOptions {
  readonly dims: InputDims;
  readonly training: boolean;
  /** Parameters to differentiate by; without it the program computes outputs alone. */
  readonly learned?: ReadonlySet<string>;
  /** Where each parameter begins in the flat buffer, in elements. */
  readonly starts: ReadonlyMap<string, number>;
  readonly traits: DeviceTraits;
  /** With `learned`: the most bytes that values may take that are not parameters. Defaults to no limit. */
  readonly maxActivationMemory?: number | undefined;
  /** Of products that are large enough. Defaults to 'float32'. */
  readonly precision?: Precision | undefined;
}

/** Parts that run apart, each on one thread, stay in its caches from one operation to the next. */
const APART: PartCosts = { cacheBytes: 1.2 * 2 ** 20, valuesPerParameter: 0, even: true };

/** Parts that run one after the other, on all threads: each adds to the gradient of all parameters. */
const IN_TURN: PartCosts = { cacheBytes: 4 * 2 ** 20, valuesPerParameter: 1, even: true };

/** Numbers of the spaces of memory, as the native core has them. A thread's own comes last. */
const SPACES: readonly Storage['space'][] = ['arena', 'parameters', 'gradients', 'constants'];
const OWN_SPACE = SPACES.length;

/** Into how many shares the values that may be made again are divided: so many plans are tried at most. */
const SHARES = 12;

/**
 * Plans a graph for the native core. Where what a backward pass needs takes more than `maxActivationMemory`, the least share of it that
 * has to is made again instead of being kept, which costs up to one more forward pass. A limit that cannot be met is a RangeError that
 * says what can.
 */
export function planProgram(graph: Graph, options: ProgramOptions): NativeProgram {
  const { dims, training, learned, maxActivationMemory: most = Number.POSITIVE_INFINITY } = options;
  const sizes = (costs: PartCosts) =>
    partSizes(
      graph,
      dims,
      { training, backward: learned !== undefined },
      options.traits.parts ? costs : { ...costs, cacheBytes: Number.POSITIVE_INFINITY },
    );
  const plan = (dropped: number) =>
    planParts(graph, options, sizes(APART), dropped, true) ??
    planParts(graph, options, sizes(IN_TURN), dropped, false)!;
  const { program, candidates } = plan(0);
  let least = activationBytes(program, options.traits);
  if (!learned || least <= most) return program;
  let before = 0;
  for (let share = 1; share <= SHARES; share++) {
    const dropped = Math.ceil((share * candidates) / SHARES);
    if (dropped === before) continue;
    before = dropped;
    const { program: smaller } = plan(dropped);
    const bytes = activationBytes(smaller, options.traits);
    if (bytes <= most) return smaller;
    least = Math.min(least, bytes);
  }
  throw new RangeError(
    `Expected at least ${least} bytes for maxActivationMemory, which '${graph.name}' needs at this batch, but received ${most}; ` +
      'a smaller micro-batch needs less',
  );
}

/** What a program takes beside parameters, gradients and the optimiser's state. */
export function activationBytes({ memory }: NativeProgram, { threads }: DeviceTraits): number {
  return memory.arenaBytes + threads * memory.ownBytes;
}

/**
 * @param dropped see `recompute`
 * @param apart Whether parts are to run apart; undefined where they cannot.
 */
function planParts(
  graph: Graph,
  options: ProgramOptions,
  sizes: readonly number[],
  dropped: number,
  apart: boolean,
): { program: NativeProgram; candidates: number } | undefined {
  const { dims, training, learned, starts, traits, precision = 'float32' } = options;
  const parts = sizes.length;
  const own = parts === 1 ? dims : withBatch(dims, sizes[0]!);
  const specialized = fuse(specialize(graph, own, { training }));
  const outputs = specialized.outputs;
  const lowered = learned
    ? lowerGradient(specialized, learned, { starts, training, precision, dropped })
    : lowerForward(specialized, starts, precision);
  const { l } = lowered;
  const results = outputs.map((name) => l.place(name));
  const seeds = outputs.map((name) => {
    const seed = outputGradientName(name);
    return learned && specialized.inputs.some((input) => input.name === seed)
      ? l.place(seed).storage
      : undefined;
  });

  const kept = new Set(results.map(({ storage }) => storage));
  for (const raw of lowered.backward) for (const storage of storagesRead(raw)) kept.add(storage);
  const phasesOf = (raws: readonly Raw[], wanted: ReadonlySet<Storage>) =>
    apart && parts > 1
      ? phasesApart(chain(raws, wanted), parts, wanted, traits)
      : phasesInTurn(chain(raws, wanted), parts, traits);
  const forward = phasesOf(lowered.forward, kept);
  const backward = forward && phasesOf(lowered.backward, new Set());
  if (!forward || !backward) return undefined;
  const phases = [...forward, ...backward];
  checkSizes(
    phases.flatMap(({ drafts }) => drafts),
    traits.mostLines,
  );
  const inputs = graph.inputs.map(({ name }) => l.place(name).storage);
  const memory = planMemory(phases, forward.length, {
    inputs,
    outputs: results.map(({ storage }) => storage),
    late: seeds.filter((seed) => seed !== undefined),
  });
  const constants = new ConstantBlob();
  const locate = locator(memory, constants);
  const code =
    l.unsupported.length > 0
      ? []
      : phases.flatMap(({ drafts }) => drafts.flatMap((draft) => encode(draft, traits.operations, locate)));
  const value = (storage: Storage, offset: number, name: string, shape: readonly number[]): ProgramValue => {
    const [space, start] = locate({ storage, offset, access: 'read' });
    const bytes = product(shape) * elementBytes(storage.type);
    return { name, type: storage.type, dims: shape, space, offset: start, bytes };
  };
  const whole = (storage: Storage, shape: readonly number[]) =>
    storage.ofBatch && parts > 1 ? shape.with(0, shape[0]! * parts) : shape;
  const program: NativeProgram = {
    phases,
    forwardPhases: forward.length,
    memory,
    code: Float64Array.from(code),
    constants: constants.bytes(),
    inputs: graph.inputs.map(({ name }, i) => value(inputs[i]!, 0, name, dims[name]!)),
    outputs: results.map(({ storage, offset }, i) =>
      value(storage, offset, outputs[i]!, whole(storage, specialized.dims(outputs[i]!))),
    ),
    outputGradients: seeds.map((seed, i) =>
      seed
        ? value(seed, 0, outputs[i]!, whole(seed, specialized.dims(outputs[i]!)))
        : { name: outputs[i]!, type: 'float32', dims: [0], space: 0, offset: 0, bytes: 0 },
    ),
    unsupported: l.unsupported,
    parts,
  };
  return { program, candidates: lowered.candidates };
}

interface Lowered {
  readonly l: Lowering;
  readonly forward: readonly Raw[];
  readonly backward: readonly Raw[];
  /** See `recompute`. */
  readonly candidates: number;
}

const rule = (node: GraphNode) => LOWERING_RULES[node.op];

function lowerForward(
  graph: StaticGraph,
  starts: ReadonlyMap<string, number>,
  precision: Precision,
): Lowered {
  const { nodes } = graph.toGraph();
  const used = usedIn(nodes, graph.outputs);
  const l = new Lowering(graph, { starts, targets: new Map(), used, precision });
  for (const node of nodes) l.node(node, rule(node));
  for (const name of graph.outputs) l.makeWhole(name);
  return { l, forward: l.raws, backward: [], candidates: 0 };
}

function lowerGradient(
  graph: StaticGraph,
  learned: ReadonlySet<string>,
  options: {
    readonly starts: ReadonlyMap<string, number>;
    readonly training: boolean;
    readonly precision: Precision;
    readonly dropped: number;
  },
): Lowered {
  const { starts, training, precision, dropped } = options;
  const own = new Set(graph.parameters.map(({ name }) => name));
  const wanted = new Set([...learned].filter((name) => own.has(name)));
  const outputs = graph.outputs.filter((name) => graph.info(name).type === 'float32');
  const d = differentiate(graph, wanted, outputs);
  const live = d.graph.toGraph([...d.outputs, ...graph.outputs]).nodes;
  const first = new Set(d.graph.nodes.slice(0, d.forward).flatMap((node) => node.outputs));
  const forward = live.filter((node) => first.has(node.outputs[0]!));
  const { nodes: backward, candidates } = recompute(
    graph,
    forward,
    live.filter((node) => !first.has(node.outputs[0]!)),
    dropped,
  );
  const { targets, skipped, rest } = sumsInto(graph, backward, d);
  const read = [...graph.outputs, ...targets.keys(), ...rest.map(([, value]) => value), ...extras(d)];
  const l = new Lowering(graph, {
    starts,
    targets,
    used: usedIn([...forward, ...backward], read),
    precision,
  });
  for (const node of forward) l.node(node, rule(node));
  for (const name of graph.outputs) l.makeWhole(name);
  const count = l.raws.length;
  for (const node of backward) if (!skipped.has(node)) l.node(node, rule(node));
  for (const [parameter, value] of rest) l.addToGradient(parameter, value);
  for (const { parameter, indices, rows } of d.rowGradients) scatterIntoGradient(l, parameter, indices, rows);
  if (training) for (const statistics of d.statistics) average(l, statistics);
  return { l, forward: l.raws.slice(0, count), backward: l.raws.slice(count), candidates };
}

const extras = (d: Differentiated): string[] => [
  ...d.rowGradients.flatMap(({ indices, rows }) => [indices, rows]),
  ...d.statistics.flatMap(({ batchMean, batchVariance }) => [batchMean, batchVariance]),
];

function usedIn(nodes: readonly GraphNode[], outputs: readonly string[]): Set<string> {
  return new Set([...outputs, ...nodes.flatMap(({ inputs }) => inputs)]);
}

const RELABELS: ReadonlySet<string> = new Set(['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Identity']);

/**
 * Which values are added to which parameter's gradient where they are made: the gradient itself, or, where it is a sum of values that
 * nothing else reads, each of these, and of one that is a product or a sum with zeros around it what is inside. `skipped` are the nodes
 * of such sums; `rest` are gradients that have to be added afterwards.
 */
function sumsInto(
  graph: StaticGraph,
  backward: readonly GraphNode[],
  d: Differentiated,
): {
  targets: Map<string, GradientPart>;
  skipped: Set<GraphNode>;
  rest: (readonly [parameter: string, value: string])[];
} {
  const producers = new Map(
    backward.flatMap((node) => node.outputs.map((output) => [output, node] as const)),
  );
  const uses = new Map<string, number>();
  const use = (value: string) => uses.set(value, (uses.get(value) ?? 0) + 1);
  for (const { inputs } of backward) inputs.forEach(use);
  for (const value of d.gradients.values()) use(value);
  extras(d).forEach(use);
  const targets = new Map<string, GradientPart>();
  const skipped = new Set<GraphNode>();
  const rest: (readonly [string, string])[] = [];
  const follow = (value: string, parameter: string): void => {
    const node = producers.get(value);
    if (!node || uses.get(value) !== 1) {
      rest.push([parameter, value]);
      return;
    }
    const inside = node.op === 'Pad' ? paddedSum(graph, node, producers.get(node.inputs[0]!)) : undefined;
    if (inside && uses.get(node.inputs[0]!) === 1) {
      skipped.add(node);
      targets.set(node.inputs[0]!, { parameter, ...inside });
      return;
    }
    const count = product(graph.dims(value));
    const parts = RELABELS.has(node.op) ? node.inputs.slice(0, 1) : node.op === 'Add' ? node.inputs : [];
    const whole = parts.every(
      (part) => uses.get(part) === 1 && producers.has(part) && product(graph.dims(part)) === count,
    );
    if (parts.length === 0 || !whole) {
      targets.set(value, { parameter });
      return;
    }
    skipped.add(node);
    for (const part of parts) follow(part, parameter);
  };
  for (const [parameter, value] of d.gradients) follow(value, parameter);
  return { targets, skipped, rest };
}

const PRODUCTS: ReadonlySet<string> = new Set(['MatMul', 'FusedMatMul', 'Gemm']);

/** Where in a matrix or a row of zeros something lies that its operation can add where it is to be. */
function paddedSum(graph: StaticGraph, pad: GraphNode, maker: GraphNode | undefined): Window | undefined {
  const dims = graph.dims(pad.outputs[0]!);
  const fits =
    dims.length === 2
      ? maker && PRODUCTS.has(maker.op) && (maker.inputs[2] ?? '') === ''
      : dims.length === 1 && maker?.op === 'SumOver';
  const pads = graph.context(pad).numbers(1);
  if (!fits || pad.inputs.length > 2 || 'mode' in pad.attributes || pads.some((count) => count < 0))
    return undefined;
  const row = dims.at(-1)!;
  return { offset: dims.length === 2 ? pads[0]! * row + pads[1]! : pads[0]!, row };
}

/** average ← momentum · average + (1 − momentum) · batch's */
function average(l: Lowering, statistics: Differentiated['statistics'][number]): void {
  const { mean, variance, batchMean, batchVariance, momentum, count } = statistics;
  for (const [parameter, batch, factor] of [
    [mean, batchMean, 1],
    [variance, batchVariance, unbiasedFactor(count)],
  ] as const) {
    const storage = l.parameter(parameter);
    const old = l.fresh('float32', storage.count, `${parameter}.old`);
    const added = l.fresh('float32', storage.count, `${parameter}.added`);
    l.stepInto(old, 'multiply', [l.dense({ storage, offset: 0 }), momentum]);
    l.stepInto(added, 'multiply', [l.dense(l.place(batch), storage.count), (1 - momentum) * factor]);
    l.stepInto(storage, 'add', [
      l.dense({ storage: old, offset: 0 }),
      l.dense({ storage: added, offset: 0 }),
    ]);
  }
}

/** The constants of a program, one after the other. */
class ConstantBlob {
  readonly #offsets = new Map<Storage['constant'], number>();
  readonly #parts: Uint8Array[] = [];
  #length = 0;

  offset(constant: NonNullable<Storage['constant']>): number {
    let offset = this.#offsets.get(constant);
    if (offset === undefined) {
      offset = this.#length;
      const { buffer, byteOffset, byteLength } = constant.data;
      const padded = new Uint8Array(Math.ceil(byteLength / 64) * 64);
      padded.set(new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength));
      this.#parts.push(padded);
      this.#length += padded.length;
      this.#offsets.set(constant, offset);
    }
    return offset;
  }

  bytes(): Uint8Array {
    const all = new Uint8Array(this.#length);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

function locator(memory: MemoryPlan, constants: ConstantBlob) {
  return ({ storage, offset }: Ref): readonly [number, number, number] => {
    const space = SPACES.indexOf(storage.space);
    const bytes = offset * elementBytes(storage.type);
    if (storage.space === 'arena') {
      const block = memory.blocks.get(storage);
      return [block?.own ? OWN_SPACE : space, (block?.offset ?? 0) + bytes, block?.step ?? 0];
    }
    if (storage.space === 'constants') return [space, constants.offset(storage.constant!) + bytes, 0];
    return [space, storage.start! * 4 + bytes, 0];
  };
}

/** The smallest batch at which nothing is special. */
const SAMPLE_BATCH = 2;

/**
 * Nodes that there is no native operation for, forward and backward, with every open dimension taken for 2. A graph that does not fit
 * these shapes is tried when its own are known: nothing is said of it.
 */
export function unsupportedIn(graph: Graph, learned: ReadonlySet<string>): readonly Unsupported[] {
  const dims = Object.fromEntries(
    graph.inputs.map((input) => [
      input.name,
      input.dims.map((dim) => (typeof dim === 'number' ? dim : SAMPLE_BATCH)),
    ]),
  );
  const starts = startsOf(graph.parameters);
  try {
    const specialized = fuse(specialize(graph, dims, { training: true }));
    const options = { starts, training: true, precision: 'float32', dropped: 0 } as const;
    return lowerGradient(specialized, learned, options).l.unsupported;
  } catch (error) {
    // What no executor can do is told by the call that needs it.
    if (error instanceof CidError || error instanceof RangeError) return [];
    throw error;
  }
}
