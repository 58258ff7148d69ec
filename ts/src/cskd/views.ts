import type { Dataset } from '../data/dataset.ts';
import type { RgbImage } from '../data/image.ts';
import { loadImages } from '../data/load.ts';
import { CidError } from '../native/errors.ts';
import type { Executor } from '../program/executor.ts';
import { centreView } from '../student/augment.ts';
import type { Backbone } from '../student/backbone.ts';
import type { ResolvedTrainer } from '../student/resolve.ts';
import { concatenateRows } from '../student/tensors.ts';
import type { Tower } from '../student/types.ts';
import { renderPixels } from '../student/views.ts';

/** Images that are loaded at once. */
const CHUNK = 128;

/** Images as a model sees them without augmentation; those that cannot be decoded are left out. */
export async function centralPixels<T extends { readonly data: Dataset; readonly item: number }>(
  wanted: readonly T[],
  { imageSize, normalisation }: Pick<Backbone, 'imageSize' | 'normalisation'>,
): Promise<{ pixels: Float32Array; images: RgbImage[]; kept: T[] }> {
  const area = 3 * imageSize * imageSize;
  const images: RgbImage[] = [];
  const kept: T[] = [];
  const pixels = new Float32Array(wanted.length * area);
  for (const run of runs(wanted)) {
    const loaded = await loadImages(
      run[0]!.data,
      run.map(({ item }) => item),
      { shortest: 2 * imageSize },
    );
    const sound = loaded.flatMap((image, i) =>
      image instanceof CidError ? [] : [{ image, entry: run[i]! }],
    );
    const pictures = sound.map(({ image }) => image);
    const views = pictures.map(({ width, height }) => centreView(width, height));
    await renderPixels(pictures, views, imageSize, normalisation, pixels, kept.length);
    images.push(...pictures);
    kept.push(...sound.map(({ entry }) => entry));
  }
  return { pixels: pixels.subarray(0, kept.length * area), images, kept };
}

/** Stretches of one data set, none too long. */
function runs<T extends { readonly data: Dataset }>(wanted: readonly T[]): T[][] {
  const found: T[][] = [];
  for (const entry of wanted) {
    const last = found.at(-1);
    if (last && last.length < CHUNK && last[0]!.data === entry.data) last.push(entry);
    else found.push([entry]);
  }
  return found;
}

/** A tower's only output over all rows of pixels, with the moving average where the training keeps one. */
export async function forwardRows(
  executor: Executor,
  tower: Tower<{ pixels: Float32Array; imageSize: number }>,
  batch: { readonly pixels: Float32Array; readonly imageSize: number },
  { microBatch, ema }: Pick<ResolvedTrainer, 'microBatch' | 'ema'>,
): Promise<Float32Array> {
  const rows = batch.pixels.length / (3 * batch.imageSize ** 2);
  const parameters = ema === undefined ? ('current' as const) : ('ema' as const);
  const parts = [];
  for (let from = 0; from < rows; from += microBatch) {
    const inputs = tower.inputs(batch, from, Math.min(rows, from + microBatch));
    parts.push(await executor.forward(tower.graph, inputs, { parameters }));
  }
  const [output] = Object.values(concatenateRows(parts));
  return output!.data as Float32Array;
}
