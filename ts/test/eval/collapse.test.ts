import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SpreadMeter } from '../../src/eval/collapse.ts';
import { symmetricEigenvalues } from '../../src/eval/eigen.ts';
import { Random, streams } from '../../src/student/random.ts';

const normal = (count: number, seed = 0) => {
  const random = new Random(seed, streams.benchmark);
  return Float64Array.from({ length: count }, () => random.normal());
};

async function spread(rows: readonly (readonly number[])[]) {
  const meter = new SpreadMeter(rows[0]!.length);
  for (const row of rows) meter.add(Float32Array.from(row));
  return meter.result();
}

describe('symmetricEigenvalues', () => {
  it.each([1, 2, 3, 7, 40, 65])('has the trace, the norm and the spectrum of a product of %i', async (n) => {
    // Q Λ Qᵀ of reflections, with values that are equal, zero and far apart among them.
    const values = Float64Array.from({ length: n }, (_, i) => [0, 0, 1, 1, -3, 1e6, i / 7][i % 7]!);
    const a = new Float64Array(n * n);
    for (let i = 0; i < n; i++) a[i * n + i] = values[i]!;
    for (let k = 0; k < 3; k++) {
      const u = normal(n, k + 1);
      const h = u.reduce((sum, value) => sum + value * value, 0) / 2;
      for (const transpose of [false, true]) {
        const at = (i: number, j: number) => (transpose ? j * n + i : i * n + j);
        for (let j = 0; j < n; j++) {
          let along = 0;
          for (let i = 0; i < n; i++) along += u[i]! * a[at(i, j)]!;
          for (let i = 0; i < n; i++) a[at(i, j)]! -= (u[i]! * along) / h;
        }
      }
    }
    const found = await symmetricEigenvalues(a, n);
    const wanted = values.sort();
    // Relative to the largest.
    for (let i = 0; i < n; i++) expect(Math.abs(found[i]! - wanted[i]!)).toBeLessThan(n > 5 ? 1e-7 : 1e-13);
  });
});

describe('embeddings', () => {
  it('that are alike in all have rank 1 and cosine 1', async () => {
    const found = await spread([
      [1, 2, 3],
      [2, 4, 6],
      [0.5, 1, 1.5],
    ]);
    expect(found.effectiveRank).toBeCloseTo(1, 6);
    expect(found.centredEffectiveRank).toBe(0);
    expect(found.meanCosine).toBeCloseTo(1, 6);
    expect(found).toMatchObject({ images: 3, dim: 3 });
  });

  it('at right angles have the rank of their number', async () => {
    const rows = Array.from({ length: 8 }, (_, i) =>
      Array.from({ length: 8 }, (_, k) => Number(i === k) * (i + 1)),
    );
    const found = await spread(rows);
    expect(found.effectiveRank).toBeCloseTo(8, 9);
    expect(found.centredEffectiveRank).toBeCloseTo(7, 9);
    expect(found.meanCosine).toBeCloseTo(0, 12);
  });

  it('opposite each other have one direction and no mean', async () => {
    const found = await spread([
      [3, 4],
      [-3, -4],
    ]);
    expect(found.effectiveRank).toBeCloseTo(1, 6);
    expect(found.centredEffectiveRank).toBeCloseTo(1, 6);
    expect(found.meanCosine).toBeCloseTo(-1, 6);
  });

  // Of numpy 1.24: svd of the unit rows in float64, and of these less their mean.
  it('of fixed numbers are those of numpy', async () => {
    const rows = Array.from({ length: 12 }, (_, i) =>
      Array.from({ length: 5 }, (_, k) =>
        Math.fround(Math.sin(1 + 3 * i * k + i * i + k * k) + (k === 2 ? 1 : 0)),
      ),
    );
    const found = await spread(rows);
    expect(found.effectiveRank).toBeCloseTo(4.692680989169098, 9);
    expect(found.centredEffectiveRank).toBeCloseTo(4.603519158794979, 9);
    expect(found.meanCosine).toBeCloseTo(0.3150312514096751, 9);
  });

  it('depend neither on order nor on lengths, and the mean cosine is that of all pairs', async () => {
    const number = fc.double({ min: -1, max: 1, noNaN: true }).map(Math.fround);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(number, number, number, number), { minLength: 2, maxLength: 12 }),
        fc.double({ min: 0.1, max: 10, noNaN: true }),
        async (rows, factor) => {
          if (rows.some((row) => Math.hypot(...row) < 1e-3)) return;
          const found = await spread(rows);
          const other = await spread(rows.toReversed().map((row) => row.map((value) => value * factor)));
          expect(other.effectiveRank).toBeCloseTo(found.effectiveRank, 4);
          expect(found.effectiveRank).toBeGreaterThan(1 - 1e-6);
          expect(found.effectiveRank).toBeLessThan(Math.min(4, rows.length) + 1e-6);
          let sum = 0;
          for (const [i, a] of rows.entries()) {
            for (const b of rows.slice(i + 1)) {
              const dot = a.reduce((total, value, k) => total + value * b[k]!, 0);
              sum += dot / (Math.hypot(...a) * Math.hypot(...b));
            }
          }
          expect(found.meanCosine).toBeCloseTo((2 * sum) / (rows.length * (rows.length - 1)), 9);
        },
      ),
    );
  });

  it('that have no direction are refused', async () => {
    await expect(
      spread([
        [1, 0],
        [0, 0],
      ]),
    ).rejects.toThrow('The embedding of image 1 is zero, NaN or infinite');
    await expect(spread([[Number.NaN, 0]])).rejects.toThrow(
      'The embedding of image 0 is zero, NaN or infinite',
    );
    await expect(new SpreadMeter(3).result()).rejects.toThrow('There are no embeddings');
    expect((await spread([[1, 2]])).meanCosine).toBeNull();
  });
});
