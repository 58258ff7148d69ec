/**
 * Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
 * A value depends on (seed, stream, counter) alone, so that the order in which threads or prefetching ask for it cannot
 * change a run, and a resumed run sees the same ones.
 */

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;

/** High 32 bits of a product of two 32-bit numbers, from 16-bit halves: a double holds no 64-bit product. */
function mulHigh(a: number, bLow: number, bHigh: number): number {
  const low = a & 0xffff;
  const high = a >>> 16;
  const middle = high * bLow + ((low * bLow) >>> 16);
  const carry = (middle & 0xffff) + low * bHigh;
  // Both are below 2^32, so that shifts without a sign are exact.
  return (high * bHigh + (middle >>> 16) + (carry >>> 16)) | 0;
}

/** One block: four 32-bit words into `out`, from a 128-bit counter and a 64-bit key. */
export function philox(
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
  out: Uint32Array,
): void {
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(c0, M0 & 0xffff, M0 >>> 16);
    const low0 = Math.imul(M0, c0);
    const high1 = mulHigh(c2, M1 & 0xffff, M1 >>> 16);
    const low1 = Math.imul(M1, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + W0) | 0;
    k1 = (k1 + W1) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** What a stream is for; part of the counter, so that two uses never draw the same numbers. */
export const streams = {
  order: 1,
  augment: 2,
  initial: 3,
  split: 4,
  benchmark: 5,
  mix: 6,
  bootstrap: 7,
  unlabelled: 8,
} as const;

/** A sequence of draws for one (seed, stream, a, b), such as (seed, augment, epoch, position). */
export class Random {
  readonly #key0: number;
  readonly #key1: number;
  readonly #a: number;
  readonly #b: number;
  readonly #block = new Uint32Array(4);
  #counter = 0;
  #used = 4;
  #spare: number | undefined;

  /** `seed` is 0 to 2^53 − 1; `stream` is below 256, `a` and `b` below 2^32. Holds 2^32 blocks of four words. */
  constructor(seed: number, stream: number, a = 0, b = 0) {
    this.#key0 = seed | 0;
    this.#key1 = Math.floor(seed / 2 ** 32) ^ (stream << 24);
    this.#a = a;
    this.#b = b;
  }

  /** 32 random bits. */
  word(): number {
    if (this.#used === 4) {
      philox(this.#counter++, 0, this.#a, this.#b, this.#key0, this.#key1, this.#block);
      this.#used = 0;
    }
    return this.#block[this.#used++]!;
  }

  /** Uniform in [0, 1), 53 bits. */
  uniform(): number {
    const high = this.word() >>> 5;
    return (high * 67108864 + (this.word() >>> 6)) / 9007199254740992;
  }

  /** Uniform in [from, to). */
  between(from: number, to: number): number {
    return from + (to - from) * this.uniform();
  }

  /** Whole number in [0, n). */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /** Standard normal (Box-Muller). */
  normal(): number {
    if (this.#spare !== undefined) {
      const value = this.#spare;
      this.#spare = undefined;
      return value;
    }
    // Half a step away from 0, whose logarithm is infinite; 32 bits reach 6.7 standard deviations.
    const radius = Math.sqrt(-2 * Math.log((this.word() + 0.5) / 4294967296));
    const angle = (2 * Math.PI * this.word()) / 4294967296;
    this.#spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}

/** 0 to n − 1 in random order (Fisher-Yates). */
export function permutation(n: number, random: Random): Int32Array {
  const order = Int32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    const swap = order[i]!;
    order[i] = order[j]!;
    order[j] = swap;
  }
  return order;
}
