import { setImmediate } from 'node:timers/promises';
import type { RgbImage } from '../data/image.ts';
import { type Augmentation, centreView, drawView, ViewRenderer } from './augment.ts';
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

export interface RowRendererOptions {
  readonly imageSize: number;
  readonly normalisation: Normalisation;
  /** Undefined for the plain central square. */
  readonly augmentation: Augmentation | undefined;
  /** Also renders the views at this size, for a teacher. */
  readonly viewSize?: number;
}

/** Images by place, some of which may be broken: the one given, and the place that it came from. */
export interface PlacedImages {
  at(place: number): Promise<{ place: number; image: RgbImage }>;
}

/** Where rendered rows go. */
export interface RenderedRows {
  /** [B, 3, S, S], normalised. */
  readonly pixels: Float32Array;
  /** The same views as images, where a view size was given. */
  readonly views: RgbImage[];
}

/** Rows that are prepared before other work of the event loop gets its turn. */
const CHUNK = 8;

/** Renders augmented images as rows of a batch. Not for two calls at once. */
export class RowRenderer {
  readonly #options: RowRendererOptions;
  readonly #renderer: ViewRenderer;
  readonly #viewRenderer: ViewRenderer | undefined;

  constructor(options: RowRendererOptions) {
    this.#options = options;
    this.#renderer = new ViewRenderer(options.imageSize);
    this.#viewRenderer = options.viewSize === undefined ? undefined : new ViewRenderer(options.viewSize);
  }

  /** Room for a batch of so many rows. */
  rows(count: number): RenderedRows {
    return { pixels: new Float32Array(count * 3 * this.#options.imageSize ** 2), views: [] };
  }

  /**
   * Renders a view of each image into `out`, from row `first` on.
   *
   * @param wanted Places in `images`.
   * @param random Draws for a row, counted from 0.
   * @param onRow Told the place that a row's image came from, before the view is drawn.
   */
  async render(
    images: PlacedImages,
    wanted: Int32Array,
    random: (row: number) => Random,
    out: RenderedRows,
    first: number,
    onRow: (row: number, place: number, random: Random) => void,
  ): Promise<void> {
    const { imageSize, normalisation, augmentation } = this.#options;
    const area = 3 * imageSize * imageSize;
    for (let from = 0; from < wanted.length; from += CHUNK) {
      const chunk = wanted.subarray(from, from + CHUNK);
      const found = await Promise.all(Array.from(chunk, (place) => images.at(place)));
      for (const [k, { place, image }] of found.entries()) {
        const row = from + k;
        const draws = random(row);
        onRow(row, place, draws);
        const view = augmentation
          ? drawView(augmentation, image.width, image.height, draws)
          : centreView(image.width, image.height);
        const { mean, std } = normalisation;
        this.#renderer.pixels(image, view, mean, std, out.pixels, (first + row) * area);
        if (this.#viewRenderer) out.views.push(this.#viewRenderer.image(image, view));
      }
      // The towers' next micro-batch is waiting for this thread.
      await setImmediate();
    }
  }
}
