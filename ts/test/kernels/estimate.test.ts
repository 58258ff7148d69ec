import { describe, expect, it } from 'vitest';
import { balance } from '../../src/kernels/balance.ts';
import { type EstimateOptions, estimateBalance } from '../../src/kernels/estimate.ts';
import { makeRows, reorder } from './data.ts';

describe('estimateBalance', () => {
  it('counts the pairs of few rows', async () => {
    const matrix = makeRows({ rows: 700, dim: 16, seed: 1, kind: 'clusters' });
    const { edges, threshold } = await balance(matrix, { threshold: 0.1, metric: 'cosine-distance' });
    const found = await estimateBalance(matrix, { threshold: 0.1, metric: 'cosine-distance' });
    expect(edges).toBeGreaterThan(100);
    expect(found.pairs).toEqual({ expected: edges, low: edges, high: edges });
    expect(found.sample).toEqual({ queries: 700, keys: 700 });
    expect(found.threshold).toBe(threshold);
    expect(found.seconds).toBeGreaterThan(0);
    expect(found.memory).toBeGreaterThan(700 * 16);
    expect(found.plan).toMatch(/of 16 dimensions/);
  });

  it('is near for many rows of which only some are compared, sorted or not', async () => {
    // 6,000 directions, of which a third is there thirty times: 30 · 29 / 2 pairs for each of these.
    const rows = 66_000;
    const distinct = makeRows({ rows: 6000, dim: 4096 / 32, seed: 3, kind: 'normal' });
    const sorted = Array.from({ length: rows }, (_, row) =>
      row < 4000 ? row + 2000 : Math.floor((row - 4000) / 31),
    );
    const shuffled = sorted.map((_, row) => sorted[(row * 30_011) % rows]!);
    const wanted = 2000 * ((31 * 30) / 2);
    for (const order of [sorted, shuffled]) {
      for (const seed of [0, 1]) {
        const found = await estimateBalance(reorder(distinct, order), { threshold: 0.9, seed });
        expect(found.sample.queries).toBeLessThan(rows);
        expect(found.pairs.low).toBeLessThanOrEqual(found.pairs.expected);
        expect(found.pairs.high).toBeGreaterThan(found.pairs.expected);
        expect(found.pairs.expected / wanted).toBeGreaterThan(0.9);
        expect(found.pairs.expected / wanted).toBeLessThan(1.1);
        expect(found.pairs.low).toBeLessThan(wanted * 1.02);
        expect(found.pairs.high).toBeGreaterThan(wanted * 0.98);
      }
    }
  });

  it('does not say none where it met none', async () => {
    const matrix = makeRows({ rows: 60_000, dim: 128, seed: 1, kind: 'normal' });
    const { pairs } = await estimateBalance(matrix, { threshold: 0.99 });
    expect(pairs).toMatchObject({ expected: 0, low: 0 });
    expect(pairs.high).toBeGreaterThan(0);
  });

  it('takes no rows, keeps to the memory, and refuses what it does not know', async () => {
    const none = { data: new Float32Array(0), rows: 0, dim: 4 };
    expect(await estimateBalance(none, { threshold: 0.5 })).toMatchObject({
      pairs: { expected: 0, low: 0, high: 0 },
      sample: { queries: 0, keys: 0 },
    });
    const matrix = makeRows({ rows: 60_000, dim: 128, seed: 1, kind: 'normal' });
    const { memory, sample } = await estimateBalance(matrix, { threshold: 0.9, maxMemory: 2 ** 24 });
    expect(memory).toBeLessThanOrEqual(2 ** 24);
    expect(sample.keys).toBeLessThan(60_000);
    const small = makeRows({ rows: 5, dim: 4, seed: 1, kind: 'normal' });
    for (const [options, part] of [
      [{}, 'threshold but received undefined'],
      [{ threshold: 0.5, seed: -1 }, 'seed but received -1'],
      [{ threshold: 0.5, keep: 'hard' }, '"keep"'],
    ] as const) {
      await expect(estimateBalance(small, options as EstimateOptions)).rejects.toThrow(part);
    }
    await expect(
      estimateBalance(matrix, { threshold: 0.9, signal: AbortSignal.abort() }),
    ).rejects.toMatchObject({ code: 'ABORTED' });
  });
});
