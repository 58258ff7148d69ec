import { concat } from '../data/concat.ts';
import { type Dataset, manifestEntry, type Skipped } from '../data/dataset.ts';
import { BACKGROUND } from '../data/image.ts';
import { openStore, type Store } from '../data/store.ts';
import { StoreWriter } from '../data/store-writer.ts';
import { expectInteger, expectOneOf, expectString } from '../native/check.ts';
import { abortError, CidError } from '../native/errors.ts';
import type { Json } from '../run/hash.ts';
import { Prefetch } from '../run/prefetch.ts';
import type { OnProgress } from '../run/progress.ts';
import { type Speed, SpeedMeter, type StepSpeed, speedNotes } from '../run/speed.ts';
import type { Encoder } from './encoder.ts';
import type { ImageEncoder } from './image-encoder.ts';
import { preprocessDataset } from './preprocess.ts';

export interface EmbedDatasetOptions {
  readonly dataset: Dataset;
  /** Captions are embedded where it has a text side. */
  readonly encoder: ImageEncoder | Encoder;
  /** Of the store; made when it is missing. */
  readonly folder: string;
  /** Items of a shard: what is lost at most when embedding is stopped. Defaults to 4096. */
  readonly shardSize?: number | undefined;
  /** Images decoded and run at once. Defaults to 64. */
  readonly batchSize?: number | undefined;
  /** Of the stored embeddings. Defaults to 'float32'. */
  readonly dtype?: 'float32' | 'float16' | undefined;
  /** CSS colour that transparent images are laid on. Defaults to '#ffffff'. */
  readonly background?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Items of the data set done, those skipped included. */
  readonly onProgress?: OnProgress | undefined;
  /** Told at the end how fast loader and model were, where there was anything to do. */
  readonly onSpeed?: ((speed: Speed) => void) | undefined;
}

/** Batches of images that are decoded beside the one that the model works on. */
const AHEAD = 2;

/**
 * Embeds the images of a data set, and the first caption of each when every item has one, into an embedding store. Goes on where an
 * earlier call with the same data, model and options was stopped. Images that cannot be read or decoded are skipped and
 * listed in the store with their reasons.
 *
 * Fails with RUN_CHANGED when the folder holds a store of other data, model or options; with INVALID_DATA when no image can
 * be decoded; with ABORTED, leaving what is done.
 */
export async function embedDataset(options: EmbedDatasetOptions): Promise<Store> {
  const { dataset, encoder, signal, onProgress } = options;
  const folder = expectString('folder', options.folder);
  const shardSize = expectInteger('shardSize', options.shardSize ?? 4096, 1);
  const batchSize = expectInteger('batchSize', options.batchSize ?? 64, 1);
  const background = expectString('background', options.background ?? BACKGROUND);
  const dtype = expectOneOf('dtype', options.dtype ?? 'float32', ['float32', 'float16']);
  const texts = 'embedTexts' in encoder && everyItemHasCaption(dataset);
  const writer = await StoreWriter.open(folder, {
    model: encoder.hash,
    preprocessing: { ...encoder.preprocessing, background } as unknown as Json,
    dataset: dataset.hash,
    items: dataset.length,
    dim: encoder.dim,
    dtype,
    texts,
    shardSize,
  });

  const start = Math.min(writer.next * shardSize, dataset.length);
  const ranges = batches(start, dataset.length, shardSize, batchSize);
  const note = speedNotes({ rate: false });
  const report = (done: number, speed?: StepSpeed) =>
    onProgress?.({
      label: 'embed',
      done,
      total: dataset.length,
      unit: 'images',
      ...(speed && { note: note(speed) }),
    });
  report(start);
  let shard = new ShardInHand();
  const speeds = new SpeedMeter();
  // The next batches are decoded while the model works on this one.
  const prefetch = new Prefetch({
    prepare: (i, stop) => prepare(ranges[i]!, options, background, stop),
    from: 0,
    to: ranges.length,
    ahead: AHEAD,
    signal,
  });
  try {
    for (const range of ranges) {
      const began = performance.now();
      const { value: batch, waited, worked } = await prefetch.next();
      if (signal?.aborted) throw abortError();
      await shard.add(batch, options, texts);
      const seconds = (performance.now() - began) / 1000;
      const speed = speeds.add({ rows: range.to - range.from, seconds, waited, worked });
      if (range.to % shardSize === 0 || range.to === dataset.length) {
        await writer.add(shard.finish());
        shard = new ShardInHand();
      }
      report(range.to, speed);
    }
  } finally {
    await prefetch.close();
  }
  if (speeds.total) options.onSpeed?.(speeds.total);
  if (writer.next === writer.count) await writer.finish(dataset.source, dataset.skipped);

  const store = await openStore(folder, { verify: false });
  if (store.rows === 0) throw new CidError('INVALID_DATA', `No image of ${dataset.source} can be decoded`);
  return store;
}

interface Range {
  readonly from: number;
  readonly to: number;
}

/** Batches that never cross from one shard into the next: a resumed run makes the same ones. */
function batches(start: number, end: number, shardSize: number, batchSize: number): Range[] {
  const ranges: Range[] = [];
  for (let from = start; from < end; ) {
    const shardEnd = (Math.floor(from / shardSize) + 1) * shardSize;
    const to = Math.min(from + batchSize, shardEnd, end);
    ranges.push({ from, to });
    from = to;
  }
  return ranges;
}

function everyItemHasCaption(dataset: Dataset): boolean {
  for (let i = 0; i < dataset.length; i++) if (dataset.item(i).captions.length === 0) return false;
  return true;
}

/** Images of a range that could be decoded. */
interface Batch {
  readonly indices: readonly number[];
  /** [indices, 3, imageSize, imageSize]. */
  readonly pixels: Float32Array;
  readonly skipped: readonly Skipped[];
}

async function prepare(
  { from, to }: Range,
  { dataset, encoder }: EmbedDatasetOptions,
  background: string,
  signal: AbortSignal,
): Promise<Batch> {
  const range = Array.from({ length: to - from }, (_, i) => from + i);
  const { pixels, sound, broken } = await preprocessDataset(dataset, range, encoder.preprocessing, {
    background,
    signal,
  });
  const skipped = broken.map(({ index, error }) => ({ key: dataset.item(index).key, reason: error.message }));
  return { indices: sound, pixels, skipped };
}

/** What of a shard is done. */
class ShardInHand {
  readonly #images: Float32Array[] = [];
  readonly #texts: Float32Array[] = [];
  readonly #metadata: Record<string, unknown>[] = [];
  readonly #skipped: Skipped[] = [];

  async add(batch: Batch, { dataset, encoder }: EmbedDatasetOptions, texts: boolean): Promise<void> {
    this.#skipped.push(...batch.skipped);
    if (batch.indices.length === 0) return;
    this.#metadata.push(...batch.indices.map((index) => manifestEntry(dataset, index)));
    const captions = texts ? batch.indices.map((index) => dataset.item(index).captions[0]) : [];
    const [images, words] = await Promise.all([
      encoder.embedPixels(batch.pixels),
      texts ? (encoder as Encoder).embedTexts(captions) : undefined,
    ]);
    this.#images.push(images);
    if (words) this.#texts.push(words);
  }

  finish() {
    return {
      images: concat(this.#images),
      texts: concat(this.#texts),
      metadata: this.#metadata,
      skipped: this.#skipped,
    };
  }
}
