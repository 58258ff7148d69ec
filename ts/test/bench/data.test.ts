import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { makeRows, RowSource, SPECTRA, writeRows } from '../../src/bench/data.ts';
import { lossBatch, startingCentres } from '../../src/bench/inputs.ts';
import { readNpy } from '../../src/data/npy.ts';
import { openStore } from '../../src/data/store.ts';

const cosine = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, k) => sum + value * b[k]!, 0);

function originals(source: RowSource, count: number): Float32Array[] {
  const rows: Float32Array[] = [];
  for (let row = 0; rows.length < count; row++) {
    if (source.copyOf(row) === undefined) rows.push(source.rows(row, 1));
  }
  return rows;
}

function meanOf(rows: readonly Float32Array[]): Float64Array {
  const mean = new Float64Array(rows[0]!.length);
  for (const row of rows) for (let k = 0; k < mean.length; k++) mean[k]! += row[k]! / rows.length;
  return mean;
}

/** Eigenvalues of a symmetric matrix by Jacobi's rotations, largest first. */
function eigenvalues(matrix: Float64Array[]): number[] {
  const n = matrix.length;
  for (let sweep = 0; sweep < 12; sweep++) {
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        const [a, b, c] = [matrix[p]![p]!, matrix[q]![q]!, matrix[p]![q]!];
        const angle = 0.5 * Math.atan2(2 * c, a - b);
        const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
        for (let k = 0; k < n; k++) {
          const [x, y] = [matrix[k]![p]!, matrix[k]![q]!];
          matrix[k]![p] = cos * x + sin * y;
          matrix[k]![q] = cos * y - sin * x;
        }
        for (let k = 0; k < n; k++) {
          const [x, y] = [matrix[p]![k]!, matrix[q]![k]!];
          matrix[p]![k] = cos * x + sin * y;
          matrix[q]![k] = cos * y - sin * x;
        }
      }
    }
  }
  return matrix.map((row, k) => row[k]!).sort((a, b) => b - a);
}

describe.each(SPECTRA)('rows of the %s spectrum', (spectrum) => {
  test.each([1, 2, 3, 24, 64, 96])('of %i coordinates are unit and of the seed alone', (dim) => {
    const source = new RowSource({ dim, spectrum, seed: 7 });
    const data = source.rows(0, 300);
    for (let row = 0; row < 300; row++) {
      const one = data.subarray(row * dim, (row + 1) * dim);
      expect(Math.abs(cosine(one, one) - 1)).toBeLessThan(1e-6);
    }
    expect(new RowSource({ dim, spectrum, seed: 7 }).rows(120, 80)).toEqual(data.slice(120 * dim, 200 * dim));
    if (dim > 1) {
      expect(new RowSource({ dim, spectrum, seed: 8 }).rows(0, 300)).not.toEqual(data);
      expect(new RowSource({ dim, spectrum, seed: 7 + 2 ** 40 }).rows(0, 300)).not.toEqual(data);
    }
  });

  test('copies are three in ten, each at its cosine from an earlier row, uniform from 0.85 to 1', () => {
    const source = new RowSource({ dim: 48, spectrum, seed: 3 });
    const count = 6000;
    const cosines: number[] = [];
    for (let row = 0; row < count; row++) {
      const copy = source.copyOf(row);
      if (copy === undefined) continue;
      expect(copy.row).toBeLessThan(row);
      expect(cosine(source.rows(row, 1), source.rows(copy.row, 1))).toBeCloseTo(copy.cosine, 5);
      cosines.push(copy.cosine);
    }
    // Five standard deviations of a binomial and of a mean of uniform numbers.
    expect(Math.abs(cosines.length / count - 0.3)).toBeLessThan(5 * Math.sqrt((0.3 * 0.7) / count));
    const mean = cosines.reduce((sum, value) => sum + value, 0) / cosines.length;
    expect(Math.abs(mean - 0.925)).toBeLessThan((5 * 0.15) / Math.sqrt(12 * cosines.length));
    expect(Math.min(...cosines)).toBeGreaterThanOrEqual(0.85);
    expect(Math.min(...cosines)).toBeLessThan(0.86);
    expect(Math.max(...cosines)).toBeGreaterThan(0.99);
  });

  test('variance along the axes of a dense basis falls as the spectrum says', () => {
    const dim = 24;
    const rows = originals(new RowSource({ dim, spectrum, seed: 5 }), 8000);
    const mean = meanOf(rows);
    const covariance = Array.from({ length: dim }, () => new Float64Array(dim));
    for (const row of rows) {
      for (let i = 0; i < dim; i++) {
        for (let j = 0; j < dim; j++) {
          covariance[i]![j]! += ((row[i]! - mean[i]!) * (row[j]! - mean[j]!)) / rows.length;
        }
      }
    }
    const diagonal = covariance.map((row, k) => row[k]!);
    const values = eigenvalues(covariance);
    if (spectrum === 'flat') {
      expect(values[0]! / values[dim - 1]!).toBeLessThan(1.5);
      expect(Math.hypot(...mean)).toBeLessThan(0.06);
    } else {
      // Normalising the rows flattens the first axes a little.
      expect(values[3]! / values[15]!).toBeGreaterThan(3);
      expect(values[3]! / values[15]!).toBeLessThan(5.5);
      expect(values[0]! / values[7]!).toBeGreaterThan(4);
      // ½ over √(1 + ¼) if all rows were equally long before.
      expect(Math.hypot(...mean)).toBeGreaterThan(0.38);
      expect(Math.hypot(...mean)).toBeLessThan(0.5);
      // In the coordinates as they come nothing stands out as the first axis does.
      expect(Math.max(...diagonal)).toBeLessThan(0.75 * values[0]!);
    }
  });
});

test('options are checked', () => {
  expect(() => new RowSource({ dim: 0 })).toThrow(/integer from 1 to 1048576 for dim but received 0/);
  expect(() => new RowSource({ dim: 4, spectrum: 'steep' as 'flat' })).toThrow(
    /for spectrum but received "steep"/,
  );
  expect(() => new RowSource({ dim: 4, copies: 2 })).toThrow(/for copies but received 2/);
});

test('making rows reports progress and can be aborted', async () => {
  const source = new RowSource({ dim: 8 });
  const seen: number[] = [];
  const data = await makeRows(source, 1500, { onProgress: ({ done }) => seen.push(done) });
  expect(data).toEqual(source.rows(0, 1500));
  expect(seen).toEqual([512, 1024, 1500]);
  const controller = new AbortController();
  const aborted = makeRows(source, 1500, {
    signal: controller.signal,
    onProgress: () => controller.abort(),
  });
  await expect(aborted).rejects.toMatchObject({ code: 'ABORTED' });
});

describe('files', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'clip-cid-bench-data-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  test('shards are an embedding store of the same rows', async () => {
    const source = new RowSource({ dim: 6, seed: 2 });
    await writeRows(folder, source, 25, { shardSize: 10 });
    const store = await openStore(folder);
    expect([store.rows, store.dim, store.image.map(({ rows }) => rows)]).toEqual([25, 6, [10, 10, 5]]);
    const shard = await readNpy(store.image[1]!.path);
    expect(shard).toMatchObject({ dtype: 'float32', shape: [10, 6] });
    expect(shard.data).toEqual(source.rows(10, 10));
  });
});

test('starting centres are distinct rows', () => {
  const data = new RowSource({ dim: 4, copies: 0 }).rows(0, 10);
  const centres = startingCentres(data, 10, 4, 4);
  expect([...centres]).toEqual([0, 2, 5, 7].flatMap((row) => [...data.subarray(row * 4, row * 4 + 4)]));
  expect(() => startingCentres(data, 10, 4, 11)).toThrow(
    /at most 10, the rows, for clusters but received 11/,
  );
});

test('the batch of a loss has labels of its nearest centres', async () => {
  const [batch, clusters, dim] = [20, 30, 16];
  const made = await lossBatch(batch, clusters, { dim, spectrum: 'decaying', seed: 1 });
  for (let row = 0; row < batch; row++) {
    const image = made.teacherImage.subarray(row * dim, (row + 1) * dim);
    const scores = Array.from({ length: clusters }, (_, centre) =>
      cosine(image, made.centroids.subarray(centre * dim, (centre + 1) * dim)),
    );
    expect(made.labels[row]).toBe(scores.indexOf(Math.max(...scores)));
  }
  expect([made.image, made.text, made.teacherText].map(({ length }) => length)).toEqual(
    Array(3).fill(batch * dim),
  );
});
