import type { Attribute, Constant, DataType, Dimension, Graph, GraphNode, GraphValue } from './graph.ts';

/** An attribute, or a plain value: numbers become ints, save for the attributes that ONNX defines as floats. */
export type AttributeInput = Attribute | number | string | readonly number[];
export type AttributeInputs = Readonly<Record<string, AttributeInput>>;

const FLOAT_ATTRIBUTES = new Set([
  'alpha',
  'beta',
  'gamma',
  'bias',
  'lambd',
  'epsilon',
  'momentum',
  'scale',
  'value_float',
]);

/** Turns plain values into typed attributes. */
export function toAttributes(inputs: AttributeInputs): Record<string, Attribute> {
  const attributes: Record<string, Attribute> = {};
  for (const [name, value] of Object.entries(inputs)) {
    if (typeof value === 'number') {
      attributes[name] = { kind: FLOAT_ATTRIBUTES.has(name) ? 'float' : 'int', value };
    } else if (typeof value === 'string') {
      attributes[name] = { kind: 'string', value };
    } else if (Array.isArray(value)) {
      attributes[name] = { kind: 'ints', value: value as readonly number[] };
    } else {
      attributes[name] = value as Attribute;
    }
  }
  return attributes;
}

export interface OpOptions {
  /** Number of outputs. Defaults to 1. */
  outputs?: number;
  /** Defaults to '', ONNX's own operators. */
  domain?: string;
  /** Name of the node and, numbered when there are several, of its outputs. Defaults to one made of the operator's name. */
  name?: string;
}

/**
 * Writes a graph node by node, in the order of execution. Every method returns the name of the value it made, which later
 * calls take as input.
 */
export class GraphBuilder {
  readonly #name: string;
  readonly #opset: number;
  readonly #inputs: GraphValue[] = [];
  readonly #outputs: GraphValue[] = [];
  readonly #parameters: (GraphValue & { readonly dims: readonly number[] })[] = [];
  readonly #constants = new Map<string, Constant>();
  readonly #scalars = new Map<string, string>();
  readonly #nodes: GraphNode[] = [];
  readonly #names = new Set<string>();
  readonly #counters = new Map<string, number>();

  /** `opset` defaults to 17. */
  constructor(name: string, options: { opset?: number } = {}) {
    this.#name = name;
    this.#opset = options.opset ?? 17;
  }

  input(name: string, type: DataType, dims: readonly Dimension[]): string {
    this.#inputs.push({ name: this.#claim(name), type, dims });
    return name;
  }

  /** A float32 value of the flat parameter buffer. Asking twice for the same name gives the same value. */
  parameter(name: string, dims: readonly number[]): string {
    const known = this.#parameters.find((parameter) => parameter.name === name);
    if (known) {
      if (known.dims.join() !== dims.join()) {
        throw new RangeError(`Expected dims [${known.dims}] for parameter ${name} but received [${dims}]`);
      }
      return name;
    }
    this.#parameters.push({ name: this.#claim(name), type: 'float32', dims });
    return name;
  }

  constant(constant: Constant, name?: string): string {
    const value = name === undefined ? this.#fresh('constant') : this.#claim(name);
    this.#constants.set(value, constant);
    return value;
  }

  /** float32 of rank 0. */
  scalar(value: number): string {
    return this.#shared(`f${value}`, { type: 'float32', dims: [], data: Float32Array.of(value) });
  }

  /** int64 of rank 1: shapes, axes, splits. */
  ints(values: readonly number[]): string {
    const data = BigInt64Array.from(values, BigInt);
    return this.#shared(`i${values}`, { type: 'int64', dims: [values.length], data });
  }

  /** One operator with one output. `inputs` hold '' for an optional one that is left out. */
  op(
    op: string,
    inputs: readonly string[],
    attributes: AttributeInputs = {},
    options: OpOptions = {},
  ): string {
    return this.ops(op, inputs, attributes, options)[0]!;
  }

  /** One operator with `options.outputs` outputs. */
  ops(
    op: string,
    inputs: readonly string[],
    attributes: AttributeInputs = {},
    options: OpOptions = {},
  ): string[] {
    for (const input of inputs) {
      if (input !== '' && !this.#names.has(input)) {
        throw new RangeError(`Expected a value defined before for an input of ${op} but received ${input}`);
      }
    }
    const count = options.outputs ?? 1;
    const name = options.name ?? this.#fresh(op);
    const outputs =
      count === 1 && options.name === undefined
        ? [name]
        : Array.from({ length: count }, (_, i) => this.#claim(count === 1 ? name : `${name}_${i}`));
    this.#nodes.push({
      op,
      domain: options.domain ?? '',
      name,
      inputs,
      outputs,
      attributes: toAttributes(attributes),
    });
    return outputs;
  }

  /** Makes `value` an output of the graph called `name`. */
  output(name: string, value: string, dims: readonly Dimension[], type: DataType = 'float32'): void {
    this.op('Identity', [value], {}, { name });
    this.#outputs.push({ name, type, dims });
  }

  build(): Graph {
    return {
      name: this.#name,
      inputs: [...this.#inputs],
      outputs: [...this.#outputs],
      parameters: [...this.#parameters],
      constants: new Map(this.#constants),
      nodes: [...this.#nodes],
      opset: this.#opset,
    };
  }

  #shared(key: string, constant: Constant): string {
    const known = this.#scalars.get(key);
    if (known !== undefined) return known;
    const name = this.constant(constant);
    this.#scalars.set(key, name);
    return name;
  }

  #fresh(prefix: string): string {
    let count = this.#counters.get(prefix) ?? 0;
    while (this.#names.has(`${prefix}_${count}`)) count++;
    this.#counters.set(prefix, count + 1);
    return this.#claim(`${prefix}_${count}`);
  }

  #claim(name: string): string {
    if (name === '' || this.#names.has(name)) {
      throw new RangeError(`Expected a new name for a value of ${this.#name} but received '${name}'`);
    }
    this.#names.add(name);
    return name;
  }
}
