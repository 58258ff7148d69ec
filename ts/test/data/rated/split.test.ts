import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { RatedDataset, Split } from '../../../src/data/rated/dataset.ts';
import { binCentres, meanScore, scoreScale, softBin } from '../../../src/data/rated/scale.ts';
import { partOf, splitRated } from '../../../src/data/rated/split.ts';

/** What splitting looks at of a data set. */
function named(keys: readonly string[], splits: readonly (Split | undefined)[] = []): RatedDataset {
  return {
    length: keys.length,
    item: (index: number) => ({ key: keys[index]!, captions: [], metadata: {} }),
    split: (index: number) => splits[index],
  } as unknown as RatedDataset;
}
const some = (count: number) => Array.from({ length: count }, (_, i) => `image ${i}`);
const keysAt = (keys: readonly string[], indices: Int32Array) => Array.from(indices, (index) => keys[index]!);

describe('splitRated', () => {
  it('puts every image into one split, in about the shares asked for', () => {
    const { train, validation, test } = splitRated(named(some(10_000)), {
      seed: 3,
      validation: 0.2,
      test: 0.05,
    });
    expect(Array.from([...train, ...validation, ...test]).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 10_000 }, (_, i) => i),
    );
    // Five standard deviations.
    expect(Math.abs(validation.length - 2000)).toBeLessThan(200);
    expect(Math.abs(test.length - 500)).toBeLessThan(110);
  });

  it('depends on seed and key alone: not on order, not on the other images', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 1, maxLength: 60 }),
        fc.nat(),
        fc.nat(),
        (keys, seed, cut) => {
          const splits = splitRated(named(keys), { seed, validation: 0.3, test: 0.3 });
          const fewer = [...keys].reverse().slice(cut % keys.length);
          const again = splitRated(named(fewer), { seed, validation: 0.3, test: 0.3 });
          for (const name of ['train', 'validation', 'test'] as const) {
            const before = keysAt(keys, splits[name]).filter((key) => fewer.includes(key));
            expect(keysAt(fewer, again[name]).sort()).toEqual(before.sort());
          }
        },
      ),
    );
  });

  it('is another one for another seed', () => {
    const data = named(some(200));
    expect(splitRated(data, { seed: 1 }).test).not.toEqual(splitRated(data, { seed: 2 }).test);
    expect(splitRated(data, { seed: 1 })).toEqual(splitRated(data, { seed: 1 }));
  });

  it('keeps official splits and draws what they lack from the training images', () => {
    const keys = some(1000);
    const splits = keys.map((_, i): Split | undefined => (i < 100 ? 'test' : i < 900 ? 'train' : undefined));
    const { train, validation, test } = splitRated(named(keys, splits), { validation: 0.25, test: 0.9 });
    expect(Array.from(test)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(train.length + validation.length).toBe(800);
    expect([...train, ...validation].every((index) => index >= 100 && index < 900)).toBe(true);
    expect(Math.abs(validation.length - 200)).toBeLessThan(62);
    const whole = splitRated(named(keys.slice(0, 3), ['train', 'validation', 'test']), {
      validation: 1,
      test: 0,
    });
    expect(whole).toEqual({ train: Int32Array.of(0), validation: Int32Array.of(1), test: Int32Array.of(2) });
  });

  it('refuses shares that are more than all', () => {
    expect(() => splitRated(named(some(3)), { validation: 0.6, test: 0.6 })).toThrow(
      /shares of at most 1 together/,
    );
    expect(() => splitRated(named(some(3)), { validation: -0.1 })).toThrow(/validation/);
    expect(() => splitRated(named(some(3)), { seed: 1.5 })).toThrow(/seed/);
  });
});

describe('partOf', () => {
  it('is nested, of the size asked for, and depends on seed and keys alone', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 1, maxLength: 80 }),
        fc.nat(),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (keys, seed, a, b) => {
          const data = named(keys);
          const all = Int32Array.from(keys, (_, i) => i);
          const [small, large] = [a, b]
            .sort((x, y) => x - y)
            .map((share) => partOf(data, all, { share, seed }));
          expect(small!.length).toBe(Math.max(1, Math.round(Math.min(a, b) * keys.length)));
          expect([...small!].every((index) => large!.includes(index))).toBe(true);
          expect(Array.from(small!)).toEqual([...small!].sort((x, y) => x - y));
          const turned = [...keys].reverse();
          const again = partOf(named(turned), all, { share: Math.min(a, b), seed });
          expect(keysAt(turned, again).sort()).toEqual(keysAt(keys, small!).sort());
        },
      ),
    );
  });

  it('takes a number of images, and of some images only', () => {
    const data = named(some(50));
    const part = partOf(data, [5, 7, 9, 11], { count: 2, seed: 4 });
    expect(part.length).toBe(2);
    expect([...part].every((index) => [5, 7, 9, 11].includes(index))).toBe(true);
    expect(() => partOf(data, [1, 2], { count: 3 })).toThrow(/Expected an integer from 1 to 2 for count/);
    expect(() => partOf(data, [1, 2], {})).toThrow('Expected either share or count but received neither');
    expect(() => partOf(data, [1, 2], { count: 1, share: 1 })).toThrow(/received both/);
  });

  it('is not drawn as splits are', () => {
    const data = named(some(4000));
    const { train, validation } = splitRated(data, { seed: 0, validation: 0.5, test: 0 });
    const part = new Set(
      partOf(
        data,
        Int32Array.from({ length: 4000 }, (_, i) => i),
        { share: 0.5, seed: 0 },
      ),
    );
    const inside = [...train].filter((index) => part.has(index)).length / train.length;
    expect(Math.abs(inside - 0.5)).toBeLessThan(0.06);
    expect(validation.length).toBeGreaterThan(0);
  });
});

describe('scales', () => {
  it('soft bins keep the mean, sum to 1 and touch two neighbours', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 20 }),
        fc.double({ min: -5, max: 5, noNaN: true }),
        fc.double({ min: 0.1, max: 20, noNaN: true }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (bins, low, width, at) => {
          const scale = scoreScale(low, low + width, bins);
          const score = Math.min(scale.high, low + at * width);
          const shares = new Float64Array(bins);
          softBin(score, scale, shares);
          const filled = [...shares].flatMap((share, k) => (share > 0 ? [k] : []));
          expect(filled.length).toBeLessThanOrEqual(2);
          expect(filled.at(-1)! - filled[0]!).toBeLessThanOrEqual(1);
          expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 12);
          expect(meanScore(shares, binCentres(scale))).toBeCloseTo(score, 9);
        },
      ),
    );
  });

  it('has the centres of its bins, and refuses what is none', () => {
    expect(Array.from(binCentres(scoreScale(1, 5, 9)))).toEqual([1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]);
    expect(scoreScale(1, 5, 9).threshold).toBe(3);
    expect(() => scoreScale(5, 1, 9)).toThrow(
      'Expected a number over scale.low, 5, for scale.high but received 1',
    );
    expect(() => scoreScale(1, 5, 1)).toThrow(/scale.bins/);
    expect(() => scoreScale(1, 5, 9, 6)).toThrow(/scale.threshold/);
  });
});
