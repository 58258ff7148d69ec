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

/**
 * Values of the forward pass that are cheap to make are made again where the backward pass needs them, instead of being kept: less
 * memory, and less traffic to it. Only from values that are kept in any case, so that nothing else has to stay for it.
 *
 * Returns the backward nodes with the repeated ones before their first use, and whatever reads them reading these.
 */
export function recompute(
  graph: StaticGraph,
  forward: readonly GraphNode[],
  backward: readonly GraphNode[],
): GraphNode[] {
  const producers = new Map(forward.flatMap((node) => node.outputs.map((output) => [output, node] as const)));
  const read = new Set(backward.flatMap(({ inputs }) => inputs));
  // What is a value's own memory.
  const root = (value: string): string => {
    const node = producers.get(value);
    return node && RELABELS.has(node.op) ? root(node.inputs[0]!) : value;
  };
  const kept = new Set<string>();
  const again = new Map<string, readonly GraphNode[]>();
  /** Nodes that make a value from what is kept, in order; undefined where that takes too many. */
  const plan = (value: string): readonly GraphNode[] | undefined => {
    const node = producers.get(value);
    if (!node || kept.has(root(value))) return [];
    if (RELABELS.has(node.op)) {
      const before = plan(node.inputs[0]!);
      return before && [...before, node];
    }
    if (!CHEAP.has(node.op) || node.outputs[0] !== value) return undefined;
    const nodes: GraphNode[] = [];
    for (const input of node.inputs) {
      const before = input === '' ? [] : plan(input);
      if (!before) return undefined;
      for (const step of before) if (!nodes.includes(step)) nodes.push(step);
    }
    nodes.push(node);
    return nodes.filter(({ op }) => !RELABELS.has(op)).length <= DEEPEST ? nodes : undefined;
  };
  // In the order in which they are made: what a value is made from has been decided before it.
  for (const { outputs } of forward) {
    for (const output of outputs) {
      if (!read.has(output) || kept.has(root(output))) continue;
      const nodes = plan(output);
      if (nodes && nodes.length > 0) again.set(output, nodes);
      else kept.add(root(output));
    }
  }

  const renamed = new Map<string, string>();
  const rename = (value: string) => renamed.get(value) ?? value;
  const result: GraphNode[] = [];
  for (const node of backward) {
    for (const input of node.inputs) {
      for (const step of again.get(input) ?? []) {
        const [made] = step.outputs as [string];
        if (renamed.has(made) || (RELABELS.has(step.op) && kept.has(root(made)))) continue;
        const name = graph.fresh('again');
        graph.setInfo(name, graph.info(made));
        result.push({ ...step, inputs: step.inputs.map(rename), outputs: [name] });
        renamed.set(made, name);
      }
    }
    result.push({ ...node, inputs: node.inputs.map(rename) });
  }
  return result;
}
