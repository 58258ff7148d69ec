import { createHash } from 'node:crypto';
import { expectInteger, failRange } from '../../native/check.ts';
import { CidError } from '../../native/errors.ts';
import { type Dataset, type FilePart, type Item, readPart, type Skipped } from '../dataset.ts';
import type { Rows } from './rows.ts';
import type { ScoreScale } from './scale.ts';

/** Which part of a data set an image is for, where the data set says so. */
export type Split = 'train' | 'validation' | 'test';

export const splitNames: readonly Split[] = ['train', 'validation', 'test'];

/** What the ratings were read from. */
export type RatedFormat = 'ava' | 'aadb' | 'para' | 'list';

/**
 * Images with ratings of their quality, in the order of the list. An item has no captions; its `metadata` holds `score` and what else the
 * source says of it. Arrays are views that nobody writes to.
 */
export interface RatedDataset extends Dataset {
  readonly format: RatedFormat;
  readonly scale: ScoreScale;
  /** [N] mean rating, on the scale. */
  readonly scores: Float64Array;
  /** [N, bins] shares of the ratings; each row sums to 1. Where only a score is known it is shared between the two bins beside it. */
  readonly distributions: Float32Array;
  /** [N] ratings behind a row; 0 where that is not known. */
  readonly ratings: Uint32Array;
  /** The split that the data set itself gives an image. */
  split(index: number): Split | undefined;
  /** What a reader should know beside `skipped`, in sentences. */
  readonly notes: readonly string[];
  /** Some of the images with their ratings, in the order given; `indices` has none twice. Disposing of either leaves the other usable. */
  pick(indices: ArrayLike<number>): RatedDataset;
}

export interface RatedParts {
  readonly format: RatedFormat;
  readonly source: string;
  readonly scale: ScoreScale;
  readonly skipped: readonly Skipped[];
  readonly notes: readonly string[];
  readonly rows: Rows;
}

/** A data set over rows whose images are there. */
export class RowsDataset implements RatedDataset {
  readonly format: RatedFormat;
  readonly source: string;
  readonly scale: ScoreScale;
  readonly skipped: readonly Skipped[];
  readonly notes: readonly string[];
  readonly hash: string;
  readonly scores: Float64Array;
  readonly distributions: Float32Array;
  readonly ratings: Uint32Array;
  readonly #parts: RatedParts;
  #disposed = false;

  constructor(parts: RatedParts) {
    const { rows } = parts;
    this.#parts = parts;
    this.format = parts.format;
    this.source = parts.source;
    this.scale = parts.scale;
    this.skipped = parts.skipped;
    this.notes = parts.notes;
    this.scores = rows.scores.values;
    this.distributions = rows.distributions.values;
    this.ratings = rows.ratings.values;
    const hash = createHash('sha256').update(JSON.stringify([parts.scale, rows.keys.length]));
    for (const key of rows.keys) hash.update(`${key}\n`);
    for (const { values } of [rows.sizes, rows.scores, rows.distributions, rows.splits]) hash.update(values);
    this.hash = hash.digest('hex');
  }

  get length(): number {
    return this.#parts.rows.keys.length;
  }

  item(index: number): Item {
    const { rows } = this.#parts;
    const row = this.#row(index);
    return {
      key: rows.keys[row]!,
      captions: [],
      metadata: { score: this.scores[row]!, ...rows.metadata(row) },
    };
  }

  location(index: number): string {
    const { path, member } = this.#parts.rows.places[this.#row(index)]!;
    return member === undefined ? path : `${path}#${member.name}`;
  }

  split(index: number): Split | undefined {
    return splitNames[this.#parts.rows.splits.values[this.#row(index)]! - 1];
  }

  part(index: number): FilePart {
    if (this.#disposed) throw new CidError('DISPOSED', `The data set ${this.source} is closed`);
    const { path, member } = this.#parts.rows.places[this.#row(index)]!;
    return member === undefined ? { path } : { path, offset: member.offset, size: member.size };
  }

  async read(index: number): Promise<Uint8Array> {
    return readPart(this.part(index));
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
  }

  pick(indices: ArrayLike<number>): RowsDataset {
    const chosen = Array.from(indices, (index) => this.#row(index));
    if (new Set(chosen).size !== chosen.length) failRange('different indices', 'indices', indices);
    const rows = this.#parts.rows.pick(chosen);
    return new RowsDataset({ ...this.#parts, rows, skipped: [], notes: [] });
  }

  #row(index: number): number {
    return expectInteger('index', index, 0, this.length - 1);
  }
}
