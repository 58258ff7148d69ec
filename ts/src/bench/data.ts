import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { writeNpy } from '../data/npy.ts';
import { shardPaths } from '../data/store.ts';
import { expectInteger, expectNumber, expectObject, expectOneOf } from '../native/check.ts';
import type { KernelProgress } from '../native/context.ts';
import { abortError } from '../native/errors.ts';
import { makeFolder } from '../run/files.ts';
import { permutation, Random, streams } from '../student/random.ts';

/**
 * How the rows of a benchmark lie:
 * - `'decaying'`: the variance along axis k of a random orthonormal basis is 1/k, round a mean half as long as the rest, much as embeddings
 *   of images do;
 * - `'flat'`: all directions alike, the hardest case for a filter that looks at a part of the coordinates.
 */
export type Spectrum = 'decaying' | 'flat';
export const SPECTRA: readonly Spectrum[] = ['decaying', 'flat'];

export interface RowSourceOptions {
  /** D, 1 to 2^20. */
  readonly dim: number;
  /** Defaults to `'decaying'`. */
  readonly spectrum?: Spectrum;
  /** 0 to 2^53 − 1. Defaults to 0. */
  readonly seed?: number;
  /** Share of the rows that are near-copies of an earlier one, 0 to 1. Defaults to 0.3. */
  readonly copies?: number;
}

/** Cosines of a copy with its original: uniform from here to 1. */
const LOWEST_COSINE = 0.85;
/** Rounds of signs, Hadamard transform and permutation; two already make every entry of the basis non-zero. */
const ROUNDS = 3;

/**
 * Unit rows of a benchmark's data. A row is a function of (seed, row) alone, so rows can be had in any order and in shards, and data of more rows
 * begins with that of fewer.
 *
 *     original  normalise(m + Σ_k k^-½ g_k e_k), g standard normal, ‖m‖ = ½ (Σ_k 1/k)^½; flat: normalise(g)
 *     copy      c x + (1 − c²)^½ u, x an earlier row, c uniform in [0.85, 1), u a unit vector orthogonal to x, all directions alike
 *
 * The basis is a product of orthogonal factors: random signs, Walsh-Hadamard transforms of the largest power of two that fits at both ends of the
 * vector, and random permutations, three rounds. It is dense, and costs D log D a row.
 */
export class RowSource {
  readonly dim: number;
  readonly spectrum: Spectrum;
  readonly seed: number;
  readonly #copies: number;
  readonly #mean: Float64Array;
  readonly #scale: Float64Array;
  readonly #rounds: readonly { signs: Float64Array; order: Int32Array }[];
  readonly #row: Float64Array;
  readonly #other: Float64Array;

  /** @throws TypeError, RangeError. */
  constructor(options: RowSourceOptions) {
    expectObject('options', options, ['dim', 'spectrum', 'seed', 'copies']);
    this.dim = expectInteger('dim', options.dim, 1, 2 ** 20);
    this.spectrum = expectOneOf('spectrum', options.spectrum ?? 'decaying', SPECTRA);
    this.seed = expectInteger('seed', options.seed ?? 0);
    this.#copies = expectNumber('copies', options.copies ?? 0.3, 0, 1);
    const { dim, seed } = this;
    this.#row = new Float64Array(dim);
    this.#other = new Float64Array(dim);
    this.#scale = Float64Array.from({ length: dim }, (_, k) => (k + 1) ** -0.5);
    const basis = new Random(seed, streams.benchmark, 0, 1);
    this.#mean = Float64Array.from({ length: dim }, () => basis.normal());
    const rest = Math.sqrt(this.#scale.reduce((sum, value) => sum + value * value, 0));
    scaleBy(this.#mean, (0.5 * rest) / length(this.#mean));
    this.#rounds = Array.from({ length: ROUNDS }, () => ({
      signs: Float64Array.from({ length: dim }, () => (basis.uniform() < 0.5 ? -1 : 1)),
      order: permutation(dim, basis),
    }));
  }

  /**
   * The row that row `row` is a near-copy of and the cosine between the two, before rounding to float32; undefined for an original.
   *
   * @param row 0 to 2^32 − 1.
   */
  copyOf(row: number): { row: number; cosine: number } | undefined {
    return this.#copyOf(row, this.#random(row));
  }

  /** Writes row `row` to `target`, which has `dim` elements. */
  write(row: number, target: Float32Array): void {
    const random = this.#random(row);
    const copy = this.#copyOf(row, random);
    if (copy === undefined) this.#original(random, target);
    else {
      // The chain of originals ends at row 0 at the latest; what is written below is over before this row's own vectors are needed.
      this.write(copy.row, target);
      this.#move(target, copy.cosine, random);
    }
  }

  /** Rows `from` to `from + count − 1`, [count, D]. */
  rows(from: number, count: number): Float32Array {
    const data = new Float32Array(count * this.dim);
    this.fill(data, from);
    return data;
  }

  /** As many rows as `target` holds, from row `from` on. */
  fill(target: Float32Array, from: number): void {
    const { dim } = this;
    for (let at = 0; at < target.length; at += dim)
      this.write(from + at / dim, target.subarray(at, at + dim));
  }

  #random(row: number): Random {
    return new Random(this.seed, streams.benchmark, row, 0);
  }

  #copyOf(row: number, random: Random): { row: number; cosine: number } | undefined {
    if (random.uniform() >= this.#copies || row === 0) return undefined;
    const original = random.below(row);
    return { row: original, cosine: random.between(LOWEST_COSINE, 1) };
  }

  #original(random: Random, target: Float32Array): void {
    const row = this.#row;
    for (let k = 0; k < row.length; k++) row[k] = random.normal();
    if (this.spectrum === 'decaying') {
      for (let k = 0; k < row.length; k++) row[k]! *= this.#scale[k]!;
      const rotated = this.#rotate();
      for (let k = 0; k < rotated.length; k++) row[k] = rotated[k]! + this.#mean[k]!;
    }
    const norm = length(row);
    for (let k = 0; k < row.length; k++) target[k] = row[k]! / norm;
  }

  /** Turns x in `target` into c x + s u. In one dimension there is no u: the copy is x. */
  #move(target: Float32Array, cosine: number, random: Random): void {
    const noise = this.#row;
    for (let k = 0; k < noise.length; k++) noise[k] = random.normal();
    let along = 0;
    let square = 0;
    for (let k = 0; k < noise.length; k++) {
      along += noise[k]! * target[k]!;
      square += target[k]! * target[k]!;
    }
    for (let k = 0; k < noise.length; k++) noise[k]! -= (along / square) * target[k]!;
    if (noise.length === 1) return;
    const sine = Math.sqrt(1 - cosine * cosine) / length(noise);
    const keep = cosine / Math.sqrt(square);
    for (let k = 0; k < noise.length; k++) target[k] = keep * target[k]! + sine * noise[k]!;
  }

  /** `#row` in the random basis; in one of the two buffers. */
  #rotate(): Float64Array {
    let from = this.#row;
    let to = this.#other;
    const size = 2 ** Math.floor(Math.log2(this.dim));
    for (const { signs, order } of this.#rounds) {
      for (let k = 0; k < to.length; k++) to[k] = signs[k]! * from[order[k]!]!;
      hadamard(to, 0, size);
      if (size < this.dim) hadamard(to, this.dim - size, size);
      [from, to] = [to, from];
    }
    return from;
  }
}

/** Orthonormal Walsh-Hadamard transform of `size` elements, a power of two, in place. */
function hadamard(values: Float64Array, begin: number, size: number): void {
  for (let half = 1; half < size; half *= 2) {
    for (let block = begin; block < begin + size; block += 2 * half) {
      for (let i = block; i < block + half; i++) {
        const a = values[i]!;
        const b = values[i + half]!;
        values[i] = a + b;
        values[i + half] = a - b;
      }
    }
  }
  const scale = 1 / Math.sqrt(size);
  for (let i = begin; i < begin + size; i++) values[i]! *= scale;
}

function length(values: Float64Array): number {
  let square = 0;
  for (let i = 0; i < values.length; i++) square += values[i]! * values[i]!;
  return Math.sqrt(square);
}

function scaleBy(values: Float64Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i]! *= factor;
}

/** Settings of {@link makeRows} and {@link writeRows} that are not about the rows themselves. */
export interface MakingOptions {
  readonly signal?: AbortSignal;
  /** In rows. */
  readonly onProgress?: (progress: KernelProgress) => void;
}

/** Rows made between two looks at the signal: a few milliseconds' worth. */
const TURN = 512;

/** `rows` rows of a source, [rows, D], from `from` (0 by default) on, without keeping the event loop from other work. Rejects with ABORTED. */
export async function makeRows(
  source: RowSource,
  rows: number,
  options: MakingOptions & { readonly from?: number } = {},
): Promise<Float32Array> {
  const { from = 0, ...making } = options;
  const data = new Float32Array(rows * source.dim);
  await fillInTurns(source, data, from, from + rows, making);
  return data;
}

/**
 * Writes the first `rows` rows of a source as an embedding store in clip-retrieval's layout, `img_emb/img_emb_N.npy`, holding one shard at a
 * time. Fails with FILE_WRITE; rejects with ABORTED.
 */
export async function writeRows(
  folder: string,
  source: RowSource,
  rows: number,
  options: MakingOptions & {
    /** Rows of a file. Defaults to 100,000. */
    readonly shardSize?: number;
  } = {},
): Promise<void> {
  const shardSize = expectInteger('shardSize', options.shardSize ?? 100_000, 1);
  await makeFolder(join(folder, 'img_emb'));
  for (let from = 0, shard = 0; from < rows; from += shardSize, shard++) {
    const count = Math.min(shardSize, rows - from);
    const data = new Float32Array(count * source.dim);
    await fillInTurns(source, data, from, rows, options);
    await writeNpy(join(folder, shardPaths(shard).image), data, [count, source.dim]);
  }
}

async function fillInTurns(
  source: RowSource,
  data: Float32Array,
  from: number,
  total: number,
  { signal, onProgress }: MakingOptions,
): Promise<void> {
  const turn = TURN * source.dim;
  for (let at = 0; at < data.length; at += turn) {
    const end = Math.min(at + turn, data.length);
    source.fill(data.subarray(at, end), from + at / source.dim);
    onProgress?.({ done: from + end / source.dim, total });
    await setImmediate();
    if (signal?.aborted) throw abortError();
  }
}
