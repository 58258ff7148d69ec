import { join } from 'node:path';
import type { Dataset } from '../data/dataset.ts';
import type { RgbImage } from '../data/image.ts';
import type { ImageEncoder } from '../encoder/image-encoder.ts';
import type { Matrix } from '../kernels/rows.ts';
import {
  expectInteger,
  expectNumber,
  expectObject,
  expectOneOf,
  expectPositive,
  failRange,
  failType,
} from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { chain } from '../program/compose.ts';
import type { Executor } from '../program/executor.ts';
import { hashBytes, hashValue, type Json } from '../run/hash.ts';
import type { Speed } from '../run/speed.ts';
import type { AugmentOptions } from '../student/augment.ts';
import {
  BACKBONE_CHOICE,
  type Backbone,
  type BackboneChoice,
  chooseBackbone,
  visionConfig,
} from '../student/backbone.ts';
import { imageTower } from '../student/batches.ts';
import { exportImageModel } from '../student/image-model.ts';
import { buildMlp } from '../student/mlp.ts';
import { decisiveTraining, oncePerBatch, optimise } from '../student/optimise.ts';
import { TRAINER_OPTIONS, type TrainerOptions } from '../student/options.ts';
import { Random, streams } from '../student/random.ts';
import { type ResolvedTrainer, resolveTrainer, splitItems } from '../student/resolve.ts';
import { float32 } from '../student/tensors.ts';
import type { BatchSource, Loss, Validation } from '../student/types.ts';
import { LARGEST_VALIDATION } from '../student/validate.ts';
import { RowRenderer } from '../student/views.ts';
import { type AlignWeights, alignLoss } from './align-loss.ts';
import { Mixture } from './mixture.ts';
import { ImagePool } from './pool.ts';
import { centralPixels, forwardRows } from './views.ts';

/** Unlabelled images to align on. */
export interface AlignSet {
  /** The caller disposes of it. */
  data: Dataset;
  /** Share of the rows that it gives, relative to the other sets'; for all sets or for none. Defaults to every image once an epoch. */
  weight?: number;
  /** [data.length, D] the frozen model's features of the plain images. Needed for `targets: 'cached'`. */
  features?: Matrix;
}

/**
 * Feature alignment (CSKD's first phase): a visual encoder with an MLP projector learns the image features of a frozen CLIP on
 * unlabelled images. See {@link TrainerOptions} and {@link BackboneChoice} for the rest.
 */
export interface AlignOptions extends TrainerOptions, BackboneChoice {
  /** At least one set of images; each counts by its weight, or by its number of images. */
  sets: readonly AlignSet[];
  /** The frozen model, opened; needed for `targets: 'online'`. The caller disposes of it. */
  frozen?: ImageEncoder;
  /**
   * What is learned: the features of the plain image, computed before, or those of the very view that the encoder sees, for which the
   * frozen model runs in every step. Defaults to 'cached'.
   */
  targets?: 'cached' | 'online';
  /** Weights of the terms. Cosine defaults to 1, which is the paper's loss; the others default to 0. */
  weights?: Partial<AlignWeights>;
  /** Temperature of the relational term. Defaults to 0.1. */
  temperature?: number;
  /** Width of the projector's hidden layer; 0 for a linear map. Defaults to the width of the frozen features. */
  projector?: number;
  /** Augmentation of the views. Defaults to 'none' for cached targets, and else to the defaults of {@link AugmentOptions}. */
  augment?: AugmentOptions | 'none';
  /** Share of the images that is held out to measure the mean cosine on, 0 to 0.5. Defaults to 0.02. */
  validation?: number;
}

/** How alignment ended. */
export interface AlignedBackbone {
  /**
   * The exported model folder: `pixel_values` → `image_embeds` [batch, D], in the space of the frozen model, and `pooler_output`, the
   * encoder's own features, which the second phase goes on from.
   */
  model: string;
  steps: number;
  best: { step: number; value: number } | undefined;
  /** Metrics of the last validation: `cosine`, the mean over held-out images. */
  validation: Readonly<Record<string, number>> | undefined;
  /** Learned values, the projector's included. */
  parameters: number;
  /** Images that could not be read; others took their place. */
  skipped: number;
  /** How fast loader and steps were, of the steps that this call made. */
  speed: Speed | undefined;
}

/** Rows of one step. */
interface ViewBatch {
  readonly pixels: Float32Array;
  readonly imageSize: number;
  /** [B] place of each row's image in the pool. */
  readonly places: Int32Array;
  readonly views: readonly RgbImage[];
}

interface Resolved {
  readonly targets: 'cached' | 'online';
  readonly weights: AlignWeights;
  readonly temperature: number;
  readonly dim: number;
  readonly hidden: number;
}

/** Holds options against the images that they are for, and throws what {@link align} would, before there are any features. */
export function checkAlign(options: AlignOptions): void {
  expectObject('options', options, OPTIONS);
  const { targets } = resolveTerms(options);
  if (options.init === undefined) visionConfig(options.backbone);
  schedule(options, targets);
}

/** Images of each set for training and held out, and the training over all of them. */
function schedule(options: AlignOptions, targets: 'cached' | 'online') {
  const seed = expectInteger('seed', options.seed ?? 0);
  const sets = options.sets.map(({ data }, i) => {
    const all = Int32Array.from({ length: data.length }, (_, item) => item);
    const share = expectNumber('validation', options.validation ?? 0.02, 0, 0.5);
    const { training, heldOut } = splitItems(all, share, seed + i);
    return { data, items: training, heldOut };
  });
  const total = sets.reduce((sum, { items }) => sum + items.length, 0);
  if (total < 2)
    throw new CidError('INVALID_DATA', `There are ${total} images to align on; at least 2 are needed`);
  const held = sets.reduce((sum, { heldOut }) => sum + heldOut.length, 0);
  const augment = options.augment ?? (targets === 'cached' ? 'none' : {});
  return { seed, sets, held, training: resolveTrainer({ ...options, augment }, total, held, 256) };
}

/** Aligns an encoder; see {@link AlignOptions}. Goes on with what is in `folder`. */
export async function align(options: AlignOptions): Promise<AlignedBackbone> {
  expectObject('options', options, OPTIONS);
  const resolved = resolve(options);
  const { dim, hidden, targets } = resolved;
  const { seed, sets, held, training } = schedule(options, targets);
  const backbone = await chooseBackbone(options, seed);
  const projector = buildMlp(
    'projector',
    { input: 'pooler_output', output: 'image_embeds', from: backbone.width, hidden, to: dim },
    seed,
  );
  const program = chain(backbone.graph, projector.graph, ['image_embeds', 'pooler_output']);
  const viewSize = targets === 'online' ? options.frozen!.imageSize : undefined;
  const pool = new ImagePool(sets, {
    viewSize: Math.max(backbone.imageSize, viewSize ?? 0),
    cacheBytes: training.cacheBytes,
    onSkip: options.onSkip,
  });
  const weights = options.sets.map(({ weight }) => weight);
  const mixture = new Mixture(
    sets.map(({ items }) => items.length),
    weights[0] === undefined ? undefined : (weights as number[]),
    seed,
  );
  const frozen = await targetsOf(options, resolved, sets);
  const { result, values, parameters } = await optimise({
    graphs: { image: { ...program, outputs: program.outputs.filter(({ name }) => name === 'image_embeds') } },
    parameters: [...backbone.parameters, ...projector.parameters],
    towers: [imageTower],
    source: viewSource(pool, mixture, backbone, training, viewSize),
    loss: lossOver(resolved, frozen),
    targets: targets === 'online' ? frozen : undefined,
    training,
    options,
    stage: 'align',
    identity: identityOf(options, resolved, training, backbone, sets),
    validate: held > 0 ? await validation(options, resolved, backbone, training, sets) : undefined,
  });
  const model = join(options.folder, 'model');
  await exportImageModel(
    model,
    { graph: program, values, backbone, embedDim: dim, facts: { aligned: true } },
    training.exportDtype,
  );
  return {
    model,
    steps: result.steps,
    best: result.best,
    validation: result.validation?.metrics,
    speed: result.speed,
    parameters,
    skipped: pool.broken,
  };
}

/** What needs no features. */
function resolveTerms(options: AlignOptions): Omit<Resolved, 'dim' | 'hidden'> {
  const { sets } = options;
  if (!Array.isArray(sets) || sets.length === 0) failType('at least one set of images', 'sets', sets);
  const targets = expectOneOf('targets', options.targets ?? 'cached', ['cached', 'online']);
  const given = sets.filter(({ weight }) => weight !== undefined).length;
  if (given > 0 && given < sets.length) failType('weights of all sets or of none', 'sets', sets);
  for (const [i, { weight }] of sets.entries())
    if (weight !== undefined) expectPositive(`sets[${i}].weight`, weight);
  const weight = (name: keyof AlignWeights, usual: number) =>
    expectNumber(`weights.${name}`, options.weights?.[name] ?? usual, 0);
  const weights: AlignWeights = {
    cosine: weight('cosine', 1),
    mse: weight('mse', 0),
    feature: weight('feature', 0),
    relational: weight('relational', 0),
  };
  if (Object.values(weights).every((value) => value === 0)) failRange('a weight over 0', 'weights', weights);
  if (options.projector !== undefined) expectInteger('projector', options.projector, 0);
  return { targets, weights, temperature: expectPositive('temperature', options.temperature ?? 0.1) };
}

function resolve(options: AlignOptions): Resolved {
  const { sets, frozen } = options;
  const terms = resolveTerms(options);
  const online = terms.targets === 'online';
  for (const [i, { data, features }] of sets.entries()) {
    if (online) continue;
    if (!features) failType('features of the frozen model', `sets[${i}].features`, features);
    if (!(features.data instanceof Float32Array)) failType('float32', `sets[${i}].features`, features.data);
    if (features.rows !== data.length)
      failRange(`${data.length} rows, one an image,`, `sets[${i}].features`, features.rows);
    if (features.dim !== sets[0]!.features!.dim)
      failRange(`${sets[0]!.features!.dim}, as those before,`, `sets[${i}].features.dim`, features.dim);
  }
  if (online && !frozen) failType('an opened model', 'frozen', frozen);
  const dim = online ? frozen!.dim : sets[0]!.features!.dim;
  return { ...terms, dim, hidden: options.projector ?? dim };
}

interface UsedSet {
  readonly data: Dataset;
  readonly items: Int32Array;
  readonly heldOut: Int32Array;
}

function viewSource(
  pool: ImagePool,
  mixture: Mixture,
  backbone: Backbone,
  training: ResolvedTrainer,
  viewSize: number | undefined,
): BatchSource<ViewBatch> {
  const { imageSize, normalisation } = backbone;
  const { augmentation, batchSize, stepsPerEpoch, seed } = training;
  const renderer = new RowRenderer({
    imageSize,
    normalisation,
    augmentation,
    ...(viewSize !== undefined && { viewSize }),
  });
  return {
    stepsPerEpoch,
    batchSize,
    batchBytes: batchSize * renderer.rowBytes,
    reuse: ({ pixels }) => renderer.reuse(pixels),
    async batch(epoch, step, signal) {
      const start = step * batchSize;
      const wanted = mixture.places(epoch).slice(start, start + batchSize);
      const places = new Int32Array(batchSize);
      const rows = renderer.rows(batchSize);
      const random = (row: number) => new Random(seed, streams.augment, start + row, epoch);
      const onRow = (row: number, place: number) => {
        places[row] = place;
      };
      await renderer.render(pool, wanted, random, rows, 0, onRow, signal);
      return { ...rows, imageSize, places };
    },
  };
}

type Targets = (batch: ViewBatch, signal?: AbortSignal) => Promise<Float32Array>;

function lossOver({ weights, temperature, dim }: Resolved, targets: Targets): Loss<ViewBatch> {
  return async (outputs, batch) => {
    const { data, dims } = outputs.image!.image_embeds!;
    const { terms, gradient } = alignLoss(data as Float32Array, await targets(batch), dim, {
      weights,
      temperature,
    });
    return { terms, gradients: { image: { image_embeds: float32(gradient, dims) } } };
  };
}

async function targetsOf(
  options: AlignOptions,
  { targets, dim }: Resolved,
  sets: readonly UsedSet[],
): Promise<Targets> {
  if (targets === 'online')
    return oncePerBatch(({ views }, signal) => options.frozen!.embedImages(views, signal));
  const features = options.sets.map((set) => set.features!.data as Float32Array);
  // Row of the features for each place, over all sets.
  const rows = sets.flatMap(({ items }, set) => Array.from(items, (item) => ({ set, item })));
  return async ({ places }) => {
    const picked = new Float32Array(places.length * dim);
    for (const [i, place] of places.entries()) {
      const { set, item } = rows[place]!;
      picked.set(features[set]!.subarray(item * dim, (item + 1) * dim), i * dim);
    }
    return picked;
  };
}

/** Mean cosine of held-out images, seen plainly, to the frozen features. */
async function validation(
  options: AlignOptions,
  { targets, dim }: Resolved,
  backbone: Backbone,
  training: ResolvedTrainer,
  sets: readonly UsedSet[],
): Promise<((executor: Executor) => Promise<Validation>) | undefined> {
  const chosen = sets
    .flatMap(({ data, heldOut }, set) => Array.from(heldOut, (item) => ({ data, item, set })))
    .slice(0, LARGEST_VALIDATION);
  const { pixels, images, kept } = await centralPixels(chosen, backbone);
  if (kept.length === 0) return undefined;
  const frozen =
    targets === 'online'
      ? await options.frozen!.embedImages(images)
      : Float32Array.from(
          kept.flatMap(({ set, item }) => {
            const { data } = options.sets[set]!.features!;
            return Array.from((data as Float32Array).subarray(item * dim, (item + 1) * dim));
          }),
        );
  const weights: AlignWeights = { cosine: 1, mse: 0, feature: 0, relational: 0 };
  return async (executor) => {
    const student = await forwardRows(
      executor,
      imageTower,
      { pixels, imageSize: backbone.imageSize },
      training,
    );
    const { terms } = alignLoss(student, frozen, dim, { weights, temperature: 1 });
    const value = 1 - terms.total;
    return { value, metrics: { cosine: value } };
  };
}

function identityOf(
  options: AlignOptions,
  resolved: Resolved,
  training: ResolvedTrainer,
  backbone: Backbone,
  sets: readonly UsedSet[],
): string {
  return hashValue({
    training: decisiveTraining(training),
    resolved: JSON.parse(JSON.stringify(resolved)) as Json,
    backbone: backbone.identity,
    sets: sets.map(({ data, heldOut }, i) => {
      const { features, weight } = options.sets[i]!;
      const bytes = features?.data as Float32Array | undefined;
      return {
        data: data.hash,
        heldOut: Array.from(heldOut),
        weight: weight ?? null,
        features:
          bytes && resolved.targets === 'cached'
            ? hashBytes(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength))
            : null,
      };
    }),
    frozen: resolved.targets === 'online' ? options.frozen!.hash : null,
  });
}

const OPTIONS = [
  ...TRAINER_OPTIONS,
  ...BACKBONE_CHOICE,
  ...Object.keys({
    sets: true,
    frozen: true,
    targets: true,
    weights: true,
    temperature: true,
    projector: true,
    validation: true,
  } satisfies Record<Exclude<keyof AlignOptions, keyof TrainerOptions | keyof BackboneChoice>, true>),
];
