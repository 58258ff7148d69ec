import { expectFloat32, expectInt32, expectObject, expectOneOf, failRange } from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { type BalanceMetric, cosineThreshold } from './balance.ts';
import { type KmeansOptions, type KmeansResult, kmeans } from './kmeans.ts';
import { checkRows, deviceOf, type Rows } from './rows.ts';

export interface SemdedupOptions
  extends KernelOptions,
    Pick<KmeansOptions, 'init' | 'iterations' | 'tolerance'> {
  /** Rows strictly more alike than this are duplicates; in the unit of `metric`. SemDeDup's ε is one in `'cosine-distance'`. */
  readonly threshold: number;
  /** Unit of `threshold`. Defaults to `'cosine'`. */
  readonly metric?: BalanceMetric;
  /**
   * Clusters K of the spherical k-means that comes first, 1 to N; or one that was made before, over the same rows, to try
   * several thresholds on it.
   */
  readonly clusters: number | Pick<KmeansResult, 'centroids' | 'labels'>;
  /**
   * Which rows of a cluster come first, and so stay: `'hard'` those far from its centroid, `'easy'` those near to it, `'random'`.
   * Defaults to `'hard'`.
   */
  readonly order?: 'hard' | 'easy' | 'random';
  /** Of the k-means and of the random order, 0 to 2^53 − 1. Defaults to 0. */
  readonly seed?: number;
}

export interface SemdedupResult {
  /** [N] 1 for rows that stay. */
  readonly keep: Uint8Array;
  /**
   * [N] for a row that is dropped, the row it is most alike to of those that come before it in its cluster (which may itself be
   * dropped); −1 for one that stays.
   */
  readonly duplicateOf: Int32Array;
  /** [N] the cosine of the two; 0 for a row that stays. */
  readonly similarity: Float32Array;
  /** [N] cluster of a row. */
  readonly labels: Int32Array;
  /** Rows that stay. */
  readonly kept: number;
  /** Pairs over the threshold whose rows share a cluster; `balance` says in `edges` how many there are in all. */
  readonly pairs: number;
  /** The threshold as a cosine, which is what was compared. */
  readonly threshold: number;
}

const OWN = ['threshold', 'metric', 'clusters', 'order', 'seed', 'init', 'iterations', 'tolerance'] as const;

/**
 * SemDeDup (Abbas et al., arXiv 2303.09540), to compare `balance` with: k-means first, then within each cluster a row is dropped
 * when one that comes before it is over the threshold.
 *
 * It misses, by construction, every pair whose rows fall into different clusters, and more of them the more clusters there are.
 * Even of the same pairs it keeps as many rows as `balance` or more: a row stays unless one before it is near, so a chain of
 * near-duplicates may leave several. The answer is the same, bit for bit, on every device and for every number of threads.
 *
 * @param rows [N, D]; need not be normalised. A zero, NaN or infinite row is an error that names the first one.
 * @throws TypeError, RangeError for options; CidError INVALID_DATA for bad rows, and others for devices, files, memory
 * and abort.
 *
 * @example
 * const { keep } = await semdedup(rows, { threshold: 0.05, metric: 'cosine-distance', clusters: 1000 });
 */
export async function semdedup(rows: Rows, options: SemdedupOptions): Promise<SemdedupResult> {
  expectOptions('options', options, OWN);
  const {
    threshold: given,
    metric,
    clusters,
    order = 'hard',
    seed = 0,
    init,
    iterations,
    tolerance,
    ...kernel
  } = options;
  const threshold = cosineThreshold(given, metric);
  expectOneOf('order', order, ['hard', 'easy', 'random']);
  const { onProgress } = kernel;
  const input = checkRows('rows', rows);

  let found: Pick<KmeansResult, 'centroids' | 'labels'>;
  // Half of the progress for each of the two parts, of which only the first is there always.
  let before = 0;
  const progress = onProgress && {
    onProgress: ({ done, total }: { done: number; total: number }) =>
      onProgress({ done: before + (done / total) * (1 - before), total: 1 }),
  };
  if (typeof clusters === 'object') {
    found = checkClusters(clusters, input);
  } else {
    found = await kmeans(rows, {
      ...kernel,
      ...(onProgress && {
        onProgress: ({ done, total }) => onProgress({ done: (0.5 * done) / total, total: 1 }),
      }),
      clusters,
      seed,
      ...(init === undefined ? {} : { init }),
      ...(iterations === undefined ? {} : { iterations }),
      ...(tolerance === undefined ? {} : { tolerance }),
    });
    before = 0.5;
  }
  const { centroids, labels } = found;
  const result = await runNative(deviceOf({ ...kernel, ...progress }, rows), seed, (addon, context) =>
    addon.semdedup(context, input.native, {
      centroids,
      labels,
      clusters: centroids.length / input.dim,
      threshold,
      order,
    }),
  );
  const kept = result.keep.reduce((sum, one) => sum + one, 0);
  return { ...result, labels, kept, threshold };
}

function checkClusters(
  clusters: Pick<KmeansResult, 'centroids' | 'labels'>,
  { rows, dim }: { rows: number; dim: number },
): Pick<KmeansResult, 'centroids' | 'labels'> {
  expectObject('clusters', clusters);
  const centroids = expectFloat32('clusters.centroids', clusters.centroids);
  if (centroids.length === 0 || centroids.length % dim !== 0) {
    failRange(`[K, ${dim}], as wide as the rows,`, 'clusters.centroids', centroids);
  }
  const labels = expectInt32('clusters.labels', clusters.labels, rows, '[N]');
  return { centroids, labels };
}
