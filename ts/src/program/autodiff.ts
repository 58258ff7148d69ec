import { CidError } from '../native/errors.ts';
import { sameDims, unsupported } from './attributes.ts';
import { fusedOperator } from './fused/index.ts';
import type { GraphNode } from './graph.ts';
import { RuleContext } from './rules/context.ts';
import { GRADIENT_RULES } from './rules/index.ts';
import type { RunningStatistics, StaticGraph } from './static.ts';

/** Rows of a parameter's gradient: row i is to be added at `indices[i]`. For tables of which a batch uses few rows. */
export interface RowGradient {
  readonly parameter: string;
  /** Name of the indices, integers of any shape. */
  readonly indices: string;
  /** Name of the rows, as many as indices. */
  readonly rows: string;
}

/**
 * A graph that computes gradients from the inputs and the gradients of the outputs. A value named here that is an input or a
 * constant is not among its outputs.
 */
export interface Differentiated {
  readonly graph: StaticGraph;
  /** How many of the graph's nodes, the first ones, are the forward pass. */
  readonly forward: number;
  /** What has to be computed: gradients, their rows and indices, statistics. */
  readonly outputs: readonly string[];
  /** Name of the gradient by parameter. A parameter that is in none of these has gradient zero. */
  readonly gradients: ReadonlyMap<string, string>;
  readonly rowGradients: readonly RowGradient[];
  readonly statistics: readonly RunningStatistics[];
}

/** Name of the input that takes the gradient of a parameter so far. */
export function gradientSumName(parameter: string): string {
  return `${parameter}:sum`;
}

/** Name of the input that takes an output's gradient. */
export function outputGradientName(output: string): string {
  return `${output}:gradient`;
}

/**
 * Reverse-mode differentiation: visits nodes from the outputs back, and lets the rule of each write the nodes that turn
 * gradients of its outputs into gradients of its inputs. The result holds the forward pass, whose values the rules use, and
 * the backward pass. It consumes `graph`.
 *
 * @param learned Parameters to differentiate by.
 * @param outputs Outputs whose gradients are given, as inputs named by {@link outputGradientName}.
 * @param options `accumulate` makes `gradients` the sums of what inputs named by {@link gradientSumName} bring and what is
 *   computed: added with all threads, within the graph. Row gradients are not summed.
 * @throws CidError MODEL_UNSUPPORTED for an operator without a rule on the way, naming operator and node.
 */
export function differentiate(
  graph: StaticGraph,
  learned: ReadonlySet<string>,
  outputs: readonly string[],
  options: { accumulate?: boolean } = {},
): Differentiated {
  const forward = [...graph.nodes];
  const needed = dependents(graph, forward, learned);
  const contributions = new Map<string, string[]>();
  const rowGradients: RowGradient[] = [];

  const give = (value: string, gradient: string): void => {
    if (!sameDims(graph.dims(value), graph.dims(gradient))) {
      const shapes = `[${graph.dims(gradient)}] for '${value}' of shape [${graph.dims(value)}]`;
      throw new CidError('INTERNAL', `A gradient rule gave a gradient of shape ${shapes}`);
    }
    const list = contributions.get(value);
    if (list) list.push(gradient);
    else contributions.set(value, [gradient]);
  };
  const total = (value: string): string | undefined => {
    const list = contributions.get(value);
    if (!list) return undefined;
    const sum = list.reduce((a, b) => graph.emit('Add', [a, b]));
    contributions.set(value, [sum]);
    return sum;
  };

  for (const output of outputs) {
    const seed = graph.addInput(outputGradientName(output), graph.info(output));
    if (needed.has(output)) give(output, seed);
  }
  for (const node of forward.toReversed()) {
    if (!node.inputs.some((input) => needed.has(input))) continue;
    const gradients = node.outputs.map(total);
    if (gradients.every((gradient) => gradient === undefined)) continue;
    const rule = fusedOperator(node)?.gradient ?? GRADIENT_RULES[node.op];
    if (!rule) throw unsupported(node, 'has no gradient rule: it cannot be trained through');
    const current = graph.nodes.find(({ outputs: names }) => names[0] === node.outputs[0])!;
    rule(
      new RuleContext(graph, current, gradients, {
        needs: (value) => needed.has(value),
        give,
        giveRows: (parameter, indices, rows) => {
          if (!learned.has(parameter)) return false;
          rowGradients.push({ parameter, indices, rows });
          return true;
        },
      }),
    );
  }

  const gradients = new Map<string, string>();
  for (const name of learned) {
    const gradient = total(name);
    if (gradient === undefined) continue;
    const before = options.accumulate && graph.addInput(gradientSumName(name), graph.info(name));
    gradients.set(name, before ? graph.emit('Add', [before, gradient]) : gradient);
  }
  const results = [
    ...gradients.values(),
    ...rowGradients.flatMap(({ indices, rows }) => [indices, rows]),
    ...graph.statistics.flatMap(({ batchMean, batchVariance }) => [batchMean, batchVariance]),
  ];
  const inputs = new Set(graph.inputs.map(({ name }) => name));
  const computed = [...new Set(results)].filter((name) => !inputs.has(name) && !graph.constants.has(name));
  return {
    graph,
    forward: forward.length,
    outputs: computed,
    gradients,
    rowGradients,
    statistics: graph.statistics,
  };
}

/** The float32 values that depend on a learned parameter: only these have gradients. Other floats would lose theirs in silence. */
function dependents(
  graph: StaticGraph,
  nodes: readonly GraphNode[],
  learned: ReadonlySet<string>,
): Set<string> {
  const result = new Set(learned);
  for (const node of nodes) {
    if (!node.inputs.some((input) => result.has(input))) continue;
    for (const output of node.outputs) {
      if (output === '') continue;
      const { type } = graph.info(output);
      if (type === 'float16' || type === 'float64')
        throw unsupported(node, `computes in ${type}: training is in float32`);
      if (type === 'float32') result.add(output);
    }
  }
  return result;
}
