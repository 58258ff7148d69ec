import { createHash } from 'node:crypto';
import { expectInteger, expectNumber, failRange } from '../../native/check.ts';
import { type RatedDataset, type Split, splitNames } from './dataset.ts';

export interface SplitOptions {
  /** Of what the data set does not decide itself. Defaults to 0. */
  seed?: number;
  /** Share of the images for validation, 0 to 1, where the data set has no such split; of those for training where it has a test set. Defaults to 0.1. */
  validation?: number;
  /** Share of the images for testing, 0 to 1, where the data set has no such split. Defaults to 0.1. */
  test?: number;
}

/** Indices into a data set, ascending. */
export type Splits = Readonly<Record<Split, Int32Array>>;

/**
 * Splits a data set: as it says itself where it does, otherwise by seed. Which split an image is drawn into depends on the seed and its key
 * alone, so that it stays there when others are added, left out or come in another order; the shares are therefore not met exactly. Images
 * of a data set with splits of its own that are in none of them are left out.
 */
export function splitRated(dataset: RatedDataset, options: SplitOptions = {}): Splits {
  const seed = expectInteger('seed', options.seed ?? 0);
  const validation = expectNumber('validation', options.validation ?? 0.1, 0, 1);
  const test = expectNumber('test', options.test ?? 0.1, 0, 1);
  const own = Array.from({ length: dataset.length }, (_, i) => dataset.split(i));
  const has = Object.fromEntries(splitNames.map((name) => [name, own.includes(name)])) as Record<
    Split,
    boolean
  >;
  const anyOwn = splitNames.some((name) => has[name]);
  const drawn = [
    { name: 'test' as const, share: has.test ? 0 : test },
    { name: 'validation' as const, share: has.validation ? 0 : validation },
  ];
  if (drawn[0]!.share + drawn[1]!.share > 1) {
    failRange('shares of at most 1 together', 'validation and test', validation + test);
  }

  const result: Record<Split, number[]> = { train: [], validation: [], test: [] };
  for (const [index, split] of own.entries()) {
    if (split === undefined && anyOwn) continue;
    if (split === 'validation' || split === 'test') {
      result[split].push(index);
      continue;
    }
    let place = draw('split', seed, dataset.item(index).key);
    const found = drawn.find(({ share }) => {
      const inside = place < share;
      place -= share;
      return inside;
    });
    result[found?.name ?? 'train'].push(index);
  }
  return Object.fromEntries(splitNames.map((name) => [name, Int32Array.from(result[name])])) as Record<
    Split,
    Int32Array
  >;
}

/**
 * A part of some images by seed, for training with little data: `share` of them (0 to 1, at least one image), or `count`. Parts are nested:
 * for one seed the smaller is within the larger. Which images come first depends on the seed and their keys alone.
 *
 * @param indices Into `dataset`, as of {@link splitRated}.
 * @returns Indices into `dataset`, ascending.
 */
export function partOf(
  dataset: RatedDataset,
  indices: ArrayLike<number>,
  { share, count, seed = 0 }: { share?: number; count?: number; seed?: number },
): Int32Array {
  expectInteger('seed', seed);
  if ((share === undefined) === (count === undefined)) {
    throw new TypeError(
      'Expected either share or count but received ' + (share === undefined ? 'neither' : 'both'),
    );
  }
  if (share !== undefined) expectNumber('share', share, 0, 1);
  if (count !== undefined) expectInteger('count', count, 1, indices.length);
  const wanted = count ?? Math.min(indices.length, Math.max(1, Math.round(share! * indices.length)));
  const order = Array.from(indices, (index) => {
    const { key } = dataset.item(index);
    return { index, key, place: draw('part', seed, key) };
  });
  order.sort((a, b) => a.place - b.place || (a.key < b.key ? -1 : 1));
  return Int32Array.from(order.slice(0, wanted), ({ index }) => index).sort();
}

/** A number in [0, 1) by purpose, seed and key: 53 bits of a hash. */
function draw(purpose: string, seed: number, key: string): number {
  const digest = createHash('sha256').update(`${purpose}\n${seed}\n${key}`).digest();
  return Number(digest.readBigUInt64BE() >> 11n) / 2 ** 53;
}
