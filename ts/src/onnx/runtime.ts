/** ONNX Runtime as this package uses it. Only worker threads import this file: `run` blocks the thread that calls it. */
import * as ort from 'onnxruntime-node';
import { CidError } from '../native/errors.ts';
import type { SessionValue } from './session.ts';
import type { ElementType, OnnxTensor } from './tensor.ts';

export interface SessionHandle {
  readonly inputs: readonly SessionValue[];
  readonly outputs: readonly SessionValue[];
  readonly session: ort.InferenceSession;
  release(): Promise<void>;
}

export interface RuntimeOptions {
  readonly providers: readonly string[];
  readonly threads: number;
  /** Graph optimisation: worth it for inference; differentiated graphs are optimised before they get here. */
  readonly optimize: boolean;
  /**
   * Threads wait for the next operator of a run without sleeping: a third less time for graphs of many small operators, at the
   * cost of whatever else would like to run meanwhile. They sleep between runs.
   */
  readonly spin: boolean;
  /** Where the external data lies of a model that comes as bytes. */
  readonly dataFolder?: string | undefined;
}

/** `PROVIDER_UNAVAILABLE` or `MODEL_INVALID`. */
export async function createSession(
  model: string | Uint8Array,
  options: RuntimeOptions,
): Promise<SessionHandle> {
  const known = ort.listSupportedBackends().map(({ name }) => name);
  for (const provider of options.providers) {
    if (!known.includes(provider)) {
      throw new CidError(
        'PROVIDER_UNAVAILABLE',
        `Execution provider '${provider}' is not in this build of ONNX Runtime, which has ${known.join(', ')}`,
      );
    }
  }
  const sessionOptions: ort.InferenceSession.SessionOptions = {
    executionProviders: [...options.providers],
    intraOpNumThreads: options.threads,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    graphOptimizationLevel: options.optimize ? 'all' : 'disabled',
    // The pattern's planner holds twice the memory for no speed.
    enableMemPattern: false,
    // What goes wrong comes back as an error.
    logSeverityLevel: 4,
    extra: {
      session: {
        intra_op: { allow_spinning: options.spin ? '1' : '0' },
        force_spinning_stop: '1',
        ...(options.dataFolder === undefined
          ? {}
          : { model_external_initializers_file_folder_path: options.dataFolder }),
      },
    },
  };
  try {
    const session = await (typeof model === 'string'
      ? ort.InferenceSession.create(model, sessionOptions)
      : ort.InferenceSession.create(model, sessionOptions));
    return {
      session,
      inputs: session.inputMetadata.map(toValue),
      outputs: session.outputMetadata.map(toValue),
      release: () => session.release(),
    };
  } catch (error) {
    const source = typeof model === 'string' ? model : 'the model';
    throw new CidError('MODEL_INVALID', `ONNX Runtime cannot open ${source}: ${(error as Error).message}`);
  }
}

function toValue(metadata: ort.InferenceSession.ValueMetadata): SessionValue {
  if (!metadata.isTensor) {
    throw new CidError(
      'MODEL_UNSUPPORTED',
      `Input or output '${metadata.name}' of the model is not a tensor`,
    );
  }
  return { name: metadata.name, type: metadata.type as ElementType, dims: metadata.shape };
}

/** `MODEL_INVALID` with ONNX Runtime's own words, which name the node or the input. */
export async function runSession(
  handle: SessionHandle,
  feeds: Readonly<Record<string, ort.Tensor>>,
  fetches?: readonly string[],
): Promise<Record<string, ort.Tensor>> {
  try {
    return (await (fetches ? handle.session.run(feeds, fetches) : handle.session.run(feeds))) as Record<
      string,
      ort.Tensor
    >;
  } catch (error) {
    throw new CidError('MODEL_INVALID', `ONNX Runtime cannot run the model: ${(error as Error).message}`);
  }
}

/** Shares the memory. */
export function toOrt({ type, data, dims }: OnnxTensor): ort.Tensor {
  return new ort.Tensor(type as 'float32', data as Float32Array, dims);
}

/** Shares the memory. */
export function fromOrt(tensor: ort.Tensor): OnnxTensor {
  return { type: tensor.type as ElementType, dims: tensor.dims, data: tensor.data as Float32Array };
}
