import { failRange } from '../native/check.ts';
import { chooseDevice, type Device } from '../native/devices.ts';
import { CidError } from '../native/errors.ts';
import type { Executor, ExecutorOptions } from './executor.ts';
import { createNativeExecutor } from './native/executor.ts';
import { describeUnsupported } from './native/lowering.ts';
import { unsupportedIn } from './native/program.ts';
import { createExecutor as createOrtExecutor } from './ort/executor.ts';
import { expectPrecision } from './precision.ts';

/** Which executor trains: our own, ONNX Runtime's, or our own where it has all that the graphs need. */
export type ExecutorName = 'auto' | 'native' | 'onnxruntime';

export const EXECUTORS: readonly ExecutorName[] = ['auto', 'native', 'onnxruntime'];

/** An executor, and why it is not our own where it was to be chosen. */
export interface ChosenExecutor {
  readonly executor: Executor;
  readonly reason: string | undefined;
}

/**
 * Makes an executor. `name` defaults to 'auto'. An explicit 'native' fails with MODEL_UNSUPPORTED, naming operators and nodes, where
 * there is no native operation for something; precision 'bf16' with DEVICE_UNAVAILABLE where the processor lacks instructions for it.
 */
export async function createExecutor(
  options: ExecutorOptions,
  name: ExecutorName = 'auto',
): Promise<ChosenExecutor> {
  if (!EXECUTORS.includes(name)) failRange(`one of ${EXECUTORS.join(', ')}`, 'executor', name);
  const { maxActivationMemory } = options;
  const { device } = chooseDevice((options.device ?? 'cpu') as Device);
  const bf16 = expectPrecision(options.precision ?? 'float32', device) === 'bf16';
  if (name === 'onnxruntime' && device !== 'cpu') {
    failRange("the executor 'native' or 'auto'", `executor on ${device}`, name);
  }
  if (name === 'onnxruntime' && maxActivationMemory !== undefined) {
    failRange("the executor 'native' or 'auto'", 'executor with maxActivationMemory', name);
  }
  if (name === 'onnxruntime' && bf16) {
    failRange("the executor 'native' or 'auto'", "executor with precision 'bf16'", name);
  }
  if (name === 'onnxruntime') return { executor: await createOrtExecutor(options), reason: undefined };
  const reason = unsupportedReason(options);
  if (reason === undefined) return { executor: await createNativeExecutor(options), reason };
  if (name === 'native') {
    throw new CidError('MODEL_UNSUPPORTED', `The native executor cannot train this: ${reason}`);
  }
  const needed =
    device !== 'cpu'
      ? device
      : maxActivationMemory !== undefined
        ? 'maxActivationMemory'
        : bf16
          ? "precision 'bf16'"
          : undefined;
  if (needed !== undefined) {
    throw new CidError(
      'MODEL_UNSUPPORTED',
      `${needed} takes the native executor, which cannot train this: ${reason}`,
    );
  }
  return { executor: await createOrtExecutor(options), reason };
}

/** What the native executor lacks for the graphs, in a sentence; undefined when nothing. */
function unsupportedReason({ graphs, parameters }: ExecutorOptions): string | undefined {
  const learned = new Set(parameters.filter(({ trainable }) => trainable).map(({ name }) => name));
  for (const [name, graph] of Object.entries(graphs)) {
    const found = unsupportedIn(graph, learned);
    if (found.length > 0) return `graph '${name}': ${found.map(describeUnsupported).join(', ')}`;
  }
  return undefined;
}
