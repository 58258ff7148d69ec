import { nearest } from '../kernels/nearest.ts';
import type { Matrix } from '../kernels/rows.ts';
import { failRange } from '../native/check.ts';
import type { KernelOptions } from '../native/context.ts';
import { classAccuracy } from './accuracy.ts';
import type { ZeroShotResult } from './types.ts';
import { matrix, meanOfRuns } from './vectors.ts';

export const defaultTemplates: readonly string[] = ['a photo of a {}.'];

/**
 * Classifiers out of words: every class is put into every template in place of `{}`, embedded, and the unit embeddings of a
 * class are averaged. [classes, dim], unit rows.
 */
export async function classEmbeddings(
  encoder: { readonly dim: number; embedTexts(texts: readonly string[]): Promise<Float32Array> },
  classes: readonly string[],
  templates: readonly string[] = defaultTemplates,
): Promise<Matrix> {
  if (classes.length === 0) failRange('at least one class', 'classes', classes);
  if (templates.length === 0) failRange('at least one template', 'templates', templates);
  for (const template of templates) {
    if (!template.includes('{}')) failRange("a text with '{}' in place of the class", 'templates', template);
  }
  const prompts = classes.flatMap((name) => templates.map((template) => template.replaceAll('{}', name)));
  return meanOfRuns(matrix(await encoder.embedTexts(prompts), encoder.dim), templates.length);
}

export interface ZeroShotOptions extends KernelOptions {
  /** [N, D] image embeddings, and [N] their true classes. */
  readonly images: Matrix;
  /** [N] number of the class of each image, an index into `names`. */
  readonly labels: Int32Array;
  /** [C, D], see {@link classEmbeddings}, and the names of the classes. */
  readonly classes: Matrix;
  /** Names of the classes, in the order of the rows of `classes`. */
  readonly names: readonly string[];
}

/** Accuracy of the nearest class by cosine; ties go to the smaller class. */
export async function zeroShot({
  images,
  labels,
  classes,
  names,
  ...options
}: ZeroShotOptions): Promise<ZeroShotResult> {
  if (images.rows === 0) failRange('at least one row', 'images.rows', images.rows);
  if (labels.length !== images.rows) failRange(`${images.rows} labels`, 'labels', labels);
  if (names.length !== classes.rows) failRange(`${classes.rows} names`, 'names', names);
  const k = Math.min(5, classes.rows);
  const { indices } = await nearest(images, classes, { ...options, k });
  const first = labels.map((_, row) => indices[row * k]!);
  let among = 0;
  labels.forEach((label, row) => {
    if (indices.subarray(row * k, (row + 1) * k).includes(label)) among++;
  });
  return {
    images: images.rows,
    classes: classes.rows,
    ...classAccuracy(first, labels, names),
    top5: among / images.rows,
    chance: 1 / classes.rows,
  };
}
