/**
 * The addon as TypeScript sees it. Private: the public API is `kernels/`, which validates before it calls.
 * Every asynchronous call works on the addon's own threads, holds its input buffers by reference until it settles, and
 * must not see them changed meanwhile; when one is transferred away, the call rejects with DISPOSED. Errors carry `code`
 * (a CidErrorCode) and `message`.
 */

import type { Instructions } from './instructions.ts';
import type { Peak } from './peak.ts';

export type NativeDtype = 'float32' | 'float16' | 'bfloat16';

/** Rows in memory, row-major. `stride` in elements, defaults to `dim`. float16 and bfloat16 are raw bits. */
export interface NativeMatrix {
  data: Float32Array | Uint16Array;
  dtype: NativeDtype;
  rows: number;
  dim: number;
  stride?: number;
}

/** Rows in a region of a file, row-major and dense, little-endian, from byte `offset` on. */
export interface NativeFileMatrix {
  path: string;
  offset: number;
  dtype: NativeDtype;
  rows: number;
  dim: number;
}

/** Opaque: a matrix that lives on a device. */
export interface NativeDeviceMatrix {
  readonly device: string;
  readonly dtype: NativeDtype;
  readonly rows: number;
  readonly dim: number;
  readonly bytes: number;
}

/** One logical matrix: chunks in order, or a device's. */
export type NativeRows = readonly (NativeMatrix | NativeFileMatrix)[] | NativeDeviceMatrix;

/** What every call takes first. */
export interface NativeContext {
  /** `'cpu'` or `'cuda:N'`; already chosen, never `'auto'`. */
  device: string;
  /** Threads to use, at least 1. */
  threads: number;
  /** Seed of the counter-based generator; 0 to 2^53 − 1. */
  seed: number;
  /** Bytes the work may hold beyond inputs and outputs; the back end's own measure when absent. */
  maxMemory?: number;
  /** The same of a GPU's memory, but for matrices that were uploaded. */
  maxDeviceMemory?: number;
  /** Precision of the filter and coordinates it compares (0: all); the planner's choice when absent. */
  filter?: 'float32' | 'bfloat16' | 'int8';
  prefix?: number;
  /** One element; the work stops soon after it becomes non-zero, and rejects with code ABORTED. */
  cancel?: Int32Array;
  /** Called on the JavaScript thread, at most about ten times a second; `done` and `total` in the operation's own unit. */
  progress?: (done: number, total: number) => void;
}

export interface NativeDeviceInfo {
  /** `'cpu'` or `'cuda:N'`. */
  device: string;
  name: string;
  /** Bytes; total memory of the device. */
  memory: number;
  /** CPU: instruction set in use, one of {@link Instructions}. CUDA: compute capability, such as '9.0'. */
  architecture: string;
  /** False with a reason when kernels for this device are not in this build. */
  usable: boolean;
  reason?: string;
  /** Whether products of bfloat16 have instructions, on the CPU in the set in use, as training in 'bf16' needs. */
  bfloat16: boolean;
}

export interface NativeBalanceOptions {
  /** Cosine. */
  threshold: number;
  /** Which row of a group stays; 'random' by the context's seed. */
  keep: 'central' | 'easy' | 'hard' | 'first' | 'best' | 'random';
  /** [N] of 'best', none NaN. */
  scores?: Float64Array;
  /** Groups with a member whose cosine to their mean is below are split; none when absent. */
  leastScore?: number;
  /** The forest of the rows, complete above the threshold, instead of comparing all pairs. */
  forest?: { first: Int32Array; second: Int32Array; dots: Float64Array };
}

export interface NativeForest {
  /** [E] ends and canonical dots of the edges: dots descending, then first, then second ascending; first < second. */
  first: Int32Array;
  second: Int32Array;
  dots: Float64Array;
  faults: Int32Array;
  /** Cosine down to which it is complete. */
  floor: number;
  plan: string;
}

export interface NativeBalanceResult {
  /** [N] label of a row's group: its smallest member. */
  labels: Int32Array;
  /** [N] 1 where the row stays. */
  keep: Uint8Array;
  /** [N] float32 of the canonical cosine between a row and the mean of its group; 1 for a row alone, 0 for a fault. */
  centrality: Float32Array;
  groups: number;
  /** Pairs over the threshold. */
  edges: number;
  /** Rows that are zero, NaN or infinite: alone in their group and kept. */
  faults: Int32Array;
  /** How the pairs were filtered, in words; empty with a forest. */
  plan: string;
}

export interface NativeIncrementalOptions extends Omit<NativeBalanceOptions, 'forest'> {
  /** [S] group of each stored row; each its own when absent. */
  groups?: Int32Array;
}

/** The fields of a balance are of the rows that are no duplicates; for those: label −1, keep 0, centrality 0. */
export interface NativeIncrementalResult extends NativeBalanceResult {
  /** [N] the stored row that a duplicate is most like, or −1. */
  duplicateOf: Int32Array;
  /** [N] float32 of the canonical cosine of the two, or 0. */
  similarity: Float32Array;
  duplicates: number;
  /** Pairs of a row and a stored row over the threshold. */
  links: number;
  /** Duplicates with links into two groups and more. */
  bridges: Int32Array;
  storedFaults: Int32Array;
}

export interface NativeKmeansOptions {
  /** Centres a batch element. */
  clusters: number;
  /** Independent problems of equal size; rows are B·N in order. Defaults to 1. */
  batch?: number;
  spherical: boolean;
  init: 'k-means++' | 'k-means||' | 'random';
  /** [B, K, D] starting centres, instead of `init`. */
  centroids?: Float32Array;
  /** [B·N] at least 0, finite; 1 for every row when absent. */
  weights?: Float32Array;
  /** Starts, of which the best result counts. */
  runs: number;
  maxIterations: number;
  /** Stop when at most this share of the rows changes its label. */
  tolerance: number;
  /** Stop when Σ ‖centre's step‖² is at most this times the rows' variance; 0: not looked at. */
  movement: number;
}

export interface NativeKmeansResult {
  /** [B, K, D]. */
  centroids: Float32Array;
  /** [B·N] centre of a row, 0 to K − 1, of the returned centroids. */
  labels: Int32Array;
  /** [B·K] rows of a centre. */
  counts: Int32Array;
  /** [B] Σ ‖x − c‖² (Euclidean) or Σ (1 − cos) (spherical) over the rows. */
  inertia: Float64Array;
  /** [B]. */
  iterations: Int32Array;
}

export interface NativeNearestResult {
  /** [Q, k], best first, ties to the smaller index. */
  indices: Int32Array;
  /** [Q, k] float32 of the canonical score. */
  scores: Float32Array;
  /** What filter was used. */
  plan: string;
}

export interface NativeNearestProductOptions {
  k: number;
  /** A cosine over it makes a pair's score 0. */
  cutoff: number;
  /** Both or none: without them the pairs are their own queries, and no pair is among its own results. */
  queryImages?: NativeRows;
  queryTexts?: NativeRows;
}

export interface NativeSemdedupOptions {
  /** [K, D] and [N], of a spherical k-means over the rows. */
  centroids: Float32Array;
  labels: Int32Array;
  /** K. */
  clusters: number;
  /** A cosine. */
  threshold: number;
  order: 'hard' | 'easy' | 'random';
}

export interface NativeSemdedupResult {
  /** [N]. */
  keep: Uint8Array;
  /** [N] the row that a dropped one is nearest to, of those before it in its cluster; −1 for a row that is kept. */
  duplicateOf: Int32Array;
  /** [N] float32 of the canonical cosine of the two; 0 for a row that is kept. */
  similarity: Float32Array;
  /** Pairs over the threshold within clusters. */
  pairs: number;
}

export interface NativeEstimate {
  /** Pairs over the threshold: expected, and an interval of about 95 %. */
  pairs: number;
  low: number;
  high: number;
  seconds: number;
  /** Bytes beyond the rows and the results. */
  memory: number;
  /** Rows that were compared, with how many. */
  queries: number;
  keys: number;
  plan: string;
}

/** Pairs as they are found, see `kernels/pairs.ts`. The search waits while `capacity` pairs have not been taken. */
export interface NativePairs {
  /** All that has been found and not been taken, up to `capacity` pairs; undefined when there is nothing. */
  take(): { first: Int32Array; second: Int32Array; dots: Float64Array } | undefined;
  /** Ends the search, which then rejects with code ABORTED. Idempotent. */
  close(): void;
  /** Whether the process stays up for the search; it does at first. */
  keepAwake(awake: boolean): void;
  /** Resolves to the plan when the search is done; the last pairs may still be there to take. */
  readonly finished: Promise<string>;
}

/** See `kernels/loss.ts` for equations, shapes and meaning. Embeddings are raw; the loss normalises them. */
/** Rows [row, row + rows) of a matrix on a device. */
export interface NativeDeviceRows {
  matrix: NativeDeviceMatrix;
  row: number;
  rows: number;
}

export interface NativeLossInputs {
  batch: number;
  /** Whose matrices on a device there are among the inputs; the loss is then done in the order of its work. */
  engine?: NativeEngine;
  /** [B, Ds] student. */
  image: Float32Array | NativeDeviceMatrix;
  text: Float32Array | NativeDeviceMatrix;
  dim: number;
  clip?: { weight: number; logScale: number };
  /** [B, Dt] teacher, for cluster and instance. */
  teacherImage?: Float32Array;
  teacherText?: Float32Array;
  teacherDim?: number;
  /** [Ds, Dt]; identity when absent (then Ds = Dt). */
  imageProjection?: Float32Array | NativeDeviceMatrix;
  textProjection?: Float32Array | NativeDeviceMatrix;
  cluster?: {
    /** [K, Dt]; float32 where on a device, and learned there only with an engine. */
    centroids: Float32Array | NativeDeviceMatrix;
    clusters: number;
    /** [B] centre of a row. */
    labels: Int32Array;
    /** Ascending indices of the centres used in this step; all when absent. Must hold every label of the batch. */
    sample?: Int32Array;
    ceWeight: number;
    klWeight: number;
    temperature: number;
    teacherTemperature: number;
    /** Soft centroids and entropies of the teacher, [B, Dt] and [B], instead of a pass over the centres. */
    softCentroids?: Float32Array;
    entropies?: Float32Array;
    /** Also the gradient of the centres. */
    learned: boolean;
  };
  instance?: { weight: number; pairing: 'same' | 'cross' | 'both'; logScale: number };
}

export interface NativeLossResult {
  /** Unweighted terms; `total` is their weighted sum. Absent terms are 0. */
  total: number;
  clip: number;
  clusterCe: number;
  clusterKl: number;
  instance: number;
  /** Gradients of `total`, shaped as their inputs and where these are. */
  image: Float32Array | NativeDeviceMatrix;
  text: Float32Array | NativeDeviceMatrix;
  clipLogScale: number;
  instanceLogScale: number;
  imageProjection?: Float32Array | NativeDeviceMatrix;
  textProjection?: Float32Array | NativeDeviceMatrix;
  /** [K, Dt], zero outside the sample. */
  centroids?: Float32Array | NativeDeviceMatrix;
}

/** A run of parameters that share rates; the groups cover the buffer in order without a gap. */
export interface NativeParameterGroup {
  length: number;
  /** Factor on the rate. 0 leaves the parameters as they are. */
  rate: number;
  /** Factor on the weight decay. */
  decay: number;
}

export interface NativeAdamwOptions {
  /** 1 for the first step. */
  step: number;
  rate: number;
  decay: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  /** Largest gradient norm; 0 for no clipping. */
  clip: number;
  /** Decay of the moving average of the parameters, when `ema` is given. */
  emaDecay: number;
  groups: readonly NativeParameterGroup[];
}

/** An encoded image: its bytes, a file, or a part of a file (both or neither of offset and size). */
export type NativeImageFile =
  | Uint8Array
  | { readonly path: string; readonly offset?: number; readonly size?: number };

/** Opaque: pixels that the core holds. */
export interface NativePixels {
  readonly heldImage: unique symbol;
}

/** RGB interleaved, 8 bits a channel. */
export interface NativeImage<Data = Uint8Array | NativePixels> {
  readonly data: Data;
  readonly width: number;
  readonly height: number;
}

/** Opaque: parameters, gradients and the optimiser's state on a device, and the programs that run on them. */
export interface NativeEngine {
  readonly engine?: never;
}

/** Opaque: inputs on their way to a device, to be used once. */
export interface NativeStaged {
  readonly staged?: never;
}

/** A value of a program that comes from or goes to the host; spaces are numbered as in native/core/program.h. */
export interface NativeProgramValue {
  readonly space: number;
  readonly offset: number;
  readonly bytes: number;
}

/** See `program/native/program.ts`, which makes it, and native/core/program.h, which checks it. */
export interface NativeProgramSpec {
  code: Float64Array;
  phases: readonly { begin: number; end: number; parts: number; apart: boolean }[];
  /** Phases before the outputs are there. */
  forwardPhases: number;
  arenaBytes: number;
  /** Of each thread, for parts that run apart. */
  ownBytes: number;
  constants: Uint8Array;
  inputs: readonly NativeProgramValue[];
  outputs: readonly NativeProgramValue[];
  /** By output; of 0 bytes for one that no parameter's gradient depends on. */
  outputGradients: readonly NativeProgramValue[];
}

/** Flat buffers of an engine, each as long as its parameters. */
export interface NativeEngineState {
  parameters: Float32Array;
  first: Float32Array;
  second: Float32Array;
  ema?: Float32Array;
}

export type NativeKernel = 'nearest' | 'linear' | 'cubic' | 'lanczos3';

/** Resized, cut out of the middle, and looked up. */
export interface NativeFit {
  /** Shorter side after resizing; or width and height; or all 0 for as it is. */
  shortest: number;
  width: number;
  height: number;
  kernel: NativeKernel;
  /** Side of the square. */
  size: number;
  /** [3, 256] result for each value of each channel. */
  table: Float32Array;
}

export interface NativeAddon {
  /** Version of the native core; must equal the package's. */
  readonly version: string;
  /** How the CPU back end and, when compiled in, CUDA see this machine. Never throws. */
  devices(): NativeDeviceInfo[];
  /** Why there is no CUDA device, or undefined when there is one. */
  cudaStatus(): string | undefined;
  /**
   * Makes the CPU use this instruction set, or the best below it that it has. False when it uses another already: everything that works, and
   * `devices`, decides it.
   */
  setInstructions(name: Instructions): boolean;
  /** The most that the CPU does on `threads` threads, in billions of operations a second. */
  peak(context: NativeContext): Promise<Peak>;
  /** Bytes of a device's memory that nothing uses. */
  freeMemory(device: string): number;

  upload(context: NativeContext, rows: NativeRows): Promise<NativeDeviceMatrix>;
  download(context: NativeContext, matrix: NativeDeviceMatrix): Promise<Float32Array | Uint16Array>;
  /** Idempotent. */
  release(matrix: NativeDeviceMatrix): void;

  balance(
    context: NativeContext,
    rows: NativeRows,
    options: NativeBalanceOptions,
  ): Promise<NativeBalanceResult>;
  balanceAgainst(
    context: NativeContext,
    rows: NativeRows,
    stored: NativeRows,
    options: NativeIncrementalOptions,
  ): Promise<NativeIncrementalResult>;
  /** The maximum spanning forest above a floor; with `merges`, of the first so many edges and those equal to the last. */
  forest(
    context: NativeContext,
    rows: NativeRows,
    options: { floor: number; merges?: number },
  ): Promise<NativeForest>;
  kmeans(context: NativeContext, rows: NativeRows, options: NativeKmeansOptions): Promise<NativeKmeansResult>;
  /** Nearest of `centroids` [B, K, D], taken as they are. */
  predict(
    context: NativeContext,
    rows: NativeRows,
    centroids: Float32Array,
    options: { batch: number; clusters: number; spherical: boolean },
  ): Promise<{ labels: Int32Array; distances: Float32Array }>;
  /** `metric` 'cosine' normalises both sides canonically; 'dot' takes rows as they are. */
  nearest(
    context: NativeContext,
    queries: NativeRows,
    base: NativeRows,
    k: number,
    metric: 'cosine' | 'dot',
  ): Promise<NativeNearestResult>;
  /** Score: cosine of the images times cosine of the texts. */
  nearestProduct(
    context: NativeContext,
    images: NativeRows,
    texts: NativeRows,
    options: NativeNearestProductOptions,
  ): Promise<NativeNearestResult>;
  /** Of `rows`, or of `rows` and `base`, over a cosine. `ready` is called when there is something to take again. */
  pairs(
    context: NativeContext,
    rows: NativeRows,
    base: NativeRows | undefined,
    threshold: number,
    capacity: number,
    ready: () => void,
  ): NativePairs;
  semdedup(
    context: NativeContext,
    rows: NativeRows,
    options: NativeSemdedupOptions,
  ): Promise<NativeSemdedupResult>;
  /** Of a balance, from samples of which dots · dim is at most `work`. */
  estimate(
    context: NativeContext,
    rows: NativeRows,
    threshold: number,
    work: number,
  ): Promise<NativeEstimate>;
  loss(context: NativeContext, inputs: NativeLossInputs): Promise<NativeLossResult>;
  /** The teacher's side of the KL term over all centres: soft centroids [N, D] and entropies [N]. */
  softTargets(
    context: NativeContext,
    teacher: NativeRows,
    centroids: NativeRows,
    temperature: number,
  ): Promise<{ softCentroids: Float32Array; entropies: Float32Array }>;
  /**
   * One AdamW step in place over flat buffers of equal length: parameters, gradients (zeroed), first and second moments, and
   * the moving average when given. Resolves to the gradient norm before clipping.
   */
  adamw(
    context: NativeContext,
    buffers: {
      parameters: Float32Array;
      gradients: Float32Array;
      first: Float32Array;
      second: Float32Array;
      ema?: Float32Array;
    },
    options: NativeAdamwOptions,
  ): Promise<number>;

  /** Whether the libvips of this file name, which sharp has loaded, can be called directly; {@link decodeImages} refuses everything until it is. */
  useLibvips(name: string): boolean;
  /**
   * Ordinary JPEG, PNG and WebP images; undefined for the others, for broken ones and for files that cannot be read. Transparent ones are
   * laid on `background` [3]. With `shortest` over 0, a longer shorter side is shrunk to it. With `keep`, the core holds the pixels.
   */
  decodeImages(
    context: NativeContext,
    files: readonly NativeImageFile[],
    background: Uint8Array,
    shortest: number,
    keep: boolean,
  ): Promise<(NativeImage | undefined)[]>;
  /** Frees what the core holds of images, now or when the work on them ends; nothing for others. They cannot be used again. */
  releaseImages(images: readonly NativeImage[]): void;
  /**
   * Stretches images: what is enlarged along a side, or 'nearest', as PIL does; what is reduced as libvips does, and undefined where that is
   * not there.
   */
  resizeImages(
    context: NativeContext,
    images: readonly NativeImage[],
    width: number,
    height: number,
    kernel: NativeKernel,
  ): Promise<(NativeImage<Uint8Array> | undefined)[]>;
  /**
   * Encoded or decoded images as a model's input, [n, 3, size, size] into `out`. 1 for each that is done; 0 for what {@link decodeImages}
   * refuses, what is smaller than the square, and what cannot be resized here.
   */
  fitImages(
    context: NativeContext,
    sources: readonly (NativeImageFile | NativeImage)[],
    background: Uint8Array,
    options: NativeFit,
    out: Float32Array,
  ): Promise<Uint8Array>;
  /**
   * Views into `out` from element `offset` on, one after the other: [3, size, size] planes of `value · scale + shift` as float32, or
   * [size, size, 3] bytes. `views` [n, 19] is packed as native/images/view.h says; `normalise` holds the scales and shifts of the channels.
   */
  renderViews(
    context: NativeContext,
    images: readonly NativeImage[],
    views: Float64Array,
    options: { size: number; offset: number } & (
      | { out: Float32Array; normalise: Float64Array }
      | { out: Uint8Array }
    ),
  ): Promise<void>;

  /** Takes a copy of the parameters. Calls on one engine must come one after the other. */
  engineCreate(context: NativeContext, parameters: Float32Array): Promise<NativeEngine>;
  /** Checks a program and returns its number. */
  engineLoad(engine: NativeEngine, program: NativeProgramSpec): number;
  engineUnload(engine: NativeEngine, program: number): void;
  /** Gives up the activations that a program holds. */
  engineRelease(engine: NativeEngine, program: number): void;
  /** Whether the engine's device takes inputs while it works. */
  engineStages(engine: NativeEngine): boolean;
  /**
   * Begins to bring inputs to such a device, which have been read when it resolves; for one call of `engineForward` or `engineBackward`. It
   * may be called while another call runs.
   */
  engineStage(
    context: NativeContext,
    engine: NativeEngine,
    inputs: readonly ArrayBufferView[],
  ): Promise<NativeStaged>;
  /**
   * Runs a program up to its outputs, which it resolves to as bytes; or, where the output's entry in `rows` is not 0, as a matrix of so many
   * rows that stays on the device, for this engine's calls. `average` takes the moving average of the parameters where there is one, `keep`
   * holds the activations for `engineBackward`.
   */
  engineForward(
    context: NativeContext,
    engine: NativeEngine,
    program: number,
    inputs: readonly ArrayBufferView[],
    options: { average: boolean; keep: boolean; rows: number[]; staged: NativeStaged | undefined },
  ): Promise<(ArrayBuffer | NativeDeviceMatrix)[]>;
  /** Adds to the gradients; runs the pass forward first unless its activations are held. A gradient that is undefined is zero. */
  engineBackward(
    context: NativeContext,
    engine: NativeEngine,
    program: number,
    inputs: readonly ArrayBufferView[],
    gradients: readonly (Float32Array | NativeDeviceRows | undefined)[],
    staged: NativeStaged | undefined,
  ): Promise<void>;
  /** Adds to the gradients from an element on. */
  engineAddGradient(
    context: NativeContext,
    engine: NativeEngine,
    offset: number,
    values: Float32Array | NativeDeviceMatrix,
  ): Promise<void>;
  /** Rows of matrices of the engine under each other, in one. */
  engineConcatenate(
    context: NativeContext,
    engine: NativeEngine,
    parts: readonly NativeDeviceMatrix[],
  ): Promise<NativeDeviceMatrix>;
  engineRead(context: NativeContext, engine: NativeEngine, matrix: NativeDeviceMatrix): Promise<Float32Array>;
  /** One step of AdamW; then parameters are clamped. `average`: with a moving average, which begins where there is none. */
  engineUpdate(
    context: NativeContext,
    engine: NativeEngine,
    options: NativeAdamwOptions & { average: boolean },
    clamps: readonly { offset: number; length: number; least: number; most: number }[],
  ): Promise<number>;
  engineSave(context: NativeContext, engine: NativeEngine): Promise<NativeEngineState>;
  /** Gradients gathered so far are dropped. */
  engineRestore(context: NativeContext, engine: NativeEngine, state: NativeEngineState): Promise<void>;
  /** Idempotent. Memory goes when what runs on it has ended. */
  engineDispose(engine: NativeEngine): void;
  /** Names of operations, in the order of their numbers in a program's code. */
  engineOperations(): string[];
  /** Elements that the packed right side of a product takes; 0 where products read it as it lies. */
  enginePackedFloats(engine: NativeEngine, n: number, k: number, bfloat16: boolean): number;
}
