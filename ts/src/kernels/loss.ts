import type {
  NativeDeviceMatrix,
  NativeEngine,
  NativeLossInputs,
  NativeLossResult,
} from '../native/addon.ts';
import {
  expectBoolean,
  expectFloat32,
  expectInt32,
  expectInteger,
  expectNumber,
  expectObject,
  expectOneOf,
  expectPositive,
  failRange,
  failType,
} from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { DeviceTensor } from './device-tensor.ts';
import { checkRows, DeviceMatrix, deviceOf, type Matrix, type Rows } from './rows.ts';

/** The teacher's side of the KL term over all centres; see {@link softTargets}. Rows of a batch are picked from it by the caller. */
export interface SoftTargets {
  /** [B, Dt]. */
  readonly softCentroids: Float32Array;
  /** [B], nats. */
  readonly entropies: Float32Array;
}

/**
 * What {@link clusterInstanceLoss} takes. Matrices are float32 and raw: the loss normalises rows itself. An input that only
 * terms of weight 0 would need may be left out.
 */
export interface LossInputs {
  /** [B, Ds] student's image embeddings. */
  readonly image: Matrix;
  /** [B, Ds] student's text embeddings; row i belongs to row i of `image`. */
  readonly text: Matrix;
  /** [B, Dt] teacher's image embeddings: KL (without `softTargets`) and instance terms. */
  readonly teacherImage?: Matrix;
  /** [B, Dt] teacher's text embeddings: instance term. */
  readonly teacherText?: Matrix;
  /** [Ds, Dt] from the student's image space to the teacher's. Defaults to the identity; then Ds = Dt. */
  readonly imageProjection?: Matrix;
  /** [Ds, Dt], for text. */
  readonly textProjection?: Matrix;
  /** Natural log of the CLIP term's scale; at most 80. */
  readonly clipLogScale?: number;
  /** Natural log of the instance term's scale; at most 80. */
  readonly instanceLogScale?: number;
  /** [K, Dt] centres: cluster terms. A device's matrix of float32 is not copied there in every call; then they are not learned. */
  readonly centroids?: Matrix | DeviceMatrix;
  /** [B] centre of each image, 0 to K − 1: CE term. */
  readonly labels?: Int32Array;
  /** Ascending indices of the centres that count in this step, all labels among them; see {@link sampleCentres}. Defaults to all. */
  readonly sample?: Int32Array;
  /** Instead of the teacher's pass over the centres; only over all centres (no `sample`) and with centres that are not learned. */
  readonly softTargets?: SoftTargets;
}

/** A weight of 0 leaves a term out. The weights, temperatures and the pairing are not published; the defaults are our choice. */
export interface LossOptions extends KernelOptions {
  /** Weight of the CLIP term. Defaults to 1. */
  readonly clipWeight?: number;
  /** Weight of the cross-entropy to the assigned centre. Defaults to 1. */
  readonly ceWeight?: number;
  /** Weight of the KL divergence from the teacher's softmax over the centres. Defaults to 1. */
  readonly klWeight?: number;
  /** Weight of the instance term. Defaults to 1. */
  readonly instanceWeight?: number;
  /** τ of the student's softmax over the centres, over 0. Defaults to 0.05. */
  readonly temperature?: number;
  /** τ of the teacher's, over 0. Defaults to `temperature`. */
  readonly teacherTemperature?: number;
  /**
   * What the instance term contrasts: `'same'`, student image with teacher image and student text with teacher text, in both
   * directions; `'cross'`, student image with teacher text and student text with teacher image, from the student's side; `'both'`,
   * the mean of these. Defaults to `'same'`.
   */
  readonly pairing?: 'same' | 'cross' | 'both';
  /** Also compute the gradient of the centres. Defaults to false: they are constants. */
  readonly learnedCentroids?: boolean;
}

/** Unweighted terms (nats; absent ones are 0), their weighted sum `total`, and its gradients, shaped as their inputs. */
export interface LossOutput {
  readonly total: number;
  readonly clip: number;
  readonly clusterCe: number;
  readonly clusterKl: number;
  readonly instance: number;
  readonly gradients: {
    readonly image: Float32Array;
    readonly text: Float32Array;
    readonly clipLogScale: number;
    readonly instanceLogScale: number;
    /** Present as their inputs are. */
    readonly imageProjection?: Float32Array;
    readonly textProjection?: Float32Array;
    /** [K, Dt] when learned; zero outside the sample. */
    readonly centroids?: Float32Array;
  };
}

/**
 * The inputs of a loss between a program's passes forward and backward: what is the executor's stays on its device, and so do the
 * gradients, which are there when the loss resolves. Learned centres may be the executor's too. Private to the package.
 */
export interface DeviceLossInputs
  extends Omit<LossInputs, 'image' | 'text' | 'imageProjection' | 'textProjection' | 'centroids'> {
  readonly image: DeviceTensor;
  readonly text: DeviceTensor;
  readonly imageProjection?: DeviceTensor | Matrix;
  readonly textProjection?: DeviceTensor | Matrix;
  readonly centroids?: DeviceTensor | Matrix | DeviceMatrix;
}

/** As {@link LossOutput}, of {@link DeviceLossInputs}; each gradient is where its input is. */
export interface DeviceLossOutput extends Omit<LossOutput, 'gradients'> {
  readonly gradients: {
    readonly image: DeviceTensor;
    readonly text: DeviceTensor;
    readonly clipLogScale: number;
    readonly instanceLogScale: number;
    readonly imageProjection?: DeviceTensor | Float32Array;
    readonly textProjection?: DeviceTensor | Float32Array;
    readonly centroids?: DeviceTensor | Float32Array;
  };
}

const INPUTS = [
  'image',
  'text',
  'teacherImage',
  'teacherText',
  'imageProjection',
  'textProjection',
  'clipLogScale',
  'instanceLogScale',
  'centroids',
  'labels',
  'sample',
  'softTargets',
];
const OPTIONS = [
  'clipWeight',
  'ceWeight',
  'klWeight',
  'instanceWeight',
  'temperature',
  'teacherTemperature',
  'pairing',
  'learnedCentroids',
];

/**
 * The three-part loss of CLIP-CID and its gradients, forward and backward in one call: CLIP's contrastive loss, cluster
 * discrimination and instance discrimination. No matrix of logits is ever held: memory is O((B + K) D).
 *
 * With x̂, ŷ the unit rows of image and text; ŝ, r̂ those of image · imageProjection and text · textProjection; t̂, û the teacher's
 * image and text; ĉ the sample's centres; InfoNCE(a, b, σ) the mean cross-entropy of the rows of σ a bᵀ, row i having column i as
 * its target, averaged with that of the columns:
 *
 *     clip       InfoNCE(x̂, ŷ, exp(clipLogScale))
 *     clusterCe  −1/B Σ_i log Q_i,label(i),               Q = softmax(ŝ ĉᵀ / temperature)
 *     clusterKl  1/B Σ_ij P_ij (log P_ij − log Q_ij),     P = softmax(t̂ ĉᵀ / teacherTemperature), a constant
 *     instance   ½ InfoNCE(ŝ, t̂, exp(instanceLogScale)) + ½ InfoNCE(r̂, û, exp(instanceLogScale)), or see `pairing`
 *     total      clipWeight · clip + ceWeight · clusterCe + klWeight · clusterKl + instanceWeight · instance
 *
 * Source: CLIP-CID (AAAI 2025) for the sum of a contrastive term, a softmax and a KL term over the clusters, and a bidirectional
 * contrastive term at instance level. The exact equations of the cluster and instance terms, temperatures, weights and the
 * sampling of centres are not published; what stands here is our choice. `'cross'` is the interactive contrastive term of CLIP-KD.
 * The KL term uses soft centroids o_i = Σ_j P_ij ĉ_j: its gradient in ŝ_i is (Σ_j Q_ij ĉ_j − o_i) / temperature.
 *
 * Deterministic for one build and instruction set, whatever the number of threads, or for one build and GPU. Products have float32's
 * accuracy; a processor with AMX makes them of two bfloat16 halves of each element, right to 3 · 2⁻¹⁸ = 1.2e-5 of the sum of their
 * absolute summands, a GPU of two float16 halves, right to 2⁻¹⁹ = 2e-6. There `maxDeviceMemory` must have room for the batch; centres
 * that do not fit beside it go through the device in chunks, twice, with the same results to the bit. Those that stay from call to call
 * are best uploaded once.
 *
 * @throws TypeError or RangeError for arguments; CidError INVALID_DATA that names the input and its first row that is zero, NaN or
 *   infinite; CidError OUT_OF_MEMORY that says what is needed and what there is; CidError ABORTED.
 */
export async function clusterInstanceLoss(
  inputs: LossInputs,
  options: LossOptions = {},
): Promise<LossOutput> {
  // Gradients of matrices in memory are in memory.
  return (await lossAnywhere(inputs, options)) as LossOutput;
}

/** {@link clusterInstanceLoss} of what is in memory or an executor's. Private to the package. */
export async function lossAnywhere(
  inputs: LossInputs | DeviceLossInputs,
  options: LossOptions = {},
): Promise<LossOutput | DeviceLossOutput> {
  expectObject('inputs', inputs, INPUTS);
  expectOptions('options', options, OPTIONS);
  const clipWeight = expectNumber('clipWeight', options.clipWeight ?? 1, 0);
  const ceWeight = expectNumber('ceWeight', options.ceWeight ?? 1, 0);
  const klWeight = expectNumber('klWeight', options.klWeight ?? 1, 0);
  const instanceWeight = expectNumber('instanceWeight', options.instanceWeight ?? 1, 0);

  const image = expectMatrix('image', inputs.image);
  if (image.rows === 0) failRange('a matrix of at least one row', 'image', image.data);
  const text = expectMatrix('text', inputs.text, image.rows, image.dim);
  const native: NativeLossInputs = { batch: image.rows, image: image.data, text: text.data, dim: image.dim };
  const engine = engineOf(inputs);
  if (engine !== undefined) native.engine = engine;
  if (clipWeight > 0) {
    native.clip = { weight: clipWeight, logScale: expectLogScale('clipLogScale', inputs.clipLogScale) };
  }
  if (ceWeight > 0 || klWeight > 0 || instanceWeight > 0) {
    const dim = teacherWidth(inputs, image.dim, instanceWeight > 0);
    native.teacherDim = dim;
    addProjection(native, 'imageProjection', inputs.imageProjection, image.dim, dim);
    addProjection(native, 'textProjection', inputs.textProjection, image.dim, dim);
    const ownPass = klWeight > 0 && inputs.softTargets === undefined;
    if (ownPass || instanceWeight > 0 || inputs.teacherImage !== undefined) {
      native.teacherImage = expectHostMatrix('teacherImage', inputs.teacherImage, image.rows, dim);
    }
    if (instanceWeight > 0) {
      native.teacherText = expectHostMatrix('teacherText', inputs.teacherText, image.rows, dim);
      native.instance = {
        weight: instanceWeight,
        pairing: expectOneOf('pairing', options.pairing ?? 'same', ['same', 'cross', 'both']),
        logScale: expectLogScale('instanceLogScale', inputs.instanceLogScale),
      };
    }
    if (ceWeight > 0 || klWeight > 0) {
      native.cluster = clusterInputs(inputs, options, image.rows, dim, ceWeight, klWeight);
    }
  }
  const chosen =
    inputs.image instanceof DeviceTensor
      ? { ...options, device: inputs.image.device }
      : inputs.centroids instanceof DeviceMatrix
        ? deviceOf(options, inputs.centroids)
        : options;
  return output(await runNative(chosen, 0, (addon, context) => addon.loss(context, native)), engine);
}

/** The engine of the inputs that are one's, all of the same; undefined where none is. */
function engineOf(inputs: LossInputs | DeviceLossInputs): NativeEngine | undefined {
  const tensors = [
    inputs.image,
    inputs.text,
    inputs.imageProjection,
    inputs.textProjection,
    inputs.centroids,
  ].filter((input) => input instanceof DeviceTensor);
  const engine = tensors[0]?.engine;
  if (engine === undefined) return undefined;
  if (!(inputs.image instanceof DeviceTensor && inputs.text instanceof DeviceTensor))
    failType('tensors of the executor together with others of it', 'image and text', inputs.image);
  if (tensors.some((tensor) => tensor.engine !== engine))
    failType('tensors of one executor', 'inputs', inputs);
  return engine;
}

function clusterInputs(
  inputs: LossInputs | DeviceLossInputs,
  options: LossOptions,
  batch: number,
  dim: number,
  ceWeight: number,
  klWeight: number,
): NonNullable<NativeLossInputs['cluster']> {
  const { sample, softTargets: soft } = inputs;
  const centroids = expectCentroids(inputs.centroids, dim);
  const temperature = expectPositive('temperature', options.temperature ?? 0.05);
  const learned = expectBoolean('learnedCentroids', options.learnedCentroids ?? false);
  if (learned && inputs.centroids instanceof DeviceMatrix)
    failRange('false together with centroids on a device', 'learnedCentroids', learned);
  const labels =
    ceWeight > 0
      ? expectInt32('labels', inputs.labels, batch, '[B]')
      : new Int32Array(batch).fill(sample?.[0] ?? 0);
  for (const [index, label] of labels.entries()) {
    if (label < 0 || label >= centroids.rows)
      failRange(`a centre from 0 to ${centroids.rows - 1}`, `labels[${index}]`, label);
  }
  if (sample !== undefined) expectSample(sample, labels, centroids.rows);
  if (soft !== undefined) {
    expectObject('softTargets', soft, ['softCentroids', 'entropies']);
    if (sample !== undefined)
      failType('no sample together with softTargets, which are over all centres', 'sample', sample);
    if (learned)
      failRange('false together with softTargets, which are of other centres', 'learnedCentroids', learned);
  }
  return {
    centroids: centroids.data,
    clusters: centroids.rows,
    labels,
    ...(sample === undefined ? {} : { sample }),
    ceWeight,
    klWeight,
    temperature,
    teacherTemperature: expectPositive('teacherTemperature', options.teacherTemperature ?? temperature),
    ...(soft === undefined
      ? {}
      : {
          softCentroids: expectFloat32(
            'softTargets.softCentroids',
            soft.softCentroids,
            batch * dim,
            '[B, Dt]',
          ),
          entropies: expectFloat32('softTargets.entropies', soft.entropies, batch, '[B]'),
        }),
    learned,
  };
}

function expectCentroids(
  value: LossInputs['centroids'] | DeviceTensor,
  dim: number,
): { data: Float32Array | NativeDeviceMatrix; rows: number } {
  if (!(value instanceof DeviceMatrix)) {
    const { data, rows } = expectMatrix('centroids', value, undefined, dim);
    if (rows === 0) failRange('a matrix of at least one row', 'centroids', data);
    return { data, rows };
  }
  if (value.dim !== dim) failRange(`a width of ${dim}`, 'centroids.dim', value.dim);
  if (value.rows === 0) failRange('at least one row', 'centroids.rows', value.rows);
  if (value.dtype !== 'float32') failRange("'float32'", 'centroids.dtype', value.dtype);
  return { data: value.native, rows: value.rows };
}

function expectSample(sample: Int32Array, labels: Int32Array, clusters: number): void {
  expectInt32('sample', sample);
  if (sample.length === 0) failRange('at least one centre', 'sample', sample);
  for (let j = 0; j < sample.length; j++) {
    if (sample[j]! < 0 || sample[j]! >= clusters)
      failRange(`a centre from 0 to ${clusters - 1}`, `sample[${j}]`, sample[j]);
    if (j > 0 && sample[j]! <= sample[j - 1]!)
      failRange(`a centre over ${sample[j - 1]}`, `sample[${j}]`, sample[j]);
  }
  for (const label of labels) {
    if (sample[lowerBound(sample, label)] !== label)
      failRange(`a sample that holds label ${label}`, 'sample', sample);
  }
}

/** First position in ascending `sorted` of a value not below `value`. */
function lowerBound(sorted: Int32Array, value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Dt. Without projections it is Ds. */
function teacherWidth(inputs: LossInputs | DeviceLossInputs, dim: number, useText: boolean): number {
  const { imageProjection, textProjection } = inputs;
  const either = imageProjection ?? textProjection;
  const columns = either instanceof DeviceTensor ? either.dims[1] : either?.dim;
  const width = expectInteger('dim', columns ?? dim, 1);
  if (width !== dim) {
    if (imageProjection === undefined)
      failType(`a [${dim}, ${width}] matrix`, 'imageProjection', imageProjection);
    if (useText && textProjection === undefined)
      failType(`a [${dim}, ${width}] matrix`, 'textProjection', textProjection);
  }
  return width;
}

function addProjection(
  native: NativeLossInputs,
  name: 'imageProjection' | 'textProjection',
  matrix: Matrix | DeviceTensor | undefined,
  dim: number,
  teacherDim: number,
): void {
  if (matrix !== undefined) native[name] = expectMatrix(name, matrix, dim, teacherDim).data;
}

/** A float32 matrix in memory, or all of an executor's; of `rows` and `dim` when they are given. */
function expectMatrix(
  name: string,
  value: Matrix | DeviceTensor | undefined,
  rows?: number,
  dim?: number,
): { data: Float32Array | NativeDeviceMatrix; rows: number; dim: number } {
  if (value === undefined) failType('a matrix', name, value);
  if (value instanceof DeviceTensor) {
    const [has, columns] = value.dims;
    if (rows !== undefined && has !== rows) failRange(`${rows} rows`, name, value.dims);
    if (dim !== undefined && columns !== dim) failRange(`a width of ${dim}`, name, value.dims);
    if (!value.whole) failRange('all rows of a tensor', name, value.dims);
    return { data: value.native, rows: has, dim: columns };
  }
  expectObject(name, value);
  expectInteger(`${name}.rows`, value.rows, 0, 2 ** 31 - 1);
  expectInteger(`${name}.dim`, value.dim, 1, 2 ** 20);
  if (rows !== undefined && value.rows !== rows) failRange(`${rows} rows`, `${name}.rows`, value.rows);
  if (dim !== undefined && value.dim !== dim) failRange(`a width of ${dim}`, `${name}.dim`, value.dim);
  if (value.dtype !== undefined && value.dtype !== 'float32')
    failRange("'float32'", `${name}.dtype`, value.dtype);
  const data = expectFloat32(`${name}.data`, value.data, value.rows * value.dim, '[rows, dim]');
  return { data, rows: value.rows, dim: value.dim };
}

function expectHostMatrix(name: string, value: Matrix | undefined, rows: number, dim: number): Float32Array {
  // Its type is what it was checked to be.
  return expectMatrix(name, value, rows, dim).data as Float32Array;
}

/** exp(80) times a cosine is still far inside float32. */
function expectLogScale(name: string, value: unknown): number {
  return expectNumber(name, value, -80, 80);
}

function output(result: NativeLossResult, engine: NativeEngine | undefined): LossOutput | DeviceLossOutput {
  const { total, clip, clusterCe, clusterKl, instance, ...native } = result;
  const gradients = Object.fromEntries(
    Object.entries(native).map(([name, value]) => [
      name,
      typeof value === 'number' || value instanceof Float32Array ? value : DeviceTensor.of(value, engine!),
    ]),
  ) as unknown as LossOutput['gradients'] | DeviceLossOutput['gradients'];
  return { total, clip, clusterCe, clusterKl, instance, gradients } as LossOutput | DeviceLossOutput;
}

/** Options of {@link softTargets}. */
export interface SoftTargetsOptions extends KernelOptions {
  /** τ of the teacher's softmax over the centres, over 0; the `teacherTemperature` of the loss. Defaults to 0.05, our choice. */
  readonly temperature?: number;
}

/**
 * The teacher's side of the KL term of {@link clusterInstanceLoss} for a whole data set. With frozen centres it is a constant, so a
 * step of training that is given its rows needs no pass of the teacher over the centres:
 *
 *     P = softmax(t̂ ĉᵀ / temperature),   o_i = Σ_j P_ij ĉ_j,   H_i = −Σ_j P_ij log P_ij
 *
 * @param teacher [N, D] image embeddings. Normalised inside, as the centres are.
 * @param centroids [K, D].
 * @returns `softCentroids` o, [N, D], and `entropies` H, [N], nats.
 * @throws TypeError or RangeError for arguments; CidError INVALID_DATA that names the matrix and its first row that is zero, NaN or
 *   infinite; others for devices, files and memory; CidError ABORTED.
 */
export async function softTargets(
  teacher: Rows,
  centroids: Rows,
  options: SoftTargetsOptions = {},
): Promise<SoftTargets> {
  expectOptions('options', options, ['temperature']);
  const temperature = expectPositive('temperature', options.temperature ?? 0.05);
  const left = checkRows('teacher', teacher);
  const right = checkRows('centroids', centroids);
  if (right.rows === 0) failRange('at least one row', 'centroids', 0);
  if (left.dim !== right.dim) failRange(`${left.dim}, as in teacher,`, 'centroids.dim', right.dim);
  return runNative(deviceOf(options, teacher, centroids), 0, (addon, context) =>
    addon.softTargets(context, left.native, right.native, temperature),
  );
}

/** Options of {@link sampleCentres}. */
export interface SampleCentresOptions {
  /** K, the centres there are. */
  readonly clusters: number;
  /** [B] centre of each image of the batch. */
  readonly labels: Int32Array;
  /** Share of the centres to take, 0 to 1. */
  readonly rate: number;
  /** 0 to 2^53 − 1. */
  readonly seed: number;
  /** Number of the step; the sample is a function of (seed, step) and the labels alone. */
  readonly step: number;
}

/**
 * The centres of one step: every label of the batch, and others at random, max(distinct labels, round(rate · K)) in all, as the
 * negatives of Partial FC are drawn. Whether CLIP-CID samples centres is not published.
 *
 * @returns Ascending.
 * @throws TypeError or RangeError.
 */
export function sampleCentres(options: SampleCentresOptions): Int32Array {
  expectObject('options', options, ['clusters', 'labels', 'rate', 'seed', 'step']);
  const clusters = expectInteger('clusters', options.clusters, 1, 2 ** 31 - 1);
  const labels = expectInt32('labels', options.labels);
  const rate = expectNumber('rate', options.rate, 0, 1);
  const seed = expectInteger('seed', options.seed);
  const step = expectInteger('step', options.step);

  const taken = new Uint8Array(clusters);
  let positives = 0;
  for (const [index, label] of labels.entries()) {
    if (label < 0 || label >= clusters)
      failRange(`a centre from 0 to ${clusters - 1}`, `labels[${index}]`, label);
    if (taken[label] === 0) positives++;
    taken[label] = 1;
  }
  const size = Math.max(positives, Math.round(rate * clusters));
  const others = size - positives;
  const rest = clusters - positives;
  // Of the centres that are not labels, mark those to take or those to leave, whichever are fewer: then at least every other draw
  // hits an unmarked one while marks are missing, and labels only add to the misses as they add to the sample.
  const take = others <= rest / 2;
  const mark = take ? 2 : 3;
  const draw = drawer(seed, step);
  for (let missing = take ? others : rest - others; missing > 0; ) {
    const centre = Math.floor((draw() / 2 ** 32) * clusters);
    if (taken[centre] === 0) {
      taken[centre] = mark;
      missing--;
    }
  }
  const sample = new Int32Array(size);
  let at = 0;
  for (let centre = 0; centre < clusters; centre++) {
    const chosen = taken[centre] === 1 || (take ? taken[centre] === 2 : taken[centre] === 0);
    if (chosen) sample[at++] = centre;
  }
  return sample;
}

/** 32-bit draws that are a function of (seed, step, number of the draw): a keyed counter through the finaliser of MurmurHash3. */
function drawer(seed: number, step: number): () => number {
  const words = [seed >>> 0, Math.floor(seed / 2 ** 32), step >>> 0, Math.floor(step / 2 ** 32)];
  const key = words.reduce(
    (hash, word) => mix(Math.imul(hash, 0x9e3779b1) ^ mix(word + 0x7f4a7c15)),
    0x6a09e667,
  );
  const second = mix(key ^ 0xbb67ae85);
  let counter = 0;
  return () => mix(mix(counter++ ^ key) + second) >>> 0;
}

function mix(word: number): number {
  let hash = word | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
