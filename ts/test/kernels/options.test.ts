import { describe, expect, it } from 'vitest';
import { balance, cosineThreshold, summarizeBalance } from '../../src/kernels/balance.ts';
import { balanceForest } from '../../src/kernels/forest.ts';
import { kmeans } from '../../src/kernels/kmeans.ts';
import { nearest, nearestProduct } from '../../src/kernels/nearest.ts';
import { checkRows, DeviceMatrix, type Matrix, upload } from '../../src/kernels/rows.ts';
import { makeRows } from './data.ts';

const rows = makeRows({ rows: 10, dim: 4, seed: 1, kind: 'normal' });
const { data } = rows as { data: Float32Array };

/** The call must be refused with this type of error and a message that holds all the parts. */
async function refused(
  call: () => unknown,
  type: typeof TypeError | typeof RangeError,
  ...parts: string[]
): Promise<void> {
  const error = await (async () => call())().then(
    () => expect.fail('it was accepted'),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(type);
  for (const part of parts) expect((error as Error).message).toContain(part);
}

describe('rows', () => {
  it('become chunks of the core', () => {
    const half: Matrix = { data: new Uint16Array(8), rows: 2, dim: 4 };
    const file = { path: 'x.npy', offset: 128, rows: 3, dim: 4, dtype: 'bfloat16' as const };
    const checked = checkRows('rows', [rows, half, file]);
    expect(checked).toMatchObject({ rows: 15, dim: 4 });
    expect(checked.native).toEqual([
      { data, rows: 10, dim: 4, dtype: 'float32' },
      { ...half, dtype: 'float16' },
      file,
    ]);
    expect(checkRows('rows', { ...half, dtype: 'bfloat16' }).native).toMatchObject([{ dtype: 'bfloat16' }]);
  });

  it('are refused by what is wrong with them', async () => {
    const bad: [unknown, typeof TypeError | typeof RangeError, string, string][] = [
      [undefined, TypeError, 'an object for rows', 'undefined'],
      [data, TypeError, 'an object for rows', 'a Float32Array of 40'],
      [[], RangeError, 'at least one matrix for rows', '[]'],
      [{ ...rows, rows: 9 }, RangeError, '9 × 4 elements for rows.data', 'a Float32Array of 40'],
      [{ ...rows, rows: -1 }, RangeError, 'for rows.rows', '-1'],
      [{ ...rows, dim: 0 }, RangeError, 'for rows.dim', '0'],
      [{ ...rows, dim: '4' }, TypeError, 'for rows.dim', '"4"'],
      [{ ...rows, dtype: 'float16' }, TypeError, 'a Uint16Array for rows.data of float16', 'a Float32Array'],
      [{ ...rows, dtype: 'int8' }, RangeError, 'for rows.dtype', '"int8"'],
      [{ data: [1, 2], rows: 1, dim: 2 }, TypeError, 'for rows.data', '[1, 2]'],
      [[[1, 2]], TypeError, 'an object for rows[0]', '[1, 2]'],
      [[rows, { data, rows: 8, dim: 5 }], RangeError, '4, as in rows[0], for rows[1].dim', '5'],
      [{ path: '', offset: 0, rows: 1, dim: 1, dtype: 'float32' }, TypeError, 'for rows.path', '""'],
      [{ path: 'x', offset: -1, rows: 1, dim: 1, dtype: 'float32' }, RangeError, 'for rows.offset', '-1'],
      [{ path: 'x', offset: 0, rows: 1, dim: 1 }, TypeError, 'for rows.dtype', 'undefined'],
    ];
    for (const [value, type, ...parts] of bad) {
      await refused(() => balance(value as Matrix, { threshold: 0.5 }), type, ...parts);
    }
  });
});

describe('options', () => {
  const wrong = <T>(value: unknown) => value as T;

  it('of balance are checked', async () => {
    await refused(
      () => balance(rows, wrong({})),
      TypeError,
      'a number from -1 to 1 for threshold',
      'undefined',
    );
    await refused(() => balance(rows, wrong(undefined)), TypeError, 'an object for options');
    await refused(() => balance(rows, { threshold: 1.5 }), RangeError, 'for threshold', '1.5');
    await refused(() => balance(rows, { threshold: -0.1, metric: 'euclidean' }), RangeError, 'from 0 to 2');
    await refused(
      () => balance(rows, wrong({ threshold: 0.5, metric: 'l2' })),
      RangeError,
      'for metric',
      '"l2"',
    );
    await refused(() => balance(rows, wrong({ threshold: 0.5, treshold: 1 })), TypeError, '"treshold"');
  });

  it('of balance policies, shares and forests are checked', async () => {
    const forest = await balanceForest(rows, { floor: 0.5 });
    const cases: [object, typeof TypeError | typeof RangeError, string][] = [
      [{ threshold: 0.5, targetKeep: 0.5 }, RangeError, 'no threshold beside targetKeep for threshold'],
      [{ targetKeep: 0 }, RangeError, 'a share over 0 for targetKeep'],
      [{ targetKeep: 1.5 }, RangeError, 'for targetKeep but received 1.5'],
      [{ targetKeep: 0.5, floor: 2 }, RangeError, 'from -1 to 1 for floor'],
      [{ targetKeep: 0.5, floor: 3, metric: 'euclidean' }, RangeError, 'from 0 to 2 for floor'],
      [{ targetKeep: 0.5, tolerance: -1 }, RangeError, 'for tolerance'],
      [{ threshold: 0.5, keep: 'last' }, RangeError, 'for keep but received "last"'],
      [{ threshold: 0.5, keep: {} }, TypeError, "'central', 'easy', 'hard', 'first', { best }"],
      [{ threshold: 0.5, keep: { best: [1], random: 1 } }, TypeError, 'for keep'],
      [{ threshold: 0.5, keep: { best: 'x' } }, TypeError, 'an array of numbers for keep.best'],
      [{ threshold: 0.5, keep: { best: [1, 2] } }, RangeError, '10 scores [N] for keep.best'],
      [{ threshold: 0.5, keep: { best: new Array(10).fill(Number.NaN) } }, RangeError, 'for keep.best[0]'],
      [{ threshold: 0.5, keep: { random: -1 } }, RangeError, 'for keep.random'],
      [{ threshold: 0.5, maxDiameter: 3 }, RangeError, 'from 0 to 2 for maxDiameter'],
      [{ threshold: 0.4, forest }, RangeError, 'at least 0.5, the floor of the forest, for threshold'],
      [{ threshold: 0.6, forest: { ...forest } }, TypeError, 'a SpanningForest for forest'],
    ];
    for (const [options, type, message] of cases) {
      await refused(() => balance(rows, wrong(options)), type, message);
    }
    const other = makeRows({ rows: 9, dim: 4, seed: 1, kind: 'normal' });
    await refused(() => balance(other, { threshold: 0.6, forest }), RangeError, 'number of rows');
    await refused(() => balanceForest(rows, { floor: -2 }), RangeError, 'for floor');
    await refused(() => balanceForest(rows, wrong({ threshold: 1 })), TypeError, '"threshold"');
  });

  it('of k-means are checked', async () => {
    const cases: [object, typeof TypeError | typeof RangeError, string][] = [
      [{}, TypeError, 'for clusters but received undefined'],
      [{ clusters: 0 }, RangeError, 'for clusters but received 0'],
      [{ clusters: 11 }, RangeError, 'at most 10, the number of rows, for clusters but received 11'],
      [{ clusters: 6, batch: 2 }, RangeError, 'at most 5, the number of rows of a problem, for clusters'],
      [{ clusters: 1, batch: 3 }, RangeError, 'a divisor of the 10 rows for batch but received 3'],
      [{ clusters: 2, spherical: 1 }, TypeError, 'true or false for spherical but received 1'],
      [{ clusters: 2, init: 'kmeans++' }, RangeError, 'for init but received "kmeans++"'],
      [{ clusters: 2, init: new Float32Array(7) }, RangeError, 'a Float32Array of 8 [B, K, D] for init'],
      [{ clusters: 2, init: null }, TypeError, 'for init but received null'],
      [{ clusters: 2, iterations: 0 }, RangeError, 'for iterations but received 0'],
      [{ clusters: 2, tolerance: 2 }, RangeError, 'for tolerance but received 2'],
      [{ clusters: 2, seed: -1 }, RangeError, 'for seed but received -1'],
      [{ clusters: 2, seed: 2 ** 53 }, RangeError, 'for seed'],
      [{ k: 2 }, TypeError, 'for options but received "k"'],
    ];
    for (const [options, type, message] of cases) {
      await refused(() => kmeans(rows, wrong(options)), type, message);
    }
    await refused(
      () => kmeans({ data: new Float32Array(0), rows: 0, dim: 3 }, { clusters: 1 }),
      RangeError,
      'clusters',
    );
  });

  it('of nearest are checked', async () => {
    const wide = makeRows({ rows: 3, dim: 5, seed: 1, kind: 'normal' });
    await refused(
      () => nearest(rows, wide, { k: 1 }),
      RangeError,
      '5, as in base, for queries.dim but received 4',
    );
    await refused(() => nearest(rows, rows, { k: 11 }), RangeError, 'at most 10, the rows of base, for k');
    await refused(() => nearest(rows, rows, { k: 0 }), RangeError, 'for k but received 0');
    await refused(() => nearest(rows, rows, wrong({ k: 1, metric: 'euclidean' })), RangeError, 'for metric');
  });

  it('of nearest by a product are checked', async () => {
    const other = makeRows({ rows: 9, dim: 4, seed: 1, kind: 'normal' });
    const wide = makeRows({ rows: 10, dim: 5, seed: 1, kind: 'normal' });
    const one: Matrix = { data: new Float32Array(4).fill(1), rows: 1, dim: 4 };
    const cases: [Matrix, Matrix, object, typeof TypeError | typeof RangeError, string][] = [
      [rows, other, {}, RangeError, '10, as in images, for the rows of texts but received 9'],
      [rows, wide, { k: 10 }, RangeError, 'at most 9, the other pairs, for k but received 10'],
      [rows, wide, { k: 0 }, RangeError, 'for k but received 0'],
      [rows, wide, { cutoff: 3 }, RangeError, 'from -1 to 2 for cutoff but received 3'],
      [rows, wide, { cutoff: '1' }, TypeError, 'for cutoff but received "1"'],
      [rows, wide, { metric: 'dot' }, TypeError, '"metric"'],
      [rows, wide, { queries: rows }, TypeError, 'images, texts for queries but received "data"'],
      [rows, wide, { queries: { images: rows, texts: other } }, RangeError, 'the rows of queries.texts'],
      [
        rows,
        wide,
        { queries: { images: rows, texts: rows } },
        RangeError,
        '5, as in texts, for queries.texts.dim',
      ],
      [
        rows,
        wide,
        { queries: { images: rows, texts: wide }, k: 11 },
        RangeError,
        'at most 10, the pairs, for k',
      ],
      [one, one, {}, RangeError, 'at least 2 rows for images but received 1'],
    ];
    for (const [images, texts, options, type, message] of cases) {
      await refused(() => nearestProduct(images, texts, wrong(options)), type, message);
    }
  });

  it('common to all are checked', async () => {
    const call = (options: object) => () => balance(rows, { threshold: 0.5, ...options });
    await refused(call({ threads: 0 }), RangeError, 'from 1 to 1024 for threads but received 0');
    await refused(call({ device: 'gpu' }), RangeError, 'for device but received "gpu"');
    await refused(call({ signal: {} }), TypeError, 'an AbortSignal for signal');
    await refused(call({ onProgress: 1 }), TypeError, 'a function for onProgress but received 1');
    await refused(() => upload(rows, wrong({ devices: 'cpu' })), TypeError, '"devices"');
  });
});

describe('threshold', () => {
  it('becomes a cosine', () => {
    expect(cosineThreshold(0.9)).toBe(0.9);
    expect(cosineThreshold(0.1, 'cosine-distance')).toBe(0.9);
    expect(cosineThreshold(0.6, 'euclidean')).toBe(1 - 0.36 / 2);
    expect(cosineThreshold(2, 'euclidean')).toBe(-1);
  });

  it('means the same in every unit', async () => {
    const matrix = makeRows({ rows: 120, dim: 6, seed: 3, kind: 'clusters' });
    const wanted = await balance(matrix, { threshold: 0.875 });
    for (const [metric, threshold] of [
      ['cosine-distance', 0.125],
      ['euclidean', 0.5],
    ] as const) {
      const result = await balance(matrix, { metric, threshold });
      expect(result).toEqual(wanted);
      expect(result.threshold).toBe(0.875);
    }
    expect(wanted.groups).toBeGreaterThan(1);
    expect(wanted.groups).toBeLessThan(120);
  });
});

describe('summary of a balance', () => {
  it('counts rows, groups and sizes', () => {
    const summary = summarizeBalance({
      labels: Int32Array.of(0, 1, 1, 0, 4, 1),
      keep: Uint8Array.of(1, 0, 1, 0, 1, 0),
      centrality: Float32Array.of(0.5, 0.75, 1, 0.5, 0, 0.25),
      groups: 3,
      edges: 3,
      faults: Int32Array.of(4),
      threshold: 0.5,
    });
    expect(summary).toEqual({
      rows: 6,
      kept: 3,
      removed: 3,
      keepRatio: 0.5,
      groups: 3,
      edges: 3,
      faults: 1,
      largest: { label: 1, size: 3 },
      sizes: [
        { size: 1, groups: 1 },
        { size: 2, groups: 1 },
        { size: 3, groups: 1 },
      ],
      centrality: { mean: 0.6, min: 0.25 },
      chaining: {
        pairs: 4,
        neighbours: 0.75,
        outside: { rows: 3, groups: 2 },
        lowest: [1, 0, 0, 1, 0, 0, 0, 0, 0, 0].map((count, range) => ({
          from: 0.25 + (0.75 * range) / 10,
          to: 0.25 + (0.75 * (range + 1)) / 10,
          groups: count,
        })),
      },
    });
  });

  it('is sound without rows', async () => {
    const result = await balance({ data: new Float32Array(0), rows: 0, dim: 3 }, { threshold: 0.5 });
    expect(summarizeBalance(result)).toEqual({
      rows: 0,
      kept: 0,
      removed: 0,
      keepRatio: 1,
      groups: 0,
      edges: 0,
      faults: 0,
      sizes: [],
    });
  });
});

describe('device matrix', () => {
  it('holds rows, gives them back, and is disposed of once', async () => {
    for (const matrix of [rows, { data: Uint16Array.of(1, 2, 3, 4, 5, 6), rows: 3, dim: 2 }]) {
      const resident = await upload(matrix, { device: 'cpu' });
      expect(resident).toBeInstanceOf(DeviceMatrix);
      expect(resident).toMatchObject({ device: 'cpu', rows: matrix.rows, dim: matrix.dim });
      expect(resident.bytes).toBe(matrix.data.byteLength);
      expect((await resident.download()).data).toEqual(matrix.data);
      resident.dispose();
      resident.dispose();
      const disposed = { code: 'DISPOSED' };
      await expect(resident.download()).rejects.toMatchObject(disposed);
      await expect(balance(resident, { threshold: 0.5 })).rejects.toMatchObject(disposed);
    }
  });

  it('is a copy: the rows may change after the upload', async () => {
    const copy = data.slice();
    using resident = await upload({ data: copy, rows: 10, dim: 4 }, { device: 'cpu' });
    copy.fill(7);
    expect((await resident.download()).data).toEqual(data);
  });

  it('can be disposed of while a call uses it', async () => {
    const matrix = makeRows({ rows: 500, dim: 64, seed: 1, kind: 'clusters' });
    const resident = await upload(matrix, { device: 'cpu' });
    const running = balance(resident, { threshold: 0.9 });
    resident.dispose();
    expect(await running).toEqual(await balance(matrix, { threshold: 0.9, device: 'cpu' }));
  });

  it('is used where it lives, or not at all', async () => {
    using resident = await upload(rows, { device: 'cpu' });
    await refused(
      () => balance(resident, { threshold: 0.5, device: 'cuda' }),
      RangeError,
      "'cpu', where the rows are",
    );
  });
});
