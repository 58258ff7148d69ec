import { join } from 'node:path';
import type { Dataset } from '../data/dataset.ts';
import type { Tokenizer } from '../encoder/tokenizer.ts';
import { failRange } from '../native/check.ts';
import type { KernelOptions } from '../native/context.ts';
import { CidError } from '../native/errors.ts';
import { product } from '../program/attributes.ts';
import type { Graph } from '../program/graph.ts';
import { hashValue, type Json } from '../run/hash.ts';
import { defined } from '../run/settings.ts';
import { type ImageTextBatch, imageTextSource, imageTower, textTower } from './batches.ts';
import { type CaptionTable, type TokenTable, tabulateCaptions } from './captions.ts';
import { exportStudent } from './export.ts';
import { buildHeads, HEADS, type HeadsConfig, initialLogScale } from './heads.ts';
import { ImageCache, loadForViews, TrainingImages } from './images.ts';
import type { Targets } from './losses.ts';
import { type StudentModel, tokenizerOf } from './model.ts';
import { decisiveTraining, optimise } from './optimise.ts';
import type { TrainedStudent, TrainingOptions } from './options.ts';
import { type ResolvedTraining, resolveTraining, splitItems } from './resolve.ts';
import type { Loss } from './types.ts';
import { retrievalValidation } from './validate.ts';

/** Data of a training run: split, with every distinct caption once. */
export interface PreparedData {
  readonly data: Dataset;
  /** Rows of `items` that are trained on, and the items themselves; a place is an index into these. */
  readonly rows: Int32Array;
  readonly items: Int32Array;
  /** Held-out items, and the text of each. */
  readonly heldOut: Int32Array;
  readonly heldOutTexts: Int32Array;
  /** Captions of the training items by place; `texts` also holds those of the held-out ones. */
  readonly captions: CaptionTable;
  readonly training: ResolvedTraining;
}

/** Splits the items and lists their captions. `items` defaults to all of the data. */
export function prepareData(
  data: Dataset,
  items: ArrayLike<number> | undefined,
  options: TrainingOptions,
): PreparedData {
  const all = items ? Int32Array.from(items) : Int32Array.from({ length: data.length }, (_, i) => i);
  for (const [i, item] of all.entries()) {
    if (!(item >= 0 && item < data.length))
      failRange(`an item from 0 to ${data.length - 1}`, `items[${i}]`, item);
  }
  const { training: rows, heldOut: heldRows } = splitItems(all, options.validation, options.seed);
  if (rows.length < 2) {
    throw new CidError(
      'INVALID_DATA',
      `${data.source} has ${rows.length} images for training; at least 2 are needed`,
    );
  }
  const training = resolveTraining(options, rows.length, heldRows.length);
  const used = Int32Array.from(rows, (row) => all[row]!);
  const heldOut = Int32Array.from(heldRows, (row) => all[row]!);
  const table = tabulateCaptions(data, Int32Array.from([...used, ...heldOut]), training.captions);
  return {
    data,
    rows,
    items: used,
    heldOut,
    heldOutTexts: Int32Array.from(table.ofItem.slice(used.length), (own) => own[0]!),
    captions: { texts: table.texts, ofItem: table.ofItem.slice(0, used.length) },
    training,
  };
}

/** What the loss's kernels run with. Not the signal: a step that has begun is finished, so that its checkpoint can be written. */
export function kernelOptions({ device, threads, maxDeviceMemory }: TrainingOptions): KernelOptions {
  return defined({ device, threads, maxDeviceMemory });
}

export interface FitOptions {
  readonly prepared: PreparedData;
  readonly options: TrainingOptions;
  /** Name of the stage in the metrics, where the options give none. */
  readonly stage: string;
  readonly student: StudentModel;
  readonly heads: Omit<HeadsConfig, 'dim'>;
  readonly loss: Loss<ImageTextBatch>;
  /** What decides the outcome beside the data, the student and the training options. */
  readonly identity: Json;
  /** Side of the views that a teacher is run on, where one is; and what it says of a batch, made ahead of the step. */
  readonly viewSize?: number;
  readonly targets?: Targets | undefined;
}

/** Trains a student with any loss over images and captions, and exports it to `model` in the folder. */
export async function fitStudent(fit: FitOptions): Promise<TrainedStudent> {
  const { prepared, options, student } = fit;
  const { folder } = options;
  const { data, training, items } = prepared;
  const { imageSize, normalisation } = student;
  const tokenizer = tokenizerOf(student.tokenizerFiles);
  const tokens = tokenize(tokenizer, prepared.captions.texts, student.contextLength);
  const cache = new ImageCache(
    (items, signal) =>
      loadForViews(data, items, Math.max(imageSize, fit.viewSize ?? 0), {
        threads: training.threads,
        ...(signal && { signal }),
      }),
    training.cacheBytes,
  );
  const images = new TrainingImages(cache, items, (item, reason) => {
    options.onSkip?.(data.item(item).key, reason);
  });
  const source = imageTextSource({
    images,
    captions: prepared.captions,
    tokens,
    imageSize,
    normalisation,
    augmentation: training.augmentation,
    batchSize: training.batchSize,
    seed: training.seed,
    threads: training.threads,
    ...(fit.viewSize !== undefined && { viewSize: fit.viewSize }),
  });
  const towers = [imageTower, textTower(student.text)] as const;
  const heads = buildHeads(
    {
      ...fit.heads,
      dim: student.embedDim,
      ...(student.logScale !== undefined && { logScale: student.logScale }),
    },
    training.seed,
  );
  const sizes = { image: parametersOf(student.image), text: parametersOf(student.text) };
  options.onSizes?.(sizes);
  const { result, values } = await optimise({
    graphs: { image: student.image, text: student.text, [HEADS]: heads.graph },
    parameters: [...student.parameters, ...heads.parameters],
    towers,
    heads: HEADS,
    source,
    loss: fit.loss,
    targets: fit.targets,
    training,
    options,
    stage: fit.stage,
    identity: identityOf(fit),
    ...(prepared.heldOut.length > 0 && {
      validate: await retrievalValidation({
        items: prepared.heldOut,
        texts: prepared.heldOutTexts,
        tokens,
        towers,
        images: cache,
        imageSize,
        normalisation,
        microBatch: training.microBatch,
        ema: training.ema !== undefined,
      }),
    }),
  });
  const model = join(folder, 'model');
  await exportStudent(
    model,
    {
      image: student.image,
      text: student.exportedText,
      values,
      config: student.config,
      embedDim: student.embedDim,
      imageSize,
      contextLength: student.contextLength,
      normalisation,
      tokenizer: student.tokenizerFiles,
      logScale: values.get(`${HEADS}.logit_scale`)?.[0] ?? initialLogScale,
      tokens: {
        start: tokenizer.startId,
        end: tokenizer.endId,
        pad: tokenizer.padId,
        count: tokenizer.vocabSize,
      },
    },
    training.exportDtype,
  );
  return {
    model,
    steps: result.steps,
    best: result.best,
    validation: result.validation?.metrics,
    speed: result.speed,
    parameters: sizes.image + sizes.text,
    lossParameters: parametersOf(heads.graph),
    heldOut: prepared.heldOut,
    skipped: images.broken,
  };
}

/** Values that a graph learns or keeps. */
function parametersOf({ parameters }: Graph): number {
  return parameters.reduce((sum, { dims }) => sum + product(dims), 0);
}

function tokenize(tokenizer: Tokenizer, texts: readonly string[], contextLength: number): TokenTable {
  const { inputIds, attentionMask } = tokenizer.encode(texts, contextLength);
  // The text tower reads at the first largest id, which no padding may be.
  for (let i = 0; i < inputIds.length; i++) if (attentionMask[i] === 0) inputIds[i] = tokenizer.endId;
  return { ids: inputIds, mask: attentionMask, contextLength };
}

/** Hash of whatever the trained parameters depend on, but for machine, threads and executor. */
function identityOf({ prepared, student, identity, heads }: FitOptions): string {
  const { training, data, items, heldOut, captions } = prepared;
  return hashValue({
    training: decisiveTraining(training),
    data: data.hash,
    items: Array.from(items),
    heldOut: Array.from(heldOut),
    texts: captions.texts,
    student: student.identity,
    heads: { instance: heads.instance, centroids: heads.centroids?.rows },
    identity,
  });
}
