import { expectInteger, expectNumber, expectObject, expectOneOf, failRange } from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import { type CheckedRows, checkRows, deviceOf, type Rows } from './rows.ts';

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
  /** What was compared in front of the exact decision, in words; results do not depend on it. */
  readonly plan: string;
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
  expectWidth('queries', left, right, 'base');
  const k = expectInteger('k', options.k, 1);
  if (k > right.rows) failRange(`at most ${right.rows}, the rows of base,`, 'k', k);
  return runNative(deviceOf(options, queries, base), 0, (addon, context) =>
    addon.nearest(context, left.native, right.native, k, metric),
  );
}

/** Image and text of pairs: row i of both belongs to pair i. */
export interface Pairs {
  readonly images: Rows;
  readonly texts: Rows;
}

export interface NearestProductOptions extends KernelOptions {
  /**
   * Pairs to find for each query, 1 to the pairs there are (other than the query itself). Defaults to 100, as in the released code
   * of HELIP, or to all where there are fewer.
   */
  readonly k?: number;
  /**
   * A pair whose cosine with the query is over this for the images or for the texts counts as a near-duplicate: its score is 0. −1 to 2;
   * 2 for none, as the cosine of equal rows may be rounded to a little over 1. Defaults to 0.98, as in the released code of HELIP.
   */
  readonly cutoff?: number;
  /** Pairs to search for, of the same widths. Defaults to the pairs themselves, and then no pair is among its own results. */
  readonly queries?: Pairs;
}

/** HELIP's number of pairs and cut-off: from its released code, not from the paper. */
const HARD_PAIRS = 100;
const NEAR_DUPLICATE = 0.98;

/**
 * Hard pairs: for each query the k pairs with the largest product of two cosines, that of the images and that of the texts
 * (HELIP, NAACL 2025). Pairs whose images and texts are both close, and yet not copies, are what a contrastive loss
 * finds hard to tell apart. The two may come from different encoders: their widths need not agree.
 *
 * Exact: the order is that of float64 products of float64 cosines, the same, bit for bit, on every device and for every number of
 * threads. As in any product, two negative cosines make a positive score.
 *
 * @param images [N, D] embeddings of the images.
 * @param texts [N, E] embeddings of their texts. A zero, NaN or infinite row of any matrix is an error that names the first one.
 * @returns Indices of pairs and their scores, best first; ties go to the smaller index.
 * @throws TypeError, RangeError for options; CidError INVALID_DATA for bad rows, and others for devices, files, memory
 * and abort.
 *
 * @example
 * const { indices } = await nearestProduct(images, texts, { k: 50 });
 * const hardest = indices.subarray(50 * pair, 50 * (pair + 1));
 */
export async function nearestProduct(
  images: Rows,
  texts: Rows,
  options: NearestProductOptions = {},
): Promise<NearestResult> {
  expectOptions('options', options, ['k', 'cutoff', 'queries']);
  const cutoff = expectNumber('cutoff', options.cutoff ?? NEAR_DUPLICATE, -1, 2);
  const base = checkPairs({ images, texts }, '');
  const { queries } = options;
  if (queries !== undefined) expectObject('queries', queries, ['images', 'texts']);
  const other = queries && checkPairs(queries, 'queries.');
  if (other) {
    expectWidth('queries.images', other.images, base.images, 'images');
    expectWidth('queries.texts', other.texts, base.texts, 'texts');
  }
  const most = base.images.rows - (other ? 0 : 1);
  if (most < 1) failRange(other ? 'at least 1 row' : 'at least 2 rows', 'images', base.images.rows);
  const k = expectInteger('k', options.k ?? Math.min(HARD_PAIRS, most), 1);
  if (k > most) failRange(`at most ${most}, the ${other ? '' : 'other '}pairs,`, 'k', k);
  const inputs = [images, texts, ...(queries ? [queries.images, queries.texts] : [])];
  return runNative(deviceOf(options, ...inputs), 0, (addon, context) =>
    addon.nearestProduct(context, base.images.native, base.texts.native, {
      k,
      cutoff,
      ...(other ? { queryImages: other.images.native, queryTexts: other.texts.native } : {}),
    }),
  );
}

function checkPairs(pairs: Pairs, prefix: string): { images: CheckedRows; texts: CheckedRows } {
  const images = checkRows(`${prefix}images`, pairs.images);
  const texts = checkRows(`${prefix}texts`, pairs.texts);
  if (texts.rows !== images.rows) {
    failRange(`${images.rows}, as in ${prefix}images,`, `the rows of ${prefix}texts`, texts.rows);
  }
  return { images, texts };
}

function expectWidth(name: string, rows: CheckedRows, like: CheckedRows, likeName: string): void {
  if (rows.dim !== like.dim) failRange(`${like.dim}, as in ${likeName},`, `${name}.dim`, rows.dim);
}
