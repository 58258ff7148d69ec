import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { expectBoolean, expectInteger, expectObject, expectString, failType } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { readError } from '../run/files.ts';
import { readFolder } from './folder.ts';
import { MANIFEST_EXTENSIONS, readManifest } from './manifest.ts';
import { expandPattern } from './pattern.ts';
import { readRegion } from './tar.ts';
import { findTars, readWebDataset } from './webdataset.ts';

/** One image with its captions. `key` names it for people and in manifests; unique within a data set. */
export interface Item {
  readonly key: string;
  readonly captions: readonly string[];
  /** What else the source says of it (labels, groups, …), as read. */
  readonly metadata: Readonly<Record<string, unknown>>;
}

/** Where encoded bytes are: a whole file, or `size` bytes of it from byte `offset` on. */
export interface FilePart {
  readonly path: string;
  readonly offset?: number;
  readonly size?: number;
}

/** Why an item of the source is not in the data set. */
export interface Skipped {
  readonly key: string;
  readonly reason: string;
}

/** Images with captions by index: a manifest (JSONL, CSV, TSV), a folder, WebDataset tars. Encoded bytes are read when asked for. */
export interface Dataset {
  /** Where it came from, for messages. */
  readonly source: string;
  readonly length: number;
  /** Items found broken while opening (no caption, no image, unreadable line). */
  readonly skipped: readonly Skipped[];
  /** Identity of the list: keys, captions, sizes of the files; not their pixels. Hex. */
  readonly hash: string;
  item(index: number): Item;
  /** Where the image of an item is, as a manifest names it: a path, or `tar#member`. */
  location(index: number): string;
  /** The same for reading. Fails with DISPOSED once the data set is closed. */
  part(index: number): FilePart;
  /** Encoded bytes of an image. */
  read(index: number): Promise<Uint8Array>;
  dispose(): Promise<void>;
}

export interface OpenDatasetOptions {
  /** Field that holds the image's path. Defaults to 'image' (then 'path', 'file', 'filename', 'file_name', 'filepath', 'url'). */
  imageField?: string;
  /** Field that holds the caption(s). Defaults to 'caption' (then 'captions', 'text', 'txt', 'title'). */
  captionField?: string;
  /** False allows images without captions (embedding, balancing). Defaults to true. */
  captions?: boolean;
}

/** An item together with where its bytes are; what the readers of the different sources produce. */
export interface Entry extends Item {
  /** Absolute path of the image's file, or of the tar that holds it. */
  readonly path: string;
  /** Name within the tar. */
  readonly member?: string;
  /** Byte in `path` at which the image starts; 0 for a file of its own. */
  readonly offset: number;
  /** Bytes of the encoded image. */
  readonly size: number;
}

/** What a reader found. */
export interface Found {
  readonly entries: Entry[];
  readonly skipped: Skipped[];
}

/**
 * Opens images with captions from
 *
 * - a list: `.jsonl` or `.ndjson`, `.csv`, `.tsv`, `.parquet`, one image a row. Paths are relative to the list's folder; an
 *   image in a tar is `file.tar#member`. Rows of the same image and key are one item with several captions.
 * - a folder of images, nested or not. Captions come from `NAME.txt` beside `NAME.jpg`, one a line, or from a
 *   `metadata.jsonl` whose rows name the images. `metadata.folder` is the folder that the image lies in.
 * - WebDataset tars as img2dataset writes them: one `.tar`, a folder of them, or a pattern such as `data/{00000..00041}.tar`
 *   or `data/*.tar`.
 *
 * The order is that of the list, or of the names. What cannot be used is left out and listed in `skipped` with its reason.
 *
 * Fails with FILE_NOT_FOUND when the source or all of its images are missing, with INVALID_DATA when nothing usable is left
 * (an empty folder, no captions, captions that belong to no image), and with FILE_FORMAT for a damaged list or tar.
 */
export async function openDataset(source: string, options: OpenDatasetOptions = {}): Promise<Dataset> {
  expectString('source', source);
  expectObject('options', options, ['imageField', 'captionField', 'captions']);
  const { imageField, captionField } = options;
  if (imageField !== undefined) expectString('imageField', imageField);
  if (captionField !== undefined) expectString('captionField', captionField);
  const captions = options.captions === undefined ? true : expectBoolean('captions', options.captions);

  const { entries, skipped } = await find(source, { ...options, captions });
  if (entries.length === 0) throw nothingUsable(source, skipped);
  return new EntryDataset(source, entries, skipped);
}

async function find(source: string, options: OpenDatasetOptions & { captions: boolean }): Promise<Found> {
  const status = await stat(source).catch(() => undefined);
  if (status === undefined) {
    const tars = await expandPattern(source);
    if (tars.length > 0) return readWebDataset(tars, options);
    throw new CidError('FILE_NOT_FOUND', `No such data set: ${source}`);
  }
  if (status.isDirectory()) {
    const tars = await findTars(source);
    return tars.length > 0 ? readWebDataset(tars, options) : readFolder(source, options);
  }
  const extension = extname(source).toLowerCase();
  if (extension === '.tar') return readWebDataset([source], options);
  if (MANIFEST_EXTENSIONS.includes(extension)) return readManifest(source, options);
  throw new CidError(
    'FILE_FORMAT',
    `${source} is no data set: expected a folder, a .tar, or a list (${MANIFEST_EXTENSIONS.join(', ')})`,
  );
}

/** Says how many were left out for which reason, and names the first of each. */
export function nothingUsable(source: string, skipped: readonly Skipped[]): CidError {
  if (skipped.length === 0) return new CidError('INVALID_DATA', `There are no images in ${source}`);
  const reasons = new Map<string, { count: number; first: string }>();
  for (const { key, reason } of skipped) {
    const known = reasons.get(reason);
    if (known) known.count++;
    else reasons.set(reason, { count: 1, first: key });
  }
  const parts = [...reasons]
    .slice(0, 5)
    .map(([reason, { count, first }]) => `${reason} (${count === 1 ? first : `${count}, such as ${first}`})`);
  const missing = [...reasons.keys()].every((reason) => reason.startsWith('no such file'));
  return new CidError(
    missing ? 'FILE_NOT_FOUND' : 'INVALID_DATA',
    `Nothing in ${source} can be used: ${parts.join('; ')}`,
  );
}

class EntryDataset implements Dataset {
  readonly source: string;
  readonly skipped: readonly Skipped[];
  readonly hash: string;
  readonly #entries: readonly Entry[];
  #disposed = false;

  constructor(source: string, entries: readonly Entry[], skipped: readonly Skipped[]) {
    this.source = source;
    this.skipped = skipped;
    this.#entries = entries;
    const hash = createHash('sha256');
    for (const { key, captions, size } of entries) hash.update(`${JSON.stringify([key, captions, size])}\n`);
    this.hash = hash.digest('hex');
  }

  get length(): number {
    return this.#entries.length;
  }

  item(index: number): Item {
    return this.#entry(index);
  }

  location(index: number): string {
    const { path, member } = this.#entry(index);
    return member === undefined ? path : `${path}#${member}`;
  }

  part(index: number): FilePart {
    if (this.#disposed) throw new CidError('DISPOSED', `The data set ${this.source} is closed`);
    const { path, member, offset, size } = this.#entry(index);
    return member === undefined ? { path } : { path, offset, size };
  }

  async read(index: number): Promise<Uint8Array> {
    return readPart(this.part(index));
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
  }

  #entry(index: number): Entry {
    return this.#entries[expectInteger('index', index, 0, this.#entries.length - 1)];
  }
}

/** Bytes of a file or of a part of one. Fails with FILE_NOT_FOUND or FILE_FORMAT. */
export async function readPart({ path, offset, size }: FilePart): Promise<Uint8Array> {
  if (offset !== undefined && size !== undefined) return readRegion(path, offset, size);
  try {
    return await readFile(path);
  } catch (error) {
    throw readError(path, error);
  }
}

/**
 * Some items of a data set, in the order given, over the same files. Disposing of either leaves the other usable.
 *
 * @param indices Into `dataset`, 0 to length − 1; none twice.
 */
export function subset(dataset: Dataset, indices: ArrayLike<number>): Dataset {
  if (typeof indices !== 'object' || indices === null) failType('an array of indices', 'indices', indices);
  const chosen = Int32Array.from(indices, (index) => expectInteger('indices', index, 0, dataset.length - 1));
  if (new Set(chosen).size !== chosen.length) failType('different indices', 'indices', indices);
  const at = (index: number) => chosen[expectInteger('index', index, 0, chosen.length - 1)];
  let disposed = false;
  const part = (index: number): FilePart => {
    if (disposed) throw new CidError('DISPOSED', `The subset of ${dataset.source} is closed`);
    return dataset.part(at(index));
  };
  return {
    source: dataset.source,
    length: chosen.length,
    skipped: [],
    hash: createHash('sha256').update(dataset.hash).update(chosen).digest('hex'),
    item: (index) => dataset.item(at(index)),
    location: (index) => dataset.location(at(index)),
    part,
    read: async (index) => readPart(part(index)),
    async dispose() {
      disposed = true;
    },
  };
}

/**
 * An item as a line of a JSONL list that {@link openDataset} reads back: `{ …metadata, key, image, caption }`, where `caption` is a
 * string, or an array when there is not exactly one.
 */
export function manifestEntry(dataset: Dataset, index: number): Record<string, unknown> {
  const { key, captions, metadata } = dataset.item(index);
  const caption = captions.length === 1 ? captions[0] : captions;
  return { ...metadata, key, image: dataset.location(index), caption };
}
