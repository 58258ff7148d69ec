import type { Dataset } from '../data/dataset.ts';
import type { RgbImage } from '../data/image.ts';
import { type LoadOptions, loadImages } from '../data/load.ts';
import { CidError } from '../native/errors.ts';
import type { PlacedImage, PlacedImages } from './views.ts';

/** Decoded images by index, in the order asked for; in place of a broken one, why it is. */
export type DecodeMany = (
  indices: readonly number[],
  signal?: AbortSignal,
) => Promise<readonly (RgbImage | CidError)[]>;

/** Images of items, no larger than what crops of `viewSize` pixels can still use: photographs take less memory so. */
export function loadForViews(
  data: Dataset,
  items: ArrayLike<number>,
  viewSize: number,
  options: Pick<LoadOptions, 'threads' | 'signal'> = {},
): Promise<(RgbImage | CidError)[]> {
  return loadImages(data, items, { ...options, shortest: 2 * viewSize });
}

/** Decoded images, the least recently used dropped first when they take more than `bytes`. */
export class ImageCache {
  readonly #decode: DecodeMany;
  readonly #limit: number;
  readonly #images = new Map<number, RgbImage>();
  #bytes = 0;

  constructor(decode: DecodeMany, bytes: number) {
    this.#decode = decode;
    this.#limit = bytes;
  }

  /** Bytes held. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Images in the order asked for, those that are not held decoded together; in place of a broken one, why it is. */
  async many(indices: readonly number[], signal?: AbortSignal): Promise<(RgbImage | CidError)[]> {
    const found = new Map<number, RgbImage | CidError>();
    for (const index of indices) {
      const known = this.#images.get(index);
      if (!known) continue;
      found.set(index, known);
      // A map keeps the order of insertion: to the end with it.
      this.#images.delete(index);
      this.#images.set(index, known);
    }
    const missing = [...new Set(indices)].filter((index) => !found.has(index));
    if (missing.length > 0) {
      const decoded = await this.#decode(missing, signal);
      for (const [i, index] of missing.entries()) {
        const image = decoded[i]!;
        found.set(index, image);
        if (!(image instanceof CidError)) this.#hold(index, image);
      }
    }
    return indices.map((index) => found.get(index)!);
  }

  #hold(index: number, image: RgbImage): void {
    if (this.#images.has(index)) return;
    this.#images.set(index, image);
    this.#bytes += image.data.byteLength;
    for (const [oldest, { data }] of this.#images) {
      if (this.#bytes <= this.#limit) break;
      this.#images.delete(oldest);
      this.#bytes -= data.byteLength;
    }
  }
}

/**
 * Images of a training run. A broken one is reported once, and its place taken by the next that is not, so that what a step
 * sees depends on the data alone and not on what was tried before.
 */
export class TrainingImages implements PlacedImages {
  readonly #cache: ImageCache;
  readonly #items: Int32Array;
  readonly #broken = new Set<number>();
  readonly #onBroken: (item: number, reason: string) => void;

  /** `items` are the indices that may stand in for each other. */
  constructor(
    cache: ImageCache,
    items: Int32Array,
    onBroken: (item: number, reason: string) => void = () => {},
  ) {
    this.#cache = cache;
    this.#items = items;
    this.#onBroken = onBroken;
  }

  get broken(): number {
    return this.#broken.size;
  }

  /** The images at places of `items`, and the places that they came from. */
  async many(places: Int32Array, signal?: AbortSignal): Promise<PlacedImage[]> {
    const found = new Array<PlacedImage>(places.length);
    let open = Array.from(places.keys());
    const candidates = Int32Array.from(places);
    while (open.length > 0) {
      for (const i of open) candidates[i] = this.#nextSound(candidates[i]!);
      const images = await this.#cache.many(
        open.map((i) => this.#items[candidates[i]!]!),
        signal,
      );
      const rest: number[] = [];
      for (const [k, i] of open.entries()) {
        const image = images[k]!;
        if (image instanceof CidError) {
          this.#report(this.#items[candidates[i]!]!, image.message);
          rest.push(i);
        } else {
          found[i] = { place: candidates[i]!, image };
        }
      }
      open = rest;
    }
    return found;
  }

  /** The first place from this one on that is not known to be broken. */
  #nextSound(place: number): number {
    const { length } = this.#items;
    for (let tried = 0; tried < length; tried++) {
      const candidate = (place + tried) % length;
      if (!this.#broken.has(this.#items[candidate]!)) return candidate;
    }
    throw new CidError('INVALID_DATA', `None of the ${length} images for training can be decoded`);
  }

  #report(item: number, reason: string): void {
    if (this.#broken.has(item)) return;
    this.#broken.add(item);
    this.#onBroken(item, reason);
  }
}
