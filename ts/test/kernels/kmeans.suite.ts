import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type KmeansOptions, kmeans, predict } from '../../src/kernels/kmeans.ts';
import { type Matrix, upload } from '../../src/kernels/rows.ts';
import type { Device } from '../../src/native/devices.ts';
import * as reference from '../reference/kmeans.ts';
import { chunked, convert, generator, KINDS, makeRows, permutation, reorder } from './data.ts';
import { withFiles } from './files.ts';
import { expectAllSame, expectSame } from './same.ts';

const THREADS = [1, 2, 7];
const INITS = ['k-means++', 'k-means||', 'random'] as const;
const DEFAULTS = {
  batch: 1,
  spherical: true,
  init: 'k-means++' as const,
  iterations: 10,
  tolerance: 0,
  seed: 1,
};

/** Weights of many sizes, some of them zero and one far over all others. */
function makeWeights(rows: number, seed: number): Float32Array {
  const uniform = generator(seed);
  const weights = Float32Array.from({ length: rows }, () =>
    uniform() < 0.2 ? 0 : 10 ** (4 * uniform() - 2),
  );
  weights[Math.floor(uniform() * rows)] = 1e4;
  return weights;
}

/** K-means on one device, held to the reference. */
export function kmeansSuite(device: Device): void {
  async function check(matrix: Matrix, options: KmeansOptions): Promise<reference.ReferenceKmeans> {
    const all = { ...DEFAULTS, ...options };
    const wanted = reference.kmeans(matrix, all);
    for (const threads of THREADS) {
      expectAllSame(await kmeans(matrix, { ...all, device, threads }), wanted);
    }
    return wanted;
  }

  describe('k-means', () => {
    const shapes: [number, number, number][] = [
      [1, 1, 1],
      [2, 1, 2],
      [2, 17, 1],
      [3, 16, 2],
      [15, 2, 7],
      [16, 33, 16],
      [17, 15, 5],
      [33, 64, 31],
      [64, 100, 8],
      [65, 31, 17],
      [97, 257, 3],
      [130, 48, 65],
      [40, 1000, 9],
      [20, 4096, 3],
      [400, 12, 33],
      [700, 5, 6],
      [17_000, 3, 5],
    ];
    for (const [rows, dim, clusters] of shapes) {
      for (const spherical of [true, false]) {
        it(`${rows} × ${dim} into ${clusters}, ${spherical ? 'spherical' : 'Euclidean'}`, async () => {
          const kind = KINDS[(rows + dim + clusters + Number(spherical)) % KINDS.length]!;
          const matrix = makeRows({ rows, dim, seed: rows + dim, kind });
          await check(matrix, { clusters, spherical });
          await check(matrix, { clusters, spherical, init: 'random', seed: 2 ** 53 - 1, iterations: 3 });
          await check(matrix, { clusters, spherical, init: 'k-means||', iterations: 3 });
        });
      }
    }

    it('solves a batch of problems as each alone with given centres', async () => {
      const matrix = makeRows({ rows: 3 * 41, dim: 23, seed: 3, kind: 'clusters' });
      for (const spherical of [true, false]) {
        await check(matrix, { clusters: 5, batch: 3, spherical });
        await check(matrix, { clusters: 41, batch: 3, spherical, iterations: 2 });
        await check(matrix, { clusters: 1, batch: 123, spherical, init: 'random' });

        const init = makeRows({ rows: 15, dim: 23, seed: 4, kind: 'normal' }).data as Float32Array;
        const options = { clusters: 5, spherical, device, iterations: 6, tolerance: 0 };
        const together = await kmeans(matrix, { ...options, batch: 3, init });
        for (const [problem, part] of chunked(matrix, [41, 41]).entries()) {
          const size = 5 * 23;
          const own = init.slice(problem * size, (problem + 1) * size);
          const alone = await kmeans(part, { ...options, init: own });
          const slice = together.centroids.slice(problem * size, (problem + 1) * size);
          expectSame('centroids', alone.centroids, slice);
          expect(alone.inertia[0]).toBe(together.inertia[problem]);
        }
        await check(matrix, { clusters: 5, batch: 3, spherical, init });
      }
    });

    it('places centres without rows anew', async () => {
      const matrix = makeRows({ rows: 50, dim: 6, seed: 3, kind: 'clusters' });
      for (const spherical of [true, false]) {
        // All centres but one lie where no row is nearest to them: the same point, and the first of equals gets all.
        const init = new Float32Array(7 * 6).fill(1);
        const wanted = await check(matrix, { clusters: 7, spherical, init });
        expect(wanted.counts.every((count) => count > 0)).toBe(true);
      }
      // Fewer different rows than centres: some stay empty whatever is done.
      const few = makeRows({ rows: 30, dim: 4, seed: 2, kind: 'duplicates' });
      for (const spherical of [true, false]) {
        for (const init of INITS) await check(few, { clusters: 9, spherical, init });
      }
    });

    it('draws each next centre by its share of the squared distances, in blocks too', async () => {
      // Far apart, so that a start which leaves one out is all but impossible; then every row is drawn at most once.
      const centres = makeRows({ rows: 90, dim: 12, seed: 2, kind: 'normal' }).data as Float32Array;
      const near = makeRows({ rows: 900, dim: 12, seed: 3, kind: 'normal' }).data as Float32Array;
      const data = near.map((value, at) => 1e-4 * value + 100 * centres[at % centres.length]!);
      for (const init of ['k-means++', 'k-means||'] as const) {
        const options = { clusters: 90, spherical: false, init, iterations: 1 };
        const { counts } = await check({ data, rows: 900, dim: 12 }, options);
        expect([...counts]).toEqual(new Array(90).fill(10));
      }
      for (const init of INITS) {
        const matrix = makeRows({ rows: 60, dim: 5, seed: 4, kind: 'normal' });
        const { centroids } = await check(matrix, { clusters: 60, spherical: false, init, iterations: 1 });
        expect(new Set(centroids).size).toBe(60 * 5);
      }
    });

    it('weighs rows', async () => {
      for (const spherical of [true, false]) {
        for (const init of INITS) {
          for (const [rows, clusters] of [
            [40, 3],
            [200, 30],
            [30, 30],
          ] as const) {
            const matrix = makeRows({ rows, dim: 9, seed: rows + clusters, kind: 'normal' });
            const weights = makeWeights(rows, clusters);
            await check(matrix, { clusters, spherical, init, weights });
            if (rows % 2 === 0 && clusters < rows / 2) {
              await check(matrix, { clusters, spherical, init, weights, batch: 2, movement: 0.01 });
            }
          }
        }
        // A whole weight counts like so many copies, and ones like none given.
        const matrix = makeRows({ rows: 50, dim: 6, seed: 5, kind: 'clusters' });
        const data = matrix.data as Float32Array;
        const times = Float32Array.from({ length: 50 }, (_, row) => Math.floor(row / 4) % 4);
        const order = [...times].flatMap((count, row) => new Array<number>(count).fill(row));
        const options = {
          clusters: 4,
          spherical,
          init: data.slice(0, 24),
          iterations: 8,
          tolerance: 0,
          device,
        };
        const weighted = await kmeans(matrix, { ...options, weights: times });
        const copied = await kmeans(reorder(matrix, order), options);
        for (const [at, value] of copied.centroids.entries()) {
          expect(weighted.centroids[at]).toBeCloseTo(value, 5);
        }
        expect(weighted.inertia[0]).toBeCloseTo(copied.inertia[0]!, 4);
        const ones = await kmeans(matrix, { ...options, weights: new Float32Array(50).fill(1) });
        expectAllSame(ones, await kmeans(matrix, options));
      }
    });

    it('refuses weights that are none', async () => {
      const matrix = makeRows({ rows: 20, dim: 3, seed: 5, kind: 'normal' });
      const options = { clusters: 2, device };
      for (const bad of [Number.NaN, -1, Number.POSITIVE_INFINITY]) {
        const weights = new Float32Array(20).fill(1);
        weights[13] = bad;
        await expect(kmeans(matrix, { ...options, weights })).rejects.toThrow(RangeError);
        await expect(kmeans(matrix, { ...options, weights })).rejects.toThrow('weights[13]');
      }
      const weights = new Float32Array(20).fill(1, 0, 10);
      await expect(kmeans(matrix, { ...options, weights, batch: 2 })).rejects.toThrow(/over 0.*problem 1/);
    });

    it('keeps the best of several starts of each problem', async () => {
      const matrix = makeRows({ rows: 160, dim: 4, seed: 9, kind: 'normal' });
      for (const init of INITS) {
        const options = { clusters: 9, batch: 4, spherical: false, init };
        const best = await check(matrix, { ...options, nInit: 6 });
        const one = await check(matrix, options);
        const better = best.inertia.filter((inertia, problem) => inertia < one.inertia[problem]!);
        expect(better.length).toBeGreaterThan(0);
        expect(best.inertia.every((inertia, problem) => inertia <= one.inertia[problem]!)).toBe(true);
      }
    });

    it('predicts what it assigned', async () => {
      for (const spherical of [true, false]) {
        for (const kind of KINDS) {
          const matrix = makeRows({ rows: 210, dim: 37, seed: 8, kind });
          const options = { batch: 3, spherical, device };
          const result = await kmeans(matrix, { ...options, clusters: 11, iterations: 4 });
          const wanted = reference.predict(matrix, result.centroids, options);
          for (const threads of THREADS) {
            const predicted = await predict(matrix, result.centroids, { ...options, threads });
            expectAllSame(predicted, wanted);
            expectSame('labels', predicted.labels, result.labels);
          }
        }
      }
      const matrix = makeRows({ rows: 10, dim: 3, seed: 8, kind: 'normal' });
      const centroids = Float32Array.of(1, 0, 0, 0, 1, Number.NaN);
      await expect(predict(matrix, centroids, { device })).rejects.toMatchObject({ code: 'INVALID_DATA' });
      const none = await predict({ data: new Float32Array(0), rows: 0, dim: 3 }, centroids, { device });
      expect(none.labels.length).toBe(0);
    });

    it('solves many small problems at once, and names the first bad row among them', async () => {
      const matrix = makeRows({ rows: 64 * 30, dim: 5, seed: 4, kind: 'clusters' });
      for (const init of INITS) await check(matrix, { clusters: 4, batch: 64, init, nInit: 2 });
      const data = matrix.data as Float32Array;
      for (const row of [700, 1100, 1500]) data[row * 5] = Number.NaN;
      for (const threads of THREADS) {
        const call = kmeans(matrix, { clusters: 4, batch: 64, device, threads });
        await expect(call).rejects.toMatchObject({
          code: 'INVALID_DATA',
          message: expect.stringMatching(/\b700\b/),
        });
      }
    });

    it('is the same with every filter and little memory', async () => {
      const matrix = makeRows({ rows: 900, dim: 70, seed: 12, kind: 'clusters' });
      for (const spherical of [true, false]) {
        const options = { ...DEFAULTS, clusters: 40, spherical, weights: makeWeights(900, 3) };
        const wanted = await check(matrix, options);
        for (const filter of ['float32', 'bfloat16', 'int8'] as const) {
          for (const prefix of [0, 16]) {
            expectAllSame(await kmeans(matrix, { ...options, device, filter, prefix }), wanted);
          }
        }
        await withFiles(chunked(matrix, [300, 301]), async (files) => {
          expectAllSame(await kmeans(files, { ...options, device, maxMemory: 2 ** 24 }), wanted);
        });
      }
    });

    it('reports progress that ends at its total', async () => {
      const matrix = makeRows({ rows: 4000, dim: 64, seed: 1, kind: 'normal' });
      const seen: { done: number; total: number }[] = [];
      const onProgress = (progress: { done: number; total: number }) => seen.push(progress);
      const options = { clusters: 200, iterations: 40, tolerance: 0, nInit: 2, device };
      await kmeans(matrix, { ...options, onProgress });
      for (const [at, { done, total }] of seen.entries()) {
        expect(total).toBe(80);
        expect(done).toBeLessThanOrEqual(total);
        expect(done).toBeGreaterThan(seen[at - 1]?.done ?? 0);
      }
      expect(seen.length).toBeGreaterThan(0);
    });

    it('keeps a spherical centre whose rows cancel', async () => {
      const data = Float32Array.of(1, 0, -1, 0, 0, 1, 0, -1);
      const wanted = await check({ data, rows: 4, dim: 2 }, { clusters: 1, init: Float32Array.of(3, 4) });
      expectSame('centroids', wanted.centroids, Float32Array.of(0.6, 0.8));
    });

    it('takes huge, tiny and zero rows when Euclidean', async () => {
      const matrix = makeRows({ rows: 60, dim: 7, seed: 5, kind: 'normal' });
      for (const factor of [1e37, 1e-37, 1e-44]) {
        const data = (matrix.data as Float32Array).map((value) => value * factor);
        await check({ data, rows: 60, dim: 7 }, { clusters: 6, spherical: false });
      }
      // Products that leave float32's range on their way to a small sum.
      const far = Float32Array.of(1e30, 1e30, 1, 1e30, 1e30, 2, 1e30, 1e30, 9);
      const init = Float32Array.of(1e9, -1e9, 0, 0, 0, 5);
      await check({ data: far, rows: 3, dim: 3 }, { clusters: 2, spherical: false, init, iterations: 1 });
      const zeros = new Float32Array(20 * 3);
      await check({ data: zeros, rows: 20, dim: 3 }, { clusters: 4, spherical: false });
      const data = (matrix.data as Float32Array).slice();
      data[0] = 3e38;
      data[9] = -3e38;
      data.fill(0, 35, 49);
      await check({ data, rows: 60, dim: 7 }, { clusters: 5, spherical: false });
    });

    it('stops by the tolerance and by the number of iterations', async () => {
      const matrix = makeRows({ rows: 300, dim: 8, seed: 6, kind: 'normal' });
      const one = await check(matrix, { clusters: 12, iterations: 1, tolerance: 0 });
      expect(one.iterations[0]).toBe(1);
      const until = await check(matrix, { clusters: 12, iterations: 60, tolerance: 0 });
      const loose = await check(matrix, { clusters: 12, iterations: 60, tolerance: 0.05 });
      expect(loose.iterations[0]).toBeLessThan(until.iterations[0]!);
      expect(until.iterations[0]).toBeLessThan(60);
      expect(until.inertia[0]).toBeLessThan(one.inertia[0]!);
      await check(matrix, { clusters: 12, tolerance: 1 });
      for (const spherical of [true, false]) {
        const options = { clusters: 12, iterations: 60, tolerance: 0, spherical };
        const all = await check(matrix, options);
        const some = await check(matrix, { ...options, movement: 0.5 });
        expect(some.iterations[0]).toBeLessThan(all.iterations[0]!);
        expect(some.iterations[0]).toBeGreaterThan(1);
        expect((await check(matrix, { ...options, movement: 1e9 })).iterations[0]).toBe(1);
      }
    });

    it('finds clusters that are there', async () => {
      const matrix = makeRows({ rows: 400, dim: 16, seed: 8, kind: 'clusters' });
      for (const spherical of [true, false]) {
        const init = (matrix.data as Float32Array).slice(0, 4 * 16);
        const { labels } = await kmeans(matrix, { clusters: 4, spherical, init, device });
        for (let row = 4; row < 400; row++) expect(labels[row]).toBe(labels[row % 4]);
        expect(new Set(labels).size).toBe(4);
      }
    });

    it('takes all element types, chunks, files and device matrices', async () => {
      const matrix = convert(makeRows({ rows: 120, dim: 19, seed: 9, kind: 'clusters' }), 'float16');
      const options = { ...DEFAULTS, clusters: 7, batch: 2, spherical: false };
      const wanted = await check(matrix, options);
      await check(convert(makeRows({ rows: 60, dim: 19, seed: 9, kind: 'normal' }), 'bfloat16'), {
        clusters: 7,
      });
      // Chunks that do not end where problems end.
      await withFiles(chunked(matrix, [33, 1, 50]), async (files) => {
        expectAllSame(await kmeans(files, { ...options, device }), wanted);
        using resident = await upload(files, { device });
        expectAllSame(await kmeans(resident, options), wanted);
      });
    });

    it('names the first bad row, and a bad centre', async () => {
      const matrix = makeRows({ rows: 40, dim: 4, seed: 1, kind: 'normal' });
      const good = (matrix.data as Float32Array).slice(0, 8);
      const data = matrix.data as Float32Array;
      data[31 * 4 + 3] = Number.NaN;
      data.fill(0, 22 * 4, 23 * 4);
      const named = (row: RegExp) => ({ code: 'INVALID_DATA', message: expect.stringMatching(row) });
      const options = { clusters: 2, device };
      await expect(kmeans(matrix, options)).rejects.toMatchObject(named(/\b22\b/));
      await expect(kmeans(matrix, { ...options, batch: 2 })).rejects.toMatchObject(named(/\b22\b/));
      await expect(kmeans(matrix, { ...options, spherical: false })).rejects.toMatchObject(named(/\b31\b/));
      data.fill(1, 22 * 4, 23 * 4);
      data[31 * 4 + 3] = 1;
      good.fill(0, 4, 8);
      await expect(kmeans(matrix, { ...options, init: good })).rejects.toMatchObject(named(/\b1\b/));
      good[4] = Number.POSITIVE_INFINITY;
      const euclidean = { ...options, init: good, spherical: false };
      await expect(kmeans(matrix, euclidean)).rejects.toMatchObject(named(/\b1\b/));
    });

    it('goes the same way in any order of the rows, from the same centres', async () => {
      const arbitrary = fc.record({
        rows: fc.integer({ min: 8, max: 60 }),
        // On a line, distances tie, and ties go by index.
        dim: fc.integer({ min: 3, max: 30 }),
        seed: fc.nat(),
        kind: fc.constantFrom(
          'normal' as const,
          'tight' as const,
          'cancelling' as const,
          'clusters' as const,
        ),
        spherical: fc.boolean(),
      });
      await fc.assert(
        fc.asyncProperty(arbitrary, async ({ spherical, ...recipe }) => {
          const matrix = makeRows(recipe);
          const order = permutation(recipe.rows, recipe.seed);
          const init = (matrix.data as Float32Array).slice(0, 4 * recipe.dim);
          const options = { clusters: 4, spherical, init, tolerance: 0, iterations: 5, device };
          const straight = await kmeans(matrix, options);
          const shuffled = await kmeans(reorder(matrix, order), options);
          for (const field of ['centroids', 'counts', 'inertia', 'iterations'] as const) {
            expectSame(field, shuffled[field], straight[field]);
          }
          expectSame(
            'labels',
            shuffled.labels,
            Int32Array.from(order, (row) => straight.labels[row]!),
          );
        }),
        { numRuns: 40, seed: 5 },
      );
    });

    it('equals the reference on whatever rows and options', async () => {
      const arbitrary = fc.record({
        size: fc.integer({ min: 1, max: 50 }),
        batch: fc.integer({ min: 1, max: 3 }),
        dim: fc.oneof(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 520 })),
        seed: fc.nat(),
        kind: fc.constantFrom(...KINDS),
        share: fc.double({ min: 0, max: 1, noNaN: true }),
        spherical: fc.boolean(),
        init: fc.constantFrom(...INITS),
        nInit: fc.integer({ min: 1, max: 2 }),
        weighted: fc.boolean(),
        movement: fc.constantFrom(0, 0.01, 1),
        iterations: fc.integer({ min: 1, max: 6 }),
        threads: fc.integer({ min: 1, max: 4 }),
      });
      await fc.assert(
        fc.asyncProperty(arbitrary, async ({ size, share, threads, kind, dim, weighted, ...options }) => {
          const { batch, seed } = options;
          const matrix = makeRows({ rows: size * batch, dim, seed, kind });
          const weights = Float32Array.from(
            Array.from({ length: batch }, (_, problem) => [...makeWeights(size, seed + problem)]).flat(),
          );
          const all = {
            ...DEFAULTS,
            ...options,
            clusters: Math.max(1, Math.round(size * share)),
            ...(weighted ? { weights } : {}),
          };
          expectAllSame(await kmeans(matrix, { ...all, device, threads }), reference.kmeans(matrix, all));
        }),
        { numRuns: 150, seed: 6 },
      );
    });
  });
}
