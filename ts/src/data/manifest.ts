import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { dirname, extname, isAbsolute, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { type CsvError, parse } from 'csv-parse';
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from 'hyparquet';
import { CidError } from '../native/errors.ts';
import { readError } from '../run/files.ts';
import type { Entry, Found, OpenDatasetOptions, Skipped } from './dataset.ts';
import { CAPTION_FIELDS, IMAGE_FIELDS, splitFields } from './fields.ts';
import { indexTar, type TarMember } from './tar.ts';

/** Endings of lists that {@link readManifest} takes. */
export const MANIFEST_EXTENSIONS: readonly string[] = ['.jsonl', '.ndjson', '.csv', '.tsv', '.parquet'];

/** One row; `value` is undefined where the row could not be read. */
export interface Row {
  /** 1 is the first line, or the first record of a Parquet file. */
  readonly line: number;
  readonly value: Record<string, unknown> | undefined;
  /** Why there is no value. */
  readonly reason?: string;
}

/** An entry whose captions still grow. */
type Growing = Entry & { captions: string[] };

/**
 * Reads a list. The key is the field 'key' or 'id', or the image as it is written. A row that repeats key and image adds its
 * captions to the first one; one that repeats the key with another image is left out. The image's path is relative to the
 * folder of the list.
 */
export async function readManifest(
  path: string,
  options: OpenDatasetOptions & { captions: boolean },
): Promise<Found> {
  const folder = dirname(resolve(path));
  const tars: Tars = new Map();
  const entries = new Map<string, Growing>();
  const skipped: Skipped[] = [];
  let unnamed = 0;
  const fields = new Set<string>();

  for await (const { line, value, reason } of rowsOf(path)) {
    if (value === undefined) {
      skipped.push({ key: `line ${line}`, reason: reason ?? 'not a JSON object' });
      continue;
    }
    for (const field of Object.keys(value)) fields.add(field);
    const { key: named, image, captions, metadata } = splitFields(value, options);
    const key = named ?? image ?? `line ${line}`;
    if (image === undefined) {
      skipped.push({ key, reason: 'no field names its image' });
      unnamed++;
      continue;
    }
    const known = entries.get(key);
    if (known !== undefined) {
      const { path: at, member } = split(folder, image);
      if (known.path !== at || known.member !== member)
        skipped.push({ key, reason: 'another image has the same key' });
      else known.captions.push(...captions.filter((caption) => !known.captions.includes(caption)));
      continue;
    }
    const place = await locate(folder, image, tars);
    if (typeof place === 'string') skipped.push({ key, reason: place });
    else entries.set(key, { key, captions: [...captions], metadata, ...place });
  }

  const found = [...fields].join(', ') || 'none';
  if (entries.size === 0 && unnamed > 0) {
    const wanted = options.imageField ?? IMAGE_FIELDS.join(', ');
    throw new CidError(
      'INVALID_DATA',
      `${path} names no images: expected a field ${wanted} but found ${found}. ${exampleOf(path)}`,
    );
  }
  const { captionField } = options;
  const captioned =
    captionField === undefined ? CAPTION_FIELDS.some((name) => fields.has(name)) : fields.has(captionField);
  // A field that is asked for, and one that is needed, has to be there.
  if (!captioned && entries.size > 0 && (captionField !== undefined || options.captions)) {
    const wanted = captionField ?? CAPTION_FIELDS.join(', ');
    throw new CidError(
      'INVALID_DATA',
      `${path} has no captions: expected a field ${wanted} but found ${found}. ${exampleOf(path)}`,
    );
  }
  const all = [...entries.values()];
  if (!options.captions) return { entries: all, skipped };
  for (const { key, captions } of all) if (captions.length === 0) skipped.push({ key, reason: 'no caption' });
  return { entries: all.filter(({ captions }) => captions.length > 0), skipped };
}

/** What a list looks like, for messages. */
function exampleOf(path: string): string {
  const line = '{"image": "photos/1.jpg", "caption": "a dog"}';
  const text: Readonly<Record<string, string>> = {
    '.csv':
      "A list begins with a line of names, 'image,caption', and goes on with lines such as 'photos/1.jpg,a dog'",
    '.tsv':
      "A list begins with a line of names, 'image<TAB>caption', and goes on with lines such as 'photos/1.jpg<TAB>a dog'",
    '.parquet': "A list has a column with the images' paths, such as 'photos/1.jpg', and one with captions",
  };
  return `${text[extname(path).toLowerCase()] ?? `A line is such as ${line}`}; paths are relative to the list`;
}

/** Path and, within a tar, member that an image is named by. */
function split(folder: string, image: string): { path: string; member?: string } {
  const hash = image.indexOf('.tar#');
  const file = hash < 0 ? image : image.slice(0, hash + 4);
  const path = isAbsolute(file) ? file : join(folder, file);
  return hash < 0 ? { path } : { path, member: image.slice(hash + 5) };
}

/** Members of tars by path, each read once. */
export type Tars = Map<string, Promise<Map<string, TarMember>>>;

/** Where an image is that a list in `folder` names, or why it cannot be used. Whether a file is there is not looked up. */
export async function placeOf(
  folder: string,
  image: string,
  tars: Tars,
): Promise<string | { path: string; member?: TarMember }> {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(image)) return 'the image is an address, not a file; download it first';
  const { path, member } = split(folder, image);
  if (member === undefined) return { path };
  let index = tars.get(path);
  if (index === undefined) {
    index = indexTar(path).then(({ members }) => new Map(members.map((found) => [found.name, found])));
    tars.set(path, index);
  }
  try {
    const found = (await index).get(member);
    return found ? { path, member: found } : 'no such file in the tar';
  } catch (error) {
    if (!(error instanceof CidError)) throw error;
    return error.code === 'FILE_NOT_FOUND' ? 'no such file' : error.message;
  }
}

/** {@link placeOf}, with the file looked up. */
async function locate(
  folder: string,
  image: string,
  tars: Tars,
): Promise<string | { path: string; member?: string; offset: number; size: number }> {
  const place = await placeOf(folder, image, tars);
  if (typeof place === 'string') return place;
  const { path, member } = place;
  if (member) return { path, member: member.name, offset: member.offset, size: member.size };
  const status = await stat(path).catch(() => undefined);
  return status?.isFile() ? { path, offset: 0, size: status.size } : 'no such file';
}

/** Rows of a list in any of its forms, one at a time. */
export function rowsOf(path: string): AsyncIterable<Row> {
  switch (extname(path).toLowerCase()) {
    case '.csv':
      return csvRows(path, ',');
    case '.tsv':
      return csvRows(path, '\t');
    case '.parquet':
      return parquetRows(path);
    default:
      return jsonLines(path);
  }
}

/** Objects of a JSONL file, empty lines left out. */
export async function* jsonLines(path: string): AsyncGenerator<Row> {
  const stream = createReadStream(path, 'utf8');
  let line = 0;
  try {
    for await (const text of createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })) {
      line++;
      if (text.trim() === '') continue;
      yield { line, value: parseObject(line === 1 ? text.replace(/^\uFEFF/, '') : text) };
    }
  } catch (error) {
    throw readError(path, error);
  } finally {
    stream.destroy();
  }
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
    return isObject ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

async function* csvRows(path: string, delimiter: string): AsyncGenerator<Row> {
  const broken: Row[] = [];
  const stream = createReadStream(path);
  const parser = parse({
    delimiter,
    columns: true,
    bom: true,
    info: true,
    relax_quotes: true,
    skip_empty_lines: true,
    skip_records_with_error: true,
    on_skip: (error: CsvError | undefined) => {
      const line = Number((error as { lines?: number } | undefined)?.lines ?? 0);
      broken.push({ line, value: undefined, reason: 'the number of fields differs from the header' });
      return undefined;
    },
  });
  stream.on('error', (error) => parser.destroy(error));
  try {
    for await (const { record, info } of stream.pipe(parser)) {
      yield* broken.splice(0);
      yield { line: (info as { lines: number }).lines, value: record as Record<string, unknown> };
    }
    yield* broken.splice(0);
  } catch (error) {
    if ((error as { code?: string }).code?.startsWith('CSV_')) {
      throw new CidError('FILE_FORMAT', `${path}: ${(error as Error).message}`, { cause: error });
    }
    throw readError(path, error);
  } finally {
    stream.destroy();
  }
}

/** Records of a Parquet file (uncompressed, Snappy, GZIP or Brotli), one row group in memory at a time. */
export async function* parquetRows(path: string): AsyncGenerator<Row> {
  try {
    const file = await asyncBufferFromFile(path);
    const metadata = await parquetMetadataAsync(file);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const records = await parquetReadObjects({
        file,
        metadata,
        rowStart,
        rowEnd,
        compressors: { GZIP: (input) => gunzipSync(input), BROTLI: (input) => brotliDecompressSync(input) },
      });
      for (const [i, record] of records.entries()) yield { line: rowStart + i + 1, value: plain(record) };
      rowStart = rowEnd;
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw readError(path, error);
    throw new CidError('FILE_FORMAT', `${path} cannot be read as Parquet: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** Values as JSON has them: 64-bit integers as numbers, dates as text, bytes left out. */
function plain(record: Record<string, unknown>): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(record)) {
    if (value === null || value === undefined || ArrayBuffer.isView(value)) continue;
    if (typeof value === 'bigint') {
      result[name] = Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
    } else {
      result[name] = value instanceof Date ? value.toISOString() : value;
    }
  }
  return result;
}
