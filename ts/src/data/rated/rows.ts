import type { TarMember } from '../tar.ts';
import { type Split, splitNames } from './dataset.ts';

/** Where an image is: a file, or a part of a tar. */
export interface Place {
  readonly path: string;
  readonly member?: TarMember;
}

export interface Row {
  readonly key: string;
  readonly place: Place;
  readonly score: number;
  /** [bins] shares that sum to 1. */
  readonly distribution: Float64Array;
  readonly ratings: number;
  readonly split: Split | undefined;
  readonly metadata: Readonly<Record<string, unknown>>;
}

type Numbers = Float64Array | Float32Array | Uint32Array | Uint8Array;

/** A flat array that grows. */
class Column<T extends Numbers> {
  #data: T;
  #length = 0;

  constructor(data: T) {
    this.#data = data;
  }

  get values(): T {
    return this.#data.subarray(0, this.#length) as T;
  }

  push(value: number): void {
    if (this.#length === this.#data.length) {
      const type = this.#data.constructor as new (length: number) => T;
      const larger = new type(Math.max(64, 2 * this.#length));
      larger.set(this.#data);
      this.#data = larger;
    }
    this.#data[this.#length++] = value;
  }
}

/** Rows by column: a million of them take little more than their numbers and names. */
export class Rows {
  readonly bins: number;
  readonly keys: string[] = [];
  readonly places: Place[] = [];
  readonly scores = new Column(new Float64Array(0));
  readonly distributions = new Column(new Float32Array(0));
  readonly ratings = new Column(new Uint32Array(0));
  /** Place in {@link splitNames}, from 1; 0 for none. */
  readonly splits = new Column(new Uint8Array(0));
  /** Bytes of the images, where they have been looked up. */
  readonly sizes = new Column(new Float64Array(0));
  readonly #metadata = new Map<string, unknown[]>();

  constructor(bins: number) {
    this.bins = bins;
  }

  push({ key, place, score, distribution, ratings, split, metadata }: Row): void {
    const row = this.keys.length;
    this.keys.push(key);
    this.places.push(place);
    this.scores.push(score);
    for (let k = 0; k < this.bins; k++) this.distributions.push(distribution[k]!);
    this.ratings.push(ratings);
    this.splits.push(split === undefined ? 0 : splitNames.indexOf(split) + 1);
    for (const [name, value] of Object.entries(metadata)) {
      let column = this.#metadata.get(name);
      if (!column) this.#metadata.set(name, (column = []));
      while (column.length < row) column.push(undefined);
      column.push(value);
    }
  }

  metadata(row: number): Record<string, unknown> {
    const fields: Record<string, unknown> = {};
    for (const [name, column] of this.#metadata) if (column[row] !== undefined) fields[name] = column[row];
    return fields;
  }

  /** Whether a row has these shares. */
  equals(row: number, distribution: Float64Array): boolean {
    const { values } = this.distributions;
    return distribution.every((share, k) => values[row * this.bins + k] === Math.fround(share));
  }

  pick(rows: readonly number[]): Rows {
    const picked = new Rows(this.bins);
    const { scores, distributions, ratings, splits, sizes } = this;
    for (const row of rows) {
      picked.keys.push(this.keys[row]!);
      picked.places.push(this.places[row]!);
      picked.scores.push(scores.values[row]!);
      for (let k = 0; k < this.bins; k++)
        picked.distributions.push(distributions.values[row * this.bins + k]!);
      picked.ratings.push(ratings.values[row]!);
      picked.splits.push(splits.values[row]!);
      picked.sizes.push(sizes.values[row]!);
    }
    for (const [name, column] of this.#metadata)
      picked.#metadata.set(
        name,
        rows.map((row) => column[row]),
      );
    return picked;
  }
}
