import type { RgbImage } from '../data/image.ts';
import type { Backbone } from '../student/backbone.ts';
import { permutation, Random, streams } from '../student/random.ts';
import type { ResolvedTrainer } from '../student/resolve.ts';
import { float32 } from '../student/tensors.ts';
import type { BatchSource, Tower } from '../student/types.ts';
import { RowRenderer } from '../student/views.ts';
import type { Mixture } from './mixture.ts';
import type { ImagePool } from './pool.ts';

/** Rows of one step of a scorer: labelled images first, then unlabelled ones. */
export interface ScoreBatch {
  /** [L + U, 3, S, S] of each learner, by the name of its graph: all see the same views, each at its own size. */
  readonly pixels: Readonly<Record<string, Float32Array>>;
  readonly imageSizes: Readonly<Record<string, number>>;
  /** [L, bins]. */
  readonly labels: Float32Array;
  /** [U] place of each unlabelled image in its pool. */
  readonly places: Int32Array;
  /** [U] the unlabelled views as images, for a teacher that is run on them. */
  readonly views: readonly RgbImage[];
}

export interface ScoreSourceOptions {
  /** Learners by the name of their graph. */
  readonly learners: Readonly<Record<string, Pick<Backbone, 'imageSize' | 'normalisation'>>>;
  readonly labelled: ImagePool;
  /** [labelled.length, bins]. */
  readonly labels: Float32Array;
  readonly bins: number;
  readonly unlabelled?:
    | {
        readonly pool: ImagePool;
        readonly mixture: Mixture;
        /** Rows of a step. */
        readonly rows: number;
        /** Also renders the views at this size, for a teacher. */
        readonly viewSize?: number | undefined;
      }
    | undefined;
  readonly training: ResolvedTrainer;
}

/**
 * Batches of `training.batchSize` labelled rows and so many unlabelled ones. An epoch is a pass over the labelled images, in an order
 * drawn by (seed, epoch); unlabelled ones are gone through at their own pace. What a step sees depends on (seed, step) alone, and the labelled
 * rows are the same whether there are unlabelled ones or not.
 */
export function scoreSource(options: ScoreSourceOptions): BatchSource<ScoreBatch> {
  const { labelled, labels, bins, unlabelled, training } = options;
  const { augmentation, batchSize, stepsPerEpoch, seed } = training;
  const learners = Object.entries(options.learners).map(([graph, { imageSize, normalisation }], i) => {
    // A teacher's views are rendered once, along with the first learner's.
    const viewSize = i === 0 ? unlabelled?.viewSize : undefined;
    const settings = { imageSize, normalisation, augmentation };
    return {
      graph,
      imageSize,
      supervised: new RowRenderer(settings),
      guided: new RowRenderer({ ...settings, ...(viewSize !== undefined && { viewSize }) }),
    };
  });
  const more = unlabelled?.rows ?? 0;
  let known: { epoch: number; places: Int32Array } | undefined;
  const orderOf = (epoch: number): Int32Array => {
    if (known?.epoch !== epoch) {
      const random = new Random(seed, streams.order, epoch, 1);
      known = { epoch, places: permutation(labelled.length, random) };
    }
    return known.places;
  };
  return {
    stepsPerEpoch,
    batchSize: batchSize + more,
    batchBytes: learners.reduce(
      (sum, { supervised, guided }) => sum + batchSize * supervised.rowBytes + more * guided.rowBytes,
      0,
    ),
    reuse: ({ pixels }) => {
      for (const { graph, supervised } of learners) supervised.reuse(pixels[graph]!);
    },
    async batch(epoch, step, signal) {
      const start = step * batchSize;
      const chosen = orderOf(epoch).slice(start, start + batchSize);
      // Rows of the unlabelled stream that earlier steps have used.
      const used = (epoch * stepsPerEpoch + step) * more;
      const wanted = unlabelled ? stream(unlabelled.mixture, used, more) : new Int32Array(0);
      const batch = {
        pixels: {} as Record<string, Float32Array>,
        imageSizes: {} as Record<string, number>,
        labels: new Float32Array(batchSize * bins),
        places: new Int32Array(more),
        views: [] as RgbImage[],
      };
      for (const { graph, imageSize, supervised, guided } of learners) {
        const rows = supervised.rows(batchSize + more);
        await supervised.render(
          labelled,
          chosen,
          (row) => new Random(seed, streams.augment, start + row, epoch),
          rows,
          0,
          (row, place) => batch.labels.set(labels.subarray(place * bins, (place + 1) * bins), row * bins),
          signal,
        );
        if (unlabelled) {
          const draws = (row: number) => {
            const position = used + row;
            return new Random(seed, streams.unlabelled, position % 2 ** 32, Math.floor(position / 2 ** 32));
          };
          const onRow = (row: number, place: number) => {
            batch.places[row] = place;
          };
          await guided.render(unlabelled.pool, wanted, draws, rows, batchSize, onRow, signal);
        }
        batch.pixels[graph] = rows.pixels;
        batch.imageSizes[graph] = imageSize;
        batch.views.push(...rows.views);
      }
      return batch;
    },
  };
}

/** `count` places from `start` on of the epochs of a mixture, one after the other. */
function stream(mixture: Mixture, start: number, count: number): Int32Array {
  const places = new Int32Array(count);
  for (let row = 0; row < count; ) {
    const epoch = Math.floor((start + row) / mixture.length);
    const from = (start + row) % mixture.length;
    const part = mixture.places(epoch).subarray(from, from + count - row);
    places.set(part, row);
    row += part.length;
  }
  return places;
}

/** Feeds a learner with its own pixels. */
export function scoreTower(graph: string): Tower<Pick<ScoreBatch, 'pixels' | 'imageSizes'>> {
  return {
    graph,
    inputs: ({ pixels, imageSizes }, from, to) => {
      const size = imageSizes[graph]!;
      const area = 3 * size * size;
      const rows = pixels[graph]!.subarray(from * area, to * area);
      return { pixel_values: float32(rows, [to - from, 3, size, size]) };
    },
  };
}
