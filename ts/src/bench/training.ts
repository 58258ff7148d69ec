import { clusterInstanceLoss } from '../kernels/loss.ts';
import { expectInteger, expectOneOf } from '../native/check.ts';
import type { KernelOptions } from '../native/context.ts';
import { createExecutor, type ExecutorName } from '../program/create.ts';
import type { Executor, Parameter, Tensor, Tensors } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import type { Precision } from '../program/precision.ts';
import { defined } from '../run/settings.ts';
import { Random, streams } from '../student/random.ts';
import { BENCH_MODELS, EMBEDDING, startingParameters } from './models.ts';

/** What a model is trained on: one batch, the same in every step. */
export interface TrainingData {
  /** By tower: one, or the image's and the text's, which have no parameters in common. */
  readonly towers: readonly { readonly name: string; readonly graph: Graph; readonly input: Tensor }[];
  readonly parameters: readonly Parameter[];
  readonly batch: number;
  /** Of one tower: [batch, {@link EMBEDDING}] unit rows, of the other modality, that its embeddings are to come close to. */
  readonly target: Float32Array | undefined;
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
  const names = model.towers.length === 1 ? ['model'] : ['image', 'text'];
  const towers = model.towers.map(({ graph, input }, i) => ({
    name: names[i]!,
    graph,
    input: input(batch, random),
  }));
  const graphs = model.towers.map(({ graph }) => graph);
  return {
    towers,
    parameters: startingParameters(graphs, seed),
    batch,
    target: towers.length === 1 ? unitRows(batch, random) : undefined,
  };
}

function unitRows(count: number, random: Random): Float32Array {
  const rows = Float32Array.from({ length: count * EMBEDDING }, () => random.normal());
  for (let at = 0; at < rows.length; at += EMBEDDING) {
    const row = rows.subarray(at, at + EMBEDDING);
    const norm = Math.hypot(...row);
    for (let i = 0; i < EMBEDDING; i++) row[i]! /= norm;
  }
  return rows;
}

/** Rows of a batch. */
function rowsOf({ type, dims, data }: Tensor, begin: number, end: number): Tensor {
  const row = data.length / dims[0]!;
  const part = data.subarray(begin * row, end * row) as Tensor['data'];
  return { type, dims: [end - begin, ...dims.slice(1)], data: part };
}

export interface TrainingSettings {
  /** Defaults to 'auto'. */
  readonly executor?: ExecutorName | undefined;
  /** Defaults to 'float32'. */
  readonly precision?: Precision | undefined;
  /**
   * Rows that run through a tower at once. Below the batch embeddings of all rows come first and the loss, which is of the whole batch,
   * then; each part is run again for its gradients. Defaults to the batch.
   */
  readonly microBatch?: number | undefined;
}

/** Steps of training on one batch: forward, CLIP's loss between embeddings and targets, backward, AdamW. */
export class Training {
  readonly executor: Executor;
  readonly #data: TrainingData;
  readonly #kernel: KernelOptions;
  /** Inputs of the towers' micro-batches, the same ones in every step. */
  readonly #parts: readonly { readonly name: string; readonly inputs: readonly Tensors[] }[];

  private constructor(executor: Executor, data: TrainingData, kernel: KernelOptions, microBatch: number) {
    this.executor = executor;
    this.#data = data;
    this.#kernel = kernel;
    this.#parts = data.towers.map(({ name, input }) => {
      const begins = Array.from({ length: Math.ceil(data.batch / microBatch) }, (_, i) => i * microBatch);
      return {
        name,
        inputs: begins.map((begin) => ({
          input: rowsOf(input, begin, Math.min(begin + microBatch, data.batch)),
        })),
      };
    });
  }

  static async start(
    data: TrainingData,
    kernel: KernelOptions,
    settings: TrainingSettings = {},
  ): Promise<Training> {
    const { towers, parameters, batch } = data;
    const { device = 'cpu', threads, maxDeviceMemory } = kernel;
    const { precision = 'float32', microBatch = batch } = settings;
    const options = {
      graphs: Object.fromEntries(towers.map(({ name, graph }) => [name, graph])),
      parameters,
      device,
      precision,
      ...defined({ threads, maxDeviceMemory }),
    };
    const { executor } = await createExecutor(options, settings.executor);
    return new Training(executor, data, kernel, expectInteger('microBatch', microBatch, 1, batch));
  }

  /** Returns the loss before the step. */
  async step(): Promise<number> {
    const { executor } = this;
    const { batch, target } = this.#data;
    const embeddings: Float32Array[] = [];
    for (const { name, inputs } of this.#parts) {
      const keep = inputs.length === 1;
      const parts = await Promise.all(
        inputs.map((input) => executor.forward(name, input, { keep, training: true })),
      );
      embeddings.push(joined(parts.map(({ embedding }) => embedding!.data as Float32Array)));
    }
    const matrix = (data: Float32Array) => ({ data, rows: batch, dim: EMBEDDING });
    const { total, gradients } = await clusterInstanceLoss(
      {
        image: matrix(embeddings[0]!),
        text: matrix(embeddings[1] ?? target!),
        clipLogScale: Math.log(SCALE),
      },
      { ...this.#kernel, ceWeight: 0, klWeight: 0, instanceWeight: 0 },
    );
    const all = [gradients.image, gradients.text];
    const work = this.#parts.flatMap(({ name, inputs }, tower) => {
      const gradient: Tensor = { type: 'float32', dims: [batch, EMBEDDING], data: all[tower]! };
      let end = 0;
      return inputs.map((input) => {
        const begin = end;
        end += input.input!.dims[0]!;
        return executor.backward(name, input, { embedding: rowsOf(gradient, begin, end) });
      });
    });
    await Promise.all(work);
    await executor.update(UPDATE);
    return total;
  }

  dispose(): Promise<void> {
    return this.executor.dispose();
  }
}

function joined(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
