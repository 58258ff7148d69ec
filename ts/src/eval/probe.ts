import { createHash } from 'node:crypto';
import type { Matrix } from '../kernels/rows.ts';
import { expectInteger, expectPositive, failRange, failType } from '../native/check.ts';
import { abortError, CidError } from '../native/errors.ts';
import { startWorker } from '../run/worker.ts';
import { classAccuracy } from './accuracy.ts';
import type { LogisticData } from './logistic.ts';
import type { LinearProbeResult } from './types.ts';
import { unitRows } from './vectors.ts';

export interface LinearProbeOptions {
  /** [N, D] embeddings, and [N] classes, to fit on. */
  readonly train: Matrix;
  /** [N] number of the class of each training image, an index into `classes`. */
  readonly trainLabels: Int32Array;
  /** [M, D] and [M], to measure on. */
  readonly test: Matrix;
  /** [M] the same of each image that is measured on. */
  readonly testLabels: Int32Array;
  /** Names of the classes. Each needs a training row. */
  readonly classes: readonly string[];
  /**
   * [N] training rows that belong together (drawings of one thing) and go to one side of the validation split, so that it
   * measures what is new. Defaults to each row for itself.
   */
  readonly groups?: readonly (string | number)[];
  /** L2 strengths to choose from. Defaults to 1e-6, 1e-5, …, 1e-1. */
  readonly grid?: readonly number[];
  /** Seed of the validation split. Defaults to 0. */
  readonly seed?: number;
  /** Iterations of one fit at most. Defaults to 200. */
  readonly maxIterations?: number;
  /** Stops the work soon after it aborts; the call then rejects with a CidError ABORTED. Defaults to none. */
  readonly signal?: AbortSignal;
}

export const defaultProbeGrid: readonly number[] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];

/** What the worker gets. */
export interface ProbeTask {
  readonly fit: LogisticData;
  readonly validation: LogisticData;
  readonly all: LogisticData;
  readonly test: LogisticData;
  /** From the strongest to the weakest: each fit starts where the last one ended. */
  readonly grid: readonly number[];
  readonly maxIterations: number;
}

/** What it answers. */
export interface ProbeAnswer {
  readonly validation: { l2: number; top1: number; iterations: number }[];
  readonly l2: number;
  readonly iterations: number;
  readonly converged: boolean;
  /** [M] classes of the test rows. */
  readonly predictions: Int32Array;
}

/**
 * Multinomial logistic regression on unit rows, in float64 with L-BFGS, in a worker thread. The L2 strength (`l2`/2 · ‖W‖² beside the
 * mean cross-entropy) is the one of `grid` with the best accuracy on a fifth of the training groups of each class, ties
 * to the stronger; then all training rows are fitted with it. Deterministic.
 *
 * @throws CidError INVALID_DATA naming a class that no training row has.
 */
export async function linearProbe(options: LinearProbeOptions): Promise<LinearProbeResult> {
  const { train, trainLabels, test, testLabels, classes, seed = 0, maxIterations = 200, signal } = options;
  expectInteger('seed', seed);
  expectInteger('maxIterations', maxIterations, 1);
  checkLabels('train', train, trainLabels, classes.length);
  checkLabels('test', test, testLabels, classes.length);
  if (train.dim !== test.dim) failRange(`${train.dim}, as in train,`, 'test.dim', test.dim);
  const groups = options.groups ?? Array.from(trainLabels.keys());
  if (groups.length !== train.rows) failRange(`${train.rows} groups`, 'groups', groups);
  const grid = [...(options.grid ?? defaultProbeGrid)].sort((a, b) => b - a);
  if (grid.length === 0) failRange('at least one strength', 'grid', grid);
  for (const l2 of grid) expectPositive('grid', l2);
  const counts = new Int32Array(classes.length);
  for (const label of trainLabels) counts[label]!++;
  const missing = counts.indexOf(0);
  if (missing >= 0) {
    throw new CidError(
      'INVALID_DATA',
      `The linear probe has no training image of class '${classes[missing]}'`,
    );
  }

  const all = logisticData(train, trainLabels, classes.length);
  const held = validationRows(trainLabels, groups, classes.length, seed);
  const rows = Array.from(trainLabels.keys());
  const answer = await solve(
    {
      all,
      fit: subset(
        all,
        rows.filter((row) => held[row] === 0),
      ),
      validation: subset(
        all,
        rows.filter((row) => held[row] === 1),
      ),
      test: logisticData(test, testLabels, classes.length),
      grid,
      maxIterations,
    },
    signal,
  );
  const { predictions, ...fitted } = answer;
  const { top1, meanPerClass } = classAccuracy(predictions, testLabels, classes);
  return {
    images: test.rows,
    trainImages: train.rows,
    classes: classes.length,
    top1,
    meanPerClass,
    ...fitted,
  };
}

function checkLabels(name: string, matrix: Matrix, labels: Int32Array, classes: number): void {
  if (!(labels instanceof Int32Array)) failType('an Int32Array', `${name}Labels`, labels);
  if (matrix.rows === 0) failRange('at least one row', `${name}.rows`, matrix.rows);
  if (labels.length !== matrix.rows) failRange(`${matrix.rows} labels`, `${name}Labels`, labels);
  for (const label of labels) {
    if (label < 0 || label >= classes) failRange(`classes from 0 to ${classes - 1}`, `${name}Labels`, label);
  }
}

function logisticData(matrix: Matrix, labels: Int32Array, classes: number): LogisticData {
  return { features: unitRows(matrix), rows: matrix.rows, dim: matrix.dim, labels, classes };
}

/** 1 for a row of the validation split: about a fifth of the groups of each class, none where a class has one group only. */
function validationRows(
  labels: Int32Array,
  groups: readonly (string | number)[],
  classes: number,
  seed: number,
): Uint8Array {
  const byClass = Array.from({ length: classes }, () => new Set<string | number>());
  // A group with several classes counts for its first one, and goes as a whole.
  const first = new Map<string | number, number>();
  groups.forEach((group, row) => {
    if (!first.has(group)) first.set(group, labels[row]!);
  });
  for (const [group, label] of first) byClass[label]!.add(group);
  const held = new Set<string | number>();
  const order = (group: string | number) => createHash('sha256').update(`${seed}:${group}`).digest('hex');
  for (const members of byClass) {
    const count = members.size < 2 ? 0 : Math.max(1, Math.round(members.size / 5));
    const sorted = [...members].map((group) => ({ group, key: order(group) }));
    sorted.sort((a, b) => (a.key < b.key ? -1 : 1));
    for (const { group } of sorted.slice(0, count)) held.add(group);
  }
  return Uint8Array.from(groups, (group) => (held.has(group) ? 1 : 0));
}

function subset(data: LogisticData, rows: readonly number[]): LogisticData {
  const { dim, features, labels, classes } = data;
  const chosen = new Float64Array(rows.length * dim);
  rows.forEach((row, i) => {
    chosen.set(features.subarray(row * dim, (row + 1) * dim), i * dim);
  });
  return {
    features: chosen,
    rows: rows.length,
    dim,
    labels: Int32Array.from(rows, (row) => labels[row]!),
    classes,
  };
}

function solve(task: ProbeTask, signal: AbortSignal | undefined): Promise<ProbeAnswer> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(abortError());
      return;
    }
    const worker = startWorker(new URL('./probe.worker.ts', import.meta.url), { workerData: task });
    const settle = (act: () => void) => {
      signal?.removeEventListener('abort', abort);
      void worker.terminate();
      act();
    };
    const abort = () => settle(() => reject(abortError()));
    signal?.addEventListener('abort', abort, { once: true });
    worker.once('message', (answer: ProbeAnswer) => settle(() => resolve(answer)));
    worker.once('error', (error) => settle(() => reject(error)));
    worker.once('exit', () => settle(() => reject(new CidError('INTERNAL', 'The probe worker ended early'))));
  });
}
