import type { AttributeProto, GraphProto, ModelProto, NodeProto } from '../../onnx/onnx_pb.ts';

/** Who makes and who uses the values of a graph, and which of them depend on an input. Works on any ONNX graph: no shape is needed. */
export class Flow {
  readonly graph: GraphProto;
  readonly #producers = new Map<string, NodeProto>();
  readonly #consumers = new Map<string, NodeProto[]>();
  readonly #dependent: ReadonlySet<string>;

  /** `input` names the input that counts. */
  constructor(model: ModelProto, input: string) {
    this.graph = model.graph!;
    const dependent = new Set([input]);
    for (const node of this.graph.node) {
      const inputs = inputsOf(node);
      for (const name of inputs) {
        const known = this.#consumers.get(name);
        if (known) known.push(node);
        else this.#consumers.set(name, [node]);
      }
      for (const name of node.output) this.#producers.set(name, node);
      // A shape is the same for all images of a size.
      const depends = !SHAPES.has(node.opType) && inputs.some((name) => dependent.has(name));
      if (depends) for (const name of node.output) dependent.add(name);
    }
    this.#dependent = dependent;
  }

  producer(value: string): NodeProto | undefined {
    return this.#producers.get(value);
  }

  consumers(value: string): readonly NodeProto[] {
    return this.#consumers.get(value) ?? [];
  }

  /** Whether a value changes with the input's values. */
  dependsOnInput(value: string): boolean {
    return this.#dependent.has(value);
  }
}

const SHAPES = new Set(['Shape', 'Size']);

/** Names that a node reads, those that its subgraphs take from around it included. */
export function inputsOf(node: NodeProto): string[] {
  const names = node.input.filter((name) => name !== '');
  for (const attribute of node.attribute)
    for (const graph of graphsOf(attribute)) names.push(...captured(graph));
  return names;
}

function graphsOf(attribute: AttributeProto): readonly GraphProto[] {
  return attribute.g ? [attribute.g, ...attribute.graphs] : attribute.graphs;
}

function captured(graph: GraphProto): string[] {
  const own = new Set([...graph.input, ...graph.initializer].map(({ name }) => name));
  const names: string[] = [];
  for (const node of graph.node) {
    names.push(...inputsOf(node).filter((name) => !own.has(name)));
    for (const name of node.output) own.add(name);
  }
  names.push(...graph.output.map(({ name }) => name).filter((name) => !own.has(name)));
  return names;
}

/** The value of an integer attribute. */
export function integer(node: NodeProto, name: string): number | undefined {
  const attribute = node.attribute.find((candidate) => candidate.name === name);
  return attribute === undefined ? undefined : Number(attribute.i);
}

/** The value of an attribute that is a list of integers. */
export function integers(node: NodeProto, name: string): number[] | undefined {
  return node.attribute.find((candidate) => candidate.name === name)?.ints.map(Number);
}

/** Version of ONNX's own operator set. */
export function opsetOf(model: ModelProto): number {
  const own = model.opsetImport.find(({ domain }) => domain === '' || domain === 'ai.onnx');
  return Number(own?.version ?? 0);
}

/** A node as messages name it. */
export function nameOf(node: NodeProto): string {
  return node.name || node.output[0] || node.opType;
}
