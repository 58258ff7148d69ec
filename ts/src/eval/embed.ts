import type { Dataset, Item } from '../data/dataset.ts';
import type { RgbImage } from '../data/image.ts';
import { loadImages } from '../data/load.ts';
import type { Encoder } from '../encoder/encoder.ts';
import type { Matrix } from '../kernels/rows.ts';
import { abortError, CidError } from '../native/errors.ts';
import { Prefetch } from '../run/prefetch.ts';
import type { OnProgress } from '../run/progress.ts';
import type { DataSummary } from './types.ts';
import { matrix } from './vectors.ts';

/** A data set as a model sees it; row r of `images` is `items[r]`. */
export interface Embedded {
  readonly images: Matrix;
  readonly items: readonly Item[];
  readonly summary: DataSummary;
}

/** Images decoded at once. */
const CHUNK = 256;

/** Embeds every image of a data set in order. Images that cannot be read or decoded are left out and counted. */
export async function embedData(
  encoder: Encoder,
  dataset: Dataset,
  label: string,
  { signal, onProgress }: { signal?: AbortSignal | undefined; onProgress?: OnProgress | undefined },
): Promise<Embedded> {
  const items: Item[] = [];
  const parts: Float32Array[] = [];
  // The next ones are decoded while the model works on these.
  const prefetch = new Prefetch({
    prepare: (chunk, stop) => loadChunk(dataset, chunk * CHUNK, stop),
    from: 0,
    to: Math.ceil(dataset.length / CHUNK),
    ahead: 1,
    signal,
  });
  try {
    for (let from = 0; from < dataset.length; from += CHUNK) {
      if (signal?.aborted) throw abortError();
      const { value: images } = await prefetch.next();
      const usable: RgbImage[] = [];
      for (const [i, image] of images.entries()) {
        if (image instanceof CidError) continue;
        usable.push(image);
        items.push(dataset.item(from + i));
      }
      if (usable.length > 0) parts.push(await encoder.embedImages(usable));
      onProgress?.({
        label,
        done: Math.min(from + CHUNK, dataset.length),
        total: dataset.length,
        unit: 'images',
      });
    }
  } finally {
    await prefetch.close();
  }
  if (items.length === 0) throw new CidError('INVALID_DATA', `No image of ${dataset.source} can be decoded`);
  const data = new Float32Array(items.length * encoder.dim);
  let at = 0;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  const skipped = dataset.length - items.length;
  return {
    images: matrix(data, encoder.dim),
    items,
    summary: { source: dataset.source, images: items.length, skipped },
  };
}

function loadChunk(dataset: Dataset, from: number, signal: AbortSignal): Promise<(RgbImage | CidError)[]> {
  const count = Math.min(CHUNK, dataset.length - from);
  return loadImages(
    dataset,
    Array.from({ length: count }, (_, i) => from + i),
    { signal },
  );
}
