import { describe, expect, it } from 'vitest';
import { linearProbe } from '../../src/eval/probe.ts';
import type { Matrix } from '../../src/kernels/rows.ts';

const wave = (i: number) => Math.sin(12.9898 * (i + 1)) * Math.cos(4.1414 * i);

/** Three clouds round the axes, of any length, as frozen embeddings are. */
function clouds(perClass: number, shift: number): { rows: Matrix; labels: Int32Array } {
  const labels = Int32Array.from({ length: 3 * perClass }, (_, i) => i % 3);
  const data = Float32Array.from({ length: labels.length * 3 }, (_, i) => {
    const row = Math.floor(i / 3);
    const own = labels[row] === i % 3 ? 1 : 0;
    return (own + 0.4 * wave(i + shift)) * (1 + (row % 4));
  });
  return { rows: { data, rows: labels.length, dim: 3 }, labels };
}

const train = clouds(30, 0);
const test = clouds(10, 5000);
const options = {
  train: train.rows,
  trainLabels: train.labels,
  test: test.rows,
  testLabels: test.labels,
  classes: ['x', 'y', 'z'],
};

describe('linearProbe', () => {
  it('learns what is linear, and gives the same numbers again', async () => {
    const result = await linearProbe(options);
    expect(result).toMatchObject({ images: 30, trainImages: 90, classes: 3, converged: true });
    expect(result.top1).toBeGreaterThan(0.9);
    expect(result.validation.map(({ l2 }) => l2)).toEqual([1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]);
    const best = Math.max(...result.validation.map(({ top1 }) => top1));
    expect(result.l2).toBe(result.validation.find(({ top1 }) => top1 === best)?.l2);
    expect(await linearProbe(options)).toEqual(result);
  });

  it('keeps a group on one side of the validation split', async () => {
    // Classes without any order in them, so that the share is not 1. With two groups a class, half of the 90 rows validate;
    // with each row for itself it would be a fifth.
    const trainLabels = Int32Array.from({ length: 90 }, (_, i) => Math.floor(Math.abs(wave(i)) * 997) % 3);
    const groups = Array.from(trainLabels, (label, i) => `${label}-${i % 2}`);
    const [tried] = (await linearProbe({ ...options, trainLabels, groups, grid: [1e-3] })).validation;
    const held = ['0', '1', '2'].map((label) =>
      [0, 1].map((half) => groups.filter((g) => g === `${label}-${half}`).length),
    );
    const sizes = held[0]!.flatMap((a) => held[1]!.flatMap((b) => held[2]!.map((c) => a + b + c)));
    expect(tried!.top1).toBeLessThan(0.9);
    expect(sizes.some((size) => Math.abs(tried!.top1 * size - Math.round(tried!.top1 * size)) < 1e-9)).toBe(
      true,
    );
  });

  it('names a class without training images', async () => {
    await expect(linearProbe({ ...options, classes: ['x', 'y', 'z', 'violin'] })).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringContaining("'violin'"),
    });
  });

  it('rejects labels that do not fit', async () => {
    await expect(linearProbe({ ...options, testLabels: Int32Array.of(0) })).rejects.toThrow(RangeError);
    await expect(linearProbe({ ...options, classes: ['x', 'y'] })).rejects.toThrow(RangeError);
    await expect(linearProbe({ ...options, grid: [] })).rejects.toThrow(RangeError);
    await expect(linearProbe({ ...options, grid: [0] })).rejects.toThrow(RangeError);
  });

  it('stops when it is told to', async () => {
    await expect(linearProbe({ ...options, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });
});
