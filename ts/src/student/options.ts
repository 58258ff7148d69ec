import type { Device } from '../native/devices.ts';
import type { ExecutorName } from '../program/create.ts';
import type { Precision } from '../program/precision.ts';
import type { Speed } from '../run/speed.ts';
import type { AugmentOptions } from './augment.ts';
import type { StudentName, StudentOptions } from './config.ts';
import type { StepReport } from './types.ts';

/** What every training has in common: the optimiser, the data's order, and what is written when. */
export interface TrainerOptions {
  /** Passes over the training items, at least 1. Defaults to 32. */
  epochs?: number;
  /** Optimiser steps in all, at least 1, instead of `epochs`. Defaults to what `epochs` gives. */
  steps?: number;
  /** Rows of one optimiser step, all of them in one loss: 2 to the number of training items. Defaults to 256, or to the number of training items where that is smaller. */
  batchSize?: number;
  /** Rows that run through a tower at once, at least 1; changes memory, not the result but for rounding. Defaults to 64. */
  microBatch?: number;
  /** Highest learning rate, over 0. Defaults to 1e-3. */
  rate?: number;
  /** Learning rate at the end of the cosine, at least 0. Defaults to 0. */
  finalRate?: number;
  /** Optimiser steps of linear warm-up, at least 0. Defaults to a tenth of all steps, at most 2,000. */
  warmup?: number;
  /** AdamW's weight decay, at least 0, on matrices alone. Defaults to 0.2. */
  decay?: number;
  /** AdamW's decays of the two moments, each from 0 to below 1. Defaults to [0.9, 0.98]. */
  betas?: readonly [number, number];
  /** AdamW's term against division by 0, over 0. Defaults to 1e-6. */
  epsilon?: number;
  /** Largest norm of the gradient, at least 0; 0 for no clipping. Defaults to 1. */
  clip?: number;
  /** Decay of a moving average of the parameters (0 < ema < 1), which is then validated and exported. Defaults to none. */
  ema?: number;
  /** Augmentation of training images. Left-out fields have the defaults of {@link AugmentOptions}; 'none' for none at all. */
  augment?: AugmentOptions | 'none';
  /** Optimiser steps between validations, at least 1. Defaults to one epoch's, and at least to a tenth of all steps. */
  validateEvery?: number;
  /** Optimiser steps between checkpoints, at least 1. Defaults to `validateEvery`. */
  checkpointEvery?: number;
  /** Which parameters are exported. Defaults to 'best' when there is validation, otherwise 'last'. */
  select?: 'best' | 'last';
  /** Element type of the exported weights; float16 halves the files. Defaults to 'float32'. */
  exportDtype?: 'float32' | 'float16';
  /** Bytes of decoded images held in memory, at least 0. Defaults to 1 GiB. */
  cacheBytes?: number;
  /** Bytes of rendered batches that are prepared ahead of the step, at least one batch. Defaults to 1 GiB. */
  prefetchBytes?: number;
  /** Seed of the order of data, augmentation and initial weights, an integer from 0. Defaults to 0. */
  seed?: number;
  /** Where kernels and the executor run. Defaults to 'auto'. */
  device?: Device;
  /** Threads for kernels, executor and decoding, 1 to 1,024. Defaults to the process's number. The parameters' last bits depend on it. */
  threads?: number;
  /**
   * What runs the programs: 'native', our own operations, or 'onnxruntime'. Either goes on with the other's checkpoints. Defaults to
   * 'auto': our own where there is one for every operator of the graphs.
   */
  executor?: ExecutorName;
  /**
   * Bytes that the activations of a tower's micro-batch may take while it is trained. Where that is too little, part of the forward
   * pass is run again: the same student, up to a third more work. Our own executor alone has it. Defaults to no limit.
   */
  maxActivationMemory?: number;
  /**
   * Bytes of a GPU's memory that parameters with their state and a pass of a micro-batch may take, and the loss as much again. What does
   * not fit is an error before it is begun. Defaults to what is free.
   */
  maxDeviceMemory?: number;
  /**
   * Of the large products of training: 'bf16' rounds their operands to bfloat16 and adds in float32, in 0.6 to 0.7 of the time of a wide transformer on an AMD Zen 5, less gained for small ones. A
   * processor without instructions for it is an error. Parameters, checkpoints and the exported model are float32 either way. The student
   * is another one than in 'float32', so a run goes on in the precision that it was begun in. Our own executor alone has it. Defaults to 'float32'.
   */
  precision?: Precision;
  /** Folder for checkpoints and, in `model/`, the exported model. Training goes on from what is there. */
  folder: string;
  /** Where a line of metrics a step goes. Defaults to `metrics.jsonl` in `folder`. */
  metrics?: string;
  /** Name of the stage in the metrics. Defaults to what is trained: 'pretrain', 'distill', … */
  stage?: string;
  /** Stops after the step in hand with a checkpoint; the call then rejects with code ABORTED and can be made again. */
  signal?: AbortSignal;
  /** Called after every step with its losses, learning rate and speed. */
  onStep?: (step: StepReport) => void;
  /** Called after every validation with the step, counted from 1, and its metrics. */
  onValidation?: (step: number, metrics: Readonly<Record<string, number>>) => void;
  /** Called once for every image that could not be read or decoded. */
  onSkip?: (key: string, reason: string) => void;
  /** Called when ONNX Runtime trains because our own executor lacks something, which `reason` names. */
  onFallback?: (reason: string) => void;
}

/** What `pretrain` and `distill` have in common beside {@link TrainerOptions}: a student of two towers. */
export interface TrainingOptions extends TrainerOptions {
  /**
   * The student's architecture: a name ('vit-b-32', 'vit-s-16', 'mini-64', …), or a name with some numbers changed. The
   * vocabulary's size follows from the tokenizer.
   * Defaults to 'mini-64'. Not used when `init` is given.
   */
  student?: StudentName | StudentOptions;
  /**
   * Model folder to start from: an exported student, or any CLIP with a vision and a text model. Its towers and tokenizer are
   * kept.
   */
  init?: string;
  /**
   * ONNX file of an image encoder, one image input [batch, 3, size, size] and one output [batch, width], to be the image tower
   * instead of the architecture's own; its weights are where training starts. Embeddings are as wide as its output.
   */
  imageModel?: string;
  /** Which caption of an item a step sees: always the first, or one drawn anew each time. Defaults to 'random'. */
  captions?: 'first' | 'random';
  /** Held-out items: a share of the items (0 to 0.5), drawn by the seed, or their indices. Defaults to 0.05. */
  validation?: number | readonly number[];
  /** Told once, before the first step, how many values each tower learns. */
  onSizes?: (parameters: { readonly image: number; readonly text: number }) => void;
}

/** How a run of training ended. */
export interface TrainedStudent {
  /** The exported model folder. */
  model: string;
  /** Optimiser steps made in all. */
  steps: number;
  /** Step and value of the best validation, where there was one. */
  best: { step: number; value: number } | undefined;
  /** Metrics of the last validation. */
  validation: Readonly<Record<string, number>> | undefined;
  /** Learned values of both towers: what is exported. */
  parameters: number;
  /** Learned values that the loss has beside them, which are not exported: scales, projections to another width, learned centres. */
  lossParameters: number;
  /** Indices of the held-out items. */
  heldOut: Int32Array;
  /** Images that could not be read; others took their place. */
  skipped: number;
  /** How fast loader and steps were, of the steps that this call made. */
  speed: Speed | undefined;
}

/** Names of {@link TrainerOptions}, for the check of option objects. */
export const TRAINER_OPTIONS: readonly string[] = Object.keys({
  epochs: true,
  steps: true,
  batchSize: true,
  microBatch: true,
  rate: true,
  finalRate: true,
  warmup: true,
  decay: true,
  betas: true,
  epsilon: true,
  clip: true,
  ema: true,
  augment: true,
  validateEvery: true,
  checkpointEvery: true,
  select: true,
  exportDtype: true,
  cacheBytes: true,
  prefetchBytes: true,
  seed: true,
  device: true,
  threads: true,
  executor: true,
  maxActivationMemory: true,
  maxDeviceMemory: true,
  precision: true,
  folder: true,
  metrics: true,
  stage: true,
  signal: true,
  onStep: true,
  onValidation: true,
  onSkip: true,
  onFallback: true,
} satisfies Record<keyof TrainerOptions, true>);

/** Names of {@link TrainingOptions}. */
export const TRAINING_OPTIONS: readonly string[] = [
  ...TRAINER_OPTIONS,
  ...Object.keys({
    student: true,
    init: true,
    imageModel: true,
    captions: true,
    validation: true,
    onSizes: true,
  } satisfies Record<Exclude<keyof TrainingOptions, keyof TrainerOptions>, true>),
];
