import type { Dataset } from '../data/dataset.ts';
import type { LoadedImage } from '../data/load.ts';
import type { CidError } from '../native/errors.ts';
import { ImageCache, loadForViews, TrainingImages } from '../student/images.ts';
import type { PlacedImage, PlacedImages } from '../student/views.ts';

/** Images of a data set that are used. */
export interface PoolSet {
  readonly data: Dataset;
  /** Indices into `data`. */
  readonly items: Int32Array;
}

export interface PoolOptions {
  /** Largest side that views are rendered at. */
  readonly viewSize: number;
  /** Bytes of decoded images held in memory, those of all sets together. */
  readonly cacheBytes: number;
  /** Called once for every image that could not be read or decoded. */
  readonly onSkip?: ((key: string, reason: string) => void) | undefined;
}

/**
 * Images of several sets, by place: an index over the used items of all sets, one set after the other. A broken image is
 * replaced by the next one of its own set.
 */
export class ImagePool implements PlacedImages {
  /** First place of each set. */
  readonly offsets: readonly number[];
  readonly length: number;
  readonly #sets: readonly TrainingImages[];
  readonly #cache: ImageCache;

  constructor(sets: readonly PoolSet[], { viewSize, cacheBytes, onSkip }: PoolOptions) {
    const offsets: number[] = [];
    let length = 0;
    for (const { items } of sets) {
      offsets.push(length);
      length += items.length;
    }
    this.offsets = offsets;
    this.length = length;
    const itemAt = (place: number) => {
      const set = this.setOf(place);
      const { data, items } = sets[set]!;
      return { data, item: items[place - offsets[set]!]! };
    };
    const cache = new ImageCache(async (places, signal) => {
      const images = new Array<LoadedImage | CidError>(places.length);
      for (const [set, { data, items }] of sets.entries()) {
        const own = Array.from(places.keys()).filter((i) => this.setOf(places[i]!) === set);
        const wanted = own.map((i) => items[places[i]! - offsets[set]!]!);
        const loaded = await loadForViews(data, wanted, viewSize, signal ? { signal } : {});
        for (const [k, i] of own.entries()) images[i] = loaded[k]!;
      }
      return images;
    }, cacheBytes);
    this.#cache = cache;
    this.#sets = sets.map(({ items }, set) => {
      const places = Int32Array.from(items, (_, i) => offsets[set]! + i);
      return new TrainingImages(cache, places, (place, reason) => {
        const { data, item } = itemAt(place);
        onSkip?.(data.item(item).key, reason);
      });
    });
  }

  /** Images that were found broken. */
  get broken(): number {
    return this.#sets.reduce((sum, { broken }) => sum + broken, 0);
  }

  /** Number of the set that a place is in. */
  setOf(place: number): number {
    let set = this.offsets.length - 1;
    while (this.offsets[set]! > place) set--;
    return set;
  }

  async many(places: Int32Array, signal?: AbortSignal): Promise<PlacedImage[]> {
    const found = new Array<PlacedImage>(places.length);
    for (const [set, images] of this.#sets.entries()) {
      const own = Array.from(places.keys()).filter((i) => this.setOf(places[i]!) === set);
      if (own.length === 0) continue;
      const offset = this.offsets[set]!;
      const placed = await images.many(
        Int32Array.from(own, (i) => places[i]! - offset),
        signal,
      );
      for (const [k, { place, image }] of placed.entries()) found[own[k]!] = { place: offset + place, image };
    }
    return found;
  }
  done(placed: readonly PlacedImage[]): void {
    // All sets share one cache.
    this.#cache.done(placed.map(({ image }) => image));
  }
}
