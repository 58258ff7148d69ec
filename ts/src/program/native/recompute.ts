import { product } from '../attributes.ts';
import type { GraphNode } from '../graph.ts';
import type { StaticGraph } from '../static.ts';

/** Operators that cost about as much as it costs to write their result to memory and to read it again. */
const CHEAP: ReadonlySet<string> = new Set(
  (
    'Add Sub Mul Div Neg Abs Sqrt Exp Sign Reciprocal Relu LeakyRelu Sigmoid Tanh Gelu QuickGelu HardSwish HardSigmoid Clip Where ' +
    'LayerNormalization'
  ).split(' '),
);

const RELABELS: ReadonlySet<string> = new Set(['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Identity']);

/** The most operators that are run again for one value. */
const DEEPEST = 3;

/** What a backward pass makes again. */
export interface Recomputation {
  /** The backward nodes with the repeated ones before their first use, and whatever reads them reading these. */
  readonly nodes: GraphNode[];
  /** Forward nodes whose results are kept though they could be made again, before any was dropped. */
  readonly candidates: number;
}

/**
 * Values of the forward pass that are cheap to make are made again where the backward pass needs them, instead of being kept: less
 * memory, and less traffic to it. Only from values that are kept in any case, so that nothing else has to stay for it.
 *
 * `dropped` of the other nodes are run again too, those first that save most bytes for their work; among equals they are spread over
 * the graph, so that those which stay are the ends of stretches of about one length. All that is repeated is repeated once.
 */
export function recompute(
  graph: StaticGraph,
  forward: readonly GraphNode[],
  backward: readonly GraphNode[],
  dropped = 0,
): Recomputation {
  const producers = new Map(forward.flatMap((node) => node.outputs.map((output) => [output, node] as const)));
  const read = new Set(backward.flatMap(({ inputs }) => inputs));
  // What is a value's own memory.
  const root = (value: string): string => {
    const node = producers.get(value);
    return node && RELABELS.has(node.op) ? root(node.inputs[0]!) : value;
  };
  const kept = new Set<string>();
  const again = new Set<string>();
  /** Nodes that make a value from what is kept, in order. */
  const making = (value: string): Set<GraphNode> => {
    const nodes = new Set<GraphNode>();
    const add = (name: string): void => {
      const node = producers.get(name);
      if (!node || kept.has(root(name)) || nodes.has(node)) return;
      for (const input of node.inputs) add(input);
      nodes.add(node);
    };
    add(value);
    return nodes;
  };
  const isCheap = (value: string): boolean => {
    if (producers.get(root(value))?.outputs[0] !== root(value)) return false;
    const nodes = [...making(value)].filter(({ op }) => !RELABELS.has(op));
    return nodes.length <= DEEPEST && nodes.every(({ op }) => CHEAP.has(op));
  };
  // In the order in which they are made: what a value is made from has been decided before it.
  for (const { outputs } of forward) {
    for (const output of outputs) {
      if (!read.has(output) || kept.has(root(output))) continue;
      if (isCheap(output)) again.add(output);
      else kept.add(root(output));
    }
  }
  const candidates = forward.filter(
    (node) => !RELABELS.has(node.op) && node.outputs.some((output) => kept.has(output)),
  );
  if (dropped > 0) {
    for (const { outputs } of inOrderOfWorth(graph, candidates, making, kept).slice(0, dropped)) {
      for (const output of outputs) if (kept.delete(output)) again.add(output);
    }
  }

  const renamed = new Map<string, string>();
  const rename = (value: string) => renamed.get(value) ?? value;
  const nodes: GraphNode[] = [];
  const repeated = new Set<GraphNode>();
  for (const node of backward) {
    for (const input of node.inputs) {
      if (!again.has(root(input)) && !again.has(input)) continue;
      for (const step of making(input)) {
        if (repeated.has(step)) continue;
        repeated.add(step);
        const outputs = step.outputs.map((output) => {
          if (output === '') return output;
          const name = graph.fresh('again');
          graph.setInfo(name, graph.info(output));
          return name;
        });
        nodes.push({ ...step, inputs: step.inputs.map(rename), outputs });
        for (const [i, output] of step.outputs.entries()) {
          if (!kept.has(output)) renamed.set(output, outputs[i]!);
        }
      }
    }
    nodes.push({ ...node, inputs: node.inputs.map(rename) });
  }
  return { nodes, candidates: candidates.length };
}

/** Nodes by the work that it takes to make their results again from what is kept, for each byte of these, the least first. */
function inOrderOfWorth(
  graph: StaticGraph,
  candidates: readonly GraphNode[],
  making: (value: string) => Set<GraphNode>,
  kept: Set<string>,
): GraphNode[] {
  const count = (value: string) => (value === '' ? 0 : product(graph.dims(value)));
  const worths = candidates.map((node, index) => {
    const own = node.outputs.filter((output) => kept.delete(output));
    const work = [...making(own[0]!)].reduce((sum, step) => sum + workOf(step, count, graph), 0);
    for (const output of own) kept.add(output);
    const elements = own.reduce((sum, output) => sum + count(output), 0);
    // What differs by little counts as equal.
    return { node, worth: Math.round(2 * Math.log2((1 + work) / elements)), place: reversed(index) };
  });
  return worths.sort((a, b) => a.worth - b.worth || a.place - b.place).map(({ node }) => node);
}

/** The bits of a number below 2^16 in the other order: 0, 1, 2, … are spread over the whole. */
function reversed(index: number): number {
  let result = 0;
  for (let bit = 0; bit < 16; bit++) result |= ((index >> bit) & 1) << (15 - bit);
  return result;
}

/** About how many floating-point operations a node takes. */
function workOf(node: GraphNode, count: (value: string) => number, graph: StaticGraph): number {
  const [first, second] = node.inputs as [string, string];
  const result = node.outputs.reduce((sum, output) => sum + count(output), 0);
  switch (node.op) {
    case 'MatMul':
    case 'FusedMatMul':
    case 'Gemm': {
      // m k times k n over m n is k squared.
      const area = (value: string) => product(graph.dims(value).slice(-2));
      return 2 * result * Math.sqrt((area(first) * area(second)) / area(node.outputs[0]!));
    }
    case 'Conv':
      return (2 * result * count(second)) / graph.dims(second)[0]!;
    case 'Attention':
      return 4 * result * graph.dims(first).at(-2)!;
    default:
      return 4 * result;
  }
}
