import { access } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import type { Transferable } from 'node:worker_threads';
import { readError } from '../run/files.ts';
import { startWorker } from '../run/worker.ts';
import { WorkerChannel } from './channel.ts';
import type { ElementType, OnnxTensor } from './tensor.ts';

/** An input or output of a model. A dimension is a number, or the name under which the model leaves it open. */
export interface SessionValue {
  readonly name: string;
  readonly type: ElementType;
  readonly dims: readonly (number | string)[];
}

export interface SessionOptions {
  /** Execution providers of ONNX Runtime in order of preference: 'cpu', 'cuda', 'webgpu', … Defaults to ['cpu']. */
  providers?: readonly string[];
  /** Threads of one operator. Defaults to the number of cores. */
  threads?: number;
  /** Folder of the external data of a model that is given as bytes. */
  dataFolder?: string;
}

export interface RunOptions {
  /** Gives up the inputs' buffers instead of copying them to the worker. Defaults to false. */
  transfer?: boolean;
  /** Outputs to compute, by name. Defaults to all. */
  outputs?: readonly string[];
}

/** An opened model. Runs in a worker thread of its own; calls queue up and are answered in order. */
export interface Session {
  readonly inputs: readonly SessionValue[];
  readonly outputs: readonly SessionValue[];
  /** Inputs by name → outputs by name. `MODEL_INVALID` when ONNX Runtime refuses them. */
  run(
    inputs: Readonly<Record<string, OnnxTensor>>,
    options?: RunOptions,
  ): Promise<Record<string, OnnxTensor>>;
  /** Waits for the runs asked for. Idempotent; calls after it fail with `DISPOSED`. */
  dispose(): Promise<void>;
}

/**
 * Opens a model for inference, from a file (with its external data beside it) or from bytes. Fails with `FILE_NOT_FOUND`,
 * `MODEL_INVALID` or, for an execution provider that is not in this build, `PROVIDER_UNAVAILABLE`.
 */
export async function openSession(
  model: string | Uint8Array,
  options: SessionOptions = {},
): Promise<Session> {
  if (typeof model === 'string') {
    await access(model).catch((error) => {
      throw readError(model, error);
    });
  }
  const channel = new WorkerChannel(
    startWorker(new URL('./session.worker.ts', import.meta.url)),
    'the session',
  );
  try {
    const values = await channel.call<Pick<Session, 'inputs' | 'outputs'>>('open', {
      model,
      providers: options.providers ?? ['cpu'],
      threads: options.threads ?? availableParallelism(),
      dataFolder: options.dataFolder,
    });
    return {
      ...values,
      run: (inputs, { transfer = false, outputs } = {}) =>
        channel.call('run', { inputs, outputs }, transfer ? buffersOf(inputs) : []),
      dispose: () => channel.dispose(),
    };
  } catch (error) {
    await channel.dispose();
    throw error;
  }
}

function buffersOf(tensors: Readonly<Record<string, OnnxTensor>>): Transferable[] {
  return [...new Set(Object.values(tensors).map(({ data }) => data.buffer as ArrayBuffer))];
}
