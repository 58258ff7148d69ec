import {
  expectInteger,
  expectNumber,
  expectOneOf,
  expectPositive,
  failRange,
  failType,
} from '../native/check.ts';
import { threads } from '../native/devices.ts';
import { EXECUTORS, type ExecutorName } from '../program/create.ts';
import { expectPrecision, type Precision } from '../program/precision.ts';
import { type Augmentation, resolveAugmentation } from './augment.ts';
import type { TrainerOptions, TrainingOptions } from './options.ts';
import { permutation, Random, streams } from './random.ts';
import { PREFETCH_BYTES } from './trainer.ts';

/** {@link TrainerOptions} with defaults filled in, for a number of training items. */
export interface ResolvedTrainer {
  batchSize: number;
  microBatch: number;
  steps: number;
  stepsPerEpoch: number;
  rate: number;
  finalRate: number;
  warmup: number;
  decay: number;
  betas: readonly [number, number];
  epsilon: number;
  clip: number;
  ema: number | undefined;
  augmentation: Augmentation | undefined;
  validateEvery: number;
  checkpointEvery: number;
  select: 'best' | 'last';
  exportDtype: 'float32' | 'float16';
  cacheBytes: number;
  prefetchBytes: number;
  seed: number;
  threads: number;
  executor: ExecutorName;
  maxActivationMemory: number | undefined;
  precision: Precision;
}

export interface ResolvedTraining extends ResolvedTrainer {
  captions: 'first' | 'random';
}

/** Checks options and fills in their defaults. `items` and `heldOut` are the numbers of items for training and validation. */
export function resolveTraining(options: TrainingOptions, items: number, heldOut: number): ResolvedTraining {
  return {
    ...resolveTrainer(options, items, heldOut, 256),
    captions: expectOneOf('captions', options.captions ?? 'random', ['first', 'random']),
  };
}

/** {@link resolveTraining} without what is about captions; `usualBatch` is the default of `batchSize` where there are as many items. */
export function resolveTrainer(
  options: TrainerOptions,
  items: number,
  heldOut: number,
  usualBatch: number,
): ResolvedTrainer {
  const batchSize = expectInteger('batchSize', options.batchSize ?? Math.min(usualBatch, items), 2);
  if (batchSize > items) failRange(`at most the number of training items (${items})`, 'batchSize', batchSize);
  const stepsPerEpoch = Math.floor(items / batchSize);
  const epochs = expectInteger('epochs', options.epochs ?? 32, 1);
  const steps = expectInteger('steps', options.steps ?? epochs * stepsPerEpoch, 1);
  const warmup = expectInteger('warmup', options.warmup ?? Math.min(2000, Math.ceil(steps / 10)), 0);
  const betas = options.betas ?? [0.9, 0.98];
  for (const [i, beta] of betas.entries()) {
    if (!(beta >= 0 && beta < 1)) failRange('a number from 0 to below 1', `betas[${i}]`, beta);
  }
  const { ema } = options;
  if (ema !== undefined && !(ema > 0 && ema < 1)) failRange('a number between 0 and 1', 'ema', ema);
  const validateEvery = options.validateEvery ?? Math.max(stepsPerEpoch, Math.ceil(steps / 10));
  return {
    batchSize,
    microBatch: Math.min(batchSize, expectInteger('microBatch', options.microBatch ?? 64, 1)),
    steps,
    stepsPerEpoch,
    rate: expectPositive('rate', options.rate ?? 1e-3),
    finalRate: expectNumber('finalRate', options.finalRate ?? 0, 0),
    warmup,
    decay: expectNumber('decay', options.decay ?? 0.2, 0),
    betas,
    epsilon: expectPositive('epsilon', options.epsilon ?? 1e-6),
    clip: expectNumber('clip', options.clip ?? 1, 0),
    ema,
    augmentation: resolveAugmentation(options.augment),
    validateEvery: expectInteger('validateEvery', validateEvery, 1),
    checkpointEvery: expectInteger('checkpointEvery', options.checkpointEvery ?? validateEvery, 1),
    select: expectOneOf('select', options.select ?? (heldOut > 0 ? 'best' : 'last'), ['best', 'last']),
    exportDtype: expectOneOf('exportDtype', options.exportDtype ?? 'float32', ['float32', 'float16']),
    cacheBytes: expectNumber('cacheBytes', options.cacheBytes ?? 2 ** 30, 0),
    prefetchBytes: expectNumber('prefetchBytes', options.prefetchBytes ?? PREFETCH_BYTES, 0),
    seed: expectInteger('seed', options.seed ?? 0),
    threads: options.threads ?? threads(),
    executor: expectOneOf('executor', options.executor ?? 'auto', EXECUTORS),
    maxActivationMemory:
      options.maxActivationMemory === undefined
        ? undefined
        : expectInteger('maxActivationMemory', options.maxActivationMemory, 1),
    precision: expectPrecision(options.precision ?? 'float32', options.device),
  };
}

/** Rows for training and held-out rows, ascending, among `items`; a share is drawn by the seed, indices are those of items. */
export function splitItems(
  items: Int32Array,
  validation: number | readonly number[] = 0.05,
  seed = 0,
): { training: Int32Array; heldOut: Int32Array } {
  const held = new Uint8Array(items.length);
  if (typeof validation === 'number') {
    const count = Math.round(expectNumber('validation', validation, 0, 0.5) * items.length);
    for (const row of permutation(items.length, new Random(seed, streams.split)).subarray(0, count))
      held[row] = 1;
  } else {
    if (!Array.isArray(validation)) failType('a share or a list of items', 'validation', validation);
    const rows = new Map(Array.from(items, (item, row) => [item, row]));
    for (const [i, item] of validation.entries()) {
      const row = rows.get(item);
      if (row === undefined) failRange('an item that is in use', `validation[${i}]`, item);
      held[row] = 1;
    }
  }
  const rows = Int32Array.from(items.keys());
  return { training: rows.filter((row) => !held[row]), heldOut: rows.filter((row) => held[row] === 1) };
}
