import { balance } from '../kernels/balance.ts';
import { kmeans } from '../kernels/kmeans.ts';
import { clusterInstanceLoss, softTargets } from '../kernels/loss.ts';
import { nearest } from '../kernels/nearest.ts';
import { type DeviceMatrix, upload } from '../kernels/rows.ts';
import { expectInteger } from '../native/check.ts';
import type { KernelOptions } from '../native/context.ts';
import { chooseDevice } from '../native/devices.ts';
import { loadAddon } from '../native/loader.ts';
import { forwardProducts } from '../program/native/costs.ts';
import { makeRows, RowSource } from './data.ts';
import { type InputOptions, lossBatch, startingCentres } from './inputs.ts';
import { Training, type TrainingSettings, trainingData } from './training.ts';

/** Something to measure: data in memory, and what is done with it. */
export interface Work {
  readonly op: 'dedup' | 'kmeans' | 'nearest' | 'loss' | 'train';
  /** Sizes by name. */
  readonly shape: Readonly<Record<string, number>>;
  /** What one run gets through, where it is told by the second: images or captions. */
  readonly items?: number;
  /** Does it once. */
  run(kernel: KernelOptions): Promise<Done>;
  /** Frees what it holds from run to run. */
  dispose?(): Promise<void>;
}

/** What one run of a work tells. */
export interface Done {
  /** Floating-point operations that brute force takes for the same result: two a product of elements, nothing for what is compared or summed. */
  readonly operations: number;
  /** Bytes that go through memory at least: rows read once, once an iteration where there are some, and what is returned written. */
  readonly bytes?: number;
  /** How the core went about it, in its words, where it has a choice that it tells. */
  readonly plan?: string;
  /** Bytes of the device's memory that it holds from run to run, where it keeps anything there. */
  readonly deviceMemory?: number;
}

/** Complete balance of N rows: pairs over the threshold, groups, and the central row of each. Brute force: N (N − 1) / 2 dots. */
export async function dedupWork(options: InputOptions & { rows: number; threshold: number }): Promise<Work> {
  const { rows, dim, threshold } = options;
  const data = await rowsOf(options, rows);
  return {
    op: 'dedup',
    shape: { rows, dim },
    async run(kernel) {
      const result = await balance({ data, rows, dim }, { ...kernel, threshold });
      return { operations: rows * (rows - 1) * dim, bytes: rows * (4 * dim + 5), plan: result.plan };
    },
  };
}

/** K-means from given centres. Brute force: N K dots an iteration; the labels of the returned centres are not counted. */
export async function kmeansWork(
  options: InputOptions & { rows: number; clusters: number; iterations: number; spherical: boolean },
): Promise<Work> {
  const { rows, dim, clusters, iterations, spherical } = options;
  const data = await rowsOf(options, rows);
  const init = startingCentres(data, rows, dim, expectInteger('clusters', clusters, 1));
  return {
    op: 'kmeans',
    shape: { rows, dim, clusters, iterations },
    async run(kernel) {
      const result = await kmeans(
        { data, rows, dim },
        { ...kernel, clusters, iterations, spherical, init, tolerance: 0 },
      );
      const done = result.iterations[0]!;
      return { operations: 2 * rows * clusters * dim * done, bytes: done * rows * (4 * dim + 4) };
    },
  };
}

/** The k best of N rows for each of Q queries. Brute force: Q N dots. */
export async function nearestWork(
  options: InputOptions & { queries: number; rows: number; k: number },
): Promise<Work> {
  const { queries, rows, dim, k } = options;
  expectInteger('queries', queries, 0, 2 ** 31 - 1);
  const all = await rowsOf(options, rows + queries);
  const base = { data: all.subarray(0, rows * dim), rows, dim };
  const asked = { data: all.subarray(rows * dim), rows: queries, dim };
  return {
    op: 'nearest',
    shape: { queries, rows, dim, k },
    async run(kernel) {
      const result = await nearest(asked, base, { ...kernel, k });
      const bytes = 4 * (rows + queries) * dim + 12 * queries * k;
      return { operations: 2 * queries * rows * dim, bytes, plan: result.plan };
    },
  };
}

/**
 * All four terms of the loss, forward and backward to both student embeddings. Brute force: the logits of the contrastive term and two products of its
 * backward pass; the student's logits over the centres and one product backward, and the teacher's logits unless `cached`; for both instance pairs
 * logits and one product backward.
 */
export async function lossWork(
  options: InputOptions & { batch: number; clusters: number; cached: boolean },
): Promise<Work> {
  const { batch, dim, clusters, cached } = options;
  const data = await lossBatch(batch, clusters, options);
  const matrix = (values: Float32Array, rows = batch) => ({ data: values, rows, dim });
  const centroids = matrix(data.centroids, clusters);
  const inputs = {
    image: matrix(data.image),
    text: matrix(data.text),
    teacherImage: matrix(data.teacherImage),
    teacherText: matrix(data.teacherText),
    clipLogScale: Math.log(1 / 0.07),
    instanceLogScale: Math.log(1 / 0.07),
    centroids,
    labels: data.labels,
    ...(cached
      ? { softTargets: await softTargets(matrix(data.teacherImage), centroids, { device: 'cpu' }) }
      : {}),
  };
  // Centres stay on a GPU, as they do in training.
  let resident: DeviceMatrix | undefined;
  const products = (3 + 2 * 2) * batch * batch + (cached ? 2 : 3) * batch * clusters;
  return {
    op: 'loss',
    shape: { batch, dim, clusters },
    async run(kernel) {
      if (kernel.device?.startsWith('cuda')) resident ??= await upload(centroids, { device: kernel.device });
      await clusterInstanceLoss({ ...inputs, centroids: resident ?? centroids }, kernel);
      return { operations: 2 * dim * products };
    },
    async dispose() {
      resident?.dispose();
    },
  };
}

/**
 * One step of training a model: forward, CLIP's loss, backward, AdamW. Brute force: the products of the model's forward pass three times, once for the
 * outputs and once for each of the gradients.
 */
export function trainWork(
  options: TrainingSettings & {
    readonly model: string;
    readonly batch: number | undefined;
    readonly seed: number;
  },
): Work {
  const data = trainingData(options);
  const { batch, towers } = data;
  const parameters = data.parameters.reduce((sum, { value }) => sum + value.length, 0);
  const products = towers.map(({ graph, input }) => forwardProducts(graph, { input: input.dims }));
  const operations = 3 * products.reduce((sum, own) => sum + own, 0);
  let training: Training | undefined;
  let free: number | undefined;
  return {
    op: 'train',
    shape: { batch, parameters },
    items: batch,
    async run(kernel) {
      const { device } = chooseDevice(kernel.device ?? 'cpu');
      free ??= loadAddon().freeMemory(device);
      training ??= await Training.start(data, kernel, options);
      await training.step();
      const plan = `${training.executor.kind} executor`;
      if (device === 'cpu') return { operations, plan };
      return { operations, plan, deviceMemory: Math.max(0, free - loadAddon().freeMemory(device)) };
    },
    async dispose() {
      await training?.dispose();
    },
  };
}

function rowsOf({ dim, spectrum, seed, ...making }: InputOptions, rows: number): Promise<Float32Array> {
  expectInteger('rows', rows, 0, 2 ** 31 - 1);
  return makeRows(new RowSource({ dim, spectrum, seed }), rows, making);
}
