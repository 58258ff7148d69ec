import { CidError } from '../native/errors.ts';
import { floatAttribute, product } from './attributes.ts';
import { type AttributeInputs, toAttributes } from './builder.ts';
import { evaluate } from './evaluate.ts';
import type { Constant, Graph, GraphNode, GraphValue } from './graph.ts';
import type { ShapeContext, ValueInfo } from './shapes/context.ts';
import { contextOf, inferNode } from './shapes/index.ts';

/** Batch statistics of one normalisation, and the parameters that hold their running averages: each [C]. */
export interface RunningStatistics {
  readonly mean: string;
  readonly variance: string;
  readonly batchMean: string;
  /** Population variance: divided by `count`. */
  readonly batchVariance: string;
  /** Share of the old average that stays. */
  readonly momentum: number;
  /** Elements of the batch that one channel's statistics are taken over. */
  readonly count: number;
}

/**
 * A graph in which every shape is a number: what fusion, differentiation and executors work on. Nodes are appended with
 * `emit`, which infers their shapes, so that a rule that writes nodes never has to say them.
 */
export class StaticGraph {
  readonly name: string;
  readonly opset: number;
  readonly inputs: (GraphValue & ValueInfo)[];
  readonly parameters: Graph['parameters'];
  readonly outputs: readonly string[];
  /** Batch statistics that a training step takes and keeps a running average of. */
  readonly statistics: RunningStatistics[] = [];
  nodes: GraphNode[] = [];
  readonly constants = new Map<string, Constant>();
  readonly #values = new Map<string, ValueInfo>();
  readonly #shared = new Map<string, string>();
  /** Names of values that are still to come. */
  readonly #taken = new Set<string>();
  #next = 0;

  constructor(
    origin: Pick<Graph, 'name' | 'opset' | 'parameters' | 'nodes'>,
    inputs: readonly (GraphValue & ValueInfo)[],
    outputs: readonly string[],
  ) {
    this.name = origin.name;
    this.opset = origin.opset;
    this.parameters = origin.parameters;
    this.inputs = [...inputs];
    this.outputs = outputs;
    for (const value of [...inputs, ...origin.parameters]) this.setInfo(value.name, value);
    for (const node of origin.nodes) for (const output of node.outputs) this.#taken.add(output);
  }

  info(name: string): ValueInfo {
    const info = this.#values.get(name);
    if (!info) throw new CidError('INTERNAL', `Value '${name}' of graph '${this.name}' has no shape`);
    return info;
  }

  dims(name: string): readonly number[] {
    return this.info(name).dims;
  }

  setInfo(name: string, { type, dims }: ValueInfo): void {
    this.#values.set(name, { type, dims });
  }

  setConstant(name: string, constant: Constant): void {
    this.constants.set(name, constant);
    this.setInfo(name, constant);
  }

  /** What shape rules and gradient rules read a node through. */
  context(node: GraphNode): ShapeContext {
    return contextOf(node, this.opset, this.#values, this.constants);
  }

  /** Appends a node as it is. */
  append(node: GraphNode): void {
    const infos = inferNode(node, this.opset, this.#values, this.constants);
    for (const [i, name] of node.outputs.entries()) if (name !== '') this.setInfo(name, infos[i]!);
    this.nodes.push(node);
  }

  /** Appends a node, or takes its value as a constant where that is known. */
  fold(node: GraphNode): void {
    const [info] = inferNode(node, this.opset, this.#values, this.constants);
    const constant = info && evaluate(this.context(node), info, this.constants);
    if (constant) this.setConstant(node.outputs[0]!, constant);
    else this.append(node);
  }

  /** One more input; the executor feeds it. */
  addInput(name: string, info: ValueInfo): string {
    this.inputs.push({ name, ...info });
    this.setInfo(name, info);
    return name;
  }

  /** Outputs of a node up to `count`: optional ones that it does not have yet are added. */
  outputsOf(node: GraphNode, count: number): readonly string[] {
    const index = this.nodes.findIndex(({ outputs }) => outputs[0] === node.outputs[0]);
    const { outputs } = this.nodes[index]!;
    if (outputs.length >= count) return outputs;
    const added = Array.from({ length: count - outputs.length }, () => this.fresh(node.op));
    const extended = { ...node, outputs: [...outputs, ...added] };
    const infos = inferNode(extended, this.opset, this.#values, this.constants);
    extended.outputs.forEach((name, i) => {
      this.setInfo(name, infos[i]!);
    });
    this.nodes[index] = extended;
    return extended.outputs;
  }

  /** Appends one operator with one output and returns its name. */
  emit(op: string, inputs: readonly string[], attributes: AttributeInputs = {}, domain = ''): string {
    return this.emitAll(op, inputs, attributes, 1, domain)[0]!;
  }

  emitAll(
    op: string,
    inputs: readonly string[],
    attributes: AttributeInputs,
    outputCount: number,
    domain = '',
  ): string[] {
    const name = this.fresh(op);
    const outputs =
      outputCount === 1 ? [name] : Array.from({ length: outputCount }, (_, i) => `${name}.${i}`);
    this.append({ op, domain, name, inputs, outputs, attributes: toAttributes(attributes) });
    return outputs;
  }

  /** A name that nothing in the graph has. */
  fresh(prefix: string): string {
    let name: string;
    const used = (value: string) => this.#values.has(value) || this.#taken.has(value);
    do name = `${prefix}.${this.#next++}`;
    while (used(name) || used(`${name}.0`));
    return name;
  }

  scalar(value: number): string {
    return this.#share(`f${value}`, () => ({ type: 'float32', dims: [], data: Float32Array.of(value) }));
  }

  /** int64 of rank 1. */
  ints(values: readonly number[]): string {
    return this.#share(`i${values}`, () => ({
      type: 'int64',
      dims: [values.length],
      data: BigInt64Array.from(values, BigInt),
    }));
  }

  /** float32 of rank 1. */
  floats(values: readonly number[]): string {
    return this.#share(`v${values}`, () => ({
      type: 'float32',
      dims: [values.length],
      data: Float32Array.from(values),
    }));
  }

  /** A float32 constant with one value everywhere. */
  filled(dims: readonly number[], value: number): string {
    return this.#share(`c${value}|${dims}`, () => ({
      type: 'float32',
      dims,
      data: new Float32Array(product(dims)).fill(value),
    }));
  }

  /** [rows, columns], `above` over the diagonal and 0 elsewhere. */
  causal(rows: number, columns: number, above: number): string {
    return this.#share(`m${rows}|${columns}|${above}`, () => {
      const data = new Float32Array(rows * columns);
      for (let i = 0; i < rows; i++) data.fill(above, i * columns + i + 1, (i + 1) * columns);
      return { type: 'float32', dims: [rows, columns], data };
    });
  }

  #share(key: string, make: () => Constant): string {
    let name = this.#shared.get(key);
    if (name === undefined) {
      name = this.fresh('constant');
      this.setConstant(name, make());
      this.#shared.set(key, name);
    }
    return name;
  }

  /** The graph with only what `outputs` need. Inputs stay, so that callers feed the same ones. */
  toGraph(outputs: readonly string[] = this.outputs, name = this.name): Graph {
    const live = new Set(outputs);
    const nodes: GraphNode[] = [];
    for (const node of this.nodes.toReversed()) {
      if (!node.outputs.some((output) => live.has(output))) continue;
      nodes.push(node);
      for (const input of node.inputs) live.add(input);
    }
    const value = (output: string): GraphValue => ({ name: output, ...this.info(output) });
    return {
      name,
      opset: this.opset,
      inputs: this.inputs.filter((input) => live.has(input.name)),
      parameters: this.parameters.filter((parameter) => live.has(parameter.name)),
      outputs: outputs.map(value),
      constants: new Map([...this.constants].filter(([constant]) => live.has(constant))),
      nodes: nodes.toReversed(),
    };
  }
}

/** Shapes of a call's inputs by name. */
export type InputDims = Readonly<Record<string, readonly number[]>>;

/**
 * Fixes a graph's shapes to those of a call: infers all of them and folds what is known without data. In `training` a batch
 * normalisation whose running statistics are parameters uses the batch's own. Dropout does nothing in either. A missing input or one
 * of another rank or size than declared is a `TypeError` or `RangeError`.
 */
export function specialize(graph: Graph, inputDims: InputDims, options: { training: boolean }): StaticGraph {
  const sizes = new Map<string, number>();
  const inputs = graph.inputs.map((input) => {
    const dims = inputDims[input.name];
    const declared = `[${input.dims.join(', ')}]`;
    if (!dims)
      throw new TypeError(`Expected a tensor for input ${input.name} of ${graph.name} but received none`);
    const fits =
      dims.length === input.dims.length &&
      input.dims.every((dim, i) => {
        if (typeof dim === 'number') return dim === dims[i];
        if (!sizes.has(dim)) sizes.set(dim, dims[i]!);
        return sizes.get(dim) === dims[i];
      });
    if (!fits) {
      throw new RangeError(
        `Expected shape ${declared} for input ${input.name} of ${graph.name} but received [${dims}]`,
      );
    }
    return { ...input, dims };
  });
  const outputs = graph.outputs.map(({ name }) => name);
  const result = new StaticGraph(graph, inputs, outputs);
  for (const [name, constant] of graph.constants) result.setConstant(name, constant);
  for (const node of graph.nodes) {
    if (node.op === 'Dropout')
      result.fold({
        ...node,
        op: 'Identity',
        inputs: [node.inputs[0]!],
        outputs: [node.outputs[0]!],
        attributes: {},
      });
    else if (node.op === 'BatchNormalization') normalization(result, node, options.training);
    else result.fold(node);
  }
  return result;
}

function normalization(graph: StaticGraph, node: GraphNode, training: boolean): void {
  const [mean, variance] = node.inputs.slice(3) as [string, string];
  const learned = new Set(graph.parameters.map(({ name }) => name));
  const y = node.outputs[0]!;
  if (!training || !learned.has(mean) || !learned.has(variance)) {
    const { training_mode: _, ...attributes } = node.attributes;
    graph.append({ ...node, outputs: [y], attributes });
    return;
  }
  const [batchMean, batchVariance] = [graph.fresh('mean'), graph.fresh('variance')];
  // With momentum 0 the operator's new running statistics are the batch's own. ONNX Runtime writes them over the old ones it is
  // given: these must never be the parameters, nor be shared by two nodes.
  const old = [0, 1].map(() => graph.emit('ConstantOfShape', [graph.ints(graph.dims(mean))]));
  const attributes = { ...node.attributes, ...toAttributes({ training_mode: 1, momentum: 0 }) };
  graph.append({
    ...node,
    inputs: [...node.inputs.slice(0, 3), ...old],
    outputs: [y, batchMean, batchVariance],
    attributes,
  });
  const dims = graph.dims(y);
  graph.statistics.push({
    mean,
    variance,
    batchMean,
    batchVariance,
    momentum: floatAttribute(node, 'momentum', 0.9),
    count: product(dims) / dims[1]!,
  });
}
