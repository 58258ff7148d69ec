import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { pairPrecisionRecall } from '../../src/eval/groups.ts';
import { spread } from '../../src/eval/statistics.ts';

describe('pairPrecisionRecall', () => {
  it('counts pairs as one would by hand', () => {
    // Groups {0 1 2} {3 4}; known {0 1} {3 4 5}, 2 alone. Put together: 01 02 12 34. True: 01 34 35 45. Both: 01 34.
    const score = pairPrecisionRecall([0, 0, 0, 3, 3, 5], [7, 7, -1, 8, 8, 8]);
    expect(score).toEqual({ precision: 0.5, recall: 0.5, f1: 0.5, grouped: 4, true: 4, both: 2 });
  });

  it('takes no pair as agreement with no pair', () => {
    expect(pairPrecisionRecall([0, 1, 2], [-1, -1, -1])).toMatchObject({ precision: 1, recall: 1, f1: 1 });
    expect(pairPrecisionRecall([0, 1], [4, 4])).toMatchObject({ precision: 1, recall: 0, f1: 0 });
    expect(pairPrecisionRecall([], [])).toMatchObject({ grouped: 0, true: 0 });
  });

  it('agrees with a count over all pairs', () => {
    const rows = fc.array(fc.record({ group: fc.nat(4), known: fc.integer({ min: -1, max: 3 }) }), {
      maxLength: 30,
    });
    fc.assert(
      fc.property(rows, (items) => {
        let [grouped, known, both] = [0, 0, 0];
        items.forEach((a, i) => {
          for (const b of items.slice(i + 1)) {
            const together = a.group === b.group;
            const right = a.known >= 0 && a.known === b.known;
            grouped += together ? 1 : 0;
            known += right ? 1 : 0;
            both += together && right ? 1 : 0;
          }
        });
        expect(
          pairPrecisionRecall(
            items.map((item) => item.group),
            items.map((item) => item.known),
          ),
        ).toMatchObject({ grouped, true: known, both });
      }),
    );
  });

  it('wants as many known groups as groups', () => {
    expect(() => pairPrecisionRecall([0, 1], [0])).toThrow(RangeError);
  });
});

describe('spread', () => {
  it('gives mean and deviation of a sample', () => {
    expect(spread([2, 4, 6])).toEqual({ count: 3, mean: 4, deviation: 2, min: 2, max: 6 });
    expect(spread([5])).toEqual({ count: 1, mean: 5, deviation: 0, min: 5, max: 5 });
  });
});
