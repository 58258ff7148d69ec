import type { RgbImage } from '../data/image.ts';

/** A CLIP model folder, opened. Inference runs in a worker thread; calls queue up there. */
export interface Encoder {
  readonly folder: string;
  /** Width of both embeddings. */
  readonly dim: number;
  /** Hash of the model's files and preprocessing, hex; what caches are keyed by. */
  readonly hash: string;
  /** Side of the square input image in pixels. */
  readonly imageSize: number;
  /** Longest text in tokens. */
  readonly contextLength: number;
  /** `exp(logit_scale)` of the model when it is known. */
  readonly logitScale: number | undefined;
  /** Preprocessed by the model's own configuration, one `[3, imageSize, imageSize]` after the other. */
  preprocess(images: readonly RgbImage[]): Promise<Float32Array>;
  /** [n, 3, imageSize, imageSize] → [n, dim], as the model gives them (not normalised). */
  embedPixels(pixels: Float32Array): Promise<Float32Array>;
  /** [n, dim]. */
  embedImages(images: readonly RgbImage[]): Promise<Float32Array>;
  /** [n, dim]. */
  embedTexts(texts: readonly string[]): Promise<Float32Array>;
  dispose(): Promise<void>;
}

export interface OpenEncoderOptions {
  /** Execution providers of ONNX Runtime in order of preference, by name: 'cpu', 'cuda', 'webgpu', … Defaults to ['cpu']. */
  providers?: readonly string[];
  threads?: number;
  /** Images or texts of one session run at most. Defaults to 64. */
  batchSize?: number;
  /** Files and names other than those of the Hugging Face export. */
  visionModel?: string;
  textModel?: string;
}
