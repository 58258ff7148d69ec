import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { concat } from '../data/concat.ts';
import type { RgbImage } from '../data/image.ts';
import { expectFloat32, expectInteger, expectString } from '../native/check.ts';
import { threads } from '../native/devices.ts';
import { abortError, CidError } from '../native/errors.ts';
import { hashFile, hashValue } from '../run/hash.ts';
import { type InputSizes, type Modality, ModelFile, type ModelInput } from './model-file.ts';
import { type Preprocessing, preprocessImages, readPreprocessing } from './preprocess.ts';

/** The image side of a model folder, opened. Inference runs in a worker thread; calls queue up there. */
export interface ImageEncoder {
  readonly folder: string;
  /** Width of the embeddings. */
  readonly dim: number;
  /** Hash of the model's files and preprocessing, hex; what caches are keyed by. */
  readonly hash: string;
  /** Side of the square input image in pixels. */
  readonly imageSize: number;
  /** What is done to an image before the model sees it. */
  readonly preprocessing: Preprocessing;
  /** Preprocessed by the model's own configuration, one `[3, imageSize, imageSize]` after the other. */
  preprocess(images: readonly RgbImage[]): Promise<Float32Array>;
  /** [n, 3, imageSize, imageSize] → [n, dim], as the model gives them (not normalised). */
  embedPixels(pixels: Float32Array): Promise<Float32Array>;
  /** [n, dim]. The signal stops it between two runs of the model; it then rejects with ABORTED. */
  embedImages(images: readonly RgbImage[], signal?: AbortSignal): Promise<Float32Array>;
  dispose(): Promise<void>;
}

export interface OpenImageEncoderOptions {
  /** Execution providers of ONNX Runtime in order of preference, by name: 'cpu', 'cuda', 'webgpu', … Defaults to ['cpu']. */
  providers?: readonly string[];
  /** Threads of an operator on the CPU. Defaults to the process's number. */
  threads?: number;
  /** Images or texts of one session run at most. Defaults to 64. */
  batchSize?: number;
  /** File within the folder. Defaults to 'onnx/vision_model.onnx', or 'onnx/model.onnx' with both towers. */
  visionModel?: string;
  /** Output that is read, [rows, dim]. Defaults to 'image_embeds', or the only one that can be meant. */
  imageOutput?: string;
}

/** Of `OpenImageEncoderOptions`. */
export const BATCH_SIZE = 64;
const VISION = 'onnx/vision_model.onnx';
const BOTH = 'onnx/model.onnx';
/** Length of blank texts for a file that has both towers and leaves it open. */
const BLANK_LENGTH = 77;

/**
 * Opens the image side of a model folder: `config.json`, `preprocessor_config.json` and `onnx/vision_model.onnx`, or `onnx/model.onnx` with
 * both towers; a folder without a text model or tokenizer will do. Runs once, so that what does not fit together fails here.
 *
 * Fails with MODEL_INVALID for a missing folder, file, input or output, and sizes that contradict each other; with
 * MODEL_UNSUPPORTED for preprocessing that is not built; with PROVIDER_UNAVAILABLE.
 */
export async function openImageEncoder(
  folder: string,
  options: OpenImageEncoderOptions = {},
): Promise<ImageEncoder> {
  await expectModelFolder(folder);
  const batchSize = expectInteger('batchSize', options.batchSize ?? BATCH_SIZE, 1);
  const preprocessing = await readPreprocessing(folder);
  const path = await visionPath(folder, options.visionModel);
  const hash = await hashModelFiles(folder, [path], ['config.json', 'preprocessor_config.json']);
  const { providers, imageOutput } = options;
  const vision = await ModelFile.open(path, {
    ...(providers && { providers }),
    ...(imageOutput !== undefined && { imageOutput }),
    threads: expectInteger('threads', options.threads ?? threads(), 1, 1024),
  });
  try {
    vision.check('image');
    const encoder = new OnnxImageEncoder({ folder, hash, preprocessing, vision, batchSize });
    await encoder.probe();
    return encoder;
  } catch (error) {
    await vision.dispose();
    throw error;
  }
}

export async function expectModelFolder(folder: string): Promise<void> {
  expectString('folder', folder);
  const status = await stat(folder).catch(() => undefined);
  if (!status?.isDirectory()) throw new CidError('MODEL_INVALID', `There is no model folder ${folder}`);
}

async function visionPath(folder: string, named: string | undefined): Promise<string> {
  const path = join(folder, named ?? VISION);
  if (await isFile(path)) return path;
  const both = join(folder, BOTH);
  if (named === undefined && (await isFile(both))) return both;
  throw new CidError(
    'MODEL_INVALID',
    `${folder} has no file ${path}${named === undefined ? `, nor ${both}` : ''}`,
  );
}

export function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (status) => status.isFile(),
    () => false,
  );
}

/** SHA-256 over models, with the files of external data beside them, and configurations. */
export async function hashModelFiles(
  folder: string,
  models: readonly string[],
  configurations: readonly string[],
): Promise<string> {
  const files = [...models];
  for (const model of models) {
    // Weights of large models lie beside them.
    const siblings = (await readdir(dirname(model)))
      .filter((name) => name.startsWith(basename(model)))
      .sort();
    files.push(...siblings.map((name) => join(dirname(model), name)).filter((path) => path !== model));
  }
  for (const name of configurations) files.push(join(folder, name));
  return hashValue(await Promise.all(files.map(async (file) => [basename(file), await hashFile(file)])));
}

export interface ImageParts {
  readonly folder: string;
  readonly hash: string;
  readonly preprocessing: Preprocessing;
  readonly vision: ModelFile;
  readonly batchSize: number;
}

export class OnnxImageEncoder implements ImageEncoder {
  readonly folder: string;
  readonly hash: string;
  readonly preprocessing: Preprocessing;
  readonly #vision: ModelFile;
  readonly #batchSize: number;
  #dim = 0;
  #disposed = false;

  constructor({ folder, hash, preprocessing, vision, batchSize }: ImageParts) {
    this.folder = folder;
    this.hash = hash;
    this.preprocessing = preprocessing;
    this.#vision = vision;
    this.#batchSize = batchSize;
  }

  get dim(): number {
    return this.#dim;
  }

  get imageSize(): number {
    return this.preprocessing.imageSize;
  }

  /** One image, to see that everything fits together. */
  async probe(): Promise<void> {
    const fixed = this.#vision.imageSize;
    if (fixed !== undefined && fixed !== this.imageSize) {
      throw new CidError(
        'MODEL_INVALID',
        `The image model of ${this.folder} takes images of ${fixed} pixels and preprocessor_config.json makes them ${this.imageSize}`,
      );
    }
    this.#dim = (await this.embedPixels(new Float32Array(3 * this.imageSize ** 2))).length;
  }

  async preprocess(images: readonly RgbImage[]): Promise<Float32Array> {
    this.expectOpen();
    return preprocessImages(images, this.preprocessing);
  }

  async embedPixels(pixels: Float32Array): Promise<Float32Array> {
    this.expectOpen();
    const width = 3 * this.imageSize ** 2;
    const rows = Math.floor(expectFloat32('pixels', pixels).length / width);
    expectFloat32('pixels', pixels, rows * width, `[n, 3, ${this.imageSize}, ${this.imageSize}]`);
    return this.embedRows(this.#vision, 'image', rows, (from, to, count) => {
      const part = new Float32Array(count * width);
      part.set(pixels.subarray(from * width, to * width));
      return { pixels: part };
    });
  }

  async embedImages(images: readonly RgbImage[], signal?: AbortSignal): Promise<Float32Array> {
    const batchSize = this.#batchSize;
    const result = new Float32Array(images.length * this.dim);
    let next = this.preprocess(images.slice(0, batchSize));
    for (let from = 0; from < images.length; from += batchSize) {
      const pixels = await next;
      if (signal?.aborted) throw abortError();
      // The next ones are resized while the model works on these.
      next = this.preprocess(images.slice(from + batchSize, from + 2 * batchSize));
      next.catch(() => undefined);
      result.set(await this.embedPixels(pixels), from * this.dim);
    }
    await next;
    return result;
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
    await this.#vision.dispose();
  }

  protected sizes(): InputSizes {
    return { imageSize: this.imageSize, contextLength: this.#vision.contextLength ?? BLANK_LENGTH };
  }

  /** Runs rows through a tower, `batchSize` at a time. `input` makes `count` rows, of which `from` to `to` are wanted. */
  protected async embedRows(
    file: ModelFile,
    modality: Modality,
    rows: number,
    input: (from: number, to: number, count: number) => ModelInput,
  ): Promise<Float32Array> {
    const fixed = file.batchSize(modality);
    const step = fixed ?? this.#batchSize;
    const parts: Float32Array[] = [];
    for (let from = 0; from < rows; from += step) {
      const to = Math.min(from + step, rows);
      const count = fixed ?? to - from;
      const part = await file.embed(modality, count, input(from, to, count), this.sizes());
      parts.push(part.subarray(0, (part.length / count) * (to - from)));
    }
    return concat(parts);
  }

  protected expectOpen(): void {
    if (this.#disposed) throw new CidError('DISPOSED', `The model ${this.folder} is closed`);
  }
}
