import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
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
