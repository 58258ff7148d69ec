import { availableParallelism } from 'node:os';
import { CidError } from '../../native/errors.ts';
import { WorkerChannel } from '../../onnx/channel.ts';
import { startWorker } from '../../run/worker.ts';
import { checkGradients, checkInputs, checkOptions, onHost } from '../checks.ts';
import type { Executor, ExecutorOptions, ExecutorState, Tensor, Tensors } from '../executor.ts';
import { layOut } from '../parameters.ts';

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
    throw new CidError('DEVICE_UNAVAILABLE', `ONNX Runtime trains on the CPU, not on '${device}'`);
  }
  checkOptions(options);
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
      return channel.call('forward', { graph, inputs: alone(inputs), training, parameters: which });
    },
    backward: async (graph, inputs, outputGradients) => {
      checkInputs(graphs, graph, inputs);
      checkGradients(graphs[graph]!, outputGradients);
      await channel.call('backward', {
        graph,
        inputs: alone(inputs),
        outputGradients: alone(onHost(outputGradients)),
      });
    },
    addGradient: async (name, value) => {
      if (!(value instanceof Float32Array))
        throw new TypeError(`Expected the gradient of ${name} to be in memory`);
      await channel.call('addGradient', { name, value });
    },
    update: (update) => channel.call('update', update),
    save: () => channel.call<ExecutorState>('save', undefined),
    load: (state) => channel.call('load', state),
    dispose: () => channel.dispose(),
  };
}

/** With memory of their own: a view into a batch would take the whole batch with it to the other thread. */
function alone(tensors: Tensors): Tensors {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => {
      const { data } = tensor;
      const whole = data.byteLength === data.buffer.byteLength;
      return [name, whole ? tensor : ({ ...tensor, data: data.slice() } as Tensor)];
    }),
  );
}
