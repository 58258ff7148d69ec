import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { DeviceTensor } from '../kernels/device-tensor.ts';
import { expectInteger, expectPositive, failRange } from '../native/check.ts';
import { abortError, CidError } from '../native/errors.ts';
import type { AnyTensors, Executor, ExecutorState, Tensors } from '../program/executor.ts';
import { MetricsWriter } from '../run/metrics.ts';
import { Prefetch } from '../run/prefetch.ts';
import { SpeedMeter } from '../run/speed.ts';
import { type CheckpointInfo, readCheckpoint, writeCheckpoint } from './checkpoint.ts';
import { learningRate } from './schedule.ts';
import { concatenateRows, disposeOf, rowsOf, toHost } from './tensors.ts';
import type {
  AnyLossResult,
  AnyOutputs,
  LossResult,
  TowerOutputs,
  TrainOptions,
  TrainResult,
  Validation,
} from './types.ts';

/** Bytes of batches prepared ahead where none are given. */
export const PREFETCH_BYTES = 2 ** 30;
/** Most batches that are, however small: more would not even out anything. */
const MOST_AHEAD = 8;

/** How many batches are prepared ahead: as many as fit, and one at least; one where nobody knows their size. */
export function batchesAhead(batchBytes: number | undefined, bytes: number): number {
  if (batchBytes === undefined) return 1;
  return Math.max(1, Math.min(MOST_AHEAD, Math.floor(bytes / batchBytes)));
}

/** Files of a training folder. */
export function checkpointPath(folder: string, which: 'last' | 'best'): string {
  return join(folder, `${which}.safetensors`);
}

/**
 * Trains until `schedule.steps`, from the checkpoint in `folder` where there is one. The same options, seed, machine, executor
 * and number of threads give the same parameters to the last bit, however often the run was stopped on the way.
 *
 * A step is a gradient cache (Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021):
 * all micro-batches forward, one loss over the whole batch, and again through each micro-batch for its gradient. So the loss
 * sees every pair of a batch that the towers never hold at once.
 *
 * Fails with DIVERGED when a term of the loss or the gradient is not finite, and with ABORTED, after a checkpoint, when the
 * signal aborts.
 */
export async function train<Batch>(options: TrainOptions<Batch>): Promise<TrainResult> {
  const { executor, source, schedule, folder } = options;
  check(options);
  const lastPath = checkpointPath(folder, 'last');
  const resumed = await readCheckpoint(lastPath, executor.parameters);
  const identity = options.identity ?? '';
  const info: CheckpointInfo = resumed?.info ?? { step: 0, identity };
  if (info.identity !== identity) {
    throw new CidError('RUN_CHANGED', `${folder} holds a training run with other options or other data`);
  }
  if (resumed) {
    await executor.load(fullState(lastPath, resumed.state));
  } else {
    // Without a last checkpoint the run begins anew, and an older best would be taken for this run's.
    await rm(checkpointPath(folder, 'best'), { force: true });
  }
  const stage = options.stage ?? 'train';
  const metrics = await MetricsWriter.open(
    options.metrics ?? join(folder, 'metrics.jsonl'),
    (record) => record.stage !== stage || (record.step ?? 0) <= info.step,
  );

  const checkpoint = async () => writeCheckpoint(lastPath, executor.parameters, await executor.save(), info);
  const validateEvery = options.validateEvery ?? schedule.steps;

  const speeds = new SpeedMeter();
  const { signal } = options;
  const batches = new Prefetch({
    prepare: (step, stop) =>
      source.batch(Math.floor(step / source.stepsPerEpoch), step % source.stepsPerEpoch, stop),
    from: info.step,
    to: schedule.steps,
    ahead: batchesAhead(source.batchBytes, options.prefetchBytes ?? PREFETCH_BYTES),
    signal,
  });

  try {
    while (info.step < schedule.steps) {
      const started = performance.now();
      const prepared = await batches.next().catch((error: unknown) => {
        if (signal?.aborted) return undefined;
        throw error;
      });
      if (signal?.aborted || !prepared) {
        await checkpoint();
        throw abortError();
      }
      const { value: batch, waited, worked } = prepared;
      const epoch = Math.floor(info.step / source.stepsPerEpoch);
      const step = info.step + 1;
      const terms = await accumulate(options, batch, step, () => batches.ready());
      const rate = learningRate(schedule, step);
      const { gradientNorm } = await executor
        .update({
          rate,
          decay: options.decay,
          betas: options.betas,
          epsilon: options.epsilon,
          ...(options.clip ? { clip: options.clip } : {}),
          ...(options.ema ? { ema: options.ema } : {}),
        })
        .catch((error: unknown) => {
          throw divergedAt(step, error);
        });
      source.reuse?.(batch);
      if (!Number.isFinite(gradientNorm)) {
        throw new CidError('DIVERGED', `The norm of the gradient is ${gradientNorm} at step ${step}`);
      }
      info.step = step;
      const seconds = (performance.now() - started) / 1000;
      const speed = speeds.add({ rows: source.batchSize, seconds, waited, worked });
      const parts = { ...prefix('loss', terms), ...prefix('speed', { ...speed }) };
      metrics.write({ stage, step, epoch, rate, gradientNorm, ...parts });
      options.onStep?.({ step, steps: schedule.steps, epoch, rate, gradientNorm, terms, speed });

      const last = step === schedule.steps;
      if (options.validate && (last || step % validateEvery === 0)) {
        const validation = await options.validate(executor);
        info.validation = { value: validation.value, metrics: { ...validation.metrics } };
        metrics.write({ stage, step, ...prefix('validation', validation.metrics) });
        options.onValidation?.(step, validation);
        if (isBetter(validation, info.best?.value, options.higherIsBetter ?? false)) {
          info.best = { step, value: validation.value };
          const state = await executor.save();
          await writeCheckpoint(checkpointPath(folder, 'best'), executor.parameters, state, info, true);
        }
      }
      if (last || step % options.checkpointEvery === 0) await checkpoint();
    }
  } finally {
    await batches.close();
    metrics.close();
  }
  return { steps: info.step, best: info.best, validation: info.validation, speed: speeds.total };
}

/**
 * Adds the gradients of one batch to the executor's. Where executor and loss know how, embeddings and their gradients stay on the
 * executor's device: nothing but the terms of the loss comes from there. With the last call backward a device that works for itself
 * gets the first inputs of the batch that is `next`, and takes them meanwhile.
 */
async function accumulate<Batch>(
  options: TrainOptions<Batch>,
  batch: Batch,
  step: number,
  next: () => Promise<Batch> | undefined,
): Promise<LossResult['terms']> {
  const { executor, towers, source, microBatch, heads } = options;
  const ranges: [from: number, to: number][] = [];
  for (let from = 0; from < source.batchSize; from += microBatch) {
    ranges.push([from, Math.min(source.batchSize, from + microBatch)]);
  }
  const keep = ranges.length === 1;
  const stays = options.loss.anywhere !== undefined && executor.forwardOnDevice !== undefined;
  const forward = (...call: Parameters<Executor['forward']>): Promise<AnyTensors> =>
    stays ? executor.forwardOnDevice!(...call) : executor.forward(...call);
  const outputs: Record<string, AnyTensors> = {};
  let result: AnyLossResult | undefined;
  try {
    // First, when a device is done with the last step: its scales, which are read at once, then hold nothing up.
    if (heads !== undefined) outputs[heads] = await forward(heads, {});
    for (const tower of towers) {
      // All calls are made at once: the executor goes on to the next without waiting for this thread.
      const parts = await Promise.all(
        ranges.map(([from, to]) =>
          forward(tower.graph, tower.inputs(batch, from, to), { keep, training: true }),
        ),
      );
      outputs[tower.graph] = await joined(executor, parts);
      if (!stays) expectFinite(tower.graph, outputs[tower.graph] as Tensors, step);
    }
    result = await lossOf(options, outputs, batch, step);
    for (const [name, value] of Object.entries(result.terms)) {
      if (!Number.isFinite(value)) {
        throw new CidError(
          'DIVERGED',
          `The loss's term '${name}' is ${value} at step ${step}; a lower rate may help`,
        );
      }
    }
    const calls: Promise<void>[] = [];
    for (const tower of towers) {
      const gradients = result.gradients[tower.graph];
      if (!gradients) continue;
      for (const [from, to] of ranges) {
        calls.push(
          executor.backward(tower.graph, tower.inputs(batch, from, to), sliceRows(gradients, from, to)),
        );
      }
    }
    if (executor.prefetch) {
      const before = Promise.all(calls.slice(0, -1));
      before.then(() => sendAhead(options, next())).catch(() => undefined);
    }
    for (const [name, value] of Object.entries(result.parameterGradients ?? {})) {
      calls.push(executor.addGradient(name, value));
    }
    await Promise.all(calls);
    return result.terms;
  } finally {
    const { gradients = {}, parameterGradients = {} } = result ?? {};
    for (const tensors of [...Object.values(outputs), ...Object.values(gradients)]) disposeOf(tensors);
    for (const value of Object.values(parameterGradients)) if (value instanceof DeviceTensor) value.dispose();
  }
}

async function lossOf<Batch>(
  { loss, towers }: TrainOptions<Batch>,
  outputs: AnyOutputs,
  batch: Batch,
  step: number,
): Promise<AnyLossResult> {
  if (!loss.anywhere) return loss(outputs as TowerOutputs, batch);
  try {
    return await loss.anywhere(outputs, batch);
  } catch (error) {
    if (!(error instanceof CidError && error.code === 'INVALID_DATA')) throw error;
    // Of what stayed on the device nobody has seen whether it is finite.
    for (const { graph } of towers) expectFinite(graph, await toHost(outputs[graph]!), step);
    throw error;
  }
}

/** Outputs of micro-batches, one under the other, where they are. */
async function joined(executor: Executor, parts: readonly AnyTensors[]): Promise<AnyTensors> {
  const [head, ...others] = parts;
  if (head === undefined || others.length === 0) return head ?? {};
  const names = Object.keys(head).filter((name) => head[name] instanceof DeviceTensor);
  const entries = names.map(async (name) => {
    const tensors = parts.map((part) => part[name] as DeviceTensor);
    const whole = await executor.concatenate!(tensors);
    for (const tensor of tensors) tensor.dispose();
    return [name, whole];
  });
  const rest = parts.map((part) =>
    Object.fromEntries(Object.entries(part).filter(([name]) => !names.includes(name))),
  );
  return { ...concatenateRows(rest as Tensors[]), ...Object.fromEntries(await Promise.all(entries)) };
}

/** The first inputs of the batch that is next, where it is there. What fails fails again when the batch is used. */
async function sendAhead<Batch>(
  options: TrainOptions<Batch>,
  next: Promise<Batch> | undefined,
): Promise<void> {
  const { executor, towers, source, microBatch } = options;
  try {
    const batch = await next;
    if (batch === undefined) return;
    const [first] = towers;
    const size = Math.min(source.batchSize, microBatch);
    if (first) await executor.prefetch?.(first.graph, first.inputs(batch, 0, size));
  } catch {}
}

/** The optimiser refuses a gradient that is NaN or infinite before it writes anything. */
function divergedAt(step: number, error: unknown): unknown {
  if (!(error instanceof CidError) || error.code !== 'INVALID_DATA') return error;
  return new CidError('DIVERGED', `${error.message} at step ${step}; a lower rate may help`, {
    cause: error,
  });
}

function expectFinite(graph: string, outputs: Tensors, step: number): void {
  for (const [name, { data, type }] of Object.entries(outputs)) {
    if (type !== 'float32') continue;
    const bad = (data as Float32Array).findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      const message = `Output ${name} of '${graph}' holds ${data[bad]} at step ${step}; a lower rate may help`;
      throw new CidError('DIVERGED', message);
    }
  }
}

function sliceRows(tensors: AnyTensors, from: number, to: number): AnyTensors {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [name, rowsOf(tensor, from, to)]),
  );
}

function fullState(
  path: string,
  state: NonNullable<Awaited<ReturnType<typeof readCheckpoint>>>['state'],
): ExecutorState {
  const { first, second } = state;
  if (!first || !second) throw new CidError('FILE_FORMAT', `${path} holds no optimiser state`);
  return { ...state, first, second };
}

function isBetter(validation: Validation, best: number | undefined, higher: boolean): boolean {
  if (Number.isNaN(validation.value)) return false;
  if (best === undefined) return true;
  // Of equals the later one: a few held-out items soon have the same value at every validation.
  return higher ? validation.value >= best : validation.value <= best;
}

function prefix(name: string, values: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [`${name}/${key}`, value]));
}

function check<Batch>(options: TrainOptions<Batch>): void {
  const { schedule, source } = options;
  expectInteger('schedule.steps', schedule.steps, 1);
  expectInteger('schedule.warmup', schedule.warmup, 0);
  expectPositive('schedule.rate', schedule.rate);
  expectInteger('microBatch', options.microBatch, 1);
  expectInteger('checkpointEvery', options.checkpointEvery, 1);
  if (options.validateEvery !== undefined) expectInteger('validateEvery', options.validateEvery, 1);
  if (options.ema !== undefined && !(options.ema > 0 && options.ema < 1)) {
    failRange('a number between 0 and 1', 'ema', options.ema);
  }
  if (source.stepsPerEpoch < 1)
    failRange('at least one batch in an epoch', 'source.stepsPerEpoch', source.stepsPerEpoch);
}
