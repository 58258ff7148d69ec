import { z } from 'zod';
import { studentNames } from './config.ts';

/*
 * Fields that configurations have in common, with their ranges. Their meaning and defaults are documented with TrainerOptions,
 * StudentConfig and OpenEncoderOptions.
 */

export const path = z.string().min(1);
export const whole = (min: number) => z.int().min(min);
export const share = z.number().min(0).max(1);
export const positive = z.number().positive();
export const pair = z.tuple([z.number(), z.number()]);
export const weight = z.number().min(0).optional();

/** Where a run computes: what every configuration has. */
export const placeFields = {
  seed: whole(0).default(0),
  /** Where kernels and training run. */
  device: z
    .string()
    .regex(/^(auto|cpu|cuda(:\d+)?)$/, { error: "Expected 'auto', 'cpu', 'cuda' or 'cuda:N'" })
    .default('auto'),
  /** Threads that kernels, ONNX Runtime and decoding share. Defaults to the cores that this process may use. */
  threads: whole(1).max(1024).optional(),
  /** Bytes of a GPU's memory that a comparison of embeddings, or training, may hold. Defaults to most of what is free. */
  maxDeviceMemory: whole(2 ** 20).optional(),
};

/** How a model folder is opened. */
export const encoder = z.strictObject({
  /** Execution providers of ONNX Runtime in order of preference. Defaults to ['cpu']. */
  providers: z.array(z.string().min(1)).min(1).optional(),
  /** Files of the folder, where they have other names than those of the Hugging Face export. */
  visionModel: path.optional(),
  textModel: path.optional(),
});

export const studentName = z.enum(studentNames as [string, ...string[]]);

export const visionFields = {
  imageSize: whole(1).optional(),
  patchSize: whole(1).optional(),
  stem: z.enum(['patch', 'conv']).optional(),
  width: whole(1).optional(),
  layers: whole(1).optional(),
  heads: whole(1).optional(),
  mlpRatio: positive.optional(),
  pooling: z.enum(['class', 'mean']).optional(),
};

const augment = z.strictObject({
  scale: pair.optional(),
  ratio: pair.optional(),
  flip: share.optional(),
  rotation: z.number().min(0).max(45).optional(),
  brightness: share.optional(),
  contrast: share.optional(),
  saturation: share.optional(),
  hue: z.number().min(0).max(0.5).optional(),
  grayscale: share.optional(),
});

export const trainerFields = {
  epochs: whole(1).optional(),
  steps: whole(1).optional(),
  batchSize: whole(2).optional(),
  microBatch: whole(1).optional(),
  rate: positive.optional(),
  finalRate: z.number().min(0).optional(),
  warmup: whole(0).optional(),
  decay: z.number().min(0).optional(),
  betas: pair.optional(),
  epsilon: positive.optional(),
  clip: z.number().min(0).optional(),
  ema: z.number().gt(0).lt(1).optional(),
  augment: z.union([z.literal('none'), augment]).optional(),
  validateEvery: whole(1).optional(),
  checkpointEvery: whole(1).optional(),
  select: z.enum(['best', 'last']).optional(),
  exportDtype: z.enum(['float32', 'float16']).optional(),
  cacheBytes: whole(0).optional(),
  prefetchBytes: whole(0).optional(),
  executor: z.enum(['auto', 'native', 'onnxruntime']).optional(),
  maxActivationMemory: whole(1).optional(),
  precision: z.enum(['float32', 'bf16']).optional(),
};
