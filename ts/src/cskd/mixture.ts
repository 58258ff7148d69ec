import { failRange } from '../native/check.ts';
import { permutation, Random, streams } from '../student/random.ts';

/**
 * The order in which images of several sets are seen, mixed by weight, as a function of seed and epoch. Each set is gone through in
 * random order again and again, however many of its images an epoch takes; where no weights are given, an epoch is every image once.
 */
export class Mixture {
  /** Images in all sets, which is also what an epoch shows. */
  readonly length: number;
  /** Rows of each set in an epoch. */
  readonly rows: readonly number[];
  readonly #sizes: readonly number[];
  readonly #seed: number;
  #order: { epoch: number; places: Int32Array } | undefined;

  /**
   * @param sizes Images of each set.
   * @param weights Share of an epoch that each set gives, relative to the others'; undefined for every image once.
   */
  constructor(sizes: readonly number[], weights: readonly number[] | undefined, seed: number) {
    this.#sizes = sizes;
    this.#seed = seed;
    this.length = sizes.reduce((sum, size) => sum + size, 0);
    this.rows = weights === undefined ? sizes : apportion(this.length, weights);
  }

  /** Places of an epoch in order: a place is an index over all sets, one after the other. */
  places(epoch: number): Int32Array {
    if (this.#order?.epoch !== epoch) this.#order = { epoch, places: this.#draw(epoch) };
    return this.#order.places;
  }

  #draw(epoch: number): Int32Array {
    const drawn = new Int32Array(this.length);
    let at = 0;
    let offset = 0;
    for (const [set, rows] of this.rows.entries()) {
      const size = this.#sizes[set]!;
      let pass = -1;
      let order: Int32Array = new Int32Array(0);
      for (let position = epoch * rows; position < (epoch + 1) * rows; position++) {
        if (Math.floor(position / size) !== pass) {
          pass = Math.floor(position / size);
          order = permutation(size, new Random(this.#seed, streams.mix, set, pass));
        }
        drawn[at++] = offset + order[position % size]!;
      }
      offset += size;
    }
    const shuffled = permutation(this.length, new Random(this.#seed, streams.order, epoch));
    return shuffled.map((position) => drawn[position]!);
  }
}

/** `total` in whole parts by weight, by largest remainder, at least one each. */
function apportion(total: number, weights: readonly number[]): number[] {
  const sum = weights.reduce((all, weight) => all + weight, 0);
  const exact = weights.map((weight) => (weight / sum) * total);
  const parts = exact.map(Math.floor);
  const order = exact
    .map((_, i) => i)
    .sort((a, b) => exact[b]! - parts[b]! - (exact[a]! - parts[a]!) || a - b);
  let rest = total - parts.reduce((all, part) => all + part, 0);
  for (const i of order) if (rest-- > 0) parts[i]!++;
  const empty = parts.indexOf(0);
  if (empty >= 0) failRange('weights that give every set at least one image an epoch', 'weight', weights);
  return parts;
}
