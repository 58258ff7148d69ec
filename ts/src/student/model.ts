import { join } from 'node:path';
import { createTokenizer, type Tokenizer } from '../encoder/tokenizer.ts';
import { CidError } from '../native/errors.ts';
import type { Parameter } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import { hashFile, hashValue, type Json } from '../run/hash.ts';
import { type StudentConfig, studentConfig } from './config.ts';
import { importImageTower } from './imported.ts';
import type { TrainingOptions } from './options.ts';
import { buildExportedText, buildStudent } from './towers.ts';
import { clipNormalisation, type Normalisation } from './views.ts';

/** Contents of `tokenizer.json` and `tokenizer_config.json`. */
export interface TokenizerFiles {
  readonly json: Readonly<Record<string, unknown>>;
  readonly config: Readonly<Record<string, unknown>>;
}

/** The tokenizer of a student; MODEL_INVALID when a text tower could not find its end token, which must be the largest id. */
export function tokenizerOf({ json, config }: TokenizerFiles, folder?: string): Tokenizer {
  const source = folder === undefined ? 'tokenizer.json' : join(folder, 'tokenizer.json');
  const tokenizer = createTokenizer(json, config, source);
  if (tokenizer.endId !== tokenizer.vocabSize - 1) {
    const found = `its id is ${tokenizer.endId} of ${tokenizer.vocabSize}`;
    throw new CidError(
      'MODEL_INVALID',
      `${source} is the wrong tokenizer for a CLIP: its end token must come last, and ${found}`,
    );
  }
  return tokenizer;
}

/** A student before training: graphs, starting values, and what goes with them into its model folder. */
export interface StudentModel {
  /** Absent for imported towers. */
  readonly config: StudentConfig | undefined;
  /** `pixel_values` → `image_embeds`. */
  readonly image: Graph;
  /** `input_ids` → `text_embeds`, for training. */
  readonly text: Graph;
  /** The same for the model folder, with texts of any length. */
  readonly exportedText: Graph;
  readonly parameters: readonly Parameter[];
  readonly embedDim: number;
  readonly imageSize: number;
  readonly contextLength: number;
  readonly normalisation: Normalisation;
  readonly tokenizerFiles: TokenizerFiles;
  /** Logarithm of the logit scale to start with, of a trained model. */
  readonly logScale?: number;
  /** Hash of all of this. */
  readonly identity: string;
}

/** A student with new weights. */
export function newStudent(
  config: StudentConfig,
  seed: number,
  tokenizerFiles: TokenizerFiles,
): StudentModel {
  const { image, text, parameters } = buildStudent(config, seed);
  return {
    config,
    image,
    text,
    exportedText: buildExportedText(config),
    parameters,
    embedDim: config.embedDim,
    imageSize: config.vision.imageSize,
    contextLength: config.text.contextLength,
    normalisation: clipNormalisation,
    tokenizerFiles,
    identity: hashValue({
      config: { ...config } as unknown as Json,
      tokenizer: tokenizerFiles as unknown as Json,
    }),
  };
}

/**
 * A student of which the image tower is an ONNX file, such as a convolutional net exported from elsewhere, and the text tower
 * is new; embeddings are as wide as the file's output.
 */
export async function importedStudent(
  path: string,
  config: StudentConfig,
  seed: number,
  tokenizerFiles: TokenizerFiles,
): Promise<StudentModel> {
  const tower = await importImageTower(path, config.vision.imageSize);
  const sizes = { ...config, embedDim: tower.dim };
  const built = newStudent(sizes, seed, tokenizerFiles);
  const own = new Set(built.text.parameters.map(({ name }) => name));
  return {
    ...built,
    config: undefined,
    image: tower.graph,
    parameters: [...tower.parameters, ...built.parameters.filter(({ name }) => own.has(name))],
    imageSize: tower.imageSize,
    identity: hashValue({ text: built.identity, image: await hashFile(path), imageSize: tower.imageSize }),
  };
}

/** The student that options ask for. */
export async function startStudent(
  options: Pick<TrainingOptions, 'student' | 'imageModel'>,
  seed: number,
  tokenizerFiles: TokenizerFiles,
  folder?: string,
): Promise<StudentModel> {
  const sizes = studentConfig(options.student);
  const { vocabSize } = tokenizerOf(tokenizerFiles, folder);
  const config = { ...sizes, text: { ...sizes.text, vocabSize } };
  return options.imageModel === undefined
    ? newStudent(config, seed, tokenizerFiles)
    : importedStudent(options.imageModel, config, seed, tokenizerFiles);
}
