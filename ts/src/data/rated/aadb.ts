import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { expectInteger } from '../../native/check.ts';
import { CidError } from '../../native/errors.ts';
import { RatedBuilder } from './builder.ts';
import type { RatedDataset, Split } from './dataset.ts';
import { namesIn } from './folders.ts';
import { decimal, linesOf } from './lines.ts';
import type { Place } from './rows.ts';
import { aadbScale, scoreScale } from './scale.ts';

const LABELS = 'imgListFiles_label';
/** In the order in which an image of several lists is given to one: never train on what is tested. */
const LISTS: readonly { readonly split: Split; readonly names: readonly string[] }[] = [
  { split: 'test', names: ['TestNew', 'Test'] },
  { split: 'validation', names: ['Validation'] },
  { split: 'train', names: ['Train'] },
];
/** As the files spell them. */
export const aadbAttributes: readonly string[] = [
  'BalacingElements',
  'ColorHarmony',
  'Content',
  'DoF',
  'Light',
  'MotionBlur',
  'Object',
  'Repetition',
  'RuleOfThirds',
  'Symmetry',
  'VividColor',
];
const IMAGES = [
  'datasetImages_originalSize',
  'datasetImages_warp256',
  'datasetImages',
  'AADB_newtest_originalSize',
  'AADB_newtest',
  'images',
  '.',
];
/** Images of the new test set are called `0.500_NAME` in some of the archives. */
const SCORE_PREFIX = /^\d\.\d{3}_/;

export interface AadbOptions {
  /** Folder of the images. Defaults to all folders that the archives unpack to, such as `datasetImages_originalSize`. */
  images?: string;
  /** Bins that a score is shared between. Defaults to 5. */
  bins?: number;
}

/** The folder with the lists: `source` itself, or `imgListFiles_label` in it, once or twice. Undefined when there is none. */
export function aadbLabels(source: string): string | undefined {
  return [source, join(source, LABELS), join(source, LABELS, LABELS)].find((folder) =>
    namesIn(folder).some((name) =>
      /^imgList(Train|Validation|Test|TestNew)Regression_score\.txt$/.test(name),
    ),
  );
}

/**
 * AADB (Kong et al., "Photo aesthetics ranking network with attributes and content adaptation", ECCV 2016).
 *
 * `imgListFiles_label/imgList{Train,Validation,Test,TestNew}Regression_{score,ATTRIBUTE}.txt` have an image's name and a number a line;
 * scores are means of five raters in 0 to 1, attributes ({@link aadbAttributes}, the spelling is theirs) are signed. `TestNew` is the
 * test set that results are given on, 1,000 images; the older `Test` serves where it is missing. Images lie in
 * `datasetImages_originalSize` (or `_warp256`) and `AADB_newtest_originalSize`, where the name may begin with the score, as in
 * `0.500_farm1_…jpg`. That much is common to several published loaders; the format has no specification.
 *
 * A score has no bins: it is shared between the two of {@link aadbScale} beside it. An image in several lists is in the first of test,
 * validation, training. `metadata` has the attributes. Lines without a name and a number, and scores outside 0 to 1, are left out.
 */
export async function readAadb(source: string, options: AadbOptions = {}): Promise<RatedDataset> {
  const labels = aadbLabels(source);
  if (labels === undefined) {
    throw new CidError('FILE_NOT_FOUND', `There is no imgListTrainRegression_score.txt in ${source}`);
  }
  const bins = expectInteger('bins', options.bins ?? aadbScale.bins, 2, 1000);
  const builder = new RatedBuilder(source, scoreScale(aadbScale.low, aadbScale.high, bins));
  const root = labels === source ? join(source, '..') : source;
  const images = new Images(
    options.images === undefined
      ? [...IMAGES.map((name) => join(root, name)), join(source, '..')]
      : [options.images],
  );

  let overlaps = 0;
  let incomplete = 0;
  for (const { split, names } of LISTS) {
    const list = names.find((name) => existsSync(listPath(labels, name, 'score')));
    if (list === undefined) continue;
    const attributes = await readAttributes(labels, list, builder);
    const path = listPath(labels, list, 'score');
    const own = new Set<string>();
    for await (const { name, value } of values(path, builder)) {
      if (value < 0 || value > 1) {
        builder.skip(name, `the score ${value} is not within 0 to 1`);
        continue;
      }
      const key = name.replace(SCORE_PREFIX, '');
      if (builder.has(key) && !own.has(key)) {
        overlaps++;
        continue;
      }
      own.add(key);
      const metadata: Record<string, number> = {};
      for (const [attribute, of] of attributes) {
        const found = of.get(name);
        if (found !== undefined) metadata[attribute] = found;
      }
      if (Object.keys(metadata).length < attributes.size) incomplete++;
      builder.add({ key, place: images.place(key), score: value, split, metadata });
    }
  }
  if (overlaps > 0)
    builder.notes.push(
      `${overlaps} images are in several lists; they stay in the test or validation list only`,
    );
  if (incomplete > 0) builder.notes.push(`${incomplete} images lack some of the attributes`);
  return builder.finish('aadb');
}

const listPath = (labels: string, list: string, what: string) =>
  join(labels, `imgList${list}Regression_${what}.txt`);

async function readAttributes(
  labels: string,
  list: string,
  builder: RatedBuilder,
): Promise<Map<string, Map<string, number>>> {
  const attributes = new Map<string, Map<string, number>>();
  for (const attribute of aadbAttributes) {
    const path = listPath(labels, list, attribute);
    if (!existsSync(path)) continue;
    const of = new Map<string, number>();
    for await (const { name, value } of values(path, builder)) of.set(name, value);
    attributes.set(attribute, of);
  }
  return attributes;
}

/** Names and numbers of a list. A name may hold spaces: the number is what comes last. */
async function* values(path: string, builder: RatedBuilder): AsyncGenerator<{ name: string; value: number }> {
  for await (const lines of linesOf(path)) {
    for (const { number, text } of lines) {
      const [, name, last] = /^(.*\S)\s+(\S+)$/.exec(text) ?? [];
      const value = last === undefined ? undefined : decimal(last);
      if (name === undefined || value === undefined)
        builder.skip(`${basename(path)}, line ${number}`, 'expected a name and a number');
      else yield { name, value };
    }
  }
}

/** Images by the name that the lists have for them. */
class Images {
  readonly #paths = new Map<string, string>();
  readonly #fallback: string;

  constructor(folders: readonly string[]) {
    this.#fallback = folders[0]!;
    for (const folder of folders) {
      for (const name of namesIn(folder)) {
        const key = name.replace(SCORE_PREFIX, '');
        if (!this.#paths.has(key)) this.#paths.set(key, join(folder, name));
      }
    }
  }

  place(key: string): Place {
    return { path: this.#paths.get(key) ?? join(this.#fallback, key) };
  }
}
