import { join } from 'node:path';
import { Tokenizer as HubTokenizer } from '@huggingface/tokenizers';
import { expectInteger } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { readJson } from '../run/files.ts';

/** Texts as a text tower takes them, row-major [rows, length]. */
export interface TokenBatch {
  readonly rows: number;
  readonly length: number;
  readonly inputIds: Int32Array;
  /** 1 for tokens up to the end token, 0 for padding. */
  readonly attentionMask: Int32Array;
}

export interface Tokenizer {
  /** Largest id + 1: rows that the text tower's embedding must have. */
  readonly vocabSize: number;
  readonly startId: number;
  readonly endId: number;
  readonly padId: number;
  /** Longest text in tokens that its configuration names, if it does. */
  readonly contextLength: number | undefined;
  /** Start token, text, end token, padded to `contextLength`. A longer text is cut so that the end token stays. */
  encode(texts: readonly string[], contextLength: number): TokenBatch;
  /** Text of ids, without special tokens. */
  decode(ids: readonly number[]): string;
}

/** Reads `tokenizer.json` and `tokenizer_config.json` of a model folder. Fails with MODEL_INVALID, naming the file. */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const [tokenizer, config] = await Promise.all(
    ['tokenizer.json', 'tokenizer_config.json'].map((name) => readModelJson(join(folder, name))),
  );
  return createTokenizer(tokenizer, config, join(folder, 'tokenizer.json'));
}

/** A JSON object of a model folder; MODEL_INVALID when it is missing or is not one. */
export async function readModelJson(path: string): Promise<Record<string, unknown>> {
  let value: unknown;
  try {
    value = await readJson(path);
  } catch (error) {
    throw new CidError('MODEL_INVALID', (error as Error).message, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CidError('MODEL_INVALID', `${path} is not a JSON object`);
  }
  return value as Record<string, unknown>;
}

/**
 * A tokenizer from the contents of its two files. `source` names it in messages.
 *
 * Fails with MODEL_INVALID when it cannot be read, or when it does not put one start and one end token round a text.
 */
export function createTokenizer(
  json: Readonly<Record<string, unknown>>,
  config: Readonly<Record<string, unknown>>,
  source = 'tokenizer.json',
): Tokenizer {
  let hub: HubTokenizer;
  let frame: number[];
  try {
    hub = new HubTokenizer(json, config);
    frame = hub.encode('').ids;
  } catch (error) {
    throw new CidError('MODEL_INVALID', `${source} is not a usable tokenizer: ${(error as Error).message}`, {
      cause: error,
    });
  }
  const special = new Set([...hub.get_added_tokens_decoder().values()].map(({ id }) => id));
  if (frame.length !== 2 || !frame.every((id) => special.has(id))) {
    throw new CidError(
      'MODEL_INVALID',
      `${source} is the wrong tokenizer for a CLIP text tower: expected a start and an end token round a text but an empty text gives ${JSON.stringify(hub.encode('').tokens)}`,
    );
  }
  const [startId, endId] = frame;
  const padId = padOf(hub, config, endId, source);
  let vocabSize = 0;
  for (const id of hub.get_vocab().values()) vocabSize = Math.max(vocabSize, id + 1);
  return {
    vocabSize,
    startId,
    endId,
    padId,
    contextLength: lengthOf(config),
    encode: (texts, contextLength) => encode(hub, padId, texts, contextLength),
    decode: (ids) => (ids.length === 0 ? '' : hub.decode([...ids], { skip_special_tokens: true })),
  };
}

/** The configuration's padding token; the end token where it names none, as CLIP pads. */
function padOf(
  hub: HubTokenizer,
  config: Readonly<Record<string, unknown>>,
  endId: number,
  source: string,
): number {
  const named = config.pad_token;
  const token =
    typeof named === 'object' && named !== null ? (named as { content?: unknown }).content : named;
  if (typeof token !== 'string') return endId;
  const id = hub.token_to_id(token);
  if (id === undefined) {
    throw new CidError('MODEL_INVALID', `${source} has no token ${token}, which its configuration pads with`);
  }
  return id;
}

/** Configurations without a length hold a huge number instead. */
function lengthOf(config: Readonly<Record<string, unknown>>): number | undefined {
  const length = config.model_max_length;
  return typeof length === 'number' && Number.isInteger(length) && length > 0 && length <= 1 << 20
    ? length
    : undefined;
}

function encode(hub: HubTokenizer, padId: number, texts: readonly string[], length: number): TokenBatch {
  expectInteger('contextLength', length, 2);
  const inputIds = new Int32Array(texts.length * length).fill(padId);
  const attentionMask = new Int32Array(texts.length * length);
  for (const [row, text] of texts.entries()) {
    const { ids } = hub.encode(text);
    const kept = Math.min(ids.length, length);
    inputIds.set(ids.slice(0, kept), row * length);
    inputIds[row * length + kept - 1] = ids[ids.length - 1];
    attentionMask.fill(1, row * length, row * length + kept);
  }
  return { rows: texts.length, length, inputIds, attentionMask };
}
