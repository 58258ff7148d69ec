import { join } from 'node:path';
import { createTokenizer, type Tokenizer } from '../encoder/tokenizer.ts';
import { CidError } from '../native/errors.ts';
import type { Parameter } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import { hashValue, type Json } from '../run/hash.ts';
import { clipNormalisation, type Normalisation } from './batches.ts';
import type { StudentConfig } from './config.ts';
import { buildExportedText, buildStudent } from './towers.ts';

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
