import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { concat } from '../data/concat.ts';
import type { RgbImage } from '../data/image.ts';
import { expectFloat32, expectInteger, expectString } from '../native/check.ts';
import { threads } from '../native/devices.ts';
import { CidError } from '../native/errors.ts';
import { hashFile, hashValue } from '../run/hash.ts';
import { type Modality, ModelFile, type ModelInput } from './model-file.ts';
import { type Preprocessing, preprocessImages, readPreprocessing } from './preprocess.ts';
import { loadTokenizer, readModelJson, type Tokenizer } from './tokenizer.ts';

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
  /** What is done to an image before the model sees it. */
  readonly preprocessing: Preprocessing;
  readonly tokenizer: Tokenizer;
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
  /** Threads of an operator on the CPU. Defaults to the process's number. */
  threads?: number;
  /** Images or texts of one session run at most. Defaults to 64. */
  batchSize?: number;
  /** Files and names other than those of the Hugging Face export. */
  visionModel?: string;
  textModel?: string;
}

/** Of `OpenEncoderOptions`. */
const BATCH_SIZE = 64;
/** Where CLIP's text tower ends, for models that do not say. */
const CONTEXT_LENGTH = 77;
/** What the hub's CLIP configurations hold for the logit scale: where training started, not where it ended. */
const INITIAL_LOGIT_SCALE = 2.6592;

/**
 * Opens a model folder as exported from the Hugging Face hub: `config.json`, `preprocessor_config.json`, `tokenizer.json`,
 * `tokenizer_config.json`, and `onnx/vision_model.onnx` with `onnx/text_model.onnx`, or `onnx/model.onnx` with both towers.
 * Runs each tower once, so that what does not fit together fails here and not after an hour.
 *
 * Fails with MODEL_INVALID for a missing folder, file, input or output, a tokenizer of another model, and sizes that
 * contradict each other; with MODEL_UNSUPPORTED for preprocessing that is not built; with PROVIDER_UNAVAILABLE.
 */
export async function openEncoder(folder: string, options: OpenEncoderOptions = {}): Promise<Encoder> {
  expectString('folder', folder);
  const batchSize = expectInteger('batchSize', options.batchSize ?? BATCH_SIZE, 1);
  const status = await stat(folder).catch(() => undefined);
  if (!status?.isDirectory()) throw new CidError('MODEL_INVALID', `There is no model folder ${folder}`);
  const [config, preprocessing, tokenizer] = await Promise.all([
    readModelJson(join(folder, 'config.json')),
    readPreprocessing(folder),
    loadTokenizer(folder),
  ]);
  checkTokenizer(folder, config, tokenizer);
  const paths = await modelPaths(folder, options);
  const hash = await hashModel(folder, new Set(Object.values(paths)));

  const { providers } = options;
  const count = expectInteger('threads', options.threads ?? threads(), 1, 1024);
  const session = { ...(providers && { providers }), threads: count };
  const opened: ModelFile[] = [];
  try {
    const open = async (path: string) => {
      const file = await ModelFile.open(path, session);
      opened.push(file);
      return file;
    };
    const vision = await open(paths.image);
    vision.check('image');
    const text = paths.text === paths.image ? vision : await open(paths.text);
    text.check('text');
    const contextLength = text.contextLength ?? contextLengthOf(config, tokenizer);
    const encoder = new OnnxEncoder({
      folder,
      hash,
      config,
      preprocessing,
      tokenizer,
      vision,
      text,
      batchSize,
      contextLength,
    });
    await encoder.probe();
    return encoder;
  } catch (error) {
    await Promise.all(opened.map((file) => file.dispose()));
    throw error;
  }
}

/** The two towers' files, one and the same when the folder has a single file for both. */
async function modelPaths(folder: string, options: OpenEncoderOptions): Promise<Record<Modality, string>> {
  const exists = (path: string) =>
    stat(path).then(
      (status) => status.isFile(),
      () => false,
    );
  const image = join(folder, options.visionModel ?? 'onnx/vision_model.onnx');
  const text = join(folder, options.textModel ?? 'onnx/text_model.onnx');
  const [hasImage, hasText] = await Promise.all([exists(image), exists(text)]);
  if (hasImage && hasText) return { image, text };
  const both = join(folder, 'onnx/model.onnx');
  const named = options.visionModel !== undefined || options.textModel !== undefined;
  if (!named && (await exists(both))) return { image: both, text: both };
  throw new CidError(
    'MODEL_INVALID',
    `${folder} has no file ${hasImage ? text : image}${named ? '' : `, nor ${both}`}`,
  );
}

/** SHA-256 over all that decides what an embedding is. */
async function hashModel(folder: string, models: ReadonlySet<string>): Promise<string> {
  const files = [...models];
  for (const model of models) {
    // Weights of large models lie beside them.
    const siblings = (await readdir(dirname(model)))
      .filter((name) => name.startsWith(basename(model)))
      .sort();
    files.push(...siblings.map((name) => join(dirname(model), name)).filter((path) => path !== model));
  }
  for (const name of ['config.json', 'preprocessor_config.json', 'tokenizer.json', 'tokenizer_config.json']) {
    files.push(join(folder, name));
  }
  return hashValue(await Promise.all(files.map(async (file) => [basename(file), await hashFile(file)])));
}

function textConfig(config: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return (config.text_config ?? {}) as Record<string, unknown>;
}

function checkTokenizer(
  folder: string,
  config: Readonly<Record<string, unknown>>,
  tokenizer: Tokenizer,
): void {
  const rows = textConfig(config).vocab_size;
  if (typeof rows === 'number' && tokenizer.vocabSize > rows) {
    throw wrongTokenizer(folder, `it has ${tokenizer.vocabSize} tokens where the text model has ${rows}`);
  }
  // CLIP reads the text at its largest id unless its configuration names the end token (2 is a mistake in old ones).
  const named = textConfig(config).eos_token_id;
  const isNamed = typeof named === 'number' && named !== 2;
  if (config.model_type !== 'clip') return;
  if (isNamed ? named !== tokenizer.endId : tokenizer.endId !== tokenizer.vocabSize - 1) {
    const wanted = isNamed ? named : 'the largest';
    throw wrongTokenizer(
      folder,
      `its end token has the id ${tokenizer.endId} where the text model expects ${wanted}`,
    );
  }
}

function wrongTokenizer(folder: string, reason: string): CidError {
  return new CidError('MODEL_INVALID', `The tokenizer of ${folder} is not the model's: ${reason}`);
}

function contextLengthOf(config: Readonly<Record<string, unknown>>, tokenizer: Tokenizer): number {
  const length = textConfig(config).max_position_embeddings;
  return typeof length === 'number' ? length : (tokenizer.contextLength ?? CONTEXT_LENGTH);
}

interface Parts {
  readonly folder: string;
  readonly hash: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly preprocessing: Preprocessing;
  readonly tokenizer: Tokenizer;
  readonly vision: ModelFile;
  readonly text: ModelFile;
  readonly batchSize: number;
  readonly contextLength: number;
}

class OnnxEncoder implements Encoder {
  readonly folder: string;
  readonly hash: string;
  readonly contextLength: number;
  readonly preprocessing: Preprocessing;
  readonly tokenizer: Tokenizer;
  readonly logitScale: number | undefined;
  readonly #parts: Parts;
  #dim = 0;
  #disposed = false;

  constructor(parts: Parts) {
    const scale = parts.config.logit_scale_init_value;
    this.#parts = parts;
    this.folder = parts.folder;
    this.hash = parts.hash;
    this.contextLength = parts.contextLength;
    this.preprocessing = parts.preprocessing;
    this.tokenizer = parts.tokenizer;
    this.logitScale =
      typeof scale === 'number' && scale !== INITIAL_LOGIT_SCALE ? Math.exp(scale) : undefined;
  }

  get dim(): number {
    return this.#dim;
  }

  get imageSize(): number {
    return this.preprocessing.imageSize;
  }

  /** One image and one text, to see that everything fits together. */
  async probe(): Promise<void> {
    const { folder, vision, text } = this.#parts;
    const fixed = vision.imageSize;
    if (fixed !== undefined && fixed !== this.imageSize) {
      throw new CidError(
        'MODEL_INVALID',
        `The image model of ${folder} takes images of ${fixed} pixels and preprocessor_config.json makes them ${this.imageSize}`,
      );
    }
    const image = await this.embedPixels(new Float32Array(3 * this.imageSize ** 2));
    const words = await this.#texts(['']).catch((error) => {
      if (
        error instanceof CidError &&
        /out of data bounds|out of range|must be within/i.test(error.message)
      ) {
        throw wrongTokenizer(
          folder,
          `the text model refuses its token ${this.tokenizer.endId} (${text.path})`,
        );
      }
      throw error;
    });
    if (image.length !== words.length) {
      throw new CidError(
        'MODEL_INVALID',
        `The two models of ${folder} do not belong together: images have ${image.length} dimensions and texts ${words.length}`,
      );
    }
    this.#dim = image.length;
  }

  async preprocess(images: readonly RgbImage[]): Promise<Float32Array> {
    this.#expectOpen();
    return preprocessImages(images, this.preprocessing);
  }

  async embedPixels(pixels: Float32Array): Promise<Float32Array> {
    this.#expectOpen();
    const width = 3 * this.imageSize ** 2;
    const rows = Math.floor(expectFloat32('pixels', pixels).length / width);
    expectFloat32('pixels', pixels, rows * width, `[n, 3, ${this.imageSize}, ${this.imageSize}]`);
    return this.#embed('image', rows, (from, to, count) => {
      const part = new Float32Array(count * width);
      part.set(pixels.subarray(from * width, to * width));
      return { pixels: part };
    });
  }

  async embedImages(images: readonly RgbImage[]): Promise<Float32Array> {
    const { batchSize } = this.#parts;
    const result = new Float32Array(images.length * this.dim);
    let next = this.preprocess(images.slice(0, batchSize));
    for (let from = 0; from < images.length; from += batchSize) {
      const pixels = await next;
      // The next ones are resized while the model works on these.
      next = this.preprocess(images.slice(from + batchSize, from + 2 * batchSize));
      next.catch(() => undefined);
      result.set(await this.embedPixels(pixels), from * this.dim);
    }
    await next;
    return result;
  }

  async embedTexts(texts: readonly string[]): Promise<Float32Array> {
    this.#expectOpen();
    return this.#texts(texts);
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
    const { vision, text } = this.#parts;
    await Promise.all([vision.dispose(), text.dispose()]);
  }

  async #texts(texts: readonly string[]): Promise<Float32Array> {
    const { tokenizer, contextLength } = this;
    return this.#embed('text', texts.length, (from, to, count) => {
      // Blank texts fill up a run whose rows the model fixes.
      const part = Array.from({ length: count }, (_, i) => (from + i < to ? texts[from + i] : ''));
      return tokenizer.encode(part, contextLength);
    });
  }

  /** Runs rows through a tower, `batchSize` at a time. `input` makes `count` rows, of which `from` to `to` are wanted. */
  async #embed(
    modality: Modality,
    rows: number,
    input: (from: number, to: number, count: number) => ModelInput,
  ): Promise<Float32Array> {
    const { vision, text, batchSize } = this.#parts;
    const file = modality === 'image' ? vision : text;
    const fixed = file.batchSize(modality);
    const step = fixed ?? batchSize;
    const parts: Float32Array[] = [];
    for (let from = 0; from < rows; from += step) {
      const to = Math.min(from + step, rows);
      const count = fixed ?? to - from;
      const part = await file.embed(modality, count, input(from, to, count), this);
      parts.push(part.subarray(0, (part.length / count) * (to - from)));
    }
    return concat(parts);
  }

  #expectOpen(): void {
    if (this.#disposed) throw new CidError('DISPOSED', `The model ${this.folder} is closed`);
  }
}
