import { intAttribute, positiveAxis } from './attributes.ts';
import { fusedOperator } from './fused/index.ts';
import type { GraphNode } from './graph.ts';
import { permutation, sliceRanges } from './shapes/layout.ts';
import { reducedAxes } from './shapes/reduction.ts';
import type { StaticGraph } from './static.ts';

/**
 * Whether a graph treats the items of its batch apart: then a batch may be run in parts, whose outputs follow one another and
 * whose gradients add up. Every input must have the batch, of at least 2, as its first axis.
 *
 * It looks for a proof and not for a counterexample: a value holds items when its elements come item by item in memory, and
 * each operator must turn such values into such values. What it has no rule for counts as mixing items, as do batch norms
 * that take the batch's own statistics.
 */
export function separatesItems(graph: StaticGraph, batch: number): boolean {
  const held = new Set<string>();
  for (const { name, dims } of graph.inputs) {
    if (dims[0] !== batch) return false;
    held.add(name);
  }
  for (const node of graph.toGraph().nodes) {
    const view = new ItemView(graph, node, batch, held);
    const separate = node.inputs.some((input) => held.has(input))
      ? (fusedOperator(node)?.items ?? RULES[node.op])?.(view)
      : repeats(view);
    if (separate === false) continue;
    if (separate === undefined) return false;
    for (const output of node.outputs) held.add(output);
  }
  return graph.outputs.every((output) => held.has(output) && graph.dims(output)[0] === batch);
}

/** A node, and which of its inputs hold items. */
export class ItemView {
  readonly graph: StaticGraph;
  readonly node: GraphNode;
  readonly batch: number;
  readonly #held: ReadonlySet<string>;

  constructor(graph: StaticGraph, node: GraphNode, batch: number, held: ReadonlySet<string>) {
    this.graph = graph;
    this.node = node;
    this.batch = batch;
    this.#held = held;
  }

  held(input: number): boolean {
    return this.#held.has(this.node.inputs[input] ?? '');
  }

  dims(input: number): readonly number[] {
    return this.graph.dims(this.node.inputs[input]!);
  }

  get output(): readonly number[] {
    return this.graph.dims(this.node.outputs[0]!);
  }

  axis(fallback: number): number {
    return positiveAxis(intAttribute(this.node, 'axis', fallback), this.dims(0).length);
  }
}

/** True: the output holds items. Undefined: items are mixed, or nobody knows. */
export type ItemRule = (view: ItemView) => true | undefined;

const when = (condition: boolean): true | undefined => (condition ? true : undefined);

/** A value that is made without items: of use beside them when every item gets the same. */
function repeats(v: ItemView): boolean {
  const { node, output, batch } = v;
  if (node.op !== 'Expand' || output[0] !== batch) return false;
  const from = v.dims(0);
  return from.length < output.length || from[0] === 1;
}

/** Broadcasting along the first axis would share one item's values with others. */
const elementwise: ItemRule = (v) => {
  const { output } = v;
  return when(
    v.node.inputs.every((name, i) => {
      if (name === '') return true;
      const dims = v.dims(i);
      if (v.held(i)) return dims.length === output.length && dims[0] === output[0];
      return dims.length < output.length || dims[0] === 1;
    }),
  );
};

/** Elements stay in their order, so that items stay together when the first axis can be cut into them. */
const relabel: ItemRule = (v) => when(v.held(0) && v.output.length > 0 && v.output[0]! % v.batch === 0);

const first: ItemRule = (v) => when(v.held(0) && v.node.inputs.every((_, i) => i === 0 || !v.held(i)));

const offFirstAxis =
  (fallback: number): ItemRule =>
  (v) =>
    when(v.axis(fallback) !== 0 && v.node.inputs.every((_, i) => i > 0 || v.held(i)));

const reduction: ItemRule = (v) => when(!reducedAxes(v.graph.context(v.node)).includes(0));

const product: ItemRule = (v) => {
  const [a, b] = [v.dims(0), v.dims(1)];
  // Rows of a matrix are items' unless it is read the other way round.
  if (v.held(0) && !v.held(1)) {
    if (a.length === 2 && intAttribute(v.node, 'transA', 0) === 1) return undefined;
    return when(
      a.length >= 2 && (b.length === 2 || b.length < a.length || (b.length === a.length && b[0] === 1)),
    );
  }
  // With more axes than the items' side the other would put its own in front of theirs.
  if (!v.held(0))
    return when(b.length >= 3 && (a.length < b.length || (a.length === b.length && a[0] === 1)));
  return when(a.length >= 3 && a.length === b.length && a[0] === b[0]);
};

/** Operators that make each element from the elements at its place. */
export const ELEMENTWISE: ReadonlySet<string> = new Set(
  (
    'Identity Cast Relu LeakyRelu Elu Sigmoid Tanh Exp Log Sqrt Neg Abs Sign Reciprocal Erf Sin Cos Floor Ceil Softplus ' +
    'HardSwish HardSigmoid Gelu QuickGelu Clip Not Add Sub Mul Div Pow Min Max Sum Mod Equal Greater Less GreaterOrEqual ' +
    'LessOrEqual And Or Where'
  ).split(' '),
);

const RULES: Readonly<Record<string, ItemRule>> = {
  ...Object.fromEntries([...ELEMENTWISE].map((op) => [op, elementwise])),
  Reshape: relabel,
  Flatten: relabel,
  Squeeze: relabel,
  Unsqueeze: relabel,
  Transpose: (v) => when(permutation(v.node, v.dims(0).length)[0] === 0),
  Concat: (v) => when(v.axis(0) !== 0 && v.node.inputs.every((_, i) => v.held(i))),
  Split: offFirstAxis(0),
  Softmax: offFirstAxis(-1),
  LogSoftmax: offFirstAxis(-1),
  LayerNormalization: (v) => when(v.axis(-1) !== 0 && first(v) === true),
  Slice: (v) => when(sliceRanges(v.graph.context(v.node)).every(({ axis }) => axis !== 0)),
  Pad: (v) => {
    const pads = v.graph.context(v.node).numbers(1);
    return when(pads[0] === 0 && pads[pads.length / 2] === 0);
  },
  Gather: (v) => {
    const axis = v.axis(0);
    if (v.held(0)) return when(axis !== 0 && !v.held(1));
    return when(axis === 0 && v.dims(1).length > 0);
  },
  ReduceSum: reduction,
  ReduceMean: reduction,
  ReduceMax: reduction,
  ReduceL2: reduction,
  ReduceSumSquare: reduction,
  ReduceLogSumExp: reduction,
  ArgMax: offFirstAxis(0),
  MatMul: product,
  FusedMatMul: product,
  Gemm: (v) => when(first(v) === true && intAttribute(v.node, 'transA', 0) === 0 && !rowBias(v)),
  Conv: first,
  MaxPool: (v) => when(v.node.outputs.length === 1),
  AveragePool: first,
  GlobalAveragePool: first,
  BatchNormalization: (v) => when(intAttribute(v.node, 'training_mode', 0) === 0 && first(v) === true),
};

/** A bias with a row of its own for each row of the product. */
function rowBias(v: ItemView): boolean {
  if ((v.node.inputs[2] ?? '') === '') return false;
  const dims = v.dims(2);
  return dims.length === 2 && dims[0] !== 1;
}
