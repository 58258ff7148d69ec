import { nearest } from '../kernels/nearest.ts';
import { expectInteger, failRange } from '../native/check.ts';
import { type MakingOptions, makeRows, RowSource, type Spectrum } from './data.ts';

/** What the rows of every work are made from. */
export interface InputOptions extends MakingOptions {
  readonly dim: number;
  readonly spectrum: Spectrum;
  readonly seed: number;
}

/** Starting centres [K, D] for k-means: rows at equal distances in the data, which are different ones. */
export function startingCentres(
  data: Float32Array,
  rows: number,
  dim: number,
  clusters: number,
): Float32Array {
  if (clusters > rows) failRange(`at most ${rows}, the rows,`, 'clusters', clusters);
  const centres = new Float32Array(clusters * dim);
  for (let centre = 0; centre < clusters; centre++) {
    const row = Math.floor((centre * rows) / clusters);
    centres.set(data.subarray(row * dim, (row + 1) * dim), centre * dim);
  }
  return centres;
}

/** A batch of the distillation loss; student and teacher are of the same width, so that there is no projection. */
export interface LossBatch {
  /** [B, D] student, not normalised. */
  readonly image: Float32Array;
  readonly text: Float32Array;
  /** [B, D] teacher, unit rows. */
  readonly teacherImage: Float32Array;
  readonly teacherText: Float32Array;
  /** [K, D] unit rows. */
  readonly centroids: Float32Array;
  /** [B] nearest centre of a teacher's image. */
  readonly labels: Int32Array;
}

/**
 * A batch and its centres: the teacher's rows and the centres are originals of one source, the text of a pair is its image and as much of another
 * row, and a student's row is the teacher's and as much of another.
 */
export async function lossBatch(
  batch: number,
  clusters: number,
  { dim, spectrum, seed, ...making }: InputOptions,
): Promise<LossBatch> {
  expectInteger('batch', batch, 1, 2 ** 31 - 1);
  expectInteger('clusters', clusters, 1, 2 ** 31 - 1);
  const source = new RowSource({ dim, spectrum, seed, copies: 0 });
  const all = await makeRows(source, 4 * batch + clusters, making);
  const part = (index: number) => all.subarray(index * batch * dim, (index + 1) * batch * dim);
  const centroids = all.slice(4 * batch * dim);
  const teacherImage = part(0).slice();
  const teacherText = unitSum(teacherImage, part(1), dim);
  const { indices } = await nearest(
    { data: teacherImage, rows: batch, dim },
    { data: centroids, rows: clusters, dim },
    { k: 1, device: 'cpu' },
  );
  return {
    image: sum(teacherImage, part(2)),
    text: sum(teacherText, part(3)),
    teacherImage,
    teacherText,
    centroids,
    labels: indices,
  };
}

function sum(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((value, index) => value + b[index]!);
}

function unitSum(a: Float32Array, b: Float32Array, dim: number): Float32Array {
  const result = sum(a, b);
  for (let at = 0; at < result.length; at += dim) {
    const row = result.subarray(at, at + dim);
    const norm = Math.hypot(...row);
    for (let k = 0; k < dim; k++) row[k]! /= norm;
  }
  return result;
}
