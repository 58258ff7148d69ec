import { join } from 'node:path';
import type { Dataset } from '../data/dataset.ts';
import type { RatedDataset } from '../data/rated/dataset.ts';
import { binCentres, meanScore } from '../data/rated/scale.ts';
import { partOf } from '../data/rated/split.ts';
import { measureScores } from '../eval/scores.ts';
import { expectInteger, expectNumber, expectOneOf, expectPositive, failType } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { rename } from '../program/compose.ts';
import type { Executor } from '../program/executor.ts';
import { hashValue, type Json } from '../run/hash.ts';
import type { Speed } from '../run/speed.ts';
import type { AugmentOptions } from '../student/augment.ts';
import { BACKBONE_CHOICE, type BackboneChoice, chooseBackbone, visionConfig } from '../student/backbone.ts';
import { decisiveTraining, optimise } from '../student/optimise.ts';
import { TRAINER_OPTIONS, type TrainerOptions } from '../student/options.ts';
import { type ResolvedTrainer, resolveTrainer } from '../student/resolve.ts';
import type { Validation } from '../student/types.ts';
import { LARGEST_VALIDATION } from '../student/validate.ts';
import { type ScoreBatch, scoreSource, scoreTower } from './batches.ts';
import { type EmdForm, softmaxRows } from './emd.ts';
import { Mixture } from './mixture.ts';
import { ImagePool } from './pool.ts';
import { type Pseudo, scoreLoss } from './score-loss.ts';
import { buildScorer, exportScorer, LOGITS, type ScorerProgram } from './scorer.ts';
import { centralPixels, forwardRows } from './views.ts';

/** Unlabelled images for semi-supervised learning. */
export interface UnlabelledSet {
  /** The caller disposes of it. */
  data: Dataset;
  /** Share of the unlabelled rows that it gives, relative to the other sets'; for all sets or for none. Defaults to every image once a pass. */
  weight?: number;
  /** [data.length, bins] the teacher's score distributions of the plain images. Needed for `targets: 'cached'`. */
  distributions?: Float32Array;
}

/** How a learner is built. */
export interface LearnerOptions extends BackboneChoice {
  /** Width of the head's hidden layer; 0 for a linear head. Defaults to the width of the encoder's features. */
  head?: number;
  /** Factor on the learning rate of the encoder, against the head's; 0 trains the head alone. Defaults to 1. */
  backboneRate?: number;
}

/** What `trainScorer` and `trainMutual` have in common; see {@link TrainerOptions} for the rest. */
export interface ScorerTrainingOptions extends TrainerOptions {
  /** Images with ratings; the caller disposes of it. `batchSize` counts these alone and defaults to 64, an epoch is a pass over them. */
  labelled: RatedDataset;
  /**
   * Augmentation of training images. A score is of the whole picture and its colours, so it is mild where it is not given: crops of at least 0.8
   * of the area and little distorted, and mirroring. 'none' for none at all.
   */
  augment?: AugmentOptions | 'none';
  /** Indices of the images to train on, and of those that the best checkpoint is chosen by. Default to all, and to none. */
  items?: { train?: ArrayLike<number>; validation?: ArrayLike<number> };
  /** Images without ratings. Defaults to none: supervised learning. */
  unlabelled?: readonly UnlabelledSet[];
  /** Weight of the unlabelled term against the labelled one. Defaults to 1. */
  unlabelledWeight?: number;
  /** Unlabelled rows of a step for each labelled one, over 0. Defaults to 1. */
  ratio?: number;
  /**
   * Pseudo labels whose distribution has a larger standard deviation than this do not count, in units of the score: what the teacher is
   * unsure of. Defaults to none, every pseudo label counts.
   */
  maxDeviation?: number;
  /** Form of the distance between distributions, for labels and pseudo labels. Defaults to 'squared', which is the paper's. */
  emd?: EmdForm;
}

/** Names of {@link LearnerOptions} and of {@link ScorerTrainingOptions}. */
export const LEARNER_OPTIONS: readonly string[] = [
  ...BACKBONE_CHOICE,
  ...Object.keys({
    head: true,
    backboneRate: true,
  } satisfies Record<Exclude<keyof LearnerOptions, keyof BackboneChoice>, true>),
];
export const SCORER_OPTIONS: readonly string[] = [
  ...TRAINER_OPTIONS,
  ...Object.keys({
    labelled: true,
    items: true,
    unlabelled: true,
    unlabelledWeight: true,
    ratio: true,
    maxDeviation: true,
    emd: true,
  } satisfies Record<Exclude<keyof ScorerTrainingOptions, keyof TrainerOptions>, true>),
];

/** How the training of a scorer ended. */
export interface TrainedScorer {
  /** The exported model folder; see `openScorer`. */
  model: string;
  steps: number;
  best: { step: number; value: number } | undefined;
  /** Metrics of the last validation, on the images of `items.validation`: `srcc`, `plcc`, `squaredEmd`. */
  validation: Readonly<Record<string, number>> | undefined;
  /** Learned values. */
  parameters: number;
  /** Images that could not be read; others took their place. */
  skipped: number;
  /** How fast loader and steps were, of the steps that this call made. */
  speed: Speed | undefined;
}

/** A learner, with names that are its own within the executor. */
export interface Learner {
  readonly program: ScorerProgram;
  readonly names: ReadonlyMap<string, string>;
}

/** Options with defaults, and the learners. */
export interface Prepared {
  readonly learners: Readonly<Record<string, Learner>>;
  readonly training: ResolvedTrainer;
  readonly train: Int32Array;
  readonly validation: Int32Array;
  /** Unlabelled rows of a step. */
  readonly rows: number;
  readonly weight: number;
  readonly maxDeviation: number | undefined;
  readonly form: EmdForm;
}

/** Holds options against the images that they are for, and throws what training would, before anything of it is built. */
export function checkLearners(
  options: ScorerTrainingOptions,
  named: Readonly<Record<string, LearnerOptions>>,
): void {
  plan(options);
  for (const { init, backbone, head, backboneRate } of Object.values(named)) {
    if (init === undefined) visionConfig(backbone);
    if (head !== undefined) expectInteger('head', head, 0);
    if (backboneRate !== undefined) expectNumber('backboneRate', backboneRate, 0);
  }
}

/** Checks options, and builds the learners that are named. */
export async function prepare(
  options: ScorerTrainingOptions,
  named: Readonly<Record<string, LearnerOptions>>,
): Promise<Prepared> {
  const planned = plan(options);
  const { seed } = planned.training;
  const learners: Record<string, Learner> = {};
  for (const [graph, learner] of Object.entries(named)) {
    const backbone = await chooseBackbone(learner, seed);
    const program = buildScorer(backbone, options.labelled.scale, {
      hidden: expectInteger('head', learner.head ?? backbone.width, 0),
      rate: expectNumber('backboneRate', learner.backboneRate ?? 1, 0),
      seed,
    });
    learners[graph] = {
      program,
      names: new Map(program.parameters.map(({ name }) => [name, `${graph}/${name}`])),
    };
  }
  return { learners, ...planned };
}

/** Options with defaults. */
function plan(options: ScorerTrainingOptions): Omit<Prepared, 'learners'> {
  const { labelled, unlabelled = [] } = options;
  const indices = (name: 'train' | 'validation', usual: Int32Array) =>
    Int32Array.from(options.items?.[name] ?? usual, (index) =>
      expectInteger(`items.${name}`, index, 0, labelled.length - 1),
    );
  const train = indices(
    'train',
    Int32Array.from({ length: labelled.length }, (_, i) => i),
  );
  const validation = indices('validation', new Int32Array(0));
  if (train.length < 2)
    throw new CidError('INVALID_DATA', `There are ${train.length} labelled images; at least 2 are needed`);
  const weights = unlabelled.map(({ weight }, i) =>
    weight === undefined ? undefined : expectPositive(`unlabelled[${i}].weight`, weight),
  );
  if (new Set(weights.map((weight) => weight === undefined)).size > 1)
    failType('weights of all sets or of none', 'unlabelled', unlabelled);
  const augment = options.augment ?? { scale: [0.8, 1], ratio: [0.9, 1.1], flip: 0.5 };
  const training = resolveTrainer({ ...options, augment }, train.length, validation.length, 64);
  const ratio = expectPositive('ratio', options.ratio ?? 1);
  return {
    training,
    train,
    validation,
    rows: unlabelled.length > 0 ? Math.max(1, Math.round(ratio * training.batchSize)) : 0,
    weight: expectNumber('unlabelledWeight', options.unlabelledWeight ?? 1, 0),
    maxDeviation:
      options.maxDeviation === undefined ? undefined : expectPositive('maxDeviation', options.maxDeviation),
    form: expectOneOf('emd', options.emd ?? 'squared', ['squared', 'root']),
  };
}

/** Where the pseudo labels come from. */
export interface Guidance {
  readonly stage: string;
  /** The learner whose rank correlation decides which checkpoint is best, and which is exported as `model`. */
  readonly primary: string;
  readonly viewSize: number | undefined;
  readonly pseudo: Pseudo;
  /** What of them is made along with a batch, while earlier steps train. */
  readonly targets?: ((batch: ScoreBatch, signal?: AbortSignal) => Promise<unknown>) | undefined;
  readonly identity: Json;
}

/** Trains all learners together, or goes on with what is in the folder, and exports each. */
export async function trainLearners(
  options: ScorerTrainingOptions,
  run: Prepared,
  guidance: Guidance,
): Promise<TrainedScorer> {
  const { labelled, unlabelled = [] } = options;
  const { learners, training, train } = run;
  const { bins } = labelled.scale;
  const backbones = Object.fromEntries(
    Object.entries(learners).map(([graph, { program }]) => [graph, program.backbone]),
  );
  const viewSize = Math.max(
    guidance.viewSize ?? 0,
    ...Object.values(backbones).map(({ imageSize }) => imageSize),
  );
  const pool = (sets: ConstructorParameters<typeof ImagePool>[0]) =>
    new ImagePool(sets, { viewSize, cacheBytes: training.cacheBytes, onSkip: options.onSkip });
  const own = pool([{ data: labelled, items: train }]);
  const others = pool(
    unlabelled.map(({ data }) => ({ data, items: Int32Array.from({ length: data.length }, (_, i) => i) })),
  );
  const labels = new Float32Array(train.length * bins);
  for (const [place, item] of train.entries())
    labels.set(labelled.distributions.subarray(item * bins, (item + 1) * bins), place * bins);
  const weights = unlabelled.map(({ weight }) => weight);
  const { result, values, parameters } = await optimise({
    graphs: Object.fromEntries(
      Object.entries(learners).map(([graph, { program, names }]) => {
        const outputs = program.graph.outputs.filter(({ name }) => name === LOGITS);
        return [graph, rename({ ...program.graph, name: graph, outputs }, names)];
      }),
    ),
    parameters: Object.values(learners).flatMap(({ program, names }) =>
      program.parameters.map((parameter) => ({ ...parameter, name: names.get(parameter.name)! })),
    ),
    towers: Object.keys(learners).map(scoreTower),
    source: scoreSource({
      learners: backbones,
      labelled: own,
      labels,
      bins,
      training,
      unlabelled:
        run.rows === 0
          ? undefined
          : {
              pool: others,
              mixture: new Mixture(
                unlabelled.map(({ data }) => data.length),
                weights[0] === undefined ? undefined : (weights as number[]),
                training.seed,
              ),
              rows: run.rows,
              viewSize: guidance.viewSize,
            },
    }),
    loss: scoreLoss({
      graphs: Object.keys(learners),
      centres: binCentres(labelled.scale),
      guided: run.rows > 0,
      weight: run.weight,
      maxDeviation: run.maxDeviation,
      form: run.form,
      pseudo: guidance.pseudo,
    }),
    targets: guidance.targets,
    training,
    options,
    stage: guidance.stage,
    identity: identityOf(options, run, guidance),
    validate: await validation(options, run, guidance),
  });
  for (const [graph, { program, names }] of Object.entries(learners)) {
    const folder = join(options.folder, graph === guidance.primary ? 'model' : `${graph}-model`);
    const named = new Map([...names].map(([name, inside]) => [name, values.get(inside)!]));
    await exportScorer(folder, program, named, training.exportDtype);
  }
  return {
    model: join(options.folder, 'model'),
    steps: result.steps,
    best: result.best,
    validation: result.validation?.metrics,
    speed: result.speed,
    parameters,
    skipped: own.broken + others.broken,
  };
}

/** Agreement with the labels of held-out images, seen plainly. The value is the primary learner's rank correlation. */
async function validation(
  { labelled }: ScorerTrainingOptions,
  { learners, training, validation: items }: Prepared,
  { primary }: Guidance,
): Promise<((executor: Executor) => Promise<Validation>) | undefined> {
  if (items.length === 0) return undefined;
  const count = Math.min(items.length, LARGEST_VALIDATION);
  const chosen = Array.from(partOf(labelled, items, { count }), (item) => ({ data: labelled, item }));
  const views = new Map<string, Awaited<ReturnType<typeof centralPixels>>>();
  for (const [graph, { program }] of Object.entries(learners))
    views.set(graph, await centralPixels(chosen, program.backbone));
  const kept = views.get(primary)!.kept.map(({ item }) => item);
  if (kept.length === 0) return undefined;
  const { scale } = labelled;
  const centres = binCentres(scale);
  const truth = {
    scale,
    scores: Float64Array.from(kept, (item) => labelled.scores[item]!),
    distributions: Float32Array.from(
      kept.flatMap((item) =>
        Array.from(labelled.distributions.subarray(item * scale.bins, (item + 1) * scale.bins)),
      ),
    ),
  };
  return async (executor) => {
    const metrics: Record<string, number> = {};
    let value = Number.NaN;
    for (const [graph, { program }] of Object.entries(learners)) {
      const { imageSize } = program.backbone;
      const { pixels } = views.get(graph)!;
      const tower = scoreTower(graph);
      const logits = await forwardRows(
        executor,
        {
          graph,
          inputs: (batch, from, to) =>
            tower.inputs({ pixels: { [graph]: batch.pixels }, imageSizes: { [graph]: imageSize } }, from, to),
        },
        { pixels, imageSize },
        training,
      );
      const distributions = softmaxRows(logits, scale.bins);
      const scores = Float64Array.from({ length: kept.length }, (_, row) =>
        meanScore(distributions.subarray(row * scale.bins, (row + 1) * scale.bins), centres),
      );
      const found = await measureScores({ scores, distributions }, truth, { resamples: 0 });
      const prefix = views.size > 1 ? `${graph}/` : '';
      // A correlation with scores that are all equal says nothing: there is no value then.
      for (const name of ['srcc', 'plcc', 'squaredEmd'] as const) {
        const estimate = found[name]?.value;
        if (typeof estimate === 'number') metrics[`${prefix}${name}`] = estimate;
      }
      if (graph === primary) value = found.srcc.value ?? Number.NaN;
    }
    return { value, metrics };
  };
}

function identityOf(
  { labelled, unlabelled = [] }: ScorerTrainingOptions,
  run: Prepared,
  guidance: Guidance,
): string {
  return hashValue({
    training: decisiveTraining(run.training),
    labelled: labelled.hash,
    train: Array.from(run.train),
    validation: Array.from(run.validation),
    learners: Object.entries(run.learners).map(([graph, { program }]) => ({
      graph,
      backbone: program.backbone.identity,
      rates: program.parameters.map(({ trainable, rate }) => (trainable ? (rate ?? 1) : 0)),
      head: program.parameters.filter(({ name }) => name.startsWith('head.')).map(({ dims }) => [...dims]),
    })),
    unlabelled: unlabelled.map(({ data, weight }) => ({ data: data.hash, weight: weight ?? null })),
    rows: run.rows,
    weight: run.weight,
    maxDeviation: run.maxDeviation ?? null,
    form: run.form,
    guidance: guidance.identity,
  });
}
