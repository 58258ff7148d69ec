import { type Dataset, openDataset, subset } from '../data/dataset.ts';
import { gatherRows } from '../data/gather.ts';
import type { RatedDataset } from '../data/rated/dataset.ts';
import { type OpenRatedOptions, openRated } from '../data/rated/open.ts';
import { partOf, type Splits, splitRated } from '../data/rated/split.ts';
import type { Store } from '../data/store.ts';
import { failRange } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { required } from '../run/schema.ts';
import { defined } from '../run/settings.ts';
import type { ImageSetSource, LabelsConfig } from './config.ts';

/** Rated images with the splits that are worked with; `train` is the part of the training images whose labels are used. */
export interface Labels {
  readonly rated: RatedDataset;
  readonly splits: Splits;
}

/** Opens the rated images that a configuration names. The caller disposes of them. */
export async function openLabels(config: LabelsConfig): Promise<Labels> {
  const { data, validation, test, count, share, splitSeed: seed, ...format } = config;
  const source = required(data, 'labels.data (--labels)', 'images with ratings');
  if (count !== undefined && share !== undefined) {
    throw new CidError('INVALID_CONFIG', 'Expected either labels.count or labels.share but received both');
  }
  const rated = await openRated(source, defined(format) as OpenRatedOptions);
  try {
    const splits = splitRated(rated, { seed, ...defined({ validation, test }) });
    if (count === undefined && share === undefined) return { rated, splits };
    if (count !== undefined && count > splits.train.length) {
      failRange(`at most the number of training images (${splits.train.length})`, 'labels.count', count);
    }
    const train = partOf(rated, splits.train, { seed, ...defined({ count, share }) });
    return { rated, splits: { ...splits, train } };
  } catch (error) {
    await rated.dispose();
    throw error;
  }
}

/** Opens images without labels. The caller disposes of them. */
export function openImages({ data, imageField }: ImageSetSource): Promise<Dataset> {
  return openDataset(data, { captions: false, ...defined({ imageField }) });
}

/** Opens all sets; when one fails, those opened before are closed again. */
export async function openImageSets(sets: readonly ImageSetSource[]): Promise<Dataset[]> {
  const opened: Dataset[] = [];
  try {
    for (const set of sets) opened.push(await openImages(set));
    return opened;
  } catch (error) {
    await Promise.all(opened.map((data) => data.dispose()));
    throw error;
  }
}

/** Items of a data set that have a row in a store, which lacks those that could not be decoded, with their rows. */
export interface StoredRows {
  /** Indices into the data set. */
  readonly items: Int32Array;
  /** Those items alone, over the same files. */
  readonly data: Dataset;
  /** [items, dim]. */
  readonly rows: Float32Array;
  readonly dim: number;
}

/**
 * Joins a store with the data set that it was made of, by key. Fails with INVALID_DATA where the store has an item that the data set has not:
 * it was made of another one.
 */
export async function joinStore(data: Dataset, store: Store): Promise<StoredRows> {
  const indices = new Map<string, number>();
  for (let i = 0; i < data.length; i++) indices.set(data.item(i).key, i);
  const items: number[] = [];
  for await (const { key } of store.metadata()) {
    const index = indices.get(String(key));
    if (index === undefined) {
      throw new CidError(
        'INVALID_DATA',
        `${store.folder} has ${String(key)}, which is not in ${data.source}`,
      );
    }
    items.push(index);
  }
  const all = Int32Array.from({ length: store.rows }, (_, row) => row);
  const { data: rows, dim } = await gatherRows(store.image, all);
  return { items: Int32Array.from(items), data: subset(data, items), rows: rows as Float32Array, dim };
}
