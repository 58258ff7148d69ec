import { CidError } from '../native/errors.ts';
import type { Executor } from '../program/executor.ts';
import { centreView } from './augment.ts';
import type { ImageTextBatch } from './batches.ts';
import { gatherTokens, type TokenTable } from './captions.ts';
import { HEADS } from './heads.ts';
import type { ImageCache } from './images.ts';
import { concatenateRows } from './tensors.ts';
import type { Tower, Validation } from './types.ts';
import { type Normalisation, renderPixels } from './views.ts';

/** Most held-out pairs that are compared; all pairs of them are. */
export const LARGEST_VALIDATION = 1024;

export interface RetrievalOptions {
  /** Held-out items with the text of each, an index into `tokens`. Broken images are left out. */
  items: Int32Array;
  texts: Int32Array;
  tokens: TokenTable;
  images: ImageCache;
  imageSize: number;
  normalisation: Normalisation;
  microBatch: number;
  /** Evaluates the moving average of the parameters. */
  ema: boolean;
  towers: readonly [image: Tower<ImageTextBatch>, text: Tower<ImageTextBatch>];
}

/**
 * Retrieval among held-out pairs: `loss` of CLIP over all of them at once, recall at 1 both ways, and the mean reciprocal rank,
 * which is the value that the best checkpoint is chosen by (larger is better). Equal texts count as one. Undefined when no held-out
 * image can be decoded.
 */
export async function retrievalValidation(
  options: RetrievalOptions,
): Promise<((executor: Executor) => Promise<Validation>) | undefined> {
  const { images, imageSize, normalisation, tokens, microBatch, towers } = options;
  const { pixels, kept } = await centralPixels(options.items, images, imageSize, normalisation);
  const rows = kept.length;
  if (rows === 0) return undefined;
  const texts = Int32Array.from(kept, (i) => options.texts[i]!);
  const batch: ImageTextBatch = {
    places: Int32Array.from(texts.keys()),
    texts,
    pixels,
    imageSize,
    tokens: gatherTokens(tokens.ids, tokens.contextLength, texts),
    mask: gatherTokens(tokens.mask, tokens.contextLength, texts),
    contextLength: tokens.contextLength,
    step: 0,
  };

  return async (executor) => {
    const parameters = options.ema ? ('ema' as const) : ('current' as const);
    const embed = async (tower: Tower<ImageTextBatch>): Promise<Float32Array> => {
      const parts = [];
      for (let from = 0; from < rows; from += microBatch) {
        const inputs = tower.inputs(batch, from, Math.min(rows, from + microBatch));
        parts.push(await executor.forward(tower.graph, inputs, { parameters }));
      }
      const [output] = Object.values(concatenateRows(parts));
      return output!.data as Float32Array;
    };
    const image = await embed(towers[0]);
    const text = await embed(towers[1]);
    const heads = await executor.forward(HEADS, {}, { parameters });
    const scale = Math.exp(heads.logit_scale ? (heads.logit_scale.data[0] as number) : 0);
    return retrieval(image, text, texts, scale);
  };
}

/** Images that are loaded at once. */
const CHUNK = 128;

/** The first images that can be decoded, at most {@link LARGEST_VALIDATION}, as a model sees them; `kept` are their indices in `items`. */
async function centralPixels(
  items: Int32Array,
  images: ImageCache,
  imageSize: number,
  normalisation: Normalisation,
): Promise<{ pixels: Float32Array; kept: number[] }> {
  const area = 3 * imageSize * imageSize;
  const pixels = new Float32Array(Math.min(items.length, LARGEST_VALIDATION) * area);
  const kept: number[] = [];
  for (let from = 0; from < items.length && kept.length < LARGEST_VALIDATION; from += CHUNK) {
    const loaded = await images.many(Array.from(items.subarray(from, from + CHUNK)));
    const sound = loaded.flatMap((image, i) => (image instanceof CidError ? [] : [{ image, i: from + i }]));
    const used = sound.slice(0, LARGEST_VALIDATION - kept.length);
    const pictures = used.map(({ image }) => image);
    const views = pictures.map(({ width, height }) => centreView(width, height));
    await renderPixels(pictures, views, imageSize, normalisation, pixels, kept.length);
    images.done(sound.map(({ image }) => image));
    kept.push(...used.map(({ i }) => i));
  }
  return { pixels: pixels.subarray(0, kept.length * area), kept };
}

/** Scores of pairs of raw embeddings, [N, D] each; row i of one belongs to row i of the other, and to rows with the same id. */
export function retrieval(
  image: Float32Array,
  text: Float32Array,
  ids: Int32Array,
  scale: number,
): Validation {
  const rows = ids.length;
  const dim = image.length / rows;
  const x = unitRows(image, dim);
  const y = unitRows(text, dim);
  const toText = directed(x, y, ids, dim, scale);
  const toImage = directed(y, x, ids, dim, scale);
  const value = (toText.reciprocal + toImage.reciprocal) / 2;
  return {
    value,
    metrics: {
      loss: (toText.loss + toImage.loss) / 2,
      imageToText: toText.recall,
      textToImage: toImage.recall,
      reciprocalRank: value,
    },
  };
}

/** From each row of `a` to the rows of `b`. */
function directed(a: Float32Array, b: Float32Array, ids: Int32Array, dim: number, scale: number) {
  const rows = ids.length;
  const logits = new Float64Array(rows);
  let loss = 0;
  let recall = 0;
  let reciprocal = 0;
  for (let i = 0; i < rows; i++) {
    let best = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < rows; j++) {
      let dot = 0;
      for (let k = 0; k < dim; k++) dot += a[i * dim + k]! * b[j * dim + k]!;
      logits[j] = scale * dot;
      if (ids[j] === ids[i] && logits[j]! > best) best = logits[j]!;
    }
    const top = logits.reduce((largest, value) => Math.max(largest, value), Number.NEGATIVE_INFINITY);
    let sum = 0;
    let better = 0;
    for (let j = 0; j < rows; j++) {
      sum += Math.exp(logits[j]! - top);
      // A tie counts against: a model that gives everything the same score finds nothing.
      if (ids[j] !== ids[i] && logits[j]! >= best) better++;
    }
    loss += top + Math.log(sum) - logits[i]!;
    reciprocal += 1 / (better + 1);
    if (better === 0) recall++;
  }
  return { loss: loss / rows, recall: recall / rows, reciprocal: reciprocal / rows };
}

function unitRows(rows: Float32Array, dim: number): Float32Array {
  const unit = new Float32Array(rows.length);
  for (let from = 0; from < rows.length; from += dim) {
    let square = 0;
    for (let k = from; k < from + dim; k++) square += rows[k]! * rows[k]!;
    const factor = square > 0 ? 1 / Math.sqrt(square) : 0;
    for (let k = from; k < from + dim; k++) unit[k] = rows[k]! * factor;
  }
  return unit;
}
