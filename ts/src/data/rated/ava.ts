import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { CidError } from '../../native/errors.ts';
import { RatedBuilder } from './builder.ts';
import type { RatedDataset, Split } from './dataset.ts';
import { imageFolder } from './folders.ts';
import { linesOf, whole } from './lines.ts';
import { avaScale } from './scale.ts';

export const AVA_FILE = 'AVA.txt';
const LISTS = 'aesthetics_image_lists';
const TEST_LIST = 'generic_test.jpgl';
/** index, image id, ten counts, two tags, challenge. */
const COLUMNS = 15;
const COUNTS = 10;

export interface AvaOptions {
  /** Folder of the images. Defaults to the first of `images/images`, `images`, `image` and the folder of AVA.txt that holds JPEGs. */
  images?: string;
  /** List of test images. Defaults to `aesthetics_image_lists/generic_test.jpgl` beside AVA.txt, where it is there. */
  testList?: string;
  /** List of training images: those in neither list are then in no split. By default all that are not test images are for training. */
  trainList?: string;
}

/**
 * AVA (Murray, Marchesotti and Perronnin, "AVA: A large-scale database for aesthetic visual analysis", CVPR 2012).
 *
 * `AVA.txt`, as its README says: 15 columns with spaces between them; index, image id, how many raters gave 1, 2, …, 10, two semantic
 * tags (0 for none), challenge. Neither indices nor ids are relied on to be in order. An image is `ID.jpg`; the release has none, and
 * copies of it lack some or hold empty ones, which are left out and listed. `aesthetics_image_lists` holds one id a line. Its
 * `generic_test.jpgl` is the test set everybody uses, against all other images for training; `generic_ls_train.jpgl` and
 * `generic_ss_train.jpgl` are the paper's larger and smaller training lists, and there are lists of eight categories. AVA has no
 * validation set. A mean over 5 counts as high ({@link avaScale}).
 *
 * `metadata` has `tags` and `challenge`. Rows with another number of columns, an id or count that is no whole number, or no ratings are left
 * out with the number of their line; so are ids of the lists that AVA.txt does not have.
 */
export async function readAva(source: string, options: AvaOptions = {}): Promise<RatedDataset> {
  const file = (await stat(source)).isDirectory() ? join(source, AVA_FILE) : source;
  const root = dirname(resolve(file));
  const images = options.images ?? imageFolder(root, ['images/images', 'images', 'image', '.']);
  const builder = new RatedBuilder(file, avaScale);
  const splits = await readSplits(root, options, builder);

  for await (const lines of linesOf(file)) {
    for (const { number, text } of lines) {
      const columns = text.split(/\s+/);
      const reason = problem(columns);
      if (reason !== undefined) {
        builder.skip(`line ${number}`, reason);
        continue;
      }
      const [, id, ...rest] = columns as [string, string, ...string[]];
      const histogram = rest.slice(0, COUNTS).map(Number);
      const [first, second, challenge] = rest.slice(COUNTS).map(Number) as [number, number, number];
      builder.add({
        key: id,
        place: { path: join(images, `${id}.jpg`) },
        histogram,
        ratings: histogram.reduce((sum, count) => sum + count, 0),
        split: splits.of(id),
        metadata: { tags: [first, second].filter((tag) => tag !== 0), challenge },
      });
    }
  }
  for (const { id, list } of splits.listed()) {
    if (!builder.has(id)) builder.skip(id, `${list} names it and ${basename(file)} does not`);
  }
  return builder.finish('ava');
}

/** Why a row cannot be used. */
function problem(columns: readonly string[]): string | undefined {
  if (columns.length !== COLUMNS) return `expected ${COLUMNS} columns but found ${columns.length}`;
  const numbers = columns.slice(1).map(whole);
  if (numbers[0] === undefined) return `the image id is not a whole number`;
  if (numbers.slice(1, 1 + COUNTS).some((count) => count === undefined))
    return 'a count is not a whole number';
  if (numbers.slice(1 + COUNTS).some((value) => value === undefined))
    return 'a tag or the challenge is not a whole number';
  if (numbers.slice(1, 1 + COUNTS).every((count) => count === 0)) return 'it has no ratings';
  return undefined;
}

interface Splits {
  of(id: string): Split | undefined;
  /** Ids of the lists, each once. */
  listed(): Iterable<{ id: string; list: string }>;
}

async function readSplits(root: string, options: AvaOptions, builder: RatedBuilder): Promise<Splits> {
  const usual = join(root, LISTS, TEST_LIST);
  const testList = options.testList ?? (existsSync(usual) ? usual : undefined);
  const test = testList === undefined ? undefined : await readIds(testList, builder);
  const train = options.trainList === undefined ? undefined : await readIds(options.trainList, builder);
  let both = 0;
  for (const id of train ?? []) {
    if (!test?.has(id)) continue;
    both++;
    train!.delete(id);
  }
  if (both > 0) {
    builder.notes.push(
      `${both} images are in the training list and in the test list; they are test images only`,
    );
  }
  return {
    of: (id) => {
      if (test?.has(id)) return 'test';
      if (train) return train.has(id) ? 'train' : undefined;
      return test ? 'train' : undefined;
    },
    *listed() {
      for (const id of test ?? []) yield { id, list: 'the test list' };
      for (const id of train ?? []) yield { id, list: 'the training list' };
    },
  };
}

/** Ids of a list, one a line, as AVA.txt would write them. */
async function readIds(path: string, builder: RatedBuilder): Promise<Set<string>> {
  const ids = new Set<string>();
  for await (const lines of linesOf(path)) {
    for (const { number, text } of lines) {
      if (whole(text) === undefined)
        builder.skip(`${basename(path)}, line ${number}`, 'the image id is not a whole number');
      else ids.add(text);
    }
  }
  if (ids.size === 0) throw new CidError('FILE_FORMAT', `${path} is no list of image ids, one a line`);
  return ids;
}
