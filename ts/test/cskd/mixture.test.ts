import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Mixture } from '../../src/cskd/mixture.ts';

const sorted = (places: Int32Array) => [...places].sort((a, b) => a - b);

describe('Mixture', () => {
  it('shows every image once an epoch where no weights are given, in another order each', () => {
    const mixture = new Mixture([5, 3, 9], undefined, 3);
    const all = Array.from({ length: 17 }, (_, i) => i);
    expect(mixture.length).toBe(17);
    for (const epoch of [0, 1, 7]) expect(sorted(mixture.places(epoch))).toEqual(all);
    expect([...mixture.places(0)]).not.toEqual([...mixture.places(1)]);
  });

  it('gives sets their share and goes through each evenly', () => {
    const mixture = new Mixture([10, 90], [1, 1], 0);
    expect(mixture.rows).toEqual([50, 50]);
    const counts = new Array<number>(100).fill(0);
    for (let epoch = 0; epoch < 9; epoch++) {
      const places = mixture.places(epoch);
      expect(places.filter((place) => place < 10)).toHaveLength(50);
      for (const place of places) counts[place]!++;
    }
    // 450 rows of each: the small set 45 times over, the large one five times.
    expect(new Set(counts.slice(0, 10))).toEqual(new Set([45]));
    expect(new Set(counts.slice(10))).toEqual(new Set([5]));
  });

  it('depends on seed and epoch alone', () => {
    const ordered = new Mixture([7, 4], [3, 1], 1);
    const epochs = [0, 1, 2].map((epoch) => [...ordered.places(epoch)]);
    expect([...new Mixture([7, 4], [3, 1], 1).places(2)]).toEqual(epochs[2]);
    expect([...ordered.places(0)]).toEqual(epochs[0]);
    expect([...new Mixture([7, 4], [3, 1], 2).places(0)]).not.toEqual(epochs[0]);
  });

  it('adds up for any weights', () => {
    const parts = fc.array(
      fc.tuple(fc.integer({ min: 1, max: 20 }), fc.double({ min: 0.3, max: 3, noNaN: true })),
      {
        minLength: 1,
        maxLength: 6,
      },
    );
    fc.assert(
      fc.property(parts, fc.nat(1000), (sets, seed) => {
        const sizes = sets.map(([size]) => size);
        const total = sizes.reduce((sum, size) => sum + size, 0);
        fc.pre(total > 10 * sets.length);
        const mixture = new Mixture(
          sizes,
          sets.map(([, weight]) => weight),
          seed,
        );
        const found = new Array<number>(sets.length).fill(0);
        const ends = sizes.map((_, i) => sizes.slice(0, i + 1).reduce((sum, size) => sum + size, 0));
        for (const place of mixture.places(1)) found[ends.findIndex((end) => place < end)]!++;
        expect(found).toEqual(mixture.rows);
        expect(found.reduce((sum, rows) => sum + rows, 0)).toBe(total);
      }),
    );
  });

  it('refuses a weight that leaves a set without a row', () => {
    expect(() => new Mixture([4, 4], [1, 1e-6], 0)).toThrow(/at least one image an epoch for weight/);
  });
});
