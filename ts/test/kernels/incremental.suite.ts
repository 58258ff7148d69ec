import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { balance, type KeepPolicy } from '../../src/kernels/balance.ts';
import { balanceAgainst, type IncrementalOptions } from '../../src/kernels/incremental.ts';
import type { Matrix } from '../../src/kernels/rows.ts';
import type { Device } from '../../src/native/devices.ts';
import * as reference from '../reference/incremental.ts';
import { chunked, convert, KINDS, makeRows, permutation, reorder } from './data.ts';
import { withFiles } from './files.ts';
import { expectAllSame, expectSame } from './same.ts';

/** New rows against stored ones on one device, held to the reference. */
export function incrementalSuite(device: Device): void {
  const recipe = fc.record({
    rows: fc.integer({ min: 0, max: 90 }),
    dim: fc.integer({ min: 1, max: 60 }),
    seed: fc.nat(),
    kind: fc.constantFrom(...KINDS),
  });
  /** Rows cut into stored ones and new ones. */
  const cut = (matrix: Matrix, share: number): [Matrix, Matrix] => {
    const [stored, rows] = chunked(matrix, [Math.floor(matrix.rows * share)]) as [Matrix, Matrix?];
    return [rows ?? { ...stored, data: new Float32Array(0), rows: 0 }, stored];
  };

  describe('balanceAgainst', () => {
    it('equals the reference, for any number of threads', async () => {
      await fc.assert(
        fc.asyncProperty(
          recipe,
          fc.double({ min: 0, max: 1, noNaN: true }),
          fc.constantFrom(0, 0.7, 0.95, 1 - 1e-6),
          fc.boolean(),
          async (made, share, threshold, grouped) => {
            const [rows, stored] = cut(makeRows(made), share);
            const groups = Int32Array.from({ length: stored.rows }, (_, row) => row % 3);
            const wanted = reference.balanceAgainst(rows, stored, threshold, grouped ? groups : undefined);
            for (const threads of [1, 2, 7]) {
              const options = { threshold, threads, device, ...(grouped ? { storedGroups: groups } : {}) };
              expectAllSame(await balanceAgainst(rows, stored, options), wanted);
            }
          },
        ),
        { numRuns: 60, seed: 1 },
      );
    });

    it('drops what is near to a stored row, keeps what is near to a duplicate only, and tells of bridges', async () => {
      const at = (...degrees: number[]): Matrix => ({
        data: Float32Array.from(
          degrees.flatMap((d) => [Math.cos((d * Math.PI) / 180), Math.sin((d * Math.PI) / 180)]),
        ),
        rows: degrees.length,
        dim: 2,
      });
      const stored = at(0, 30, 90);
      // 15° is near to both 0° and 30°; 45° to 30°; 60° to 45° alone, which goes; 180° and 185° to each other.
      const rows = at(180, 15, 45, 185, 60.5);
      const threshold = Math.cos((16 * Math.PI) / 180);
      const result = await balanceAgainst(rows, stored, { threshold, device });
      expectSame('duplicateOf', result.duplicateOf, Int32Array.of(-1, result.duplicateOf[1]!, 1, -1, -1));
      expect([0, 1]).toContain(result.duplicateOf[1]);
      expectSame('labels', result.labels, Int32Array.of(0, -1, -1, 0, 4));
      expectSame('keep', result.keep, Uint8Array.of(1, 0, 0, 0, 1));
      expectSame('bridges', result.bridges, Int32Array.of(1));
      expect(result).toMatchObject({ groups: 2, edges: 1, duplicates: 2, links: 3 });
      expect(result.similarity[2]).toBeCloseTo(Math.cos((15 * Math.PI) / 180), 6);
      const groups = { storedGroups: Int32Array.of(7, 7, 1) };
      expect((await balanceAgainst(rows, stored, { threshold, device, ...groups })).bridges).toHaveLength(0);
    });

    it('does not depend on the order and chunks of the new rows', async () => {
      const [rows, stored] = cut(makeRows({ rows: 160, dim: 12, seed: 4, kind: 'clusters' }), 0.2);
      const options = { threshold: 0.96, device };
      const straight = await balanceAgainst(rows, stored, options);
      expect([straight.duplicates > 5, straight.groups > 5]).toEqual([true, true]);
      const order = permutation(rows.rows, 3);
      const shuffled = await balanceAgainst(reorder(rows, order), stored, options);
      expect(order.map((row) => straight.duplicateOf[row])).toEqual([...shuffled.duplicateOf]);
      expect(order.map((row) => straight.similarity[row])).toEqual([...shuffled.similarity]);
      expect(order.map((row) => straight.centrality[row])).toEqual([...shuffled.centrality]);
      expect([shuffled.groups, shuffled.edges, shuffled.links]).toEqual([
        straight.groups,
        straight.edges,
        straight.links,
      ]);
      const same = new Map<number, number>();
      for (const [index, row] of order.entries()) {
        const [a, b] = [straight.labels[row]!, shuffled.labels[index]!];
        expect(same.get(a) ?? b).toBe(b);
        same.set(a, b);
      }
      await withFiles(chunked(rows, [1, 50, 0, 20]), async (files) => {
        await withFiles(chunked(stored, [3]), async (storedFiles) => {
          expectAllSame(await balanceAgainst(files, storedFiles, options), straight);
        });
      });
    });

    it('takes policies and the greatest diameter as balance does', async () => {
      const [rows, stored] = cut(makeRows({ rows: 120, dim: 6, seed: 11, kind: 'clusters' }), 0.1);
      const scores = Float64Array.from({ length: rows.rows }, (_, row) => (row * 7) % 11);
      const policies: KeepPolicy[] = ['easy', 'hard', 'first', { best: scores }, { random: 5 }];
      for (const keep of policies) {
        for (const maxDiameter of [undefined, 0.02]) {
          const options = {
            threshold: 0.9,
            keep,
            device,
            ...(maxDiameter === undefined ? {} : { maxDiameter }),
          };
          const result = await balanceAgainst(rows, stored, options);
          expect(result.duplicates).toBeGreaterThan(0);
          const rest = await balance(reference.withoutDuplicates(rows, result.duplicateOf), options);
          for (const [row, of] of result.duplicateOf.entries()) {
            expect([result.labels[row], result.keep[row], result.centrality[row]]).toEqual(
              of === -1 ? [rest.labels[row], rest.keep[row], rest.centrality[row]] : [-1, 0, 0],
            );
          }
          expect(result.groups).toBe(rest.groups - result.duplicates);
          expect(result.keep.reduce((sum, one) => sum + one, 0)).toBe(result.groups);
        }
      }
    });

    it('leaves out faults on both sides, and takes half precision', async () => {
      const matrix = makeRows({ rows: 60, dim: 9, seed: 2, kind: 'duplicates' });
      const data = matrix.data as Float32Array;
      data.fill(0, 9, 18);
      data[3 * 9] = Number.NaN;
      data.fill(0, 41 * 9, 42 * 9);
      data[50 * 9] = Number.POSITIVE_INFINITY;
      const [rows, stored] = cut(matrix, 0.25);
      const result = await balanceAgainst(rows, stored, { threshold: 0.9, device });
      expectAllSame(result, reference.balanceAgainst(rows, stored, 0.9));
      expectSame('storedFaults', result.storedFaults, Int32Array.of(1, 3));
      expectSame('faults', result.faults, Int32Array.of(26, 35));
      const clusters = makeRows({ rows: 50, dim: 20, seed: 2, kind: 'clusters' });
      const [half, held] = cut(clusters, 0.3).map((part) => convert(part, 'float16')) as [Matrix, Matrix];
      expectAllSame(
        await balanceAgainst(half, held, { threshold: 0.93, device }),
        reference.balanceAgainst(half, held, 0.93),
      );
    });

    it('refuses what it cannot take, and stops when asked to', async () => {
      const matrix = makeRows({ rows: 8, dim: 4, seed: 1, kind: 'normal' });
      const wide = makeRows({ rows: 8, dim: 5, seed: 1, kind: 'normal' });
      const cases: [Matrix, object, string][] = [
        [matrix, {}, 'threshold but received undefined'],
        [wide, { threshold: 0.5 }, '5, as in stored, for rows.dim but received 4'],
        [matrix, { threshold: 0.5, storedGroups: new Int32Array(3) }, 'storedGroups'],
        [matrix, { threshold: 0.5, keep: 'best' }, 'keep but received "best"'],
        [matrix, { threshold: 0.5, maxDiameter: 3 }, 'maxDiameter but received 3'],
        [matrix, { threshold: 0.5, targetKeep: 0.5 }, '"targetKeep"'],
      ];
      for (const [stored, options, part] of cases) {
        await expect(
          balanceAgainst(matrix, stored, { device, ...options } as IncrementalOptions),
        ).rejects.toThrow(part);
      }
      const large = makeRows({ rows: 9000, dim: 256, seed: 1, kind: 'normal' });
      const controller = new AbortController();
      let last = 0;
      const running = balanceAgainst(large, large, {
        threshold: 0.99999,
        device,
        signal: controller.signal,
        onProgress: ({ done, total }) => {
          last = done / total;
          controller.abort();
        },
      });
      await expect(running).rejects.toMatchObject({ code: 'ABORTED' });
      expect(last).toBeLessThan(1);
    });
  });
}
