import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { balance, type KeepPolicy } from '../../src/kernels/balance.ts';
import { balanceForest, SpanningForest } from '../../src/kernels/forest.ts';
import type { Matrix } from '../../src/kernels/rows.ts';
import type { Device } from '../../src/native/devices.ts';
import * as reference from '../reference/balance.ts';
import { chunked, generator, KINDS, makeRows, nextDown, permutation, reorder } from './data.ts';
import { withFiles } from './files.ts';
import { expectAllSame, expectSame } from './same.ts';

const THREADS = [1, 2, 7];

/** Keep policies, spanning forests and split groups on one device, held to the reference. */
export function forestSuite(device: Device): void {
  const recipe = fc.record({
    rows: fc.integer({ min: 1, max: 60 }),
    dim: fc.integer({ min: 1, max: 40 }),
    seed: fc.nat(),
    kind: fc.constantFrom(...KINDS),
  });
  const looseness = {
    tight: 1 - 1e-6,
    cancelling: 0,
    normal: 0.3,
    clusters: 0.8,
    integers: 0.5,
    duplicates: 0.9,
  };
  const policies = (rows: number): KeepPolicy[] => {
    const uniform = generator(rows);
    // Few values, so that scores tie; both zeros are one.
    const best = Float32Array.from(
      { length: rows },
      () => [-0, 0, 1, -2.5, Number.POSITIVE_INFINITY][Math.floor(uniform() * 5)]!,
    );
    return [
      'central',
      'easy',
      'hard',
      'first',
      { best },
      { best: [...best].map(Number) },
      { random: rows },
      { random: 2 ** 53 - 1 },
    ];
  };

  describe('keep policies', () => {
    for (const kind of KINDS) {
      it(`choose as the reference does: ${kind}`, async () => {
        for (const [rows, dim] of [
          [2, 3],
          [40, 17],
          [131, 30],
        ] as const) {
          const matrix = makeRows({ rows, dim, seed: rows, kind });
          (matrix.data as Float32Array).fill(0, dim, 2 * dim);
          for (const keep of policies(rows)) {
            const wanted = reference.balance(matrix, looseness[kind], keep);
            const threads = THREADS[rows % 3]!;
            expectAllSame(
              await balance(matrix, { threshold: looseness[kind], keep, device, threads }),
              wanted,
            );
          }
        }
      });
    }

    it('keep what a drawn example shows', async () => {
      // Groups at 0°, 10°, 15° and at 180°, 190°, and a fault.
      const angles = [190, 0, 10, 15, 180].map((degrees) => (degrees * Math.PI) / 180);
      const data = Float32Array.from([
        ...angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]),
        0,
        0,
      ]);
      const kept = async (keep: KeepPolicy) => {
        const result = await balance({ data, rows: 6, dim: 2 }, { threshold: 0.9, keep, device });
        return [...result.keep.entries()].filter(([, stays]) => stays).map(([row]) => row);
      };
      expect(await kept('central')).toEqual([0, 2, 5]);
      expect(await kept('easy')).toEqual([0, 2, 5]);
      expect(await kept('hard')).toEqual([0, 1, 5]);
      expect(await kept('first')).toEqual([0, 1, 5]);
      expect(await kept({ best: [1, 0, 2, 2, 1.5, -1] })).toEqual([2, 4, 5]);
    });

    it('draw every member of a group about as often', async () => {
      const data = new Float32Array(1000 * 2);
      for (let row = 0; row < 1000; row++) data[2 * row + (row % 2)] = 1;
      const matrix = { data, rows: 1000, dim: 2 };
      const counts = new Array<number>(10).fill(0);
      for (let seed = 0; seed < 40; seed++) {
        const { keep } = await balance(matrix, { threshold: 0.5, keep: { random: seed }, device });
        for (const [row, stays] of keep.entries()) if (stays) counts[Math.floor(row / 100)]!++;
      }
      expect(counts.reduce((a, b) => a + b)).toBe(80);
      for (const count of counts) expect(count).toBeLessThan(20);
    });
  });

  describe('spanning forest', () => {
    it('is that of the reference, for every number of threads', async () => {
      for (const kind of KINDS) {
        for (const [rows, dim] of [
          [0, 3],
          [1, 3],
          [2, 5],
          [65, 20],
          [300, 9],
        ] as const) {
          const matrix = makeRows({ rows, dim, seed: rows + dim, kind });
          if (rows > 50) (matrix.data as Float32Array)[7 * dim] = Number.NaN;
          for (const floor of [-1, looseness[kind], 1]) {
            const wanted = reference.forest(matrix, floor);
            for (const threads of THREADS) {
              expectAllSame(await balanceForest(matrix, { floor, device, threads }), {
                ...wanted,
                rows,
                floor,
              });
            }
          }
        }
      }
    });

    it('gives the groups of balance at every threshold', async () => {
      await fc.assert(
        fc.asyncProperty(
          recipe,
          fc.double({ min: -1, max: 1, noNaN: true }),
          fc.nat(),
          async (made, at, edge) => {
            const matrix = makeRows(made);
            const forest = await balanceForest(matrix, { floor: -1, device });
            const weight = forest.dots[edge % Math.max(1, forest.dots.length)] ?? 0;
            for (const threshold of [at, -1, 1, Math.min(1, weight), Math.min(1, nextDown(weight))]) {
              const wanted = await balance(matrix, { threshold, device });
              const { labels, groups } = forest.at(threshold);
              expectSame('labels', labels, wanted.labels);
              expect(groups).toBe(wanted.groups);
              const again = await balance(matrix, { threshold, forest, device });
              expectAllSame(again, { ...wanted, plan: '' });
            }
          },
        ),
        { numRuns: 60, seed: 5 },
      );
    });

    it('does not depend on the order of rows but by their names', async () => {
      const matrix = makeRows({ rows: 120, dim: 11, seed: 2, kind: 'normal' });
      const order = permutation(120, 4);
      const straight = await balanceForest(matrix, { floor: 0, device });
      const shuffled = await balanceForest(reorder(matrix, order), { floor: 0, device });
      expectSame('dots', shuffled.dots, straight.dots);
      const name = (first: number, second: number) => [order[first]!, order[second]!].sort((a, b) => a - b);
      for (const edge of shuffled.dots.keys()) {
        expect(name(shuffled.first[edge]!, shuffled.second[edge]!)).toEqual([
          straight.first[edge],
          straight.second[edge],
        ]);
      }
    });

    it('takes a flood of pairs in bounded memory: all rows equal', async () => {
      const [rows, dim] = [3000, 8];
      const data = new Float32Array(rows * dim).map((_, index) => 1 + (index % dim));
      const matrix = { data, rows, dim };
      for (const threads of [1, 7]) {
        const before = process.resourceUsage().maxRSS;
        const forest = await balanceForest(matrix, { floor: 0, device, threads });
        // 4.5 million pairs of 16 bytes would be 72 MB; maxRSS is in KiB.
        expect(process.resourceUsage().maxRSS - before).toBeLessThan(64e6 / 1024);
        expectSame('first', forest.first, new Int32Array(rows - 1));
        expectSame(
          'second',
          forest.second,
          Int32Array.from({ length: rows - 1 }, (_, row) => row + 1),
        );
        const result = await balance(matrix, { threshold: 0.5, forest, device, threads });
        expect(result).toMatchObject({ groups: 1, edges: (rows * (rows - 1)) / 2 });
        const { plan, ...decided } = result;
        expect(plan).toBe('');
        expectAllSame(await balance(matrix, { threshold: 0.5, device, threads }), decided);
      }
    });

    it('fills its buffer many times over', async () => {
      // 2,500 rows have 3.1 million pairs, six buffers.
      const matrix = makeRows({ rows: 2500, dim: 6, seed: 9, kind: 'normal' });
      const forests = await Promise.all(THREADS.map((threads) => balanceForest(matrix, { device, threads })));
      for (const forest of forests) {
        expect(forest.dots.length).toBe(2499);
        expectAllSame(forest, {
          first: forests[0]!.first,
          second: forests[0]!.second,
          dots: forests[0]!.dots,
        });
      }
      for (const threshold of [0.5, 0.9, 0.95, 0.99]) {
        const wanted = await balance(matrix, { threshold, device });
        expectSame('labels', forests[0]!.at(threshold).labels, wanted.labels);
        expectAllSame(await balance(matrix, { threshold, forest: forests[0]!, device }), {
          ...wanted,
          plan: '',
        });
      }
    });

    it('goes only as far down as a share needs, and is then the same', async () => {
      for (const kind of ['normal', 'clusters', 'integers', 'duplicates'] as const) {
        const matrix = makeRows({ rows: 1500, dim: 7, seed: 4, kind });
        (matrix.data as Float32Array).fill(0, 700, 707);
        const whole = await balanceForest(matrix, { device });
        for (const targetKeep of [1, 0.9, 0.563, 0.2, 0.0001]) {
          for (const threads of THREADS) {
            const cut = await balanceForest(matrix, { targetKeep, device, threads });
            const edges = cut.dots.length;
            expectAllSame(cut, {
              dots: whole.dots.slice(0, edges),
              first: whole.first.slice(0, edges),
              second: whole.second.slice(0, edges),
            });
            expect(whole.dots[edges] ?? -2).toBeLessThanOrEqual(cut.floor);
            expect(cut.cut(targetKeep)).toEqual(whole.cut(targetKeep));
            if (targetKeep < 1)
              expect(1500 - edges).toBeLessThanOrEqual(Math.max(2, Math.round(1500 * targetKeep)));
          }
        }
      }
    });

    it('takes chunks and files', async () => {
      const matrix = makeRows({ rows: 143, dim: 37, seed: 12, kind: 'clusters' });
      const wanted = reference.forest(matrix, 0.5);
      await withFiles(chunked(matrix, [1, 0, 64, 13]), async (files) => {
        const forest = await balanceForest(files, { floor: 0.5, device });
        expectAllSame(forest, wanted);
        const result = await balance(files, { threshold: 0.8, forest, maxDiameter: 0.02, device });
        expectAllSame(result, reference.balance(matrix, 0.8, 'central', 0.02));
      });
    });
  });

  describe('maxDiameter', () => {
    it('splits as the reference does', async () => {
      await fc.assert(
        fc.asyncProperty(
          recipe,
          fc.constantFrom(0, 1e-7, 0.01, 0.1, 0.3, 0.9, 2),
          fc.nat(),
          async (made, maxDiameter, index) => {
            const matrix = makeRows(made);
            const threshold = looseness[made.kind] - (made.kind === 'tight' ? 1e-6 : 0.3);
            const keep = policies(made.rows)[index % 8]!;
            const threads = THREADS[index % 3]!;
            const wanted = reference.balance(matrix, threshold, keep, maxDiameter);
            expectAllSame(await balance(matrix, { threshold, keep, maxDiameter, device, threads }), wanted);
            const forest = await balanceForest(matrix, { floor: threshold, device });
            expectAllSame(await balance(matrix, { threshold, keep, maxDiameter, forest, device }), wanted);
          },
        ),
        { numRuns: 120, seed: 6 },
      );
    });

    it('cuts chains, and leaves what is within it', async () => {
      // A chain of steps of 5°, whose ends are opposite.
      const angles = Array.from({ length: 37 }, (_, step) => (step * 5 * Math.PI) / 180);
      const data = Float32Array.from(angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]));
      const matrix: Matrix = { data, rows: 37, dim: 2 };
      const whole = await balance(matrix, { threshold: 0.99, device });
      expect(whole.groups).toBe(1);
      for (const maxDiameter of [0.3, 0.1, 0.01, 0.001]) {
        const result = await balance(matrix, { threshold: 0.99, maxDiameter, device });
        expectAllSame(result, reference.balance(matrix, 0.99, 'central', maxDiameter));
        expect(result.groups).toBeGreaterThan(1);
        expect(result.edges).toBe(whole.edges);
        expect(Math.min(...result.centrality)).toBeGreaterThanOrEqual(Math.fround(1 - maxDiameter));
      }
      expectAllSame(await balance(matrix, { threshold: 0.99, maxDiameter: 2, device }), whole);
    });

    it('works through groups larger than it gathers at a time', async () => {
      const matrix = makeRows({ rows: 2600, dim: 5, seed: 3, kind: 'normal' });
      const [one, seven] = await Promise.all(
        [1, 7].map((threads) => balance(matrix, { threshold: 0.9, maxDiameter: 0.05, device, threads })),
      );
      expectAllSame(seven!, one!);
      expect(one!.groups).toBeGreaterThan(50);
      expect(Math.min(...one!.centrality)).toBeGreaterThanOrEqual(Math.fround(0.95));
    });
  });

  it('a stored forest is checked', () => {
    const fields = {
      rows: 4,
      floor: 0.5,
      first: Int32Array.of(0, 1),
      second: Int32Array.of(2, 2),
      dots: Float64Array.of(0.9, 0.8),
    };
    const forest = new SpanningForest(structuredClone({ ...new SpanningForest(fields) }));
    expect(forest.at(0.85)).toEqual({ labels: Int32Array.of(0, 1, 0, 3), groups: 3 });
    expect(forest.at(0.15, 'cosine-distance').groups).toBe(3);
    expect(() => forest.at(0.4)).toThrow('a cosine of at least 0.5, the floor of the forest, for threshold');
    for (const change of [
      { rows: 2 },
      { floor: 0.8 },
      { first: Int32Array.of(0) },
      { second: Int32Array.of(2, 1) },
      { dots: Float64Array.of(0.8, 0.9) },
      { dots: Float64Array.of(0.9, Number.NaN) },
      { first: Int32Array.of(0, 0) },
    ]) {
      expect(() => new SpanningForest({ ...fields, ...change })).toThrow(/^Expected .* for .*forest/);
    }
  });
}
