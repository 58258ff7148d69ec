import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { FileMatrix } from '../kernels/rows.ts';
import { expectBoolean, expectString } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { readError, readJson } from '../run/files.ts';
import { hashFile, hashValue, type Json } from '../run/hash.ts';
import { jsonLines, parquetRows } from './manifest.ts';
import { npyMatrix } from './npy.ts';

/** Embeddings in a folder: row r over the shards is item r, for every stage. */
export interface Store {
  readonly folder: string;
  readonly rows: number;
  readonly dim: number;
  readonly dtype: 'float32' | 'float16';
  /** Image embeddings as the model gave them (not normalised), a chunk a shard. */
  readonly image: readonly FileMatrix[];
  /** Text embeddings, row for row with the images; of an item's first caption. Undefined where there are none. */
  readonly text: readonly FileMatrix[] | undefined;
  /** Items of the source that are not in the store. 0 for a store that does not say. */
  readonly skipped: number;
  /** Hash of the contents, hex. */
  readonly hash: string;
  /** Hash of the model that made it, where it is known. */
  readonly model: string | undefined;
  /**
   * What is known of each row, in order: `key`, `image` and `caption` as {@link manifestEntry} writes them for our own stores; for clip-retrieval's
   * their columns, with `key` from `image_path`. An empty object a row where there is no metadata.
   */
  metadata(): AsyncGenerator<Record<string, unknown>>;
}

export interface OpenStoreOptions {
  /**
   * Reads every byte once and compares checksums. False checks sizes only, and identifies a store without checksums by the sizes
   * and times of its files. Defaults to true.
   */
  verify?: boolean;
}

/** A shard as `store.json` records it: rows `from` to `to` of the data set, without those skipped. */
export interface ShardRecord {
  readonly from: number;
  readonly to: number;
  readonly rows: number;
  /** SHA-256 by path within the store. */
  readonly files: Readonly<Record<string, string>>;
  readonly skipped: readonly { readonly key: string; readonly reason: string }[];
}

/** All that decides what is in a store. */
export interface StorePlan {
  /** Hash of the model. */
  readonly model: string;
  readonly preprocessing: Json;
  /** Hash of the data set, and its items. */
  readonly dataset: string;
  readonly items: number;
  readonly dim: number;
  readonly dtype: 'float32' | 'float16';
  readonly texts: boolean;
  /** Items of the data set in a shard. */
  readonly shardSize: number;
}

/** `store.json`. */
export interface StoreRecord {
  readonly version: 1;
  readonly plan: StorePlan;
  /** Where the items came from, for people. */
  readonly source: string;
  readonly shards: readonly ShardRecord[];
  /** Items that the data set itself left out. */
  readonly skipped: readonly { readonly key: string; readonly reason: string }[];
}

/** Written last: a folder without it is not a finished store. */
export const STORE_FILE = 'store.json';
/** Shards that are done, while the store is not. */
export const PROGRESS_FILE = 'progress.jsonl';

/** Paths of a shard's files within the store. */
export function shardPaths(shard: number): { image: string; text: string; metadata: string } {
  return {
    image: `img_emb/img_emb_${shard}.npy`,
    text: `text_emb/text_emb_${shard}.npy`,
    metadata: `metadata/metadata_${shard}.jsonl`,
  };
}

/** A shard's files, absolute. */
interface ShardFiles {
  readonly name: string;
  readonly image: string;
  readonly text: string | undefined;
  readonly metadata: string | undefined;
}

/**
 * Opens an embedding store: ours, or one in clip-retrieval's layout (`img_emb/img_emb_N.npy`, optional `text_emb/text_emb_N.npy`,
 * optional `metadata/metadata_N.parquet` or `.jsonl`, float16 or float32, numbers with or without leading zeros). Shards are
 * in the order of their numbers.
 *
 * Fails with FILE_NOT_FOUND for a missing store or shard, with FILE_FORMAT for a damaged one or files that contradict each
 * other, naming the shard.
 */
export async function openStore(folder: string, options: OpenStoreOptions = {}): Promise<Store> {
  expectString('folder', folder);
  const verify = options.verify === undefined ? true : expectBoolean('verify', options.verify);
  const names = await readdir(folder).catch((error) => {
    throw readError(folder, error);
  });
  if (names.includes(STORE_FILE)) return openOwn(folder, verify);
  if (names.includes(PROGRESS_FILE)) {
    throw new CidError(
      'FILE_FORMAT',
      `The embedding store ${folder} is unfinished: embedding was stopped before its end`,
    );
  }
  if (!names.includes('img_emb')) {
    throw new CidError(
      'FILE_FORMAT',
      `${folder} is no embedding store: it has neither ${STORE_FILE} nor img_emb/`,
    );
  }
  return openForeign(folder, verify);
}

async function openOwn(folder: string, verify: boolean): Promise<Store> {
  const record = await readStoreRecord(folder);
  const { plan, shards } = record;
  const files = shards.map((shard, index): ShardFiles => {
    const paths = shardPaths(index);
    const at = (path: string) => (path in shard.files ? join(folder, path) : undefined);
    return {
      name: paths.image,
      image: join(folder, paths.image),
      text: at(paths.text),
      metadata: at(paths.metadata),
    };
  });
  if (verify) for (const shard of shards) await verifyShard(folder, shard);
  const loaded = await loadShards(folder, files);
  for (const [index, { rows }] of shards.entries()) {
    if (loaded.counts[index] !== rows) {
      throw damaged(files[index].image, `it has ${loaded.counts[index]} rows where ${rows} were written`);
    }
  }
  return {
    ...loaded.store,
    dim: plan.dim,
    dtype: plan.dtype,
    text: plan.texts ? (loaded.store.text ?? []) : undefined,
    skipped: record.skipped.length + shards.reduce((sum, shard) => sum + shard.skipped.length, 0),
    hash: hashValue([plan.model, plan.dim, plan.dtype, shards.map((shard) => shard.files)]),
    model: plan.model,
  };
}

/** Fails with FILE_NOT_FOUND or FILE_FORMAT. */
export async function readStoreRecord(folder: string): Promise<StoreRecord> {
  const path = join(folder, STORE_FILE);
  const record = (await readJson(path)) as Partial<StoreRecord> | null;
  if (
    record?.version !== 1 ||
    !record.plan ||
    !Array.isArray(record.shards) ||
    !Array.isArray(record.skipped)
  ) {
    throw new CidError('FILE_FORMAT', `${path} does not describe an embedding store of this version`);
  }
  return record as StoreRecord;
}

/** Compares a shard's files with their checksums. Fails with FILE_NOT_FOUND or FILE_FORMAT. */
export async function verifyShard(folder: string, shard: ShardRecord): Promise<void> {
  for (const [path, checksum] of Object.entries(shard.files)) {
    const file = join(folder, path);
    if ((await hashFile(file)) !== checksum)
      throw damaged(file, 'its checksum is another than when it was written');
  }
}

async function openForeign(folder: string, verify: boolean): Promise<Store> {
  const images = await numbered(folder, 'img_emb', /^img_emb_(\d+)\.npy$/);
  const texts = await numbered(folder, 'text_emb', /^text_emb_(\d+)\.npy$/);
  const metadata = await numbered(folder, 'metadata', /^metadata_(\d+)\.(?:parquet|jsonl)$/);
  if (images.size === 0)
    throw new CidError('FILE_FORMAT', `${join(folder, 'img_emb')} has no file img_emb_N.npy`);
  const partner = (number: number, files: Map<number, string>, what: string) => {
    if (files.size > 0 && !files.has(number)) {
      throw new CidError(
        'FILE_NOT_FOUND',
        `${images.get(number)} has no file ${what}_${number} that belongs to it`,
      );
    }
    return files.get(number);
  };
  const numbers = [...images.keys()].sort((a, b) => a - b);
  const files = numbers.map(
    (number): ShardFiles => ({
      name: String(number),
      image: images.get(number)!,
      text: partner(number, texts, 'text_emb'),
      metadata: partner(number, metadata, 'metadata'),
    }),
  );
  const { store } = await loadShards(folder, files);
  const identities: string[] = [];
  for (const path of files.flatMap((shard) => [shard.image, shard.text, shard.metadata])) {
    if (path !== undefined) identities.push(verify ? await hashFile(path) : await looks(path));
  }
  return { ...store, skipped: 0, hash: hashValue(identities), model: undefined };
}

/** Identity of a file without its contents. */
async function looks(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path);
  return `${size} ${mtimeMs}`;
}

/** Files of a folder by the number in their name; none when the folder is missing. */
async function numbered(folder: string, part: string, pattern: RegExp): Promise<Map<number, string>> {
  const found = new Map<number, string>();
  for (const name of await readdir(join(folder, part)).catch(() => [])) {
    const match = pattern.exec(name);
    if (!match) continue;
    const number = Number(match[1]);
    if (found.has(number)) {
      throw new CidError('FILE_FORMAT', `${found.get(number)} and ${name} have the same number`);
    }
    found.set(number, join(folder, part, name));
  }
  return found;
}

/** Reads the headers of all shards and checks them against each other. */
async function loadShards(folder: string, files: readonly ShardFiles[]) {
  const image: FileMatrix[] = [];
  const text: FileMatrix[] = [];
  const counts: number[] = [];
  for (const shard of files) {
    const matrix = await npyMatrix(shard.image);
    const first = image[0] ?? matrix;
    if (matrix.dim !== first.dim || matrix.dtype !== first.dtype) {
      throw damaged(
        shard.image,
        `it holds ${matrix.dtype} of ${matrix.dim} dimensions and ${first.path} holds ${first.dtype} of ${first.dim}`,
      );
    }
    image.push(matrix);
    counts.push(matrix.rows);
    if (shard.text === undefined) continue;
    const partner = await npyMatrix(shard.text);
    if (partner.rows !== matrix.rows || partner.dim !== matrix.dim) {
      throw damaged(
        shard.text,
        `it is [${partner.rows}, ${partner.dim}] where the images are [${matrix.rows}, ${matrix.dim}]`,
      );
    }
    text.push(partner);
  }
  const store = {
    folder,
    rows: counts.reduce((sum, rows) => sum + rows, 0),
    dim: image[0]?.dim ?? 0,
    dtype: (image[0]?.dtype ?? 'float32') as 'float32' | 'float16',
    image: image.filter(({ rows }) => rows > 0),
    text: text.length === 0 ? undefined : text.filter(({ rows }) => rows > 0),
    async *metadata() {
      for (const [index, shard] of files.entries()) yield* shardMetadata(shard.metadata, counts[index]);
    },
  };
  return { store, counts };
}

async function* shardMetadata(
  path: string | undefined,
  rows: number,
): AsyncGenerator<Record<string, unknown>> {
  if (path === undefined) {
    for (let row = 0; row < rows; row++) yield {};
    return;
  }
  let count = 0;
  for await (const { value, line } of path.endsWith('.parquet') ? parquetRows(path) : jsonLines(path)) {
    if (value === undefined) throw damaged(path, `line ${line} is not a JSON object`);
    if (++count > rows) break;
    yield value.key === undefined && value.image_path !== undefined
      ? { ...value, key: value.image_path }
      : value;
  }
  if (count !== rows)
    throw damaged(path, `it has ${count > rows ? 'more' : count} rows where the embeddings have ${rows}`);
}

function damaged(path: string, reason: string): CidError {
  return new CidError('FILE_FORMAT', `${path} is damaged: ${reason}`);
}

/** Lines of a progress file up to the first that is not whole. */
export async function readProgress(path: string): Promise<unknown[]> {
  const lines: unknown[] = [];
  try {
    for await (const line of createInterface({ input: createReadStream(path) })) lines.push(JSON.parse(line));
  } catch (error) {
    // A line is torn when the machine stops while it is written; a file that is not there has none.
    if (!(error instanceof SyntaxError) && (error as NodeJS.ErrnoException).code !== 'ENOENT')
      throw readError(path, error);
  }
  return lines;
}
