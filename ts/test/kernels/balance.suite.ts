import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { balance, summarizeBalance } from '../../src/kernels/balance.ts';
import { type Matrix, upload } from '../../src/kernels/rows.ts';
import type { Device } from '../../src/native/devices.ts';
import * as reference from '../reference/balance.ts';
import { dot, unit, widen } from '../reference/canonical.ts';
import { chunked, convert, KINDS, makeRows, nextDown, permutation, reorder } from './data.ts';
import { withFiles } from './files.ts';
import { expectAllSame, expectSame } from './same.ts';

const THREADS = [1, 2, 7];

/** Balance on one device, held to the reference. */
export function balanceSuite(device: Device): void {
  async function check(matrix: Matrix, threshold: number): Promise<void> {
    const wanted = reference.balance(matrix, threshold);
    for (const threads of THREADS) {
      expectAllSame(await balance(matrix, { threshold, device, threads }), wanted);
    }
  }

  describe('balance', () => {
    const shapes: [number, number][] = [
      [0, 5],
      [1, 1],
      [1, 37],
      [2, 1],
      [2, 16],
      [3, 2],
      [7, 15],
      [15, 17],
      [16, 16],
      [17, 3],
      [31, 33],
      [32, 64],
      [33, 31],
      [47, 1000],
      [63, 65],
      [64, 128],
      [65, 100],
      [95, 7],
      [97, 255],
      [128, 40],
      [129, 257],
      [40, 4096],
      [23, 4095],
      [257, 48],
      [385, 20],
      [513, 24],
      [1025, 9],
    ];
    for (const [rows, dim] of shapes) {
      it(`${rows} × ${dim}`, async () => {
        const kind = KINDS[(rows + dim) % KINDS.length]!;
        const matrix = makeRows({ rows, dim, seed: rows * 31 + dim, kind });
        await check(matrix, kind === 'tight' ? 1 - 1e-6 : kind === 'cancelling' ? 0 : 0.6);
        if (rows >= 2) await check(matrix, cosine(matrix, rows - 1, 0));
      });
    }

    it('finds copies among more rows than are worked on at a time', async () => {
      const distinct = makeRows({ rows: 6000, dim: 32, seed: 3, kind: 'normal' });
      const order = Array.from({ length: 17_000 }, (_, row) => row % 6000);
      const matrix = reorder(distinct, order);
      const result = await balance(matrix, { threshold: 0.97, device });
      expectSame('labels', result.labels, Int32Array.from(order));
      // 5,000 rows have two copies, of which the first stays if it is as central; 1,000 have one.
      expect([result.groups, result.edges]).toEqual([6000, 5000 * 3 + 1000]);
      expectSame(
        'keep',
        result.keep,
        Uint8Array.from(order, (_, row) => (row < 6000 ? 1 : 0)),
      );
    });

    it('decides pairs exactly at the threshold and a float64 on either side of it', async () => {
      for (const kind of ['tight', 'normal', 'duplicates', 'cancelling'] as const) {
        const matrix = makeRows({ rows: 70, dim: 61, seed: 5, kind });
        for (const [i, j] of [
          [3, 60],
          [0, 69],
          [33, 34],
        ] as const) {
          const exact = cosine(matrix, i, j);
          if (exact > 1) continue;
          const at = reference.balance(matrix, exact);
          const below = reference.balance(matrix, nextDown(exact));
          expect(below.edges).toBeGreaterThan(at.edges);
          await check(matrix, exact);
          await check(matrix, nextDown(exact));
        }
      }
    });

    it('joins and keeps what a drawn example shows', async () => {
      // Directions at 0°, 20°, 40° (a chain at a threshold of cos 25°) and 180° alone.
      const angles = [40, 180, 0, 20].map((degrees) => (degrees * Math.PI) / 180);
      const data = Float32Array.from(angles.flatMap((angle) => [3 * Math.cos(angle), 3 * Math.sin(angle)]));
      const threshold = Math.cos((25 * Math.PI) / 180);
      const result = await balance({ data, rows: 4, dim: 2 }, { threshold, device });
      expectSame('labels', result.labels, Int32Array.of(0, 1, 0, 0));
      expectSame('keep', result.keep, Uint8Array.of(0, 1, 0, 1));
      expect(result).toMatchObject({ groups: 2, edges: 2 });
      expect(result.centrality[1]).toBe(1);
      expect(result.centrality[3]).toBeCloseTo(1, 6);
      expect(result.centrality[0]).toBeCloseTo(Math.cos((20 * Math.PI) / 180), 6);
    });

    it('keeps zero, NaN and infinite rows alone, and counts them', async () => {
      const matrix = makeRows({ rows: 90, dim: 33, seed: 8, kind: 'duplicates' });
      const data = matrix.data as Float32Array;
      data.fill(0, 4 * 33, 5 * 33);
      data.fill(-0, 50 * 33, 51 * 33);
      data[7 * 33 + 32] = Number.NaN;
      data[64 * 33] = Number.POSITIVE_INFINITY;
      data[65 * 33 + 5] = Number.NEGATIVE_INFINITY;
      data[89 * 33 + 1] = Number.NaN;
      const result = await balance(matrix, { threshold: 0.9, device });
      expectSame('faults', result.faults, Int32Array.of(4, 7, 50, 64, 65, 89));
      for (const fault of result.faults) {
        expect([result.labels[fault], result.keep[fault], result.centrality[fault]]).toEqual([fault, 1, 0]);
      }
      for (const threshold of [-1, 0, 0.9]) await check(matrix, threshold);
    });

    it('takes denormal and huge rows, and rows of both', async () => {
      const matrix = makeRows({ rows: 60, dim: 19, seed: 4, kind: 'clusters' });
      const data = matrix.data as Float32Array;
      for (let row = 0; row < 60; row++) {
        const factor = [1, 1e-42, 1e-38, 1e37, 2 ** -140][row % 5]!;
        for (let column = 0; column < 19; column++) data[row * 19 + column]! *= factor;
        if (data.subarray(row * 19, row * 19 + 19).every((value) => value === 0)) data[row * 19] = 1e-45;
      }
      data[0] = 3.4e38;
      data[1] = 1e-45;
      await check(matrix, 0.8);
      await check(matrix, 0.95);
    });

    it('has no group mean where rows cancel', async () => {
      // At a threshold of −1 everything that is not opposite is joined; the mean of ±x and ±y is zero.
      const data = Float32Array.of(1, 0, 0, 1, -1, 0, 0, -1);
      await check({ data, rows: 4, dim: 2 }, -0.5);
    });

    it('takes float16 and bfloat16 rows', async () => {
      for (const dtype of ['float16', 'bfloat16'] as const) {
        const matrix = convert(makeRows({ rows: 75, dim: 50, seed: 2, kind: 'clusters' }), dtype);
        await check(matrix, cosine(matrix, 3, 7));
        await check(matrix, 0.8);
      }
      const odd = Uint16Array.of(0x0001, 0x8003, 0x03ff, 0x0002, 0x7c00, 1, 0x7e01, 1, 0x7bff, 0xfbff);
      await check({ data: odd, rows: 5, dim: 2 }, 0);
    });

    it('takes chunks, files, mixed element types and device matrices as one matrix', async () => {
      const matrix = makeRows({ rows: 143, dim: 37, seed: 12, kind: 'clusters' });
      const threshold = cosine(matrix, 2, 6);
      const wanted = reference.balance(matrix, threshold);
      const options = { threshold, device };
      const chunks = chunked(matrix, [1, 0, 64, 13]);
      expectAllSame(await balance(chunks, options), wanted);
      await withFiles(chunks, async (files) => {
        expectAllSame(await balance(files, options), wanted);
        expectAllSame(
          await balance([chunks[0]!, files[1]!, files[2]!, chunks[3]!, files[4]!], options),
          wanted,
        );
        using resident = await upload(files, { device });
        expectAllSame(await balance(resident, { threshold }), wanted);
      });

      const half = convert(chunks[2]!, 'float16');
      const mixed = [chunks[0]!, half, convert(chunks[3]!, 'bfloat16')];
      const data = mixed.flatMap((chunk) => widen(chunk).flatMap((row) => [...row]));
      const joined = { data: Float32Array.from(data), rows: data.length / 37, dim: 37 };
      expectAllSame(await balance(mixed, options), reference.balance(joined, threshold));
    });

    it('finds the same groups in any order of the rows', async () => {
      await fc.assert(
        fc.asyncProperty(recipe(60, 40), fc.integer(), async (made, seed) => {
          const matrix = makeRows(made);
          const order = permutation(made.rows, seed);
          const threshold = made.kind === 'tight' ? 1 - 2e-6 : 0.7;
          const straight = await balance(matrix, { threshold, device });
          const shuffled = await balance(reorder(matrix, order), { threshold, device });
          expect([shuffled.groups, shuffled.edges]).toEqual([straight.groups, straight.edges]);
          const centrality = order.map((row) => straight.centrality[row]!);
          expectSame('centrality', shuffled.centrality, Float32Array.from(centrality));
          const labels = new Map<number, number>();
          order.forEach((row, index) => {
            const label = straight.labels[row]!;
            if (!labels.has(label)) labels.set(label, index);
            expect(shuffled.labels[index]).toBe(labels.get(label));
          });
        }),
        { numRuns: 40, seed: 1 },
      );
    });

    it('puts duplicated rows into the group of the original', async () => {
      await fc.assert(
        fc.asyncProperty(recipe(40, 40), fc.integer({ min: 2, max: 4 }), async (made, times) => {
          const matrix = makeRows(made);
          const order = Array.from({ length: made.rows * times }, (_, index) => index % made.rows);
          const threshold = 0.75;
          const once = await balance(matrix, { threshold, device });
          const often = await balance(reorder(matrix, order), { threshold, device });
          expect(often.groups).toBe(once.groups);
          expectSame(
            'labels',
            often.labels,
            Int32Array.from(order, (row) => once.labels[row]!),
          );
          expect(often.edges).toBe(once.edges * times ** 2 + (made.rows * times * (times - 1)) / 2);
        }),
        { numRuns: 30, seed: 2 },
      );
    });

    it('equals the reference on whatever rows', async () => {
      await fc.assert(
        fc.asyncProperty(recipe(50, 1030), fc.nat(), fc.nat(), async (made, i, j) => {
          const matrix = makeRows(made);
          const threshold = Math.min(1, cosine(matrix, i % made.rows, j % made.rows));
          const wanted = reference.balance(matrix, threshold);
          expectAllSame(await balance(matrix, { threshold, device, threads: 1 + (i % 3) }), wanted);
        }),
        { numRuns: 150, seed: 3 },
      );
    });

    it('reports progress that ends at its total', async () => {
      const matrix = makeRows({ rows: 600, dim: 64, seed: 1, kind: 'normal' });
      const calls: [number, number][] = [];
      const onProgress = ({ done, total }: { done: number; total: number }) => calls.push([done, total]);
      const result = await balance(matrix, { threshold: 0.5, device, onProgress });
      for (const [index, [done, total]] of calls.entries()) {
        expect(done).toBeGreaterThanOrEqual(index === 0 ? 0 : calls[index - 1]![0]);
        expect(done).toBeLessThanOrEqual(total);
      }
      expect(summarizeBalance(result).rows).toBe(600);
    });
  });
}

function recipe(rows: number, dim: number) {
  return fc.record({
    rows: fc.integer({ min: 1, max: rows }),
    dim: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: dim })),
    seed: fc.nat(),
    kind: fc.constantFrom(...KINDS),
  });
}

function cosine(matrix: Matrix, i: number, j: number): number {
  const rows = widen(matrix);
  return Math.min(1, dot(unit(rows[i]!)!, unit(rows[j]!)!));
}
