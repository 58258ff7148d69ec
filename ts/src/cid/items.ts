import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Store } from '../data/store.ts';
import { CidError } from '../native/errors.ts';
import { readError } from '../run/files.ts';

/**
 * A line of `kept.jsonl`, the list of items that balancing hands on: what the embedding store knows of the item (key, image,
 * caption, and whatever the source said), and where its embedding is. The list opens as a data set where it names images.
 */
export interface KeptItem {
  /** Row of the item in the embedding store. */
  readonly row: number;
  /** Label of its group of near-duplicates: the smallest row in it. */
  readonly group: number;
  /** Items in that group, itself included. */
  readonly groupSize: number;
  readonly key?: string;
  /** Path, or `tar#member`; absent for a store that was made without images at hand. */
  readonly image?: string;
  readonly caption?: string | readonly string[];
  readonly [field: string]: unknown;
}

/** The lines of a `kept.jsonl` in order. Fails with FILE_NOT_FOUND, or with FILE_FORMAT naming the line. */
export async function* readKept(path: string): AsyncGenerator<KeptItem> {
  let line = 0;
  try {
    for await (const text of createInterface({
      input: createReadStream(path),
      crlfDelay: Number.POSITIVE_INFINITY,
    })) {
      line++;
      if (text.trim() === '') continue;
      yield parse(path, line, text);
    }
  } catch (error) {
    throw readError(path, error);
  }
}

/**
 * Fails with INVALID_DATA where a `kept.jsonl` was made from another store than this one: its rows would be those of other items,
 * and nothing later would show it. Items are told apart by their keys, where both have them.
 */
export async function expectItemsOf(store: Store, kept: string): Promise<void> {
  const keys = new Map<number, unknown>();
  for await (const { row, key } of readKept(kept)) keys.set(row, key);
  const fail = (what: string) => {
    throw new CidError(
      'INVALID_DATA',
      `${kept} ${what}: it was made from other embeddings than ${store.folder}. Run clip-cid balance again, with --force to replace its result`,
    );
  };
  for (const row of keys.keys())
    if (row >= store.rows) fail(`names row ${row}, and there are ${store.rows} rows`);
  let row = 0;
  for await (const { key } of store.metadata()) {
    const wanted = keys.get(row);
    if (wanted !== undefined && key !== undefined && String(wanted) !== String(key)) {
      fail(`has ${wanted} in row ${row}, which is ${key}`);
    }
    row++;
  }
}

function parse(path: string, line: number, text: string): KeptItem {
  let value: Partial<KeptItem> | null;
  try {
    value = JSON.parse(text) as Partial<KeptItem> | null;
  } catch (error) {
    throw new CidError('FILE_FORMAT', `${path}, line ${line} is not JSON`, { cause: error });
  }
  if (
    typeof value !== 'object' ||
    value === null ||
    !Number.isSafeInteger(value.row) ||
    (value.row as number) < 0
  ) {
    throw new CidError(
      'FILE_FORMAT',
      `${path}, line ${line} has no row: it was not written by clip-cid balance`,
    );
  }
  return value as KeptItem;
}
