import type { Dataset } from '../data/dataset.ts';
import { holdImages, type LoadedImage, type LoadOptions, releaseImages } from '../data/load.ts';
import { CidError } from '../native/errors.ts';
import type { PlacedImage, PlacedImages } from './views.ts';

/** Decoded images by index, in the order asked for; in place of a broken one, why it is. */
export type DecodeMany = (
  indices: readonly number[],
  signal?: AbortSignal,
) => Promise<readonly (LoadedImage | CidError)[]>;

/**
 * Images of items, no larger than what crops of `viewSize` pixels can still use: photographs take less memory so. The native core holds them
 * until {@link releaseImages}.
 */
export function loadForViews(
  data: Dataset,
  items: ArrayLike<number>,
  viewSize: number,
  options: Pick<LoadOptions, 'threads' | 'signal'> = {},
): Promise<(LoadedImage | CidError)[]> {
  return holdImages(data, items, { ...options, shortest: 2 * viewSize });
}

/** Decoded images, the least recently used dropped first when they take more than `bytes`; one in use is freed when it is not any more. */
export class ImageCache {
  readonly #decode: DecodeMany;
  readonly #limit: number;
  readonly #images = new Map<number, LoadedImage>();
  /** Uses of an image, dropped ones too; and 1 more where it is held here. */
  readonly #uses = new Map<LoadedImage, number>();
  #bytes = 0;

  constructor(decode: DecodeMany, bytes: number) {
    this.#decode = decode;
    this.#limit = bytes;
  }

  /** Bytes held. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Images in the order asked for, those that are not held decoded together; in place of a broken one, why it is. The caller gives them back
   * with {@link done}.
   */
  async many(indices: readonly number[], signal?: AbortSignal): Promise<(LoadedImage | CidError)[]> {
    const found = new Map<number, LoadedImage | CidError>();
    for (const index of new Set(indices)) {
      const known = this.#images.get(index);
      if (!known) continue;
      found.set(index, known);
      // While others are decoded, it may be dropped.
      this.#use(known, 1);
      // A map keeps the order of insertion: to the end with it.
      this.#images.delete(index);
      this.#images.set(index, known);
    }
    const known = [...found.values()] as LoadedImage[];
    try {
      const missing = [...new Set(indices)].filter((index) => !found.has(index));
      const decoded = missing.length === 0 ? [] : await this.#decode(missing, signal);
      for (const [i, index] of missing.entries()) found.set(index, decoded[i]!);
      const asked = indices.map((index) => found.get(index)!);
      for (const image of asked) if (!(image instanceof CidError)) this.#use(image, 1);
      for (const [i, index] of missing.entries()) {
        const image = decoded[i]!;
        if (!(image instanceof CidError)) this.#hold(index, image);
      }
      return asked;
    } finally {
      this.done(known);
    }
  }

  /** Ends the use of images that {@link many} gave. */
  done(images: readonly LoadedImage[]): void {
    for (const image of images) this.#use(image, -1);
  }

  #use(image: LoadedImage, more: 1 | -1): void {
    const uses = (this.#uses.get(image) ?? 0) + more;
    if (uses > 0) {
      this.#uses.set(image, uses);
    } else {
      this.#uses.delete(image);
      releaseImages([image]);
    }
  }

  #hold(index: number, image: LoadedImage): void {
    if (this.#images.has(index)) return;
    this.#images.set(index, image);
    this.#use(image, 1);
    this.#bytes += bytesOf(image);
    for (const [oldest, dropped] of this.#images) {
      if (this.#bytes <= this.#limit) break;
      this.#images.delete(oldest);
      this.#bytes -= bytesOf(dropped);
      this.#use(dropped, -1);
    }
  }
}

function bytesOf({ width, height }: LoadedImage): number {
  return 3 * width * height;
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
    try {
      await this.#find(found, places, signal);
    } catch (error) {
      this.done(found.filter((placed) => placed !== undefined));
      throw error;
    }
    return found;
  }

  done(placed: readonly PlacedImage[]): void {
    this.#cache.done(placed.map(({ image }) => image));
  }

  async #find(found: PlacedImage[], places: Int32Array, signal: AbortSignal | undefined): Promise<void> {
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
