import { join } from 'node:path';
import type { Dataset } from '../data/dataset.ts';
import type { Encoder } from '../encoder/encoder.ts';
import { readModelJson } from '../encoder/tokenizer.ts';
import { softTargets } from '../kernels/loss.ts';
import type { Matrix } from '../kernels/rows.ts';
import {
  expectNumber,
  expectObject,
  expectOneOf,
  expectPositive,
  failRange,
  failType,
} from '../native/check.ts';
import { hashBytes, type Json } from '../run/hash.ts';
import { studentConfig } from '../student/config.ts';
import { fitStudent, kernelOptions, type PreparedData, prepareData } from '../student/fit.ts';
import { loadStudent } from '../student/load.ts';
import {
  type CidLossOptions,
  cachedTargets,
  cidLoss,
  onlineTargets,
  type TermWeights,
} from '../student/losses.ts';
import { type StudentModel, startStudent } from '../student/model.ts';
import { TRAINING_OPTIONS, type TrainedStudent, type TrainingOptions } from '../student/options.ts';
import { pickRows } from '../student/tensors.ts';

/**
 * Distillation of a CLIP by cluster and instance discrimination (CLIP-CID); with `clusterCe`, `clusterKl` and `instance` 0 it
 * is a CLIP trained alone on the same budget. See {@link TrainingOptions} for the rest.
 */
export interface DistillOptions extends TrainingOptions {
  /** Images with captions; the caller disposes of it. */
  data: Dataset;
  /**
   * Indices of the items to use, such as those that balancing kept. Defaults to all. Row r of `embeddings` and `labels`
   * belongs to `items[r]`.
   */
  items?: ArrayLike<number>;
  /** The teacher's model folder; its tokenizer becomes the student's. */
  teacherFolder: string;
  /** The teacher, opened; needed for `targets: 'online'`, and where captions of one item are drawn. The caller disposes of it. */
  teacher?: Encoder;
  /** The teacher's embeddings, [items, Dt] each; the text's is that of an item's first caption. Needed unless only the CLIP loss is used. */
  embeddings?: { image: Matrix; text: Matrix };
  /** Centres [K, Dt] and the centre of each item, 0 to K − 1. Needed where `clusterCe` or `clusterKl` is over 0. */
  clusters?: { centroids: Matrix; labels: Int32Array };
  /**
   * What the student is compared with: the cached embeddings of the plain image, or the teacher run on each augmented view
   * (needs `teacher`, and its time). Defaults to 'cached'.
   */
  targets?: 'cached' | 'online';
  /** Weights of the terms. Each defaults to 1. */
  weights?: { clip?: number; clusterCe?: number; clusterKl?: number; instance?: number };
  /** Temperature of the student's logits over the centres. Defaults to 0.05. */
  temperature?: number;
  /** Temperature of the teacher's. Defaults to `temperature`. */
  teacherTemperature?: number;
  /** Which teacher embedding a student's is compared with in the instance term: of the same modality, the other, or both. Defaults to 'same'. */
  pairing?: 'same' | 'cross' | 'both';
  /** Share of the centres used in a step, (0, 1]; those of the batch always are. Defaults to 1. */
  sampleRate?: number;
  /** Also trains the centres, starting from `clusters.centroids`. Defaults to false. */
  learnedCentres?: boolean;
}

/** The part of the options that is about the teacher, checked and with defaults. */
interface Guidance {
  weights: TermWeights;
  /** Any term but CLIP's has weight. */
  guided: boolean;
  clustered: boolean;
  targets: 'cached' | 'online';
  temperature: number;
  teacherTemperature: number;
  pairing: 'same' | 'cross' | 'both';
  sampleRate: number;
  learned: boolean;
}

/** Holds options against the data that they are for, and throws what {@link distill} would, before embeddings and a teacher are at hand. */
export function checkDistill(options: DistillOptions): void {
  expectObject('options', options, OPTIONS);
  resolveGuidance(options);
  if (options.init === undefined) studentConfig(options.student);
  prepareData(options.data, options.items, options);
}

/** Trains a student from a teacher; see {@link DistillOptions}. Source of the terms: `clusterInstanceLoss`. */
export async function distill(options: DistillOptions): Promise<TrainedStudent> {
  expectObject('options', options, OPTIONS);
  const guidance = resolveGuidance(options);
  expectGuides(options, guidance);
  const prepared = prepareData(options.data, options.items, options);
  checkRows(options, guidance, prepared);
  const student = await chooseStudent(options, prepared);
  const teacherDim = guidance.guided ? options.embeddings!.image.dim : undefined;
  const { centroids } = options.clusters ?? {};
  const guide = guidance.guided ? await teacherSide(options, guidance, prepared) : {};
  const { weights, temperature, teacherTemperature, pairing } = guidance;
  return fitStudent({
    prepared,
    options,
    stage: 'distill',
    student,
    heads: {
      instance: weights.instance > 0,
      ...(teacherDim !== undefined && { teacherDim }),
      ...(guidance.learned && {
        centroids: { data: centroids!.data as Float32Array, rows: centroids!.rows },
      }),
    },
    loss: cidLoss({
      dim: student.embedDim,
      kernel: kernelOptions(options),
      seed: prepared.training.seed,
      weights,
      temperature,
      teacherTemperature,
      pairing,
      ...guide,
    }),
    identity: identityOf(options, guidance),
    ...(guidance.guided &&
      guidance.targets === 'online' && { viewSize: options.teacher!.imageSize, targets: guide.targets }),
  });
}

function resolveGuidance(options: DistillOptions): Guidance {
  const weight = (name: keyof TermWeights) =>
    expectNumber(`weights.${name}`, options.weights?.[name] ?? 1, 0);
  const weights: TermWeights = {
    clip: weight('clip'),
    clusterCe: weight('clusterCe'),
    clusterKl: weight('clusterKl'),
    instance: weight('instance'),
  };
  if (Object.values(weights).every((value) => value === 0)) failRange('a weight over 0', 'weights', weights);
  const clustered = weights.clusterCe > 0 || weights.clusterKl > 0;
  const guided = clustered || weights.instance > 0;
  const targets = expectOneOf('targets', options.targets ?? 'cached', ['cached', 'online']);
  const temperature = expectPositive('temperature', options.temperature ?? 0.05);
  const sampleRate = expectPositive('sampleRate', options.sampleRate ?? 1);
  if (sampleRate > 1) failRange('a share of at most 1', 'sampleRate', sampleRate);
  return {
    weights,
    guided,
    clustered,
    targets,
    temperature,
    teacherTemperature: expectPositive('teacherTemperature', options.teacherTemperature ?? temperature),
    pairing: expectOneOf('pairing', options.pairing ?? 'same', ['same', 'cross', 'both']),
    sampleRate,
    learned: clustered && (options.learnedCentres ?? false),
  };
}

/** What the terms are made of has to be there. */
function expectGuides(
  { embeddings, teacher, clusters }: DistillOptions,
  { guided, targets, clustered }: Guidance,
): void {
  if (guided && !embeddings) failType("the teacher's embeddings", 'embeddings', embeddings);
  if (guided && targets === 'online' && !teacher) failType('an opened teacher', 'teacher', teacher);
  if (clustered && !clusters) failType('centres and labels', 'clusters', clusters);
}

/** Rows that do not belong together would train the student on other images' targets without a sign. */
function checkRows(options: DistillOptions, guidance: Guidance, prepared: PreparedData): void {
  if (!guidance.guided) return;
  const count = options.items?.length ?? options.data.length;
  const { image, text } = options.embeddings!;
  for (const [name, matrix] of Object.entries({ image, text })) {
    if (matrix.rows !== count) failRange(`${count} rows, one an item,`, `embeddings.${name}`, matrix.rows);
    if (!(matrix.data instanceof Float32Array)) failType('float32', `embeddings.${name}`, matrix.data);
  }
  if (text.dim !== image.dim) failRange(`${image.dim}, as the images',`, 'embeddings.text.dim', text.dim);
  const { teacher } = options;
  if (teacher && teacher.dim !== image.dim)
    failRange(`${teacher.dim}, as the teacher's,`, 'embeddings.image.dim', image.dim);
  if (!guidance.clustered) return;
  const { centroids, labels } = options.clusters!;
  if (centroids.dim !== image.dim)
    failRange(`${image.dim}, as the embeddings',`, 'clusters.centroids.dim', centroids.dim);
  if (labels.length !== count) failRange(`${count} labels, one an item,`, 'clusters.labels', labels);
  for (const row of prepared.rows) {
    const label = labels[row]!;
    if (!(label >= 0 && label < centroids.rows)) {
      failRange(`a centre from 0 to ${centroids.rows - 1}`, `clusters.labels[${row}]`, label);
    }
  }
}

async function chooseStudent(options: DistillOptions, prepared: PreparedData): Promise<StudentModel> {
  if (options.init !== undefined) return loadStudent(options.init);
  const { teacherFolder } = options;
  const [json, config] = await Promise.all(
    ['tokenizer.json', 'tokenizer_config.json'].map((name) => readModelJson(join(teacherFolder, name))),
  );
  return startStudent(options, prepared.training.seed, { json: json!, config: config! }, teacherFolder);
}

async function teacherSide(
  options: DistillOptions,
  guidance: Guidance,
  prepared: PreparedData,
): Promise<Pick<CidLossOptions, 'teacherDim' | 'targets' | 'clusters'>> {
  const { image, text } = options.embeddings!;
  const teacherDim = image.dim;
  const ownImages = pickRows(image.data as Float32Array, prepared.rows, teacherDim);
  const texts = await textTargets(options, guidance, prepared, text);
  const targets =
    guidance.targets === 'online'
      ? onlineTargets(options.teacher!, texts)
      : cachedTargets(ownImages, texts, teacherDim);
  if (!guidance.clustered) return { teacherDim, targets };
  const { centroids, labels } = options.clusters!;
  // With fixed targets and centres the teacher's side of the KL term is the same in every step.
  const constant =
    guidance.targets === 'cached' &&
    !guidance.learned &&
    guidance.sampleRate === 1 &&
    guidance.weights.clusterKl > 0;
  const soft = constant
    ? await softTargets({ data: ownImages, rows: prepared.rows.length, dim: teacherDim }, centroids, {
        temperature: guidance.teacherTemperature,
        ...kernelOptions(options),
        ...(options.signal && { signal: options.signal }),
      })
    : undefined;
  return {
    teacherDim,
    targets,
    clusters: {
      centroids,
      labels: Int32Array.from(prepared.rows, (row) => labels[row]!),
      learned: guidance.learned,
      sampleRate: guidance.sampleRate,
      ...(soft && { soft }),
    },
  };
}

/** The teacher's embedding of every distinct caption: from the rows where each item has but one in use, else from the teacher. */
async function textTargets(
  options: DistillOptions,
  guidance: Guidance,
  { captions, rows }: PreparedData,
  text: Matrix,
): Promise<Float32Array> {
  const { texts, ofItem } = captions;
  if (guidance.weights.instance === 0 || ofItem.every((own) => own.length === 1)) {
    const table = new Float32Array(texts.length * text.dim);
    const data = text.data as Float32Array;
    for (const [place, own] of ofItem.entries()) {
      const row = rows[place]!;
      table.set(data.subarray(row * text.dim, (row + 1) * text.dim), own[0]! * text.dim);
    }
    return table;
  }
  if (!options.teacher) {
    failType(
      "an opened teacher, since items have several captions and `captions` is 'random',",
      'teacher',
      options.teacher,
    );
  }
  return options.teacher.embedTexts(texts);
}

function identityOf(options: DistillOptions, guidance: Guidance): Json {
  const bytes = (matrix: Matrix | undefined) =>
    matrix === undefined
      ? null
      : hashBytes(new Uint8Array(matrix.data.buffer, matrix.data.byteOffset, matrix.data.byteLength));
  const { guided, clustered } = guidance;
  return {
    ...(JSON.parse(JSON.stringify(guidance)) as Record<string, Json>),
    image: guided ? bytes(options.embeddings?.image) : null,
    text: guided ? bytes(options.embeddings?.text) : null,
    centroids: clustered ? bytes(options.clusters?.centroids) : null,
    labels: clustered ? Array.from(options.clusters!.labels) : null,
    teacher: guided ? (options.teacher?.hash ?? null) : null,
  };
}

const OPTIONS = [
  ...TRAINING_OPTIONS,
  ...Object.keys({
    data: true,
    items: true,
    teacherFolder: true,
    teacher: true,
    embeddings: true,
    clusters: true,
    targets: true,
    weights: true,
    temperature: true,
    teacherTemperature: true,
    pairing: true,
    sampleRate: true,
    learnedCentres: true,
  } satisfies Record<Exclude<keyof DistillOptions, keyof TrainingOptions>, true>),
];
