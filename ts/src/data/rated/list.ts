import { dirname, resolve } from 'node:path';
import { CidError } from '../../native/errors.ts';
import { splitFields } from '../fields.ts';
import { placeOf, rowsOf, type Tars } from '../manifest.ts';
import { RatedBuilder } from './builder.ts';
import { type RatedDataset, type Split, splitNames } from './dataset.ts';
import { decimal } from './lines.ts';
import { type ScoreScale, scoreScale } from './scale.ts';

const SCORE_FIELDS = ['score', 'mos', 'rating', 'mean'];
const HISTOGRAM_FIELDS = ['histogram', 'distribution', 'counts', 'ratings'];
const SPLIT_FIELDS = ['split', 'set', 'subset'];
/** Words that lists have for splits. */
const SPLITS: Readonly<Record<string, Split>> = {
  train: 'train',
  training: 'train',
  val: 'validation',
  valid: 'validation',
  validation: 'validation',
  dev: 'validation',
  test: 'test',
  testing: 'test',
};

export interface ListOptions {
  /** Field that names the image. Defaults to the first there is of 'image', 'path', 'file', … */
  imageField?: string;
  /** Field with the score. Defaults to 'score' (then 'mos', 'rating', 'mean'). */
  scoreField?: string;
  /** Field with the counts or shares of the bins. Defaults to 'histogram' (then 'distribution', 'counts', 'ratings'), then to columns that end in numbers. */
  histogramField?: string;
  /** Field with 'train', 'validation' or 'test'. Defaults to 'split' (then 'set', 'subset'), where one is there. */
  splitField?: string;
  /** The scale. Needed for scores, unless all are within 0 to 1 (then 5 bins); for histograms it defaults to the numbers of their columns, else to 1, 2, …. */
  scale?: ScoreScale;
}

/** How a list says what an image was rated. */
interface Columns {
  readonly score: string | undefined;
  /** One field with a list, or a field a bin. */
  readonly histogram: string | readonly string[] | undefined;
  readonly split: string | undefined;
  /** Numbers of the histogram's fields. */
  readonly centres: readonly number[] | undefined;
}

/** A row whose numbers have not been held against the scale yet. */
interface Read {
  readonly key: string;
  readonly image: string;
  readonly score: number | undefined;
  readonly histogram: readonly number[] | undefined;
  /** What the histogram's entries stand for, where its fields say so. */
  readonly centres: readonly number[] | undefined;
  readonly split: Split | undefined;
  readonly metadata: Readonly<Record<string, unknown>>;
}

interface Unread {
  readonly key: string;
  readonly reason: string;
}

/**
 * A list of images with their scores or histograms: `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.parquet`, one image a row. Paths are relative
 * to the list; `file.tar#member` names an image in a tar. A histogram is one field, `[0, 3, 5]` or `0 3 5`, or a field a bin, whose names end
 * in numbers: `1`, …, `10` or `score_1.0`, `score_1.5`, …. Where a row has both, the score is the score and the histogram the histogram.
 *
 * Rows whose numbers cannot be used are left out and listed. Fails with INVALID_DATA when there is neither score nor histogram, or when
 * scores need a scale.
 */
export async function readRatedList(source: string, options: ListOptions = {}): Promise<RatedDataset> {
  const scale = options.scale ?? (await findScale(source, options));
  const builder = new RatedBuilder(source, scale);
  const folder = dirname(resolve(source));
  const tars: Tars = new Map();
  for await (const row of readRows(source, options)) {
    const place =
      'reason' in row ? row.reason : (unusable(row, scale) ?? (await placeOf(folder, row.image, tars)));
    if (typeof place === 'string') builder.skip(row.key, place);
    else if (!('reason' in row)) {
      const { key, score, histogram, split, metadata } = row;
      const counts = histogram?.every(Number.isInteger) === true;
      builder.add({
        key,
        place,
        ...(score === undefined ? {} : { score }),
        ...(histogram === undefined ? {} : { histogram }),
        ratings: counts ? histogram.reduce((sum, count) => sum + count, 0) : 0,
        split,
        metadata,
      });
    }
  }
  return builder.finish('list');
}

/** Every row, or why it cannot be read. Fails with INVALID_DATA when none has the fields that are needed. */
async function* readRows(source: string, options: ListOptions): AsyncGenerator<Read | Unread> {
  let known: { fields: string; columns: Columns | undefined } | undefined;
  let without: string | undefined;
  let any = false;
  for await (const { line, value, reason } of rowsOf(source)) {
    if (value === undefined) {
      yield { key: `line ${line}`, reason: reason ?? 'not a JSON object' };
      continue;
    }
    // Rows of a CSV have the same fields, those of JSON need not.
    const fields = Object.keys(value).join(', ');
    if (known?.fields !== fields) known = { fields, columns: columnsOf(value, options) };
    if (known.columns) {
      any = true;
      yield readRow(line, value, known.columns, options);
    } else {
      without ??= fields;
      yield { key: `line ${line}`, reason: 'it has neither a score nor a histogram' };
    }
  }
  if (any || without === undefined) return;
  const { scoreField, histogramField } = options;
  const wanted = scoreField ?? histogramField;
  throw new CidError(
    'INVALID_DATA',
    `${source} has neither scores nor histograms: expected a field ${
      wanted ??
      `${SCORE_FIELDS.join(', ')}, or ${HISTOGRAM_FIELDS.join(', ')}, or one a bin such as score_1, score_2, …,`
    } but found ${without || 'none'}`,
  );
}

/** The fields of a row that say how its image was rated; undefined when there are none. */
function columnsOf(
  row: Readonly<Record<string, unknown>>,
  { scoreField, histogramField, splitField }: ListOptions,
): Columns | undefined {
  const usual = (given: string | undefined, candidates: readonly string[]) =>
    given === undefined ? candidates.find((name) => name in row) : [given].find((name) => name in row);
  const list = usual(histogramField, HISTOGRAM_FIELDS);
  const score = usual(scoreField, SCORE_FIELDS);
  const named = scoreField !== undefined || histogramField !== undefined;
  const bins = list === undefined && !named ? numbered(Object.keys(row)) : undefined;
  if (score === undefined && list === undefined && bins === undefined) return undefined;
  return {
    score,
    histogram: list ?? bins?.names,
    split: usual(splitField, SPLIT_FIELDS),
    centres: bins?.centres,
  };
}

/** Fields that differ only in the number at their end, which goes up in equal steps. */
function numbered(names: readonly string[]): { names: string[]; centres: number[] } | undefined {
  const groups = new Map<string, { name: string; number: number }[]>();
  for (const name of names) {
    const [, prefix, number] = /^(.*?)(\d+(?:\.\d+)?)$/.exec(name) ?? [];
    if (number === undefined) continue;
    groups.set(prefix!, [...(groups.get(prefix!) ?? []), { name, number: Number(number) }]);
  }
  for (const group of [...groups.values()].sort((a, b) => b.length - a.length)) {
    group.sort((a, b) => a.number - b.number);
    const step = (group.at(-1)!.number - group[0]!.number) / (group.length - 1);
    const even = group.every(({ number }, i) => Math.abs(number - group[0]!.number - i * step) < 1e-9);
    if (group.length >= 2 && step > 0 && even) {
      return { names: group.map(({ name }) => name), centres: group.map(({ number }) => number) };
    }
  }
  return undefined;
}

function readRow(
  line: number,
  value: Readonly<Record<string, unknown>>,
  columns: Columns,
  { imageField, splitField }: ListOptions,
): Read | Unread {
  const fields = splitFields(value, imageField === undefined ? {} : { imageField });
  const key = fields.key ?? fields.image ?? `line ${line}`;
  const bad = (reason: string) => ({ key, reason });
  if (fields.image === undefined) return bad('no field names its image');
  if (splitField !== undefined && columns.split === undefined) return bad(`it has no field ${splitField}`);

  let histogram: (number | undefined)[] | undefined;
  if (typeof columns.histogram === 'string') histogram = listOf(value[columns.histogram]);
  else if (columns.histogram) histogram = columns.histogram.map((name) => numberOf(value[name]));
  const score = columns.score === undefined ? undefined : numberOf(value[columns.score]);
  if (columns.score !== undefined && score === undefined && !histogram)
    return bad('the score is not a number');
  if (histogram?.some((count) => count === undefined || count < 0))
    return bad('the histogram has an entry that is not a number from 0 on');
  if (histogram && !histogram.some((count) => count! > 0)) return bad('it has no ratings');

  const word =
    columns.split === undefined
      ? ''
      : String(value[columns.split] ?? '')
          .toLowerCase()
          .trim();
  if (word !== '' && !(word in SPLITS)) return bad(`its split is none of ${splitNames.join(', ')}`);
  const used = [columns.score, columns.split, ...[columns.histogram ?? []].flat()];
  const metadata = Object.fromEntries(
    Object.entries(fields.metadata).filter(([name]) => !used.includes(name)),
  );
  return {
    key,
    image: fields.image,
    score,
    histogram: histogram as number[] | undefined,
    centres: columns.centres,
    split: SPLITS[word],
    metadata,
  };
}

function numberOf(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) ? value : undefined;
  return typeof value === 'string' ? decimal(value.trim()) : undefined;
}

/** A list as JSON has it, or as text with spaces, commas or semicolons between the numbers. */
function listOf(value: unknown): (number | undefined)[] {
  if (Array.isArray(value)) return value.map(numberOf);
  const text = String(value ?? '').replace(/^\s*\[|\]\s*$/g, '');
  return text.trim() === ''
    ? []
    : text
        .trim()
        .split(/[\s,;|]+/)
        .map((part) => decimal(part));
}

/** The scale of a list that was given none: a histogram has it in its first row, scores are looked through. */
async function findScale(source: string, options: ListOptions): Promise<ScoreScale> {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for await (const row of readRows(source, options)) {
    if ('reason' in row) continue;
    const bins = row.histogram?.length;
    if (bins !== undefined && bins >= 2) {
      return row.centres ? scoreScale(row.centres[0]!, row.centres.at(-1)!, bins) : scoreScale(1, bins, bins);
    }
    low = Math.min(low, row.score ?? low);
    high = Math.max(high, row.score ?? high);
  }
  if (low < 0 || high > 1) {
    throw new CidError(
      'INVALID_DATA',
      `The scores of ${source} go from ${low} to ${high}: say what scale they are on, such as 1 to 10 (scale)`,
    );
  }
  return scoreScale(0, 1, 5);
}

/** Why a row does not fit the scale. */
function unusable({ score, histogram }: Read, { low, high, bins }: ScoreScale): string | undefined {
  if (histogram && histogram.length !== bins)
    return `expected ${bins} entries in its histogram but found ${histogram.length}`;
  if (score !== undefined && (score < low || score > high))
    return `the score ${score} is not within ${low} to ${high}`;
  return undefined;
}
