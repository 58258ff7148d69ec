import type { RgbImage } from '../data/image.ts';
import { failRange } from '../native/check.ts';
import type { Graph } from '../program/graph.ts';
import type { Augmentation } from './augment.ts';
import { type CaptionTable, gatherTokens, type TokenTable } from './captions.ts';
import type { TrainingImages } from './images.ts';
import { permutation, Random, streams } from './random.ts';
import { float32, int64 } from './tensors.ts';
import type { BatchSource, Tower } from './types.ts';
import { type Normalisation, RowRenderer } from './views.ts';

/** Images and captions of one step. */
export interface ImageTextBatch {
  /** [B] place of each row in the list of items for training. */
  readonly places: Int32Array;
  /** [B] text of each row in the caption table. */
  readonly texts: Int32Array;
  /** [B, 3, S, S], normalised. */
  readonly pixels: Float32Array;
  readonly imageSize: number;
  /** [B, T]. */
  readonly tokens: BigInt64Array;
  /** [B, T], 1 where a token is not padding. */
  readonly mask: BigInt64Array;
  readonly contextLength: number;
  /** The same views as images for a teacher that is run on them, where that was asked for. */
  readonly views?: readonly RgbImage[];
  /** Optimiser steps before this one. */
  readonly step: number;
}

export interface ImageTextSourceOptions {
  images: TrainingImages;
  captions: CaptionTable;
  tokens: TokenTable;
  imageSize: number;
  normalisation: Normalisation;
  /** Undefined for the plain central square. */
  augmentation: Augmentation | undefined;
  batchSize: number;
  seed: number;
  /** Also renders the views at this size, for a teacher. */
  viewSize?: number;
  /** Threads that render. Defaults to the process's number. */
  threads?: number;
}

/**
 * Batches of images with captions. The order of an epoch is a permutation drawn by (seed, epoch); view and caption of a row are
 * drawn by (seed, epoch, place in the permutation). The last, smaller batch of an epoch is left out.
 */
export function imageTextSource(options: ImageTextSourceOptions): BatchSource<ImageTextBatch> {
  const { images, captions, tokens, imageSize, batchSize, seed } = options;
  const rows = captions.ofItem.length;
  if (batchSize > rows) failRange(`at most the number of training items (${rows})`, 'batchSize', batchSize);
  const stepsPerEpoch = Math.floor(rows / batchSize);
  const renderer = new RowRenderer(options);
  let order: { epoch: number; places: Int32Array } | undefined;
  const placesOf = (epoch: number): Int32Array => {
    if (order?.epoch !== epoch) {
      order = { epoch, places: permutation(rows, new Random(seed, streams.order, epoch)) };
    }
    return order.places;
  };

  return {
    stepsPerEpoch,
    batchSize,
    batchBytes: batchSize * renderer.rowBytes,
    reuse: ({ pixels }) => renderer.reuse(pixels),
    async batch(epoch, step, signal) {
      const start = step * batchSize;
      const wanted = placesOf(epoch).slice(start, start + batchSize);
      const places = new Int32Array(batchSize);
      const texts = new Int32Array(batchSize);
      const random = (row: number) => new Random(seed, streams.augment, start + row, epoch);
      const { pixels, views } = renderer.rows(batchSize);
      const onRow = (row: number, place: number, draws: Random) => {
        const own = captions.ofItem[place]!;
        places[row] = place;
        texts[row] = own[own.length === 1 ? 0 : draws.below(own.length)]!;
      };
      await renderer.render(images, wanted, random, { pixels, views }, 0, onRow, signal);
      return {
        places,
        texts,
        pixels,
        imageSize,
        tokens: gatherTokens(tokens.ids, tokens.contextLength, texts),
        mask: gatherTokens(tokens.mask, tokens.contextLength, texts),
        contextLength: tokens.contextLength,
        ...(options.viewSize !== undefined && { views }),
        step: epoch * stepsPerEpoch + step,
      };
    },
  };
}

export const imageTower: Tower<Pick<ImageTextBatch, 'pixels' | 'imageSize'>> = {
  graph: 'image',
  inputs: ({ pixels, imageSize }, from, to) => {
    const area = 3 * imageSize * imageSize;
    return {
      pixel_values: float32(pixels.subarray(from * area, to * area), [to - from, 3, imageSize, imageSize]),
    };
  },
};

type Texts = Pick<ImageTextBatch, 'tokens' | 'mask' | 'contextLength'>;

/** Our own text towers need no mask: nothing after the end token is seen. Imported ones may ask for it. */
export function textTower(graph: Graph): Tower<Texts> {
  const masked = graph.inputs.some(({ name }) => name === 'attention_mask');
  return {
    graph: 'text',
    inputs: ({ tokens, mask, contextLength }, from, to) => {
      const rows = (values: BigInt64Array) =>
        int64(values.subarray(from * contextLength, to * contextLength), [to - from, contextLength]);
      return { input_ids: rows(tokens), ...(masked && { attention_mask: rows(mask) }) };
    },
  };
}
