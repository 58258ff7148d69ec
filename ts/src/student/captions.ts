import type { Dataset } from '../data/dataset.ts';
import { CidError } from '../native/errors.ts';

/** The captions of the items in use: every distinct text once. */
export interface CaptionTable {
  readonly texts: readonly string[];
  /** Indices into `texts` for each item, in the order of the items; at least one each. */
  readonly ofItem: readonly Int32Array[];
}

/** `which` 'first' takes an item's first caption alone. */
export function tabulateCaptions(data: Dataset, items: Int32Array, which: 'first' | 'random'): CaptionTable {
  const index = new Map<string, number>();
  const ofItem = Array.from(items, (item) => {
    const { captions, key } = data.item(item);
    if (captions.length === 0) throw new CidError('INVALID_DATA', `${key} of ${data.source} has no caption`);
    const used = which === 'first' ? captions.slice(0, 1) : captions;
    return Int32Array.from(used, (caption) => {
      let at = index.get(caption);
      if (at === undefined) index.set(caption, (at = index.size));
      return at;
    });
  });
  return { texts: [...index.keys()], ofItem };
}

/** [texts, contextLength] token ids, row-major, and 1 where they are not padding. */
export interface TokenTable {
  readonly ids: Int32Array;
  readonly mask: Int32Array;
  readonly contextLength: number;
}

/** Rows of `ids` or `mask` of a token table, as towers take them. */
export function gatherTokens(values: Int32Array, contextLength: number, rows: Int32Array): BigInt64Array {
  const out = new BigInt64Array(rows.length * contextLength);
  for (let i = 0; i < rows.length; i++) {
    const from = rows[i]! * contextLength;
    for (let k = 0; k < contextLength; k++) out[i * contextLength + k] = BigInt(values[from + k]!);
  }
  return out;
}
