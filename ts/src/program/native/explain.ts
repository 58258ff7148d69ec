import { CidError } from '../../native/errors.ts';
import { product } from '../attributes.ts';
import type { Parameter } from '../executor.ts';
import { fuse } from '../fuse.ts';
import type { DataType, Graph, GraphNode, GraphValue } from '../graph.ts';
import { startsOf } from '../parameters.ts';
import type { Precision } from '../precision.ts';
import { unknownNodes } from '../shapes/index.ts';
import { type InputDims, type StaticGraph, specialize } from '../static.ts';
import { NO_DEVICE, operationsOf, total } from './costs.ts';
import { type Draft, elementBytes, refsOf, type Storage } from './draft.ts';
import type { PhaseDraft } from './memory.ts';
import { activationBytes, type DeviceTraits, type NativeProgram, planProgram } from './program.ts';

/** Operations of one kind in a pass. */
export interface OperationCosts {
  readonly op: string;
  /** Runs, of all parts. */
  readonly runs: number;
  /** Floating-point operations. */
  readonly flops: number;
  /** Bytes of their operands: what they read and write where no cache helps. */
  readonly bytes: number;
}

/** What runs for outputs alone, or for a gradient. */
export interface PassPlan {
  /** Parts that the batch is run in, so that values stay in the caches. */
  readonly parts: number;
  readonly forward: readonly OperationCosts[];
  readonly backward: readonly OperationCosts[];
  /** Bytes that all values take that are not parameters, on as many threads as were asked about. */
  readonly activations: number;
  /** What is kept from the forward pass for the backward pass, the largest first. */
  readonly saved: readonly { readonly name: string; readonly bytes: number }[];
}

/** What would be done with a graph. Sizes are in bytes. */
export interface Explanation {
  readonly inputs: readonly {
    readonly name: string;
    readonly type: DataType;
    readonly dims: readonly number[];
  }[];
  readonly outputs: readonly {
    readonly name: string;
    readonly type: DataType;
    readonly dims: readonly number[];
  }[];
  /** Numbers of elements. */
  readonly parameters: { readonly all: number; readonly learned: number };
  /** Nodes of the file, those at these shapes, where what is constant is known, and those after fusion. */
  readonly nodes: { readonly given: number; readonly shaped: number; readonly fused: number };
  /** Of the large products of training. */
  readonly precision: Precision;
  /** Operators that fusion made, with the nodes that they stand in the place of. */
  readonly fused: readonly { readonly op: string; readonly nodes: readonly string[] }[];
  /** What looks like a part of an operator that fusion makes, but not in a form that it knows: each of its operations runs by itself. */
  readonly unfused: readonly { readonly op: string; readonly node: string; readonly of: string }[];
  /** What the native executor has no operation for; undefined `node` where a pass as a whole cannot be planned. */
  readonly unsupported: readonly { readonly op?: string; readonly node?: string; readonly why: string }[];
  /** Outputs alone; undefined where something is not supported. */
  readonly inference: PassPlan | undefined;
  readonly training: PassPlan | undefined;
  /** Bytes of parameters, their gradients, and AdamW's moments. */
  readonly state: { readonly parameters: number; readonly gradients: number; readonly moments: number };
}

/**
 * What the native executor does with a graph.
 *
 * @param batch Size of the inputs' first axis where that is open.
 * @param sizes Sizes of other open axes by name. One that is missing is a RangeError that names it.
 * @param options Of training (ExecutorOptions). A limit that cannot be met is a RangeError. The processor need not have the precision.
 *   `threads`, each of which needs memory of its own, defaults to 1.
 * @throws CidError MODEL_INVALID for a graph that does not fit the sizes.
 */
export function explain(
  graph: Graph,
  parameters: readonly Omit<Parameter, 'value'>[],
  batch: number,
  sizes: Readonly<Record<string, number>> = {},
  options: {
    readonly maxActivationMemory?: number | undefined;
    readonly precision?: Precision;
    readonly threads?: number;
  } = {},
): Explanation {
  const { maxActivationMemory, precision = 'float32', threads = 1 } = options;
  const traits = { ...NO_DEVICE, threads };
  const dims = inputDims(graph, batch, sizes);
  const learned = new Set(parameters.filter(({ trainable }) => trainable).map(({ name }) => name));
  const count = (list: readonly Omit<Parameter, 'value'>[]) =>
    list.reduce((sum, parameter) => sum + product(parameter.dims), 0);
  const all = count(parameters);
  const common = {
    inputs: graph.inputs.map(({ name, type }) => ({ name, type, dims: dims[name]! })),
    parameters: { all, learned: count(parameters.filter(({ trainable }) => trainable)) },
    state: { parameters: 4 * all, gradients: 4 * all, moments: 8 * all },
    precision,
  };
  const unknown = unknownNodes(graph.nodes);
  if (unknown.length > 0) {
    return {
      ...common,
      outputs: [],
      nodes: { given: graph.nodes.length, shaped: graph.nodes.length, fused: graph.nodes.length },
      fused: [],
      unfused: [],
      unsupported: unknown.map(({ node, why }) => ({ ...named(node), why })),
      inference: undefined,
      training: undefined,
    };
  }
  const before = specialize(graph, dims, { training: true });
  const after = fuse(before);
  const [shaped, fused] = [live(before), live(after)];
  const starts = startsOf(parameters);
  const unsupported: { op?: string; node?: string; why: string }[] = [];
  const plan = (training: boolean): PassPlan | undefined => {
    let program: NativeProgram;
    try {
      program = planProgram(graph, {
        dims,
        starts,
        traits,
        training,
        ...(training ? { learned, maxActivationMemory, precision } : {}),
      });
    } catch (error) {
      if (!(error instanceof CidError)) throw error;
      unsupported.push({ why: error.message });
      return undefined;
    }
    for (const { node, why } of program.unsupported) {
      const entry = { ...named(node), why };
      if (!unsupported.some((known) => known.node === entry.node && known.why === why))
        unsupported.push(entry);
    }
    return program.unsupported.length > 0 ? undefined : passOf(program, traits);
  };
  const [inference, training] = [plan(false), plan(true)];
  return {
    ...common,
    outputs: graph.outputs.map(({ name }) => ({ name, ...before.info(name) })),
    nodes: { given: graph.nodes.length, shaped: shaped.length, fused: fused.length },
    fused: madeBy(shaped, fused),
    unfused: partsLeft(fused),
    unsupported,
    inference,
    training,
  };
}

const named = (node: GraphNode) => ({ op: node.op, node: node.name || (node.outputs[0] ?? '') });

const live = (graph: StaticGraph) => graph.toGraph().nodes;

function inputDims(graph: Graph, batch: number, sizes: Readonly<Record<string, number>>): InputDims {
  const first = graph.inputs.map(({ dims }) => dims[0]).find((dim) => typeof dim === 'string');
  const sizeOf = (input: GraphValue, dim: string): number => {
    const size = sizes[dim] ?? (dim === first ? batch : undefined);
    if (size !== undefined) return size;
    throw new RangeError(
      `Expected a size for the open axis '${dim}' of input '${input.name}', as --size ${dim}=N or in \`sizes\`, but received none`,
    );
  };
  return Object.fromEntries(
    graph.inputs.map((input) => [
      input.name,
      input.dims.map((dim) => (typeof dim === 'number' ? dim : sizeOf(input, dim))),
    ]),
  );
}

/** Operators that only move elements: a matter of the plan. */
const MOVES: ReadonlySet<string> = new Set(['Reshape', 'Transpose', 'Identity']);

/** What was not there before, by operator. */
function madeBy(
  before: readonly GraphNode[],
  after: readonly GraphNode[],
): { op: string; nodes: string[] }[] {
  const known = new Set(before.map(({ op, outputs }) => `${op} ${outputs[0]}`));
  const made = new Map<string, string[]>();
  for (const node of after) {
    if (MOVES.has(node.op) || known.has(`${node.op} ${node.outputs[0]}`)) continue;
    const { node: name } = named(node);
    const nodes = made.get(node.op);
    if (nodes) nodes.push(name);
    else made.set(node.op, [name]);
  }
  return [...made].map(([op, nodes]) => ({ op, nodes }));
}

const PRODUCTS: ReadonlySet<string> = new Set(['MatMul', 'FusedMatMul', 'Gemm']);

/** Operations on the way from the one that a pattern is told by to its product or sum, which only give shapes or scale. */
const BETWEEN: ReadonlySet<string> = new Set(['Reshape', 'Transpose', 'Identity', 'Cast', 'Dropout']);

/** What is left of patterns: a softmax between products, the root of a mean, the error function. */
function partsLeft(nodes: readonly GraphNode[]): { op: string; node: string; of: string }[] {
  const producers = new Map(nodes.flatMap((node) => node.outputs.map((output) => [output, node] as const)));
  const readers = (value: string): GraphNode[] =>
    nodes
      .filter(({ inputs }) => inputs.includes(value))
      .flatMap((node) => (BETWEEN.has(node.op) ? readers(node.outputs[0]!) : [node]));
  const made = (value: string, op: string): GraphNode | undefined => {
    const node = producers.get(value);
    return node?.op === op ? node : undefined;
  };
  const wholeOf = ({ op, inputs, outputs }: GraphNode): string | undefined => {
    if (op === 'Erf') return 'Gelu';
    if (op === 'Softmax')
      return readers(outputs[0]!).some((node) => PRODUCTS.has(node.op)) ? 'Attention' : undefined;
    if (op !== 'Sqrt') return undefined;
    const mean = made(inputs[0]!, 'Add')?.inputs.some((input) => made(input, 'ReduceMean'));
    return mean ? 'LayerNormalization' : undefined;
  };
  return nodes.flatMap((node) => {
    const of = wholeOf(node);
    return of === undefined ? [] : [{ ...named(node), of }];
  });
}

function passOf(program: NativeProgram, traits: DeviceTraits): PassPlan {
  const { phases, forwardPhases, memory, parts } = program;
  return {
    parts,
    forward: costsOf(phases.slice(0, forwardPhases)),
    backward: costsOf(phases.slice(forwardPhases)),
    activations: activationBytes(program, traits),
    saved: memory.saved.toSorted((a, b) => b.bytes - a.bytes),
  };
}

/** By operation, the one with most work first. */
function costsOf(phases: readonly PhaseDraft[]): OperationCosts[] {
  const drafts = new Set(phases.flatMap((phase) => phase.drafts.map(nameOf)));
  return [...drafts]
    .map((op) => {
      const sum = (of: (draft: Draft) => number) =>
        total(phases, (draft) => (nameOf(draft) === op ? of(draft) : 0));
      return { op, runs: sum(() => 1), flops: sum(operationsOf), bytes: sum(bytesOf) };
    })
    .sort((a, b) => b.flops - a.flops || b.bytes - a.bytes);
}

/** Products with elementwise operations behind them are told apart from those without, and those in bfloat16 from others. */
function nameOf(draft: Draft): string {
  if (draft.kind === 'fixed') return draft.op;
  if (!draft.head) return 'chain';
  const name = draft.head.precision === 'bf16' ? 'bf16 product' : 'product';
  return draft.nodes.length > 0 ? `${name} + chain` : name;
}

/** Of the operands, each once; of a table of rows only those that are picked. */
function bytesOf(draft: Draft): number {
  const storages = [...new Set<Storage>(refsOf(draft).map(({ storage }) => storage))];
  const sizes = storages.map(({ count, type }) => count * elementBytes(type)).sort((a, b) => a - b);
  if (nameOf(draft) === 'gather' || nameOf(draft) === 'scatter') sizes[2] = Math.min(...sizes.slice(1));
  return sizes.reduce((sum, size) => sum + size, 0);
}
