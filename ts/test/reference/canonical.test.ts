import { describe, expect, it } from 'vitest';
import { makeRows } from '../kernels/data.ts';
import { balance } from './balance.ts';
import {
  dot,
  FixedSum,
  fixedExponent,
  fromBfloat16,
  fromFloat16,
  roundEven,
  toFloat16,
  unit,
} from './canonical.ts';
import { kmeans } from './kmeans.ts';
import { nearest } from './nearest.ts';
import { philox64, scaleDraw } from './philox.ts';

// The references hold the native core; here they are held to facts that need neither.

describe('canonical arithmetic', () => {
  it('reads 16-bit floats', () => {
    expect(fromFloat16(0x3c00)).toBe(1);
    expect(fromFloat16(0xc000)).toBe(-2);
    expect(fromFloat16(0x7bff)).toBe(65504);
    expect(fromFloat16(0x0001)).toBe(2 ** -24);
    expect(fromFloat16(0x7c00)).toBe(Number.POSITIVE_INFINITY);
    expect(fromFloat16(0x7e00)).toBeNaN();
    expect(fromBfloat16(0x3f80)).toBe(1);
    expect(fromBfloat16(0xff80)).toBe(Number.NEGATIVE_INFINITY);
    const finite = Array.from({ length: 0x7c00 }, (_, bits) => bits);
    expect(finite.map(fromFloat16).map(toFloat16)).toEqual(finite);
    expect(finite.map((bits) => toFloat16(-fromFloat16(bits)) & 0x7fff)).toEqual(finite);
  });

  it('rounds to even', () => {
    const values = [-2.5, -1.5, -0.6, 0.5, 1.5, 2.5, 2.4999, 7.5];
    expect(values.map(roundEven)).toEqual([-2, -2, -1, 0, 2, 2, 2, 8]);
    expect(roundEven(2 ** 60 + 512)).toBe(2 ** 60 + 512);
  });

  it('adds products lane by lane', () => {
    // 2^53 + 1 − 2^53 in one lane loses the 1; in lanes of their own it stays until the lanes are folded.
    const x = new Float32Array(48);
    const y = new Float32Array(48).fill(1);
    x[0] = 2 ** 53;
    x[16] = 1;
    x[32] = -(2 ** 53);
    expect(dot(x, y)).toBe(0);
    x[16] = 0;
    x[17] = 1;
    expect(dot(x, y)).toBe(1);
  });

  it('makes unit rows of any size of number', () => {
    for (const factor of [1e-45, 1e-30, 1, 1e38]) {
      const row = unit(Float32Array.of(3 * factor, 0))!;
      expect([...row]).toEqual([1, 0]);
    }
    expect(unit(new Float32Array(4))).toBeUndefined();
  });

  it('takes the largest scale that cannot overflow', () => {
    for (const [count, largest] of [
      [1, 1],
      [3, 1],
      [1000, 0.3],
      [2 ** 31 - 1, 3.4028234663852886e38],
      [7, 2 ** -149],
    ] as const) {
      const exponent = fixedExponent(count, largest);
      const product = (count * largest) / 2 ** (62 - exponent);
      expect(product).toBeLessThan(1);
      expect(product).toBeGreaterThanOrEqual(0.5);
    }
  });

  it('sums in fixed point in any order', () => {
    const values = [0.1, 1e-9, -0.7, 0.3, 1 / 3];
    const sums = [values, values.toReversed()].map((order) => {
      const sum = new FixedSum(fixedExponent(5, 0.7));
      for (const value of order) sum.add(value);
      return sum.value;
    });
    expect(sums[0]).toBe(sums[1]);
    expect(sums[0]).toBeCloseTo(0.1 + 1e-9 - 0.7 + 0.3 + 1 / 3, 15);
  });

  it('draws what Philox4x32-10 draws', () => {
    // First two words of the known answers that its authors publish: zeros, ones, digits of pi.
    expect(philox64(0, 0, 0)).toBe(0xe169c58d6627e8d5n);
    const ones = 2n ** 64n - 1n;
    expect(philox64(ones, ones, ones)).toBe(0x41c83b0e408f276dn);
    expect(philox64(0x299f31d0a4093822n, 0x0370734413198a2en, 0x85a308d3243f6a88n)).toBe(0x94fdccebd16cfe09n);
    expect(scaleDraw((1n << 64n) - 1n, 10n)).toBe(9n);
    expect(scaleDraw(1n << 63n, 10n)).toBe(5n);
    expect(philox64(1, 2, 3)).not.toBe(philox64(1, 2, 4));
    expect(philox64(2 ** 40, 2, 3)).not.toBe(philox64(0, 2, 3));
  });
});

describe('reference of balance', () => {
  it('groups a chain and keeps its middle', () => {
    const angles = [40, 180, 0, 20].map((degrees) => (degrees * Math.PI) / 180);
    const data = Float32Array.from(angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]));
    const result = balance({ data, rows: 4, dim: 2 }, Math.cos((25 * Math.PI) / 180));
    expect([...result.labels]).toEqual([0, 1, 0, 0]);
    expect([...result.keep]).toEqual([0, 1, 0, 1]);
  });
});

describe('reference of nearest', () => {
  it('finds each row nearest to itself, and its copies after it', () => {
    const base = makeRows({ rows: 12, dim: 9, seed: 1, kind: 'duplicates' });
    const { indices, scores } = nearest(base, base, 2, 'cosine');
    for (let row = 0; row < 12; row++) {
      expect([...indices.subarray(2 * row, 2 * row + 2)]).toEqual([row % 5, (row % 5) + 5]);
      expect(scores[2 * row]).toBeCloseTo(1, 6);
    }
  });
});

describe('reference of k-means', () => {
  const options = { batch: 1, init: 'k-means++' as const, iterations: 20, tolerance: 0, seed: 3 };

  it('finds clusters that are there, and its inertia is that of its centres', () => {
    const matrix = makeRows({ rows: 80, dim: 10, seed: 2, kind: 'clusters' });
    const { labels, centroids, inertia, counts } = kmeans(matrix, {
      ...options,
      clusters: 4,
      spherical: false,
    });
    for (let row = 4; row < 80; row++) expect(labels[row]).toBe(labels[row % 4]);
    expect([...counts]).toEqual([20, 20, 20, 20]);
    let sum = 0;
    for (let row = 0; row < 80; row++) {
      for (let column = 0; column < 10; column++) {
        sum += (matrix.data[row * 10 + column]! - centroids[labels[row]! * 10 + column]!) ** 2;
      }
    }
    expect(inertia[0]).toBeCloseTo(sum, 4);
  });

  it('gives a centre to every row when there are as many', () => {
    const matrix = makeRows({ rows: 9, dim: 5, seed: 2, kind: 'normal' });
    const { labels, inertia } = kmeans(matrix, { ...options, clusters: 9, spherical: true });
    expect(new Set(labels).size).toBe(9);
    expect(inertia[0]).toBeLessThan(1e-5);
  });
});
