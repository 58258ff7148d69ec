import type { RgbImage } from '../data/image.ts';
import type { LoadedImage } from '../data/load.ts';
import { type KernelOptions, runNative } from '../native/context.ts';
import { type Augmentation, centreView, drawView, packViews, type View } from './augment.ts';
import type { Random } from './random.ts';

/** Means and standard deviations of the channels, of values 0 to 1. */
export interface Normalisation {
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/** CLIP's. */
export const clipNormalisation: Normalisation = {
  mean: [0.48145466, 0.4578275, 0.40821073],
  std: [0.26862954, 0.26130258, 0.27577711],
};

/** How the native core works on views: on the process's threads, until the signal aborts. */
export type RenderOptions = Pick<KernelOptions, 'threads' | 'signal'>;

/**
 * Renders a view of each image on all threads, normalised `(value − mean) / std`, [n, 3, size, size] into `out` from row `first` on. The same
 * bits for any number of threads; see `native/images/view.h` for what a view is.
 */
export async function renderPixels(
  images: readonly LoadedImage[],
  views: readonly View[],
  size: number,
  { mean, std }: Normalisation,
  out: Float32Array,
  first = 0,
  options: RenderOptions = {},
): Promise<void> {
  const scale = std.map((value) => 1 / value);
  const normalise = Float64Array.from([...scale, ...mean.map((value, channel) => -value * scale[channel]!)]);
  const offset = first * 3 * size * size;
  await runNative({ ...options, device: 'cpu' }, 0, (addon, context) =>
    addon.renderViews(context, images, packViews(views), { size, offset, out, normalise }),
  );
}

/** {@link renderPixels} as images of 8 bits, for a model with preprocessing of its own. */
export async function renderImages(
  images: readonly LoadedImage[],
  views: readonly View[],
  size: number,
  options: RenderOptions = {},
): Promise<RgbImage[]> {
  const bytes = 3 * size * size;
  const out = new Uint8Array(images.length * bytes);
  await runNative({ ...options, device: 'cpu' }, 0, (addon, context) =>
    addon.renderViews(context, images, packViews(views), { size, offset: 0, out }),
  );
  return images.map((_, i) => ({
    data: out.subarray(i * bytes, (i + 1) * bytes),
    width: size,
    height: size,
  }));
}

export interface RowRendererOptions {
  readonly imageSize: number;
  readonly normalisation: Normalisation;
  /** Undefined for the plain central square. */
  readonly augmentation: Augmentation | undefined;
  /** Also renders the views at this size, for a teacher. */
  readonly viewSize?: number;
  /** Threads that render. Defaults to the process's number. */
  readonly threads?: number;
}

/** An image, and the place that it came from. */
export interface PlacedImage {
  readonly place: number;
  readonly image: LoadedImage;
}

/** Images by place, some of which may be broken: for each place given the image there, or the one that takes its part. */
export interface PlacedImages {
  many(places: Int32Array, signal?: AbortSignal): Promise<PlacedImage[]>;
  /** Ends the use of images that {@link many} gave. */
  done(placed: readonly PlacedImage[]): void;
}

/** Where rendered rows go. */
export interface RenderedRows {
  /** [B, 3, S, S], normalised. */
  readonly pixels: Float32Array;
  /** The same views as images, of the rows that were rendered with a view size, in their order. */
  readonly views: RgbImage[];
}

/** Images that are decoded and rendered by one call of the native core. */
const CHUNK = 64;
/** Chunks on their way: while one is drawn and another ends on few threads, a third keeps the rest busy. */
const IN_FLIGHT = 3;

/**
 * Loads images and renders augmented views of them as rows of batches. Batches may be rendered at the same time: the rows of the one that was
 * asked for first come first.
 */
export class RowRenderer {
  readonly #options: RowRendererOptions;
  readonly #slots = new Slots(IN_FLIGHT);
  /** Memory of batches that are used no more. */
  readonly #spare: Float32Array[] = [];

  constructor(options: RowRendererOptions) {
    this.#options = options;
  }

  /** Bytes of the results of one row. */
  get rowBytes(): number {
    const { imageSize, viewSize = 0 } = this.#options;
    return 3 * (4 * imageSize ** 2 + viewSize ** 2);
  }

  /** Room for a batch of so many rows, which all are to be rendered. */
  rows(count: number): RenderedRows {
    const length = count * 3 * this.#options.imageSize ** 2;
    const spare = this.#spare.findIndex((pixels) => pixels.length === length);
    const pixels = spare < 0 ? new Float32Array(length) : this.#spare.splice(spare, 1)[0]!;
    return { pixels, views: [] };
  }

  /** Takes back the pixels of a batch that is used no more, for another: new memory is dear to get. */
  reuse(pixels: Float32Array): void {
    if (!this.#spare.includes(pixels)) this.#spare.push(pixels);
  }

  /**
   * Renders a view of each image into `out`, from row `first` on.
   *
   * @param wanted Places in `images`.
   * @param random Draws for a row, counted from 0.
   * @param onRow Told the place that a row's image came from, before the view is drawn; rows come in any order.
   * @param signal Stops it soon; it then rejects with ABORTED.
   */
  async render(
    images: PlacedImages,
    wanted: Int32Array,
    random: (row: number) => Random,
    out: RenderedRows,
    first: number,
    onRow: (row: number, place: number, random: Random) => void,
    signal?: AbortSignal,
  ): Promise<void> {
    const { imageSize, normalisation, augmentation, viewSize, threads } = this.#options;
    const options = { ...(threads !== undefined && { threads }), ...(signal && { signal }) };
    const firstView = out.views.length;
    let failure: { error: unknown } | undefined;
    const chunk = async (from: number) => {
      if (failure) return;
      const found = await images.many(wanted.subarray(from, from + CHUNK), signal);
      try {
        const views = found.map(({ place, image }, k) => {
          const draws = random(from + k);
          onRow(from + k, place, draws);
          return augmentation
            ? drawView(augmentation, image.width, image.height, draws)
            : centreView(image.width, image.height);
        });
        const pictures = found.map(({ image }) => image);
        await renderPixels(pictures, views, imageSize, normalisation, out.pixels, first + from, options);
        if (viewSize === undefined) return;
        const rendered = await renderImages(pictures, views, viewSize, options);
        for (const [k, view] of rendered.entries()) out.views[firstView + from + k] = view;
      } finally {
        images.done(found);
      }
    };
    const starts = Array.from({ length: Math.ceil(wanted.length / CHUNK) }, (_, i) => i * CHUNK);
    // All of them end before this does, so that a failure leaves nothing at work.
    await Promise.all(
      starts.map((from) =>
        this.#slots
          .run(() => chunk(from))
          .catch((error: unknown) => {
            failure ??= { error };
          }),
      ),
    );
    if (failure) throw failure.error;
  }
}

/** Runs so many tasks at once, in the order in which they were given. */
class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((start) => this.#waiting.push(start));
    try {
      return await task();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  }
}
