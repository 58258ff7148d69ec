import type { NativeKmeansOptions } from '../native/addon.ts';
import {
  expectBoolean,
  expectFloat32,
  expectInteger,
  expectNumber,
  expectOneOf,
  failRange,
} from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { type CheckedRows, checkRows, deviceOf, type Rows } from './rows.ts';

export interface KmeansOptions extends KernelOptions {
  /** Centres K of each problem, 1 to the rows of a problem. */
  readonly clusters: number;
  /** Independent problems B of equal size; the rows are those of the first, then of the second, … Defaults to 1. */
  readonly batch?: number;
  /**
   * True: rows and centres are unit vectors and the cosine is compared. False: the Euclidean distance of the rows as
   * they are. Defaults to true.
   */
  readonly spherical?: boolean;
  /**
   * How it starts: `'k-means++'` (each next centre drawn with a chance proportional to the weighted squared distance to the
   * nearest so far; Arthur and Vassilvitskii, 2007), `'k-means||'` (five rounds in which about K rows at once are drawn with
   * those chances, which k-means++ then reduces to K; Bahmani et al., 2012), `'random'` rows, or the centres themselves,
   * [B, K, D]. k-means++ takes about as long as a dozen iterations and k-means|| as six (100,000 × 256 rows, K = 1,000); for a very
   * large K `'random'` is by far the cheapest. Defaults to `'k-means++'`.
   */
  readonly init?: 'k-means++' | 'k-means||' | 'random' | Float32Array;
  /** Starts with draws of their own, of which the one of smallest inertia counts, for each problem. Defaults to 1. */
  readonly nInit?: number;
  /** [B · N] weight of each row, finite and at least 0, one of each problem over 0. Defaults to 1 for every row. */
  readonly weights?: Float32Array;
  /** Most iterations, each an assignment of all rows and an update of all centres; at least 1. Defaults to 50. */
  readonly iterations?: number;
  /** Ends when at most this share of the rows changed its centre in an iteration, 0 to 1. Defaults to 0.001. */
  readonly tolerance?: number;
  /**
   * Ends also when Σ ‖step of a centre‖² in an iteration is at most this times the rows' variance (mean over the
   * dimensions), which is what `tol` of scikit-learn and cuML means; at least 0. Defaults to 0: `tolerance` alone decides.
   */
  readonly movement?: number;
  /** Seed of the draws, 0 to 2^53 − 1. Defaults to 0. */
  readonly seed?: number;
}

export interface KmeansResult {
  /** [B, K, D] centres; unit rows when spherical. */
  readonly centroids: Float32Array;
  /** [B · N] centre of a row within its problem, 0 to K − 1: the nearest of `centroids`, ties to the smaller. */
  readonly labels: Int32Array;
  /** [B · K] rows of a centre. */
  readonly counts: Int32Array;
  /** [B] Σ w ‖x − c‖² over the rows, or Σ w (1 − x·c) when spherical. */
  readonly inertia: Float64Array;
  /** [B] iterations done. */
  readonly iterations: Int32Array;
  readonly batch: number;
  readonly clusters: number;
  readonly dim: number;
}

/**
 * K-means: exact nearest centres, batched, spherical or Euclidean. A centre that loses all its rows is placed anew. The
 * answer is the same, bit for bit, on every device and for every number of threads.
 *
 * Rows that provably keep their centre are not compared again, so late iterations are cheap. With file-backed rows,
 * `maxMemory` bounds what is held of them.
 *
 * @param rows [B · N, D]. A zero (when spherical), NaN or infinite row is an error that names the first one.
 * @throws TypeError, RangeError for options; CidError INVALID_DATA for bad rows, and others for devices, files, memory
 * and abort.
 *
 * @example
 * const { centroids, labels } = await kmeans({ data, rows: 10_000, dim: 512 }, { clusters: 50, seed: 1 });
 */
export async function kmeans(rows: Rows, options: KmeansOptions): Promise<KmeansResult> {
  expectOptions('options', options, [
    'clusters',
    'batch',
    'spherical',
    'init',
    'nInit',
    'weights',
    'iterations',
    'tolerance',
    'movement',
    'seed',
  ]);
  const { spherical = true, init = 'k-means++', nInit = 1, iterations = 50 } = options;
  const { tolerance = 0.001, movement = 0, weights } = options;
  const input = checkRows('rows', rows);
  const batch = checkBatch(input, options.batch);
  const clusters = expectInteger('clusters', options.clusters, 1);
  if (clusters > input.rows / batch) {
    failRange(
      `at most ${input.rows / batch}, the number of rows${batch > 1 ? ' of a problem' : ''},`,
      'clusters',
      clusters,
    );
  }
  const native: NativeKmeansOptions = {
    clusters,
    batch,
    spherical: expectBoolean('spherical', spherical),
    runs: expectInteger('nInit', nInit, 1, 2 ** 31 - 1),
    maxIterations: expectInteger('iterations', iterations, 1, 2 ** 31 - 1),
    tolerance: expectNumber('tolerance', tolerance, 0, 1),
    movement: expectNumber('movement', movement, 0),
    init: 'k-means++',
  };
  if (typeof init === 'string') {
    native.init = expectOneOf('init', init, ['k-means++', 'k-means||', 'random']);
  } else {
    native.centroids = expectFloat32('init', init, batch * clusters * input.dim, '[B, K, D]');
    if (nInit > 1) failRange('1 when the centres are given', 'nInit', nInit);
  }
  if (weights !== undefined) native.weights = expectFloat32('weights', weights, input.rows, '[B · N]');

  const result = await runNative(deviceOf(options, rows), options.seed ?? 0, (addon, context) =>
    addon.kmeans(context, input.native, native),
  );
  return { ...result, batch, clusters, dim: input.dim };
}

export interface PredictOptions extends KernelOptions {
  /** Problems B, as for {@link kmeans}: rows of a problem are compared with its own centroids. Defaults to 1. */
  readonly batch?: number;
  /** As the centroids were made. Defaults to true. */
  readonly spherical?: boolean;
}

export interface PredictResult {
  /** [B · N] nearest centre of a row within its problem, ties to the smaller: as {@link kmeans} decides. */
  readonly labels: Int32Array;
  /** [B · N] ‖x − c‖² to it, or 1 − x·c when spherical. */
  readonly distances: Float32Array;
}

/**
 * The nearest centre of each row, exactly, by the decisions of {@link kmeans}: for the rows it was given and the centroids it
 * returned, its labels.
 *
 * @param rows [B · N, D]. A zero (when spherical), NaN or infinite row is an error that names the first one.
 * @param centroids [B, K, D], taken as they are: for the cosine they should be unit rows, as `kmeans` returns them.
 * @throws TypeError, RangeError for options; CidError INVALID_DATA for bad rows, and others for devices, files, memory
 * and abort.
 *
 * @example
 * const { centroids } = await kmeans(rows, { clusters: 100 });
 * const { labels, distances } = await predict(others, centroids);
 */
export async function predict(
  rows: Rows,
  centroids: Float32Array,
  options: PredictOptions = {},
): Promise<PredictResult> {
  expectOptions('options', options, ['batch', 'spherical']);
  const spherical = expectBoolean('spherical', options.spherical ?? true);
  const input = checkRows('rows', rows);
  const batch = checkBatch(input, options.batch);
  const clusters = expectFloat32('centroids', centroids).length / (batch * input.dim);
  if (!Number.isInteger(clusters) || clusters < 1) {
    failRange(`a Float32Array of B × K × ${input.dim}, with B = ${batch},`, 'centroids', centroids);
  }
  return runNative(deviceOf(options, rows), 0, (addon, context) =>
    addon.predict(context, input.native, centroids, { batch, clusters, spherical }),
  );
}

function checkBatch(input: CheckedRows, batch = 1): number {
  expectInteger('batch', batch, 1);
  if (input.rows % batch !== 0) failRange(`a divisor of the ${input.rows} rows`, 'batch', batch);
  return batch;
}
