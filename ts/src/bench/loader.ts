import type { Dataset } from '../data/dataset.ts';
import { releaseImages } from '../data/load.ts';
import { expectInteger, failRange } from '../native/check.ts';
import { devices } from '../native/devices.ts';
import { CidError } from '../native/errors.ts';
import { Prefetch } from '../run/prefetch.ts';
import { type Augmentation, centreView, drawView } from '../student/augment.ts';
import { ImageCache, loadForViews, TrainingImages } from '../student/images.ts';
import { permutation, Random, streams } from '../student/random.ts';
import { clipNormalisation, RowRenderer, renderPixels } from '../student/views.ts';
import { median } from './measure.ts';

export interface LoaderOptions {
  readonly data: Dataset;
  /** Pixels of the square views. */
  readonly size: number;
  /** Rows of a batch. */
  readonly batch: number;
  readonly augmentation: Augmentation | undefined;
  readonly threads: number;
  readonly repeat: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly onRun?: (done: number) => void;
}

/** One measurement of the loader, as `clip-cid bench loader --json` prints it. */
export interface LoaderMeasurement {
  readonly op: 'loader';
  readonly device: 'cpu';
  readonly architecture: string;
  readonly threads: number;
  readonly shape: Readonly<Record<string, number>>;
  /** Of a pass over all images, median. */
  readonly seconds: number;
  readonly spread: { readonly min: number; readonly max: number };
  readonly repeat: number;
  /** Processor time of all threads, median. */
  readonly cpu_seconds: number;
  readonly images_per_second: number;
  /** The parts alone: read, decoded and shrunk; and views rendered from images in memory. */
  readonly decode_images_per_second: number;
  readonly render_images_per_second: number;
  /** Processor milliseconds of an image, all of it. */
  readonly cpu_ms_per_image: number;
  /** Images that could not be decoded, whose place others took. */
  readonly broken: number;
}

/** Images whose views are rendered when rendering is measured alone: they are all in memory. */
const IN_MEMORY = 256;

/** Loads every image once in random order, as a training does without a cache, and renders a view of it. */
export async function measureLoader(options: LoaderOptions): Promise<LoaderMeasurement> {
  const { data, size, batch, threads, seed, augmentation } = options;
  const count = data.length;
  expectInteger('batch', batch, 1);
  if (batch > count) failRange(`at most the number of images (${count})`, 'batch', batch);
  const items = Int32Array.from({ length: count }, (_, i) => i);
  const load = (wanted: ArrayLike<number>, signal?: AbortSignal) =>
    loadForViews(data, wanted, size, { threads, ...(signal && { signal }) });
  const images = new TrainingImages(new ImageCache(load, 0), items);
  const renderer = new RowRenderer({
    imageSize: size,
    normalisation: clipNormalisation,
    augmentation,
    threads,
  });
  const batches = Math.floor(count / batch);

  const all = await timed(options, async (run) => {
    const order = permutation(count, new Random(seed, streams.order, run));
    const prefetch = new Prefetch({
      prepare: async (i, signal) => {
        const rows = renderer.rows(batch);
        const random = (row: number) => new Random(seed, streams.augment, i * batch + row, run);
        const wanted = order.subarray(i * batch, (i + 1) * batch);
        await renderer.render(images, wanted, random, rows, 0, () => {}, signal);
        return rows;
      },
      from: 0,
      to: batches,
      ahead: 2,
      signal: options.signal,
    });
    try {
      for (let i = 0; i < batches; i++) renderer.reuse((await prefetch.next()).value.pixels);
    } finally {
      await prefetch.close();
    }
  });
  const decoding = await timed(options, async () => {
    for (let from = 0; from < count; from += 64) {
      const loaded = await load(items.subarray(from, from + 64), options.signal);
      releaseImages(loaded.flatMap((image) => (image instanceof CidError ? [] : [image])));
    }
  });
  const few = (await images.many(items.subarray(0, Math.min(count, IN_MEMORY)))).map(({ image }) => image);
  const views = few.map(({ width, height }, i) =>
    augmentation
      ? drawView(augmentation, width, height, new Random(seed, streams.augment, i))
      : centreView(width, height),
  );
  const out = new Float32Array(few.length * 3 * size * size);
  const rendering = await timed(options, () =>
    renderPixels(few, views, size, clipNormalisation, out, 0, { threads }),
  );
  const rows = batches * batch;
  return {
    op: 'loader',
    device: 'cpu',
    architecture: devices().devices[0]!.architecture,
    threads,
    shape: { images: rows, size, batch },
    seconds: all.seconds,
    spread: all.spread,
    repeat: options.repeat,
    cpu_seconds: all.busy,
    images_per_second: rows / all.seconds,
    decode_images_per_second: count / decoding.seconds,
    render_images_per_second: few.length / rendering.seconds,
    cpu_ms_per_image: (1000 * all.busy) / rows,
    broken: images.broken,
  };
}

/** Once to warm up, and `repeat` times by the clock. */
async function timed(
  { repeat, onRun }: LoaderOptions,
  work: (run: number) => Promise<void>,
): Promise<{ seconds: number; busy: number; spread: { min: number; max: number } }> {
  const times: number[] = [];
  const busy: number[] = [];
  for (let run = 0; run <= repeat; run++) {
    const usage = process.cpuUsage();
    const start = performance.now();
    await work(run);
    onRun?.(run);
    if (run === 0) continue;
    times.push((performance.now() - start) / 1000);
    const { user, system } = process.cpuUsage(usage);
    busy.push((user + system) / 1e6);
  }
  return {
    seconds: median(times),
    busy: median(busy),
    spread: { min: Math.min(...times), max: Math.max(...times) },
  };
}
