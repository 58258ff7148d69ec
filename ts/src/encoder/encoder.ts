import { join } from 'node:path';
import { expectInteger } from '../native/check.ts';
import { threads } from '../native/devices.ts';
import { CidError } from '../native/errors.ts';
import {
  BATCH_SIZE,
  expectModelFolder,
  hashModelFiles,
  type ImageEncoder,
  type ImageParts,
  isFile,
  OnnxImageEncoder,
  type OpenImageEncoderOptions,
} from './image-encoder.ts';
import { type InputSizes, type Modality, ModelFile } from './model-file.ts';
import { readPreprocessing } from './preprocess.ts';
import { loadTokenizer, readModelJson, type Tokenizer } from './tokenizer.ts';

/** A CLIP model folder, opened. Inference runs in a worker thread; calls queue up there. */
export interface Encoder extends ImageEncoder {
  /** Longest text in tokens. */
  readonly contextLength: number;
  /** `exp(logit_scale)` of the model when it is known. */
  readonly logitScale: number | undefined;
  readonly tokenizer: Tokenizer;
  /** [n, dim]. */
  embedTexts(texts: readonly string[]): Promise<Float32Array>;
}

export interface OpenEncoderOptions extends Omit<OpenImageEncoderOptions, 'imageOutput'> {
  /** File within the folder. Defaults to 'onnx/text_model.onnx', or 'onnx/model.onnx' with both towers. */
  textModel?: string;
}

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
  await expectModelFolder(folder);
  const batchSize = expectInteger('batchSize', options.batchSize ?? BATCH_SIZE, 1);
  const [config, preprocessing, tokenizer] = await Promise.all([
    readModelJson(join(folder, 'config.json')),
    readPreprocessing(folder),
    loadTokenizer(folder),
  ]);
  checkTokenizer(folder, config, tokenizer);
  const paths = await modelPaths(folder, options);
  const hash = await hashModelFiles(
    folder,
    [...new Set(Object.values(paths))],
    ['config.json', 'preprocessor_config.json', 'tokenizer.json', 'tokenizer_config.json'],
  );

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
  const image = join(folder, options.visionModel ?? 'onnx/vision_model.onnx');
  const text = join(folder, options.textModel ?? 'onnx/text_model.onnx');
  const [hasImage, hasText] = await Promise.all([isFile(image), isFile(text)]);
  if (hasImage && hasText) return { image, text };
  const both = join(folder, 'onnx/model.onnx');
  const named = options.visionModel !== undefined || options.textModel !== undefined;
  if (!named && (await isFile(both))) return { image: both, text: both };
  throw new CidError(
    'MODEL_INVALID',
    `${folder} has no file ${hasImage ? text : image}${named ? '' : `, nor ${both}`}`,
  );
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

interface Parts extends ImageParts {
  readonly config: Readonly<Record<string, unknown>>;
  readonly tokenizer: Tokenizer;
  readonly text: ModelFile;
  readonly contextLength: number;
}

class OnnxEncoder extends OnnxImageEncoder implements Encoder {
  readonly contextLength: number;
  readonly tokenizer: Tokenizer;
  readonly logitScale: number | undefined;
  readonly #text: ModelFile;

  constructor(parts: Parts) {
    super(parts);
    const scale = parts.config.logit_scale_init_value;
    this.contextLength = parts.contextLength;
    this.tokenizer = parts.tokenizer;
    this.logitScale =
      typeof scale === 'number' && scale !== INITIAL_LOGIT_SCALE ? Math.exp(scale) : undefined;
    this.#text = parts.text;
  }

  override async probe(): Promise<void> {
    await super.probe();
    const { folder, dim } = this;
    const words = await this.#texts(['']).catch((error) => {
      if (
        error instanceof CidError &&
        /out of data bounds|out of range|must be within/i.test(error.message)
      ) {
        throw wrongTokenizer(
          folder,
          `the text model refuses its token ${this.tokenizer.endId} (${this.#text.path})`,
        );
      }
      throw error;
    });
    if (dim !== words.length) {
      throw new CidError(
        'MODEL_INVALID',
        `The two models of ${folder} do not belong together: images have ${dim} dimensions and texts ${words.length}`,
      );
    }
  }

  async embedTexts(texts: readonly string[]): Promise<Float32Array> {
    this.expectOpen();
    return this.#texts(texts);
  }

  override async dispose(): Promise<void> {
    await Promise.all([super.dispose(), this.#text.dispose()]);
  }

  protected override sizes(): InputSizes {
    return { imageSize: this.imageSize, contextLength: this.contextLength };
  }

  async #texts(texts: readonly string[]): Promise<Float32Array> {
    const { tokenizer, contextLength } = this;
    return this.embedRows(this.#text, 'text', texts.length, (from, to, count) => {
      // Blank texts fill up a run whose rows the model fixes.
      const part = Array.from({ length: count }, (_, i) => (from + i < to ? texts[from + i] : ''));
      return tokenizer.encode(part, contextLength);
    });
  }
}
