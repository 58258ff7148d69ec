import { describe, expect, it } from 'vitest';
import { balance } from '../../src/kernels/balance.ts';
import { chooseThreshold } from '../../src/kernels/threshold.ts';
import { makeRows } from './data.ts';
import { expectAllSame } from './same.ts';

describe('chooseThreshold', () => {
  const matrix = makeRows({ rows: 400, dim: 12, seed: 3, kind: 'normal' });

  it('finds a threshold for a share that can be had', async () => {
    for (const keepRatio of [0.2, 0.5, 0.9]) {
      const chosen = await chooseThreshold(matrix, { keepRatio, tolerance: 0.005 });
      expect(chosen.reached).toBe(true);
      expect(Math.abs(chosen.keepRatio - keepRatio)).toBeLessThanOrEqual(0.005);
      const again = await balance(matrix, { threshold: chosen.threshold });
      expect(again.groups / 400).toBe(chosen.keepRatio);
      expectAllSame(again, { ...chosen.result, plan: again.plan });
    }
  });

  it('keeps all when all are asked for', async () => {
    const chosen = await chooseThreshold(matrix, { keepRatio: 1 });
    expect(chosen).toMatchObject({ reached: true, keepRatio: 1, threshold: 1 });
  });

  it('says when ties make a share unreachable, and takes the nearer side', async () => {
    // Sums of two of four axes: pairs that share an axis have one and the same cosine of about 0.5, the others 0.
    const axes = [
      [0, 1],
      [0, 2],
      [0, 3],
      [1, 2],
      [1, 3],
      [2, 3],
    ];
    const data = new Float32Array(24);
    for (const [row, pair] of axes.entries()) for (const axis of pair) data[row * 4 + axis] = 1;
    const tied = { data, rows: 6, dim: 4 };
    const high = await chooseThreshold(tied, { keepRatio: 0.8 });
    expect(high).toMatchObject({
      reached: false,
      keepRatio: 1,
      reason: expect.stringMatching(/about 0\.(5|49999)\d*:/),
    });
    const low = await chooseThreshold(tied, { keepRatio: 0.3 });
    expect(low).toMatchObject({ reached: false, keepRatio: 1 / 6 });
    expect(low.threshold).toBeCloseTo(0.5, 6);
  });

  it('says when duplicates or the floor make a share unreachable', async () => {
    const few = makeRows({ rows: 100, dim: 8, seed: 1, kind: 'duplicates' });
    const chosen = await chooseThreshold(few, { keepRatio: 0.5 });
    expect(chosen.reached).toBe(false);
    expect(chosen.keepRatio).toBeLessThan(0.5);
    expect(chosen.reason).toContain('duplicates');

    const floor = await chooseThreshold(matrix, { keepRatio: 0.1, floor: 0.9 });
    expect(floor).toMatchObject({
      reached: false,
      threshold: 0.9,
      reason: expect.stringContaining('floor of 0.9'),
    });
  });

  it('refuses what is no share, and no rows', async () => {
    await expect(chooseThreshold(matrix, { keepRatio: 0 })).rejects.toThrow(RangeError);
    await expect(chooseThreshold(matrix, { keepRatio: 1.1 })).rejects.toThrow(RangeError);
    const none = { data: new Float32Array(0), rows: 0, dim: 3 };
    await expect(chooseThreshold(none, { keepRatio: 0.5 })).rejects.toThrow('at least one row');
  });
});
