import { stat } from 'node:fs/promises';
import { nothingUsable, type Skipped } from '../dataset.ts';
import { type RatedDataset, type RatedFormat, RowsDataset, type Split } from './dataset.ts';
import { type Place, Rows } from './rows.ts';
import { binCentres, meanScore, type ScoreScale, softBin } from './scale.ts';

/** A row as a reader hands it over; its numbers have been checked. */
export interface RatedRow {
  readonly key: string;
  readonly place: Place;
  /** Mean rating, within the scale. Taken from `histogram` when not given. */
  readonly score?: number;
  /** [bins] counts or shares, at least one of them over 0. Made of `score` when not given. */
  readonly histogram?: ArrayLike<number>;
  /** How many ratings there are. Defaults to 0, unknown. */
  readonly ratings?: number;
  readonly split?: Split | undefined;
  readonly metadata?: Readonly<Record<string, unknown>>;
}

/** Images looked up at once. */
const LOOK_UP = 256;

/** What all readers do with their rows: leave out what repeats, look the images up, count and name what is left out. */
export class RatedBuilder {
  readonly scale: ScoreScale;
  readonly skipped: Skipped[] = [];
  readonly notes: string[] = [];
  readonly #source: string;
  readonly #rows: Rows;
  readonly #indices = new Map<string, number>();
  readonly #centres: Float64Array;

  constructor(source: string, scale: ScoreScale) {
    this.scale = scale;
    this.#source = source;
    this.#rows = new Rows(scale.bins);
    this.#centres = binCentres(scale);
  }

  skip(key: string, reason: string): void {
    this.skipped.push({ key, reason });
  }

  /** True when a row of this name was added. */
  has(key: string): boolean {
    return this.#indices.has(key);
  }

  add({ key, place, score, histogram, ratings = 0, split, metadata = {} }: RatedRow): void {
    const distribution = new Float64Array(this.scale.bins);
    if (histogram) {
      const total = Array.prototype.reduce.call(histogram, (sum, value) => sum + value, 0) as number;
      for (let k = 0; k < distribution.length; k++) distribution[k] = histogram[k]! / total;
    } else softBin(score!, this.scale, distribution);

    const known = this.#indices.get(key);
    if (known !== undefined) {
      const same = this.#rows.equals(known, distribution);
      this.skip(key, same ? 'repeats an earlier row' : 'an earlier row has this name and other ratings');
      return;
    }
    this.#indices.set(key, this.#rows.keys.length);
    const mean = score ?? meanScore(distribution, this.#centres);
    this.#rows.push({ key, place, score: mean, distribution, ratings, split, metadata });
  }

  /** Looks the images up. Fails with FILE_NOT_FOUND or INVALID_DATA, with the reasons, when nothing can be used. */
  async finish(format: RatedFormat): Promise<RatedDataset> {
    const rows = this.#rows;
    const usable: number[] = [];
    for (let from = 0; from < rows.keys.length; from += LOOK_UP) {
      const sizes = await Promise.all(rows.places.slice(from, from + LOOK_UP).map(sizeOf));
      for (const [i, size] of sizes.entries()) {
        const row = from + i;
        rows.sizes.push(size ?? 0);
        if (size === undefined) this.skip(rows.keys[row]!, 'no such file');
        else if (size === 0) this.skip(rows.keys[row]!, 'the file is empty');
        else usable.push(row);
      }
    }
    if (usable.length === 0) throw nothingUsable(this.#source, this.skipped);
    return new RowsDataset({
      format,
      source: this.#source,
      scale: this.scale,
      skipped: this.skipped,
      notes: this.notes,
      rows: usable.length === rows.keys.length ? rows : rows.pick(usable),
    });
  }
}

async function sizeOf({ path, member }: Place): Promise<number | undefined> {
  if (member) return member.size;
  const status = await stat(path).catch(() => undefined);
  return status?.isFile() ? status.size : undefined;
}
