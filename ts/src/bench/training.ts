import { clusterInstanceLoss } from '../kernels/loss.ts';
import { expectInteger, expectOneOf } from '../native/check.ts';
import type { KernelOptions } from '../native/context.ts';
import { createExecutor, type ExecutorName } from '../program/create.ts';
import type { Executor, Parameter, Tensor } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import type { Precision } from '../program/precision.ts';
import { Random, streams } from '../student/random.ts';
import { BENCH_MODELS, EMBEDDING, startingParameters } from './models.ts';

/** What a model is trained on: one batch, and the embeddings that it is to come close to. */
export interface TrainingData {
  readonly graph: Graph;
  readonly parameters: readonly Parameter[];
  /** The graph's `input`. */
  readonly input: Tensor;
  /** [batch, {@link EMBEDDING}] unit rows, of the other modality. */
  readonly target: Float32Array;
}

/** Of the contrastive loss: CLIP's first scale. */
export const SCALE = 14.3;

/** Learning rate, decay and the rest as PyTorch's AdamW has them, with a rate of 1e-4. */
export const UPDATE = { rate: 1e-4, decay: 0.01, betas: [0.9, 0.999], epsilon: 1e-8 } as const;

/** `batch` defaults to the model's own. */
export function trainingData(options: {
  readonly model: string;
  readonly batch?: number | undefined;
  readonly seed: number;
}): TrainingData {
  const { seed } = options;
  const model = BENCH_MODELS[expectOneOf('model', options.model, Object.keys(BENCH_MODELS))]!();
  const batch = expectInteger('batch', options.batch ?? model.batch, 1, 65_536);
  const random = new Random(seed, streams.benchmark, 2);
  const input = model.input(batch, random);
  const target = Float32Array.from({ length: batch * EMBEDDING }, () => random.normal());
  for (let at = 0; at < target.length; at += EMBEDDING) {
    const row = target.subarray(at, at + EMBEDDING);
    const norm = Math.hypot(...row);
    for (let i = 0; i < EMBEDDING; i++) row[i]! /= norm;
  }
  return { graph: model.graph, parameters: startingParameters(model.graph, seed), input, target };
}

/** Steps of training on one batch: forward, CLIP's loss between embeddings and targets, backward, AdamW. */
export class Training {
  readonly executor: Executor;
  readonly #data: TrainingData;
  readonly #kernel: KernelOptions;

  private constructor(executor: Executor, data: TrainingData, kernel: KernelOptions) {
    this.executor = executor;
    this.#data = data;
    this.#kernel = kernel;
  }

  static async start(
    data: TrainingData,
    kernel: KernelOptions,
    executor: ExecutorName = 'auto',
    precision: Precision = 'float32',
  ): Promise<Training> {
    const { graph, parameters } = data;
    const { device = 'cpu', threads } = kernel;
    const options = { graphs: { model: graph }, parameters, device, precision, ...(threads && { threads }) };
    return new Training((await createExecutor(options, executor)).executor, data, kernel);
  }

  /** Returns the loss before the step. */
  async step(): Promise<number> {
    const { executor } = this;
    const { input, target } = this.#data;
    const inputs = { input };
    const embedding = (await executor.forward('model', inputs, { keep: true })).embedding!;
    const matrix = (data: Float32Array) => ({ data, rows: embedding.dims[0]!, dim: EMBEDDING });
    const { total, gradients } = await clusterInstanceLoss(
      {
        image: matrix(embedding.data as Float32Array),
        text: matrix(target),
        clipLogScale: Math.log(SCALE),
      },
      { ...this.#kernel, ceWeight: 0, klWeight: 0, instanceWeight: 0 },
    );
    await executor.backward('model', inputs, { embedding: { ...embedding, data: gradients.image } });
    await executor.update(UPDATE);
    return total;
  }

  dispose(): Promise<void> {
    return this.executor.dispose();
  }
}
