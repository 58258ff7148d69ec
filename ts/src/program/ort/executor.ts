import { availableParallelism } from 'node:os';
import { CidError } from '../../native/errors.ts';
import { WorkerChannel } from '../../onnx/channel.ts';
import { startWorker } from '../../run/worker.ts';
import { product, sameDims } from '../attributes.ts';
import type { Executor, ExecutorOptions, ExecutorState, Tensor, Tensors } from '../executor.ts';
import type { Graph } from '../graph.ts';
import { layOut } from './store.ts';

/**
 * The executor that runs on ONNX Runtime, in a worker thread, on the CPU. Graphs are differentiated and compiled when a shape
 * first appears. The result of a step depends on its inputs and the number of threads alone.
 *
 * `threads` defaults to the number of cores. Fails with `DEVICE_UNAVAILABLE` for another device, and with a `TypeError` or
 * `RangeError` when parameters and graphs don't fit together. An operator that cannot be differentiated shows at the first
 * `backward`, as `MODEL_UNSUPPORTED`.
 */
export async function createExecutor(options: ExecutorOptions): Promise<Executor> {
  const { graphs, parameters, device = 'cpu', threads = availableParallelism() } = options;
  if (device !== 'cpu' && device !== 'auto') {
    throw new CidError('DEVICE_UNAVAILABLE', `Training runs on the CPU, not on '${device}'`);
  }
  check(options);
  const worker = startWorker(new URL('./executor.worker.ts', import.meta.url));
  const channel = new WorkerChannel(worker, 'the executor');
  try {
    await channel.call('open', { graphs, parameters, threads });
  } catch (error) {
    await channel.dispose();
    throw error;
  }
  return {
    kind: 'onnxruntime',
    parameters: layOut(parameters),
    forward: async (graph, inputs, { keep = false, training = keep, parameters: which = 'current' } = {}) => {
      checkInputs(graphs, graph, inputs);
      return channel.call('forward', { graph, inputs, training, parameters: which });
    },
    backward: async (graph, inputs, outputGradients) => {
      checkInputs(graphs, graph, inputs);
      checkGradients(graphs[graph]!, outputGradients);
      await channel.call('backward', { graph, inputs, outputGradients });
    },
    addGradient: (name, value) => channel.call('addGradient', { name, value }),
    update: (update) => channel.call('update', update),
    save: () => channel.call<ExecutorState>('save', undefined),
    load: (state) => channel.call('load', state),
    dispose: () => channel.dispose(),
  };
}

function check({ graphs, parameters }: ExecutorOptions): void {
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

function checkInputs(graphs: Readonly<Record<string, Graph>>, name: string, inputs: Tensors): void {
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

function checkGradients(graph: Graph, gradients: Tensors): void {
  const outputs = graph.outputs.map((output) => output.name);
  for (const [name, tensor] of Object.entries(gradients)) {
    if (!outputs.includes(name)) {
      throw new RangeError(
        `Expected one of ${outputs.join(', ')} for an output gradient but received ${name}`,
      );
    }
    checkTensor(tensor, `the gradient of ${name}`, 'float32');
  }
}

function checkTensor({ type, dims, data }: Tensor, name: string, expected: string): void {
  if (type !== expected) throw new TypeError(`Expected type ${expected} for ${name} but received ${type}`);
  if (data.length !== product(dims)) {
    throw new RangeError(
      `Expected ${product(dims)} values for ${name} of shape [${dims}] but received ${data.length}`,
    );
  }
}
