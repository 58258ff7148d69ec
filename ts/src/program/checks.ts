import { expectInteger, expectOneOf } from '../native/check.ts';
import { product, sameDims } from './attributes.ts';
import type { AnyTensors, ExecutorOptions, Tensor, Tensors } from './executor.ts';
import type { Graph } from './graph.ts';
import { PRECISIONS } from './precision.ts';

/** That parameters and graphs fit together. */
export function checkOptions(options: ExecutorOptions): void {
  const { graphs, parameters, maxActivationMemory, precision } = options;
  if (precision !== undefined) expectOneOf('precision', precision, PRECISIONS);
  if (maxActivationMemory !== undefined) expectInteger('maxActivationMemory', maxActivationMemory, 1);
  const known = new Map<string, readonly number[]>();
  for (const { name, dims, value } of parameters) {
    if (known.has(name))
      throw new RangeError(`Expected distinct names for parameters but received ${name} twice`);
    if (value.length !== product(dims)) {
      throw new RangeError(
        `Expected ${product(dims)} values for parameter ${name} but received ${value.length}`,
      );
    }
    known.set(name, dims);
  }
  for (const [graph, { parameters: wanted }] of Object.entries(graphs)) {
    for (const { name, dims } of wanted) {
      const received = known.get(name);
      if (!received) throw new RangeError(`Expected parameter ${name} for graph ${graph} but received none`);
      if (!sameDims(received, dims)) {
        throw new RangeError(
          `Expected shape [${dims}] for parameter ${name} of graph ${graph} but received [${received}]`,
        );
      }
    }
  }
}

/** That a graph's inputs are there, of the types that it declares. */
export function checkInputs(graphs: Readonly<Record<string, Graph>>, name: string, inputs: Tensors): void {
  const graph = graphs[name];
  if (!graph) {
    throw new RangeError(`Expected one of ${Object.keys(graphs).join(', ')} for graph but received ${name}`);
  }
  for (const input of graph.inputs) {
    const tensor = inputs[input.name];
    if (!tensor)
      throw new TypeError(`Expected a tensor for input ${input.name} of ${name} but received none`);
    checkTensor(tensor, `input ${input.name} of ${name}`, input.type);
  }
}

/** That gradients are those of outputs. */
export function checkGradients(graph: Graph, gradients: AnyTensors): void {
  const outputs = graph.outputs.map((output) => output.name);
  for (const [name, tensor] of Object.entries(gradients)) {
    if (!outputs.includes(name)) {
      throw new RangeError(
        `Expected one of ${outputs.join(', ')} for an output gradient but received ${name}`,
      );
    }
    if ('data' in tensor) checkTensor(tensor, `the gradient of ${name}`, 'float32');
  }
}

/** Tensors that an executor without memory of its own takes. */
export function onHost(tensors: AnyTensors): Tensors {
  for (const [name, tensor] of Object.entries(tensors)) {
    if (!('data' in tensor))
      throw new TypeError(`Expected ${name} to be in memory, not on another executor's device`);
  }
  return tensors as Tensors;
}

function checkTensor({ type, dims, data }: Tensor, name: string, expected: string): void {
  if (type !== expected) throw new TypeError(`Expected type ${expected} for ${name} but received ${type}`);
  if (data.length !== product(dims)) {
    throw new RangeError(
      `Expected ${product(dims)} values for ${name} of shape [${dims}] but received ${data.length}`,
    );
  }
}
