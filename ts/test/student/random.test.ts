import { describe, expect, it } from 'vitest';
import { permutation, philox, Random } from '../../src/student/random.ts';

function hex(counter: readonly number[], key: readonly number[]): string[] {
  const out = new Uint32Array(4);
  const [a, b, c, d] = counter as [number, number, number, number];
  philox(a, b, c, d, key[0]!, key[1]!, out);
  return Array.from(out, (word) => word.toString(16).padStart(8, '0'));
}

describe('philox', () => {
  // Known answers that the authors publish with their library.
  it('gives the published answers', () => {
    expect(hex([0, 0, 0, 0], [0, 0])).toEqual(['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']);
    const ones = 0xffffffff;
    expect(hex([ones, ones, ones, ones], [ones, ones])).toEqual([
      '408f276d',
      '41c83b0e',
      'a20bc7c6',
      '6d5451fd',
    ]);
    expect(hex([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
      'd16cfe09',
      '94fdcceb',
      '5001e420',
      '24126ea1',
    ]);
  });
});

describe('Random', () => {
  it('depends on seed, stream and both indices', () => {
    const first = (...args: ConstructorParameters<typeof Random>) => new Random(...args).word();
    const base = first(7, 1, 2, 3);
    expect(first(7, 1, 2, 3)).toBe(base);
    for (const other of [
      first(8, 1, 2, 3),
      first(7, 2, 2, 3),
      first(7, 1, 3, 3),
      first(7, 1, 2, 4),
      first(7 + 2 ** 40, 1, 2, 3),
    ]) {
      expect(other).not.toBe(base);
    }
  });

  it('is uniform and normal', () => {
    const random = new Random(1, 1);
    const n = 20_000;
    const uniform = Array.from({ length: n }, () => random.uniform());
    const normal = Array.from({ length: n }, () => random.normal());
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / n;
    expect(mean(uniform)).toBeCloseTo(0.5, 1);
    expect(mean(uniform.map((x) => (x - 0.5) ** 2))).toBeCloseTo(1 / 12, 2);
    expect(Math.abs(mean(normal))).toBeLessThan(0.03);
    expect(mean(normal.map((x) => x * x))).toBeCloseTo(1, 1);
    expect(mean(normal.map((x) => x ** 4))).toBeCloseTo(3, 0);
  });

  it('permutes', () => {
    const order = permutation(1000, new Random(3, 1));
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    expect(order).not.toEqual(permutation(1000, new Random(4, 1)));
    expect(order.filter((value, i) => value === i).length).toBeLessThan(10);
  });
});
