import { expectInteger, expectOneOf, failRange } from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { checkRows, deviceOf, type Rows } from './rows.ts';

export interface NearestOptions extends KernelOptions {
  /** Rows of the base to find for each query, 1 to the rows of the base. */
  readonly k: number;
  /** `'cosine'` of the rows made unit, or the `'dot'` product of the rows as they are. Defaults to `'cosine'`. */
  readonly metric?: 'cosine' | 'dot';
}

export interface NearestResult {
  /** [Q, k] rows of the base, best first; ties go to the smaller index. */
  readonly indices: Int32Array;
  /** [Q, k] their scores, largest first. */
  readonly scores: Float32Array;
}

/**
 * The k rows of `base` with the largest score for each query, exactly: the order is that of float64 scores, and the same,
 * bit for bit, on every device and for every number of threads.
 *
 * @param queries [Q, D].
 * @param base [N, D]. A zero (for the cosine), NaN or infinite row on either side is an error that names the first one.
 * @throws TypeError, RangeError for options; CidError INVALID_DATA for bad rows, and others for devices, files, memory
 * and abort.
 *
 * @example
 * const { indices } = await nearest(captions, images, { k: 10 });
 */
export async function nearest(queries: Rows, base: Rows, options: NearestOptions): Promise<NearestResult> {
  expectOptions('options', options, ['k', 'metric']);
  const metric = expectOneOf('metric', options.metric ?? 'cosine', ['cosine', 'dot']);
  const left = checkRows('queries', queries);
  const right = checkRows('base', base);
  if (left.dim !== right.dim) failRange(`${right.dim}, as in base,`, 'queries.dim', left.dim);
  const k = expectInteger('k', options.k, 1);
  if (k > right.rows) failRange(`at most ${right.rows}, the rows of base,`, 'k', k);
  return runNative(deviceOf(options, queries, base), 0, (addon, context) =>
    addon.nearest(context, left.native, right.native, k, metric),
  );
}
