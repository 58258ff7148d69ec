import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { evenCentres, expectCentres, meanScores, scoreDeviations, softBins } from '../../src/cskd/bins.ts';

const ava = evenCentres(1, 10, 10);

describe('centres', () => {
  it('are even, and AVA and PARA come out exactly', () => {
    expect(ava).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(evenCentres(1, 5, 9)).toEqual([1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]);
  });

  it('must ascend, be finite and be two at least', () => {
    expect(expectCentres('centres', [0, 2, 3])).toEqual([0, 2, 3]);
    for (const bad of [[1], [1, 1], [2, 1], [1, Number.NaN], [0, Number.POSITIVE_INFINITY]]) {
      expect(() => expectCentres('centres', bad)).toThrow(RangeError);
    }
    expect(() => expectCentres('centres', '1,2' as never)).toThrow(/list of scores for centres/);
    expect(() => evenCentres(3, 3, 4)).toThrow(/over 3 for to/);
  });
});

describe('softBins', () => {
  it('puts a score on its two neighbours', () => {
    expect([...softBins(0.3, [0, 0.25, 0.5, 0.75, 1])]).toEqual(
      [0, 0.8, 0.2, 0, 0].map((v) => expect.closeTo(v, 12)),
    );
    expect([...softBins(1, ava)]).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expect([...softBins(10, ava)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    expect([...softBins(4, ava)].indexOf(1)).toBe(3);
  });

  it('keeps the score as the mean, over uneven centres too', () => {
    const gaps = fc.array(fc.double({ min: 0.01, max: 5, noNaN: true }), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(gaps, fc.double({ min: 0, max: 1, noNaN: true }), (steps, at) => {
        const centres = [0];
        for (const step of steps) centres.push(centres.at(-1)! + step);
        const score = at * centres.at(-1)!;
        const distribution = softBins(score, centres);
        expect(distribution.every((share) => share >= 0)).toBe(true);
        expect(distribution.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 12);
        expect(meanScores(distribution, centres)[0]).toBeCloseTo(score, 9);
      }),
    );
  });

  it('refuses a score beyond the ends, naming the range', () => {
    expect(() => softBins(0.5, ava)).toThrow('Expected a number from 1 to 10 for score but received 0.5');
    expect(() => softBins(Number.NaN, ava)).toThrow(RangeError);
  });
});

it('gives mean and deviation of rows', () => {
  const rows = [0, 1, 0, 0.5, 0, 0.5];
  expect([...meanScores(rows, [1, 2, 4])]).toEqual([2, 2.5]);
  expect([...scoreDeviations(rows, [1, 2, 4])]).toEqual([0, 1.5]);
});
