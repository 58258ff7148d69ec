import { CidError } from '../native/errors.ts';
import { createExecutor } from '../program/create.ts';
import type { Executor, Parameter } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import type { Precision } from '../program/precision.ts';
import type { Json } from '../run/hash.ts';
import { readCheckpoint } from './checkpoint.ts';
import type { TrainerOptions } from './options.ts';
import type { ResolvedTrainer } from './resolve.ts';
import { checkpointPath, train } from './trainer.ts';
import type { BatchSource, TrainOptions, TrainResult, Validation } from './types.ts';

/** Programs, data and a loss, to be trained as options say. */
export interface Optimisation<Batch>
  extends Pick<TrainOptions<Batch>, 'towers' | 'heads' | 'source' | 'loss'> {
  readonly graphs: Readonly<Record<string, Graph>>;
  readonly parameters: readonly Parameter[];
  /** Made along with a batch, while earlier steps train: what a teacher says of it. The loss finds it made; see {@link oncePerBatch}. */
  readonly targets?: ((batch: Batch, signal?: AbortSignal) => Promise<unknown>) | undefined;
  readonly training: ResolvedTrainer;
  readonly options: TrainerOptions;
  /** Name of the stage in the metrics, where the options give none. */
  readonly stage: string;
  /** Hash of whatever decides the outcome; see {@link decisiveTraining}. */
  readonly identity: string;
  /** Larger is better. */
  readonly validate?: ((executor: Executor) => Promise<Validation>) | undefined;
}

export interface Optimised {
  readonly result: TrainResult;
  /** Values by name of the checkpoint that counts: the moving average where there is one. */
  readonly values: ReadonlyMap<string, Float32Array>;
  /** Numbers that are learned or kept. */
  readonly parameters: number;
}

/** A function whose result is made once for each batch, whoever asks first. */
export function oncePerBatch<Batch extends object, T>(
  make: (batch: Batch, signal?: AbortSignal) => Promise<T>,
): (batch: Batch, signal?: AbortSignal) => Promise<T> {
  const made = new WeakMap<Batch, Promise<T>>();
  return (batch, signal) => {
    const known = made.get(batch) ?? make(batch, signal);
    made.set(batch, known);
    return known;
  };
}

function withTargets<Batch>({ source, targets }: Optimisation<Batch>): BatchSource<Batch> {
  if (targets === undefined) return source;
  return {
    ...source,
    async batch(epoch, step, signal) {
      const batch = await source.batch(epoch, step, signal);
      await targets(batch, signal);
      return batch;
    },
  };
}

/** Trains with an executor of its own, or goes on with what is in the folder; see `train`. */
export async function optimise<Batch>(optimisation: Optimisation<Batch>): Promise<Optimised> {
  const { graphs, parameters, training, options, validate } = optimisation;
  const { folder } = options;
  const { executor, reason } = await createExecutor(
    {
      graphs,
      parameters,
      ...(options.device !== undefined && { device: options.device }),
      threads: training.threads,
      ...(training.maxActivationMemory !== undefined && {
        maxActivationMemory: training.maxActivationMemory,
      }),
      ...(options.maxDeviceMemory !== undefined && { maxDeviceMemory: options.maxDeviceMemory }),
      precision: training.precision,
    },
    training.executor,
  );
  if (reason !== undefined) options.onFallback?.(reason);
  try {
    const result = await train({
      executor,
      towers: optimisation.towers,
      ...(optimisation.heads !== undefined && { heads: optimisation.heads }),
      source: withTargets(optimisation),
      loss: optimisation.loss,
      schedule: training,
      microBatch: training.microBatch,
      decay: training.decay,
      betas: training.betas,
      epsilon: training.epsilon,
      clip: training.clip,
      ...(training.ema !== undefined && { ema: training.ema }),
      folder,
      ...(options.metrics !== undefined && { metrics: options.metrics }),
      stage: options.stage ?? optimisation.stage,
      identity: optimisation.identity,
      checkpointEvery: training.checkpointEvery,
      prefetchBytes: training.prefetchBytes,
      ...(validate && { validate, validateEvery: training.validateEvery, higherIsBetter: true }),
      ...(options.signal && { signal: options.signal }),
      ...(options.onStep && { onStep: options.onStep }),
      onValidation: (step, { metrics }) => options.onValidation?.(step, metrics),
    });
    const which = training.select === 'best' && result.best ? 'best' : 'last';
    return {
      result,
      values: await exportedValues(folder, which, executor),
      parameters: parameters.reduce((sum, { value }) => sum + value.length, 0),
    };
  } finally {
    await executor.dispose();
  }
}

/** The part of the options that decides what is learned: not machine and threads, nor what is written when. */
export function decisiveTraining(training: ResolvedTrainer): Json {
  const {
    threads: _threads,
    executor: _executor,
    maxActivationMemory: _maxActivationMemory,
    cacheBytes: _cacheBytes,
    prefetchBytes: _prefetchBytes,
    checkpointEvery: _checkpointEvery,
    select: _select,
    exportDtype: _exportDtype,
    precision,
    ...decisive
  } = training;
  return JSON.parse(JSON.stringify({ ...decisive, ...chosenPrecision(precision) })) as Json;
}

/** A precision as records of runs have it: float32 is not written, so that runs go on which were begun when there was no other. */
export function chosenPrecision(precision: Precision | undefined): { precision?: Precision } {
  return precision === undefined || precision === 'float32' ? {} : { precision };
}

async function exportedValues(
  folder: string,
  which: 'last' | 'best',
  executor: Executor,
): Promise<Map<string, Float32Array>> {
  const path = checkpointPath(folder, which);
  const checkpoint = await readCheckpoint(path, executor.parameters);
  if (!checkpoint) throw new CidError('FILE_NOT_FOUND', `No such file: ${path}`);
  const buffer = checkpoint.state.ema ?? checkpoint.state.parameters;
  return new Map(
    executor.parameters.map(({ name, offset, length }) => [name, buffer.subarray(offset, offset + length)]),
  );
}
