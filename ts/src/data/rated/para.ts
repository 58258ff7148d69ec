import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { CidError } from '../../native/errors.ts';
import { type Row as ListRow, rowsOf } from '../manifest.ts';
import { RatedBuilder } from './builder.ts';
import type { RatedDataset, Split } from './dataset.ts';
import { decimal } from './lines.ts';
import { binCentres, paraScale, softBin } from './scale.ts';

const TRAIN = 'PARA-GiaaTrain.csv';
const TEST = 'PARA-GiaaTest.csv';
const RATERS = 'PARA-Images.csv';
const COUNTS = Array.from(binCentres(paraScale), (score) => `aestheticScore_${score.toFixed(1)}`);
const MEAN = 'aestheticScore_mean';
const SCORE = 'aestheticScore';
/** How far a mean may be from that of its counts: the files have nine digits. */
const ROUNDING = 1e-3;

export interface ParaOptions {
  /** Folder with a folder of images a session. Defaults to `imgs` beside `annotation`. */
  images?: string;
}

/** The folder with PARA's annotations: `source` itself or `annotation` in it. Undefined when there is none. */
export function paraAnnotation(source: string): string | undefined {
  return [join(source, 'annotation'), source].find((folder) =>
    [TRAIN, TEST, RATERS].some((name) => existsSync(join(folder, name))),
  );
}

export const isParaFile = (name: string): boolean => [TRAIN, TEST, RATERS].includes(basename(name));

/**
 * PARA (Yang et al., "Personalized image aesthetics assessment with rich attributes", CVPR 2022).
 *
 * As its README and files have it, images are `imgs/SESSION/NAME`, and `annotation` holds
 *
 * - `PARA-GiaaTrain.csv` and `PARA-GiaaTest.csv`, one image a row: `imageName`, `sessionId`, `semantic`, how many raters gave
 *   `aestheticScore_1.0`, `_1.5`, …, `_5.0`, their mean `aestheticScore_mean`, and columns of other attributes, which are not read;
 * - `PARA-Images.csv`, one rating a row: `sessionId`, `imageName`, `userId`, `aestheticScore` from 1 to 5, and others.
 *
 * A folder is read from the first two, which also are its split into training and test (there is no validation set), or from the
 * ratings where those are missing; a file by itself is read alone. A mean that its counts do not have (over 0.001 away), counts that are no whole
 * numbers, scores outside 1 to 5, and second ratings of an image by one rater are left out and listed. A rating between two steps is shared
 * between them. `metadata` has `session` and, where known, `semantic`.
 */
export async function readPara(source: string, options: ParaOptions = {}): Promise<RatedDataset> {
  const isFolder = (await stat(source)).isDirectory();
  const annotation = isFolder ? paraAnnotation(source) : dirname(resolve(source));
  if (annotation === undefined) throw new CidError('FILE_NOT_FOUND', `There is no ${TRAIN} in ${source}`);
  const images = options.images ?? join(annotation, '..', 'imgs');
  const files: { path: string; split: Split | undefined }[] = isFolder
    ? [
        { path: join(annotation, TEST), split: 'test' as const },
        { path: join(annotation, TRAIN), split: 'train' as const },
      ].filter(({ path }) => existsSync(path))
    : [{ path: source, split: undefined }];
  if (files.length === 0) files.push({ path: join(annotation, RATERS), split: undefined });

  const builder = new RatedBuilder(source, paraScale);
  for (const { path, split } of files) {
    await (basename(path) === RATERS
      ? readRatings(path, images, builder)
      : readHistograms(path, images, split, builder));
  }
  return builder.finish('para');
}

type Fields = Readonly<Record<string, unknown>>;

const field = (row: Fields, name: string): string => String(row[name] ?? '').trim();

/** Rows of a list that have an image; fails with FILE_FORMAT when a column is missing. */
async function* rows(
  path: string,
  columns: readonly string[],
  builder: RatedBuilder,
): AsyncGenerator<{ line: number; value: Fields; key: string; session: string }> {
  const skip = (line: number, reason: string) => builder.skip(`${basename(path)}, line ${line}`, reason);
  for await (const { line, value, reason } of rowsOf(path) as AsyncIterable<ListRow>) {
    if (value === undefined) {
      skip(line, reason!);
      continue;
    }
    const missing = ['imageName', 'sessionId', ...columns].filter((name) => !(name in value));
    if (missing.length > 0) {
      throw new CidError('FILE_FORMAT', `${path} is no file of PARA: it has no column ${missing.join(', ')}`);
    }
    const [session, name] = [field(value, 'sessionId'), field(value, 'imageName')];
    if (session === '' || name === '') skip(line, 'it names no image');
    else yield { line, value, session, key: `${session}/${name}` };
  }
}

async function readHistograms(
  path: string,
  images: string,
  split: Split | undefined,
  builder: RatedBuilder,
): Promise<void> {
  const centres = binCentres(paraScale);
  for await (const { value, key, session } of rows(path, COUNTS, builder)) {
    const counts = COUNTS.map((name) => decimal(field(value, name)));
    if (!counts.every((count) => count !== undefined && Number.isInteger(count) && count >= 0)) {
      builder.skip(key, 'a count is not a whole number');
      continue;
    }
    const histogram = counts as number[];
    const ratings = histogram.reduce((sum, count) => sum + count, 0);
    if (ratings === 0) {
      builder.skip(key, 'it has no ratings');
      continue;
    }
    const mean = histogram.reduce((sum, count, k) => sum + count * centres[k]!, 0) / ratings;
    const given = field(value, MEAN);
    if (given !== '' && !(Math.abs(mean - (decimal(given) ?? Number.NaN)) <= ROUNDING)) {
      builder.skip(key, `its mean is given as ${given}, but that of its counts is ${mean.toFixed(3)}`);
      continue;
    }
    const semantic = field(value, 'semantic');
    const metadata = { session, ...(semantic === '' ? {} : { semantic }) };
    builder.add({
      key,
      place: { path: join(images, key) },
      score: mean,
      histogram,
      ratings,
      split,
      metadata,
    });
  }
}

/** Ratings of one image in the making. */
interface Ratings {
  readonly histogram: Float64Array;
  readonly raters: Set<string>;
  readonly session: string;
  readonly semantic: string;
  count: number;
  sum: number;
}

async function readRatings(path: string, images: string, builder: RatedBuilder): Promise<void> {
  const found = new Map<string, Ratings>();
  for await (const { line, value, key, session } of rows(path, [SCORE], builder)) {
    const given = field(value, SCORE);
    const score = decimal(given);
    if (score === undefined || score < paraScale.low || score > paraScale.high) {
      const reason = given === '' ? 'it has no score' : `the score ${given} is not within 1 to 5`;
      builder.skip(`${basename(path)}, line ${line}`, reason);
      continue;
    }
    let image = found.get(key);
    if (!image) {
      const histogram = new Float64Array(paraScale.bins);
      image = { histogram, raters: new Set(), session, semantic: field(value, 'semantic'), count: 0, sum: 0 };
      found.set(key, image);
    }
    const rater = field(value, 'userId');
    if (rater !== '' && image.raters.has(rater)) {
      builder.skip(`${basename(path)}, line ${line}`, 'the rater has rated this image before');
      continue;
    }
    image.raters.add(rater);
    softBin(score, paraScale, image.histogram);
    image.count++;
    image.sum += score;
  }
  for (const [key, { histogram, session, semantic, count, sum }] of found) {
    const metadata = { session, ...(semantic === '' ? {} : { semantic }) };
    const place = { path: join(images, key) };
    builder.add({ key, place, score: sum / count, histogram, ratings: count, metadata });
  }
}
