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
import { checkRows, deviceOf, type Rows } from './rows.ts';

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
   * How it starts: `'k-means++'` (each next centre drawn with a chance proportional to the squared distance to the
   * nearest so far), `'random'` rows, or the centres themselves, [B, K, D]. Defaults to `'k-means++'`.
   */
  readonly init?: 'k-means++' | 'random' | Float32Array;
  /** Most iterations, each an assignment of all rows and an update of all centres; at least 1. Defaults to 50. */
  readonly iterations?: number;
  /** Ends when at most this share of the rows changed its centre in an iteration, 0 to 1. Defaults to 0.001. */
  readonly tolerance?: number;
  /** Seed of the start and of re-seeding, 0 to 2^53 − 1. Defaults to 0. */
  readonly seed?: number;
}

export interface KmeansResult {
  /** [B, K, D] centres; unit rows when spherical. */
  readonly centroids: Float32Array;
  /** [B · N] centre of a row within its problem, 0 to K − 1: the nearest of `centroids`, ties to the smaller. */
  readonly labels: Int32Array;
  /** [B · K] rows of a centre. */
  readonly counts: Int32Array;
  /** [B] Σ ‖x − c‖² over the rows, or Σ (1 − x·c) when spherical. */
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
    'iterations',
    'tolerance',
    'seed',
  ]);
  const { batch = 1, spherical = true, init = 'k-means++', iterations = 50, tolerance = 0.001 } = options;
  const input = checkRows('rows', rows);
  expectInteger('batch', batch, 1);
  if (input.rows % batch !== 0) failRange(`a divisor of the ${input.rows} rows`, 'batch', batch);
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
    maxIterations: expectInteger('iterations', iterations, 1, 2 ** 31 - 1),
    tolerance: expectNumber('tolerance', tolerance, 0, 1),
    init: 'k-means++',
  };
  if (typeof init === 'string') native.init = expectOneOf('init', init, ['k-means++', 'random']);
  else native.centroids = expectFloat32('init', init, batch * clusters * input.dim, '[B, K, D]');

  const result = await runNative(deviceOf(options, rows), options.seed ?? 0, (addon, context) =>
    addon.kmeans(context, input.native, native),
  );
  return { ...result, batch, clusters, dim: input.dim };
}
