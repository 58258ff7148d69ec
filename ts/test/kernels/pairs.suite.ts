import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { balance } from '../../src/kernels/balance.ts';
import { type PairBatch, type PairsOptions, pairs } from '../../src/kernels/pairs.ts';
import { type Matrix, type Rows, upload } from '../../src/kernels/rows.ts';
import type { Device } from '../../src/native/devices.ts';
import * as reference from '../reference/pairs.ts';
import { chunked, convert, KINDS, makeRows } from './data.ts';
import { withFiles } from './files.ts';

type Found = [number, number, number][];

/** All pairs in the order of the reference. */
async function collect(rows: Rows, options: PairsOptions): Promise<Found> {
  const found: Found = [];
  for await (const { first, second, dots } of pairs(rows, options)) {
    expect(first.length).toBeGreaterThan(0);
    expect(first.length).toBeLessThanOrEqual(options.batchSize ?? 65_536);
    expect([second.length, dots.length]).toEqual([first.length, first.length]);
    for (const [at, dot] of dots.entries()) found.push([first[at]!, second[at]!, dot]);
  }
  return found.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
}

/** The iterator on one device, held to the reference. */
export function pairsSuite(device: Device): void {
  describe('pairs', () => {
    it('are those of the reference, with their cosines, for any number of threads and size of batches', async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.record({
            rows: fc.integer({ min: 0, max: 60 }),
            dim: fc.integer({ min: 1, max: 90 }),
            seed: fc.nat(),
            kind: fc.constantFrom(...KINDS),
          }),
          fc.constantFrom(-1, 0.3, 0.75, 0.999, 1),
          fc.integer({ min: 1, max: 40 }),
          async (recipe, threshold, batchSize) => {
            const matrix = makeRows(recipe);
            const wanted = reference.pairs(matrix, threshold);
            for (const threads of [1, 2, 7]) {
              expect(await collect(matrix, { threshold, batchSize, threads, device })).toEqual(wanted);
            }
          },
        ),
        { numRuns: 40, seed: 1 },
      );
    });

    it('come of two matrices', async () => {
      const matrix = makeRows({ rows: 41, dim: 20, seed: 1, kind: 'clusters' });
      const base = makeRows({ rows: 67, dim: 20, seed: 1, kind: 'clusters' });
      for (const threshold of [-0.2, 0.8]) {
        const wanted = reference.pairs(matrix, threshold, base);
        expect(wanted.length).toBeGreaterThan(0);
        expect(await collect(matrix, { threshold, base, device })).toEqual(wanted);
        using resident = await upload(base, { device });
        expect(await collect(matrix, { threshold, base: resident })).toEqual(wanted);
        const half = convert(base, 'float16');
        expect(await collect(matrix, { threshold, base: half, device })).toEqual(
          reference.pairs(matrix, threshold, half),
        );
      }
      // A matrix and itself: each pair both ways, and every row with itself.
      const both = await collect(matrix, { threshold: 0.8, base: matrix, device });
      expect(both).toHaveLength(2 * reference.pairs(matrix, 0.8).length + 41);
    });

    it('leave out zero, NaN and infinite rows', async () => {
      const matrix = makeRows({ rows: 30, dim: 7, seed: 2, kind: 'duplicates' });
      const data = matrix.data as Float32Array;
      data.fill(0, 7, 14);
      data[3 * 7] = Number.NaN;
      data[8 * 7 + 6] = Number.NEGATIVE_INFINITY;
      const found = await collect(matrix, { threshold: -1, device });
      expect(found).toEqual(reference.pairs(matrix, -1));
      expect(found.filter(([i, j]) => [1, 3, 8].includes(i) || [1, 3, 8].includes(j))).toEqual([]);
    });

    it('of files, in chunks, and in other units', async () => {
      const matrix = makeRows({ rows: 90, dim: 24, seed: 4, kind: 'clusters' });
      const wanted = reference.pairs(matrix, 0.875);
      await withFiles(chunked(matrix, [1, 30]), async (files) => {
        expect(await collect(files, { threshold: 0.875, device })).toEqual(wanted);
      });
      expect(await collect(matrix, { threshold: 0.125, metric: 'cosine-distance', device })).toEqual(wanted);
      expect(await collect(matrix, { threshold: 0.5, metric: 'euclidean', device })).toEqual(wanted);
    });

    // Every pair is over the threshold: 2 million, through a buffer of a thousand.
    const many = makeRows({ rows: 2001, dim: 8, seed: 1, kind: 'tight' });

    it('wait for a slow reader, whose other calls go on meanwhile', async () => {
      const small = makeRows({ rows: 40, dim: 5, seed: 1, kind: 'normal' });
      let sum = 0;
      let batches = 0;
      for await (const { first } of pairs(many, { threshold: 0.5, batchSize: 1000, device })) {
        expect(first.length).toBeLessThanOrEqual(1000);
        sum += first.length;
        if (++batches % 200 === 0) expect((await balance(small, { threshold: 1, device })).edges).toBe(0);
      }
      expect(sum).toBe((2001 * 2000) / 2);
    });

    it('end when the loop is left, and the core is free again', async () => {
      for (let round = 0; round < 20; round++) {
        let batch: PairBatch | undefined;
        for await (batch of pairs(many, { threshold: 0.5, batchSize: 1 + round, device })) break;
        expect(batch?.first.length).toBeGreaterThan(0);
      }
      const iterator = pairs(many, { threshold: 0.5, device });
      await iterator.next();
      await iterator.return();
      expect(await iterator.next()).toEqual({ done: true, value: undefined });
      const thrower = pairs(many, { threshold: 0.5, device });
      await thrower.next();
      await expect(thrower.throw(new Error('reader'))).rejects.toThrow('reader');
    });

    it('end with ABORTED when the signal aborts, asleep or not', async () => {
      const controller = new AbortController();
      const aborted = pairs(many, { threshold: 0.5, batchSize: 10, device, signal: controller.signal });
      await aborted.next();
      controller.abort();
      await expect(
        (async () => {
          for await (const _ of aborted);
        })(),
      ).rejects.toMatchObject({ name: 'CidError', code: 'ABORTED' });
      const never = pairs(many, { threshold: 0.5, device, signal: AbortSignal.abort() });
      await expect(never.next()).rejects.toMatchObject({ code: 'ABORTED' });
    });

    it('fail as every call does', async () => {
      const read = (rows: Rows, options: object) =>
        pairs(rows, { device, ...options } as PairsOptions).next();
      const small: Matrix = makeRows({ rows: 4, dim: 3, seed: 1, kind: 'normal' });
      await expect(read(small, {})).rejects.toThrow(/threshold but received undefined/);
      await expect(read(small, { threshold: 0.5, batchSize: 0 })).rejects.toThrow(/batchSize but received 0/);
      await expect(read(small, { threshold: 0.5, k: 1 })).rejects.toThrow(/received "k"/);
      const wide = makeRows({ rows: 4, dim: 5, seed: 1, kind: 'normal' });
      await expect(read(small, { threshold: 0.5, base: wide })).rejects.toThrow(
        /5, as in base, for rows.dim/,
      );
      const file = { path: '/none/x.bin', offset: 0, rows: 3, dim: 3, dtype: 'float32' as const };
      await expect(read(file, { threshold: 0.5 })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
      await expect(
        (async () => {
          const onProgress = () => {
            throw new Error('enough');
          };
          for await (const _ of pairs(makeRows({ rows: 9000, dim: 256, seed: 1, kind: 'normal' }), {
            threshold: 0.9,
            device,
            onProgress,
          }));
        })(),
      ).rejects.toThrow('enough');
    });
  });
}
