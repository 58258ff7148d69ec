import type { Dataset } from '../data/dataset.ts';
import { decodeImage, type RgbImage, resizeImage } from '../data/image.ts';
import { CidError } from '../native/errors.ts';

/** Decoded images by index. Fails where an image is broken. */
export type DecodeImage = (index: number) => Promise<RgbImage>;

/** The image of an item, no larger than what crops of `viewSize` pixels can still use: photographs take less memory so. */
export async function decodeForViews(data: Dataset, item: number, viewSize: number): Promise<RgbImage> {
  const image = await decodeImage(await data.read(item));
  const factor = (2 * viewSize) / Math.min(image.width, image.height);
  if (factor >= 1) return image;
  return resizeImage(image, Math.round(image.width * factor), Math.round(image.height * factor), 'linear');
}

/** Decoded images, the least recently used dropped first when they take more than `bytes`. */
export class ImageCache {
  readonly #decode: DecodeImage;
  readonly #limit: number;
  readonly #images = new Map<number, RgbImage>();
  #bytes = 0;

  constructor(decode: DecodeImage, bytes: number) {
    this.#decode = decode;
    this.#limit = bytes;
  }

  /** Bytes held. */
  get bytes(): number {
    return this.#bytes;
  }

  async get(index: number): Promise<RgbImage> {
    const known = this.#images.get(index);
    if (known) {
      // A map keeps the order of insertion: to the end with it.
      this.#images.delete(index);
      this.#images.set(index, known);
      return known;
    }
    const image = await this.#decode(index);
    if (!this.#images.has(index)) {
      this.#images.set(index, image);
      this.#bytes += image.data.byteLength;
      for (const [oldest, { data }] of this.#images) {
        if (this.#bytes <= this.#limit) break;
        this.#images.delete(oldest);
        this.#bytes -= data.byteLength;
      }
    }
    return image;
  }
}

/**
 * Images of a training run. A broken one is reported once, and its place taken by the next that is not, so that what a step
 * sees depends on the data alone and not on what was tried before.
 */
export class TrainingImages {
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

  /** The image at a place of `items`, and the place that it came from. */
  async at(place: number): Promise<{ place: number; image: RgbImage }> {
    const { length } = this.#items;
    for (let tried = 0; tried < length; tried++) {
      const candidate = (place + tried) % length;
      const item = this.#items[candidate]!;
      if (this.#broken.has(item)) continue;
      try {
        return { place: candidate, image: await this.#cache.get(item) };
      } catch (error) {
        const reason = brokenReason(error);
        if (!this.#broken.has(item)) this.#onBroken(item, reason);
        this.#broken.add(item);
      }
    }
    throw new CidError('INVALID_DATA', `None of the ${length} images for training can be decoded`);
  }
}

/** Why an image is left out. Anything else, such as a data set that was closed meanwhile, is not the image's fault and thrown again. */
function brokenReason(error: unknown): string {
  const codes = ['FILE_FORMAT', 'FILE_NOT_FOUND', 'INVALID_DATA'];
  if (error instanceof CidError && codes.includes(error.code)) return error.message;
  throw error;
}
