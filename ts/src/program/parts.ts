import { product } from './attributes.ts';
import { fuse } from './fuse.ts';
import type { Graph } from './graph.ts';
import { separatesItems } from './items.ts';
import { type InputDims, type StaticGraph, specialize } from './static.ts';

/** What parts are worth to an executor. */
export interface PartCosts {
  /** What the largest value of a part should take at most: chains of operators then work in the caches of the cores. */
  readonly cacheBytes: number;
  /**
   * A part should make this many times as many values as there are parameters: where each part adds to a gradient of all
   * parameters, that must stay a small share of its work.
   */
  readonly valuesPerParameter: number;
  /** Whether all parts must be of one size. */
  readonly even: boolean;
}

/**
 * Sizes of the parts that a batch is run in. One part where the batch is small already or its items are not apart. The memory
 * traffic that this saves is worth 10 to 20 percent of a transformer's step.
 */
export function partSizes(
  graph: Graph,
  dims: InputDims,
  options: { training: boolean; backward: boolean },
  costs: PartCosts,
): number[] {
  const batch = batchOf(graph, dims);
  if (batch === undefined || batch < 4) return [batch ?? 0];
  const sample = apart(graph, withBatch(dims, 2), options);
  if (!sample) return [batch];
  const { nodes } = sample.toGraph();
  const sizes = nodes.map(({ outputs }) => product(sample.dims(outputs[0]!)) / 2);
  const perCache = Math.floor(costs.cacheBytes / (4 * Math.max(...sizes)));
  const values = sizes.reduce((sum, size) => sum + size, 0);
  const parameters = graph.parameters.reduce((sum, parameter) => sum + product(parameter.dims), 0);
  const perParameter = options.backward ? Math.ceil((costs.valuesPerParameter * parameters) / values) : 0;
  const size = Math.max(2, perCache, perParameter);
  if (size * 1.5 >= batch) return [batch];
  const even = evenParts(batch, Math.ceil(batch / size), costs.even);
  if (even.length === 1) return even;
  // The proof is for two items; what holds for these must hold for the parts that run, and they must do what the whole does.
  const whole = apart(graph, withBatch(dims, batch), options);
  const fits = (part: number) => {
    const specialized = part < 2 ? undefined : apart(graph, withBatch(dims, part), options);
    return (
      specialized !== undefined && whole !== undefined && sameForEachItem(specialized, part, whole, batch)
    );
  };
  return [...new Set(even)].every(fits) ? even : [batch];
}

/**
 * Whether an item goes through the same operators at both batches: a graph may take numbers from the size of its batch, as factors
 * or as shapes.
 */
function sameForEachItem(a: StaticGraph, batchA: number, b: StaticGraph, batchB: number): boolean {
  const [left, right] = [a.toGraph().nodes, b.toGraph().nodes];
  const text = (value: unknown) =>
    JSON.stringify(value, (_name, field: unknown) => (typeof field === 'bigint' ? `${field}n` : field));
  const sameConstant = (p: unknown, q: unknown) => p === q || text(p) === text(q);
  const sameShape = (p: readonly number[], q: readonly number[]) =>
    p.length === q.length &&
    p.every((dim, axis) => dim === q[axis] || (axis === 0 && dim * batchB === q[axis]! * batchA));
  return (
    left.length === right.length &&
    left.every((node, at) => {
      const twin = right[at]!;
      // Shapes show in the outputs.
      const operands = SHAPED.has(node.op) ? 1 : node.inputs.length;
      return (
        node.op === twin.op &&
        text(node.attributes) === text(twin.attributes) &&
        node.inputs.length === twin.inputs.length &&
        node.outputs.every((output, i) => sameShape(a.dims(output), b.dims(twin.outputs[i]!))) &&
        node.inputs
          .slice(0, operands)
          .every((input, i) => sameConstant(a.constants.get(input), b.constants.get(twin.inputs[i]!)))
      );
    })
  );
}

/** Operators whose second input is a shape. */
const SHAPED: ReadonlySet<string> = new Set(['Reshape', 'Expand']);

/** The graph at these shapes if its items are apart there; a graph that was made for one batch alone fits no other. */
function apart(graph: Graph, dims: InputDims, options: { training: boolean }): StaticGraph | undefined {
  try {
    const specialized = fuse(specialize(graph, dims, options));
    return separatesItems(specialized, dims[graph.inputs[0]!.name]![0]!) ? specialized : undefined;
  } catch {
    return undefined;
  }
}

/** Equal parts if a number of them up to twice the wanted one allows it, so that one shape is compiled; else nearly equal ones. */
function evenParts(batch: number, count: number, only: boolean): number[] {
  for (let parts = count; parts <= 2 * count && parts * 2 <= batch; parts++) {
    if (batch % parts === 0) return new Array<number>(parts).fill(batch / parts);
  }
  if (only) return [batch];
  const size = Math.ceil(batch / count);
  const whole = new Array<number>(Math.floor(batch / size)).fill(size);
  const rest = batch % size;
  return rest === 0 ? whole : [...whole, rest];
}

/** The batch, where every input and output has the same open first axis and nothing else is open. */
function batchOf(graph: Graph, dims: InputDims): number | undefined {
  const [input] = graph.inputs;
  const name = input?.dims[0];
  if (typeof name !== 'string') return undefined;
  const alike = graph.inputs.every(
    ({ dims: declared }) => declared[0] === name && !declared.slice(1).includes(name),
  );
  return alike ? dims[input!.name]?.[0] : undefined;
}

export function withBatch(dims: InputDims, size: number): InputDims {
  return Object.fromEntries(Object.entries(dims).map(([name, sizes]) => [name, sizes.with(0, size)]));
}
