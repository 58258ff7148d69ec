import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { balance } from '../../src/kernels/balance.ts';
import { kmeans } from '../../src/kernels/kmeans.ts';
import { type SemdedupOptions, semdedup } from '../../src/kernels/semdedup.ts';
import type { Device } from '../../src/native/devices.ts';
import * as reference from '../reference/semdedup.ts';
import { chunked, convert, KINDS, makeRows } from './data.ts';
import { withFiles } from './files.ts';
import { expectAllSame } from './same.ts';

const ORDERS = ['hard', 'easy', 'random'] as const;

/** SemDeDup on one device, held to the reference. */
export function semdedupSuite(device: Device): void {
  describe('semdedup', () => {
    it('equals the reference, whatever the order, the clusters and the number of threads', async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.record({
            rows: fc.integer({ min: 1, max: 70 }),
            dim: fc.integer({ min: 1, max: 70 }),
            seed: fc.nat(),
            kind: fc.constantFrom(...KINDS),
          }),
          fc.constantFrom(-0.5, 0.6, 0.9, 1 - 1e-6),
          fc.integer({ min: 1, max: 9 }),
          fc.nat(),
          async (recipe, threshold, most, seed) => {
            const matrix = makeRows(recipe);
            const clusters = await kmeans(matrix, {
              clusters: Math.min(most, recipe.rows),
              iterations: 3,
              device,
            });
            for (const order of ORDERS) {
              const { centroids, labels } = clusters;
              const wanted = reference.semdedup(matrix, centroids, labels, threshold, order, seed);
              for (const threads of [1, 2, 7]) {
                const options = { threshold, clusters, order, seed, threads, device };
                expectAllSame(await semdedup(matrix, options), wanted);
              }
            }
          },
        ),
        { numRuns: 40, seed: 1 },
      );
    });

    it('makes the clusters itself, from any kind of rows', async () => {
      const matrix = makeRows({ rows: 203, dim: 31, seed: 9, kind: 'clusters' });
      const options = { threshold: 0.9, clusters: 6, iterations: 4, seed: 5, order: 'easy', device } as const;
      const { centroids, labels } = await kmeans(matrix, { clusters: 6, iterations: 4, seed: 5, device });
      const wanted = reference.semdedup(matrix, centroids, labels, 0.9, 'easy', 5);
      expect(wanted.pairs).toBeGreaterThan(0);
      const result = await semdedup(matrix, options);
      expectAllSame(result, { ...wanted, labels, threshold: 0.9 });
      expect(result.kept).toBe(result.keep.filter((one) => one === 1).length);
      await withFiles(chunked(matrix, [50, 3]), async (files) => {
        expectAllSame(await semdedup(files, { ...options, maxMemory: 2 ** 24 }), wanted);
      });
      const half = convert(matrix, 'float16');
      const made = await kmeans(half, { clusters: 6, iterations: 4, seed: 5, device });
      expectAllSame(
        await semdedup(half, options),
        reference.semdedup(half, made.centroids, made.labels, 0.9, 'easy', 5),
      );
    });

    it('of one cluster sees every pair that balance sees, and of several only those within one', async () => {
      const matrix = makeRows({ rows: 400, dim: 16, seed: 3, kind: 'clusters' });
      const all = await balance(matrix, { threshold: 0.93, device });
      const one = await semdedup(matrix, { threshold: 0.93, clusters: 1, device });
      expect(one.pairs).toBe(all.edges);
      const many = await semdedup(matrix, { threshold: 0.93, clusters: 40, device });
      expect(many.pairs).toBeLessThan(all.edges);
      expect(many.kept).toBeGreaterThan(one.kept);
      for (const [row, of] of many.duplicateOf.entries()) {
        expect(many.keep[row]).toBe(of === -1 ? 1 : 0);
        if (of !== -1) expect(many.labels[of]).toBe(many.labels[row]);
      }
    });

    it('shows progress that ends, and stops when asked to', async () => {
      const matrix = makeRows({ rows: 9000, dim: 128, seed: 1, kind: 'normal' });
      const options: SemdedupOptions = { threshold: 0.9, clusters: 4, iterations: 3, device };
      const seen: number[] = [];
      await semdedup(matrix, { ...options, onProgress: ({ done, total }) => seen.push(done / total) });
      for (const [at, share] of seen.entries()) {
        expect(share).toBeGreaterThanOrEqual(seen[at - 1] ?? 0);
        expect(share).toBeLessThanOrEqual(1);
      }
      const controller = new AbortController();
      const running = semdedup(matrix, {
        ...options,
        clusters: await kmeans(matrix, { clusters: 2, iterations: 1, device }),
        signal: controller.signal,
      });
      controller.abort();
      await expect(running).rejects.toMatchObject({ code: 'ABORTED' });
    });

    it('refuses what it cannot take', async () => {
      const matrix = makeRows({ rows: 8, dim: 4, seed: 1, kind: 'normal' });
      const clusters = { centroids: new Float32Array(8).fill(1), labels: new Int32Array(8) };
      const cases: [object, string][] = [
        [{ clusters }, 'threshold but received undefined'],
        [{ threshold: 0.9 }, 'clusters but received undefined'],
        [{ threshold: 0.9, clusters: 9 }, 'clusters but received 9'],
        [{ threshold: 0.9, clusters: 2, order: 'best' }, 'order but received "best"'],
        [{ threshold: 0.9, clusters: { ...clusters, centroids: new Float32Array(7) } }, 'clusters.centroids'],
        [{ threshold: 0.9, clusters: { ...clusters, labels: new Int32Array(7) } }, 'clusters.labels'],
        [{ threshold: 0.9, clusters: { ...clusters, labels: new Int32Array(8).fill(2) } }, 'labels[0]'],
        [{ threshold: 0.9, clusters, seed: -1 }, 'seed but received -1'],
        [{ threshold: 0.9, clusters, keep: 'hard' }, '"keep"'],
      ];
      for (const [options, part] of cases) {
        await expect(semdedup(matrix, { device, ...options } as SemdedupOptions)).rejects.toThrow(part);
      }
      const data = (matrix.data as Float32Array).slice();
      data.fill(0, 12, 16);
      await expect(semdedup({ ...matrix, data }, { threshold: 0.9, clusters, device })).rejects.toMatchObject(
        { code: 'INVALID_DATA', message: expect.stringContaining('Row 3') },
      );
    });
  });
}
