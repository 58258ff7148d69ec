import type { DeviceTensor } from '../kernels/device-tensor.ts';
import type { AnyTensors, Executor, Tensors } from '../program/executor.ts';
import type { Speed, StepSpeed } from '../run/speed.ts';

/** A graph of the executor together with how a batch feeds it. */
export interface Tower<Batch> {
  /** Name of the graph in the executor. */
  readonly graph: string;
  /** Inputs of rows `from` to `to` of the batch. */
  inputs(batch: Batch, from: number, to: number): Tensors;
}

/** Batches as a function of (seed, epoch, step) alone, so that a resumed run sees the same ones. */
export interface BatchSource<Batch> {
  readonly stepsPerEpoch: number;
  readonly batchSize: number;
  /** Memory that a batch takes, which bounds how many are prepared ahead; where it is not given, one is. */
  readonly batchBytes?: number;
  /**
   * May be called for later steps before an earlier one is there; the earlier one comes first.
   *
   * @param signal Stops the preparation, which then rejects with ABORTED.
   */
  batch(epoch: number, step: number, signal?: AbortSignal): Promise<Batch>;
  /** Takes back a batch that is used no more: its memory may become another's. */
  reuse?(batch: Batch): void;
}

/** Outputs of every tower over the whole batch (concatenated over micro-batches), by graph and output name. */
export type TowerOutputs = Readonly<Record<string, Tensors>>;

/** The same where matrices of float32 may be where the executor has them. */
export type AnyOutputs = Readonly<Record<string, AnyTensors>>;

export interface LossResult {
  /** What is minimised is `terms.total`; the others are for the log. */
  readonly terms: Readonly<Record<string, number>> & { readonly total: number };
  /** Gradients of the towers' outputs, shaped as these. */
  readonly gradients: Readonly<Record<string, Tensors>>;
  /** Gradients of parameters that the loss uses itself (scales, projections, learned centres). */
  readonly parameterGradients?: Readonly<Record<string, Float32Array>>;
}

/** The same, with gradients where their outputs are. The trainer disposes of them. */
export interface AnyLossResult extends Pick<LossResult, 'terms'> {
  readonly gradients: AnyOutputs;
  readonly parameterGradients?: Readonly<Record<string, Float32Array | DeviceTensor>>;
}

/** Any objective: the trainer knows none of them. */
export interface Loss<Batch> {
  (outputs: TowerOutputs, batch: Batch): Promise<LossResult>;
  /** The same where outputs are wherever the executor has them; so they need not come to the host. Not there for losses that need them. */
  readonly anywhere?: (outputs: AnyOutputs, batch: Batch) => Promise<AnyLossResult>;
}

export interface Schedule {
  /** Highest learning rate. */
  readonly rate: number;
  /** Optimiser steps of linear warm-up from 0. */
  readonly warmup: number;
  /** Steps in all; cosine from `rate` to `finalRate` after the warm-up. */
  readonly steps: number;
  /** Defaults to 0. */
  readonly finalRate?: number;
}

export interface Validation {
  /** Smaller is better, unless `higherIsBetter`. */
  readonly value: number;
  readonly metrics: Readonly<Record<string, number>>;
}

/** One optimiser step, for progress and logs. */
export interface StepReport {
  /** Steps done, this one included. */
  readonly step: number;
  readonly steps: number;
  readonly epoch: number;
  readonly rate: number;
  /** Before clipping. */
  readonly gradientNorm: number;
  readonly terms: Readonly<Record<string, number>> & { readonly total: number };
  readonly speed: StepSpeed;
}

export interface TrainOptions<Batch> {
  readonly executor: Executor;
  readonly towers: readonly Tower<Batch>[];
  /** Graph without inputs whose outputs are the loss's own parameters; the loss finds them under this name. */
  readonly heads?: string;
  readonly source: BatchSource<Batch>;
  readonly loss: Loss<Batch>;
  readonly schedule: Schedule;
  /** Rows that go through a tower at once; the batch of the loss is not bounded by it (gradient cache). */
  readonly microBatch: number;
  readonly decay: number;
  readonly betas: readonly [number, number];
  readonly epsilon: number;
  readonly clip?: number;
  readonly ema?: number;
  /** Run folder stage: checkpoints go there, and training goes on from what is there. */
  readonly folder: string;
  /** Where a line a step goes. Defaults to `metrics.jsonl` in `folder`. */
  readonly metrics?: string;
  /** Name of the stage in the metrics. Defaults to 'train'. */
  readonly stage?: string;
  /** Hash of whatever decides the outcome (options, data); a checkpoint made with another is refused. Defaults to ''. */
  readonly identity?: string;
  /** Steps between checkpoints. */
  readonly checkpointEvery: number;
  /** Called at the end of every `validateEvery` steps and at the end; decides which checkpoint is best. */
  readonly validate?: (executor: Executor) => Promise<Validation>;
  readonly validateEvery?: number;
  readonly higherIsBetter?: boolean;
  /** Ends training with a checkpoint: after the step in hand, or at once where it waits for data. */
  readonly signal?: AbortSignal;
  /** Memory of batches that are prepared ahead; one is, however large. Defaults to 1 GiB. */
  readonly prefetchBytes?: number;
  readonly onStep?: (step: StepReport) => void;
  readonly onValidation?: (step: number, validation: Validation) => void;
}

/** How {@link TrainOptions} ended. */
export interface TrainResult {
  readonly steps: number;
  readonly best: { readonly step: number; readonly value: number } | undefined;
  /** The last validation. */
  readonly validation: Validation | undefined;
  /** Of the steps that this call made, where it made any. */
  readonly speed: Speed | undefined;
}
