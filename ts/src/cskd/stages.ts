import { join } from 'node:path';
import type { Dataset } from '../data/dataset.ts';
import { openStore } from '../data/store.ts';
import { storeStage } from '../encoder/embed-stage.ts';
import { type EncoderFiles, encoderIdentity, hashModel } from '../encoder/identity.ts';
import { openImageEncoder } from '../encoder/image-encoder.ts';
import type { Precision } from '../program/precision.ts';
import type { Json } from '../run/hash.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { describeSpeed, speedNotes } from '../run/speed.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import { type BackboneChoice, backboneInputs } from '../student/backbone.ts';
import { chosenPrecision } from '../student/optimise.ts';
import type { TrainerOptions } from '../student/options.ts';
import { type AlignedBackbone, type AlignOptions, align, checkAlign } from './align.ts';
import type { AestheticsConfig, ImageSetSource, LabelsConfig } from './config.ts';
import { checkLearners, type LearnerOptions, type TrainedScorer } from './learners.ts';
import { openScorer } from './scorer.ts';
import { joinStore, openImageSets, openImages, openLabels } from './sources.ts';
import { type TrainScorerOptions, trainMutual, trainScorer } from './train.ts';

/** Rows of a shard, and images of a run of a model, where features or distributions are computed before. */
const SHARD = 4096;
const BATCH = 64;
/** What a training folder holds: checkpoints, metrics of its own, the exported models. */
const OWNS = ['last.safetensors', 'best.safetensors', 'metrics.jsonl', 'model', 'teacher-model'] as const;

export interface FeaturesStageOptions extends StageSettings {
  /** Name of the stage. Defaults to 'features'. */
  readonly name?: string;
  /** Images: a folder, a list or WebDataset tars. */
  readonly set: ImageSetSource;
  /** Model folder of the frozen CLIP; its image side will do. */
  readonly clip: string;
  /** How the CLIP is opened: execution providers, and its file by another name. Defaults to the CPU and the usual name. */
  readonly encoder?: EncoderFiles | undefined;
}

/** Computes a frozen CLIP's features of images, into an embedding store. Resumable; broken images are left out and listed. */
export async function featuresStage(options: FeaturesStageOptions): Promise<StageResult> {
  const { clip, encoder = {}, threads } = options;
  const dataset = await openImages(options.set);
  try {
    return await storeStage({
      ...options,
      name: options.name ?? 'features',
      dataset,
      model: await hashModel(clip),
      open: () => openClip(clip, encoder, threads),
      identity: encoderIdentity(encoder),
      ...STORED,
    });
  } finally {
    await dataset.dispose();
  }
}

const STORED = { batchSize: BATCH, dtype: 'float32', background: '#ffffff', shardSize: SHARD } as const;

function openClip(clip: string, { providers, visionModel }: EncoderFiles, threads: number | undefined) {
  return openImageEncoder(clip, { batchSize: BATCH, ...defined({ providers, visionModel, threads }) });
}

export interface PseudoStageOptions extends StageSettings {
  /** Name of the stage. Defaults to 'pseudo'. */
  readonly name?: string;
  /** Images to rate; the caller disposes of them. */
  readonly data: Dataset;
  /** Model folder of a scorer. */
  readonly scorer: string;
}

/** Computes a scorer's distributions of images, into an embedding store: the embedding of an image is its distribution. */
export async function pseudoStage(options: PseudoStageOptions): Promise<StageResult> {
  const { scorer, threads } = options;
  return storeStage({
    ...options,
    name: options.name ?? 'pseudo',
    dataset: options.data,
    model: await hashModel(scorer),
    open: () => openScorer(scorer, { batchSize: BATCH, ...defined({ threads }) }),
    identity: {},
    ...STORED,
  });
}

/** What the stages of training have in common. */
interface TrainingStageOptions extends StageSettings {
  /** Name of the stage in the record, in messages and in the metrics. */
  readonly name: string;
  /** Defaults to 0. */
  readonly seed?: number | undefined;
  /** Where a line of metrics a step goes. Defaults to `metrics.jsonl` in the stage's folder. */
  readonly metrics?: string | undefined;
}

export interface AlignStageOptions extends TrainingStageOptions {
  /** Images to align on, with their weights. */
  readonly sets: readonly ImageSetSource[];
  /** Folders of {@link featuresStage}, one a set; needed for cached targets. */
  readonly features?: readonly string[] | undefined;
  /** Model folder of the frozen CLIP. */
  readonly clip: string;
  /** How the CLIP is opened: execution providers, and its file by another name. Defaults to the CPU and the usual name. */
  readonly encoder?: EncoderFiles | undefined;
  /** The encoder to align. */
  readonly backbone: BackboneChoice;
  /** Options of `align`, as in the section `align` of a configuration: see {@link AlignOptions} for meaning, ranges and defaults. */
  readonly training: Omit<AestheticsConfig['align'], 'unlabelled'>;
}

/** Aligns an encoder with a frozen CLIP; see `align`. The aligned model is in `model/` of the folder. */
export async function alignStage(options: AlignStageOptions): Promise<StageResult> {
  const { name, training, backbone, seed = 0, features = [], clip, encoder = {}, threads } = options;
  const online = training.targets === 'online';
  const { weights, ...rest } = training;
  const shared = {
    ...(defined(rest) as Partial<AlignOptions>),
    ...(weights && { weights: defined(weights) }),
    ...defined(backbone),
    ...trainerSettings(options),
  };
  const weightOf = (set: number) => defined({ weight: options.sets[set]!.weight });
  const opened = await openImageSets(options.sets);
  try {
    const inputs: Record<string, string> = {
      clip: await hashModel(clip),
      ...(await backboneInputs(backbone)),
    };
    for (const [i, data] of opened.entries()) {
      inputs[`data-${i + 1}`] = data.hash;
      if (!online) inputs[`features-${i + 1}`] = (await openStore(features[i]!, { verify: false })).hash;
    }
    return await runStage({
      name,
      folder: options.folder,
      inputs,
      options: {
        ...trainingOptions(training, seed),
        ...backboneOptions(backbone),
        weights: options.sets.map(({ weight }) => weight ?? null),
        ...encoderIdentity(encoder),
      },
      owns: OWNS,
      ...defined({ existing: options.existing, log: options.log }),
      check: async () => checkAlign({ ...shared, sets: opened.map((data, i) => ({ data, ...weightOf(i) })) }),
      work: async () => {
        const frozen = online ? await openClip(clip, encoder, threads) : undefined;
        try {
          const sets: AlignOptions['sets'] = await Promise.all(
            opened.map(async (data, i) => {
              if (online) return { data, ...weightOf(i) };
              const found = await joinStore(data, await openStore(features[i]!, { verify: false }));
              const { length } = found.items;
              return {
                data: found.data,
                features: { data: found.rows, rows: length, dim: found.dim },
                ...weightOf(i),
              };
            }),
          );
          const result = await align({ ...shared, sets, ...defined({ frozen }) });
          return trained(result, options);
        } finally {
          await frozen?.dispose();
        }
      },
    });
  } finally {
    await Promise.all(opened.map((data) => data.dispose()));
  }
}

export interface ScorerStageOptions extends TrainingStageOptions {
  /** Images with ratings, as in the section `labels` of a configuration. */
  readonly labels: LabelsConfig;
  /** The encoder and head to train. */
  readonly learner: LearnerOptions;
  /** Options of `trainScorer`, as in the section `train` of a configuration: see {@link TrainScorerOptions} for meaning, ranges and defaults. */
  readonly training: Omit<AestheticsConfig['train'], 'unlabelled' | 'mutual'>;
  /** Images without labels, and who rates them. None: labels alone. */
  readonly guide?:
    | {
        readonly sets: readonly ImageSetSource[];
        /** Folders of {@link pseudoStage}, one a set; needed for cached targets. */
        readonly pseudo?: readonly string[] | undefined;
        /** The teacher's model folder; needed for targets of views. */
        readonly teacher?: string | undefined;
        /** The other learner, where both learn from each other. */
        readonly mutual?: LearnerOptions | undefined;
      }
    | undefined;
}

/** Trains a scorer; see `trainScorer` and `trainMutual`. The scorer is in `model/` of the folder. */
export async function scorerStage(options: ScorerStageOptions): Promise<StageResult> {
  const { name, learner, training, seed = 0, guide, threads } = options;
  const { mutual, pseudo = [], sets = [] } = guide ?? {};
  const online = guide !== undefined && mutual === undefined && training.targets === 'online';
  const cached = guide !== undefined && mutual === undefined && !online;
  const opened = await openImageSets(sets);
  const labels = await openLabels(options.labels).catch(async (error) => {
    await Promise.all(opened.map((data) => data.dispose()));
    throw error;
  });
  try {
    const { rated, splits } = labels;
    const { targets, head, backboneRate, ...common } = defined(training) as Partial<TrainScorerOptions>;
    const shared = {
      ...common,
      ...trainerSettings(options),
      labelled: rated,
      items: { train: splits.train, validation: splits.validation },
    };
    const own = defined({ head, backboneRate });
    const weightOf = (set: number) => defined({ weight: sets[set]!.weight });
    const inputs: Record<string, string> = { labels: rated.hash, ...(await backboneInputs(learner)) };
    for (const [name, hash] of Object.entries(mutual ? await backboneInputs(mutual) : {}))
      inputs[`teacher-${name}`] = hash;
    for (const [i, data] of opened.entries()) {
      inputs[`data-${i + 1}`] = data.hash;
      if (cached) inputs[`pseudo-${i + 1}`] = (await openStore(pseudo[i]!, { verify: false })).hash;
    }
    if (online) inputs.teacher = await hashModel(guide.teacher!);
    return await runStage({
      name,
      folder: options.folder,
      inputs,
      options: {
        ...trainingOptions(guide ? training : supervised(training), seed),
        ...backboneOptions(learner),
        ...(mutual && { teacher: backboneOptions(mutual) }),
        labels: labelOptions(options.labels),
        ...(guide && { weights: sets.map(({ weight }) => weight ?? null) }),
      },
      owns: OWNS,
      ...defined({ existing: options.existing, log: options.log }),
      check: async () =>
        checkLearners(
          { ...shared, unlabelled: opened.map((data, i) => ({ data, ...weightOf(i) })) },
          {
            student: { ...own, ...defined(learner) },
            ...(mutual && { teacher: { ...own, ...defined(mutual) } }),
          },
        ),
      work: async () => {
        const teacher = online
          ? await openScorer(guide.teacher!, { batchSize: BATCH, ...defined({ threads }) })
          : undefined;
        try {
          const unlabelled = await Promise.all(
            opened.map(async (data, i) => {
              if (!cached) return { data, ...weightOf(i) };
              const found = await joinStore(data, await openStore(pseudo[i]!, { verify: false }));
              return { data: found.data, distributions: found.rows, ...weightOf(i) };
            }),
          );
          const result = mutual
            ? await trainMutual({
                ...shared,
                unlabelled,
                student: { ...own, ...defined(learner) },
                teacher: { ...own, ...defined(mutual) },
              })
            : await trainScorer({
                ...shared,
                unlabelled,
                ...own,
                ...defined(learner),
                ...defined({ targets, teacher }),
              });
          return trained(result, options, mutual ? ['model', 'teacher-model'] : ['model']);
        } finally {
          await teacher?.dispose();
        }
      },
    });
  } finally {
    await Promise.all([labels.rated.dispose(), ...opened.map((data) => data.dispose())]);
  }
}

/** Options without those that only matter with unlabelled images. */
function supervised({
  targets: _targets,
  unlabelledWeight: _weight,
  ratio: _ratio,
  maxDeviation: _deviation,
  ...rest
}: ScorerStageOptions['training']): ScorerStageOptions['training'] {
  return rest;
}

/** Which of the rated images are learned from. */
function labelOptions({ validation, test, count, share, splitSeed }: LabelsConfig): Json {
  return defined({ validation, test, count, share, splitSeed }) as Json;
}

/** All options but those that change the model by rounding at most. */
function trainingOptions(training: object, seed: number): Record<string, Json> {
  const {
    cacheBytes: _cacheBytes,
    prefetchBytes: _prefetchBytes,
    executor: _executor,
    maxActivationMemory: _maxActivationMemory,
    precision,
    ...rest
  } = training as Record<string, Json>;
  return { ...rest, ...chosenPrecision(precision as Precision | undefined), seed };
}

/** The choice of an encoder as a stage's record has it: a file counts by its hash, among the inputs. */
function backboneOptions({ init, backbone, features, ...rest }: LearnerOptions): Record<string, Json> {
  return {
    ...(init === undefined ? { backbone: (backbone ?? 'mini-64') as Json } : {}),
    ...(defined({ outputOf: features, ...rest }) as Record<string, Json>),
  };
}

function trainerSettings(options: TrainingStageOptions): TrainerOptions {
  const { name, folder, seed = 0, device, threads, maxDeviceMemory, metrics } = options;
  const { signal, onProgress, log } = options;
  const note = speedNotes();
  return {
    folder,
    seed,
    stage: name,
    ...defined({ device, threads, maxDeviceMemory, metrics, signal }),
    onStep: ({ step, steps, terms, speed }) =>
      onProgress?.({
        label: name,
        done: step,
        total: steps,
        unit: 'steps',
        note: `loss ${terms.total.toPrecision(4)}, ${note(speed)}`,
      }),
    onValidation: (step, metrics) => {
      const parts = Object.entries(metrics).map(([metric, value]) => `${metric} ${value.toFixed(4)}`);
      log?.(`${name}: step ${step}, validation: ${parts.join(', ')}`);
    },
    onSkip: (key, reason) => log?.(`${name}: left out ${key}: ${reason}`),
    onFallback: (reason) => log?.(`${name}: trained by ONNX Runtime, which is slower: ${reason}`),
  };
}

function trained(
  { steps, best, validation, parameters, skipped, speed }: AlignedBackbone | TrainedScorer,
  { name, log }: TrainingStageOptions,
  outputs: string[] = ['model'],
): { outputs: string[]; summary: Record<string, Json> } {
  if (speed) log?.(`${name}: ${describeSpeed(speed)}`);
  return {
    outputs,
    summary: {
      model: 'model',
      steps,
      parameters,
      skipped,
      ...(best && { best }),
      ...(validation && { validation }),
      ...(speed && { speed: { ...speed } }),
    },
  };
}

/** Model folder that a stage of training wrote. */
export const modelOf = (stageFolder: string) => join(stageFolder, 'model');
