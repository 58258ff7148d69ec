import type { Dataset } from '../data/dataset.ts';
import type { RgbImage } from '../data/image.ts';
import type { Executor } from '../program/executor.ts';
import { centreView, ViewRenderer } from '../student/augment.ts';
import type { Backbone } from '../student/backbone.ts';
import { decodeForViews } from '../student/images.ts';
import type { ResolvedTrainer } from '../student/resolve.ts';
import { concatenateRows } from '../student/tensors.ts';
import type { Tower } from '../student/types.ts';

/** Images as a model sees them without augmentation; those that cannot be decoded are left out. */
export async function centralPixels<T extends { readonly data: Dataset; readonly item: number }>(
  wanted: readonly T[],
  { imageSize, normalisation }: Pick<Backbone, 'imageSize' | 'normalisation'>,
): Promise<{ pixels: Float32Array; images: RgbImage[]; kept: T[] }> {
  const renderer = new ViewRenderer(imageSize);
  const area = 3 * imageSize * imageSize;
  const images: RgbImage[] = [];
  const kept: T[] = [];
  const pixels = new Float32Array(wanted.length * area);
  for (const entry of wanted) {
    const image = await decodeForViews(entry.data, entry.item, imageSize).catch(() => undefined);
    if (!image) continue;
    const view = centreView(image.width, image.height);
    renderer.pixels(image, view, normalisation.mean, normalisation.std, pixels, kept.length * area);
    images.push(image);
    kept.push(entry);
  }
  return { pixels: pixels.subarray(0, kept.length * area), images, kept };
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
