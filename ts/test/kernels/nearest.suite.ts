import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { KernelOptions } from '../../src/index.ts';
import { nearest, nearestProduct, type Pairs } from '../../src/kernels/nearest.ts';
import { type Matrix, upload } from '../../src/kernels/rows.ts';
import type { Device } from '../../src/native/devices.ts';
import * as reference from '../reference/nearest.ts';
import { chunked, convert, KINDS, makeRows, normals } from './data.ts';
import { withFiles } from './files.ts';
import { expectAllSame, expectSame } from './same.ts';

const THREADS = [1, 2, 7];
const FILTERS = ['float32', 'bfloat16', 'int8'] as const;

/** Each filter over all coordinates and over few, each number of threads at least once with each. */
function* ways(): Generator<Required<Pick<KernelOptions, 'filter' | 'threads'>> & KernelOptions> {
  for (const filter of FILTERS) {
    for (const threads of THREADS) yield { filter, threads, prefix: 0 };
    for (const prefix of [4, 16]) yield { filter, threads: 2, prefix };
  }
}

/** Nearest rows on one device, held to the reference. */
export function nearestSuite(device: Device): void {
  async function check(queries: Matrix, base: Matrix, k: number, metric: 'cosine' | 'dot'): Promise<void> {
    const wanted = reference.nearest(queries, base, k, metric);
    for (const threads of THREADS) {
      expectAllSame(await nearest(queries, base, { k, metric, device, threads }), wanted);
    }
  }

  describe('nearest', () => {
    const shapes: [number, number, number, number][] = [
      [0, 1, 3, 1],
      [1, 1, 1, 1],
      [2, 2, 16, 2],
      [1, 300, 33, 10],
      [3, 5, 17, 5],
      [7, 16, 15, 1],
      [17, 31, 64, 3],
      [33, 64, 31, 64],
      [16, 65, 100, 7],
      [63, 129, 257, 2],
      [65, 97, 1000, 4],
      [5, 40, 4096, 11],
      [130, 513, 24, 1],
      [9, 1025, 48, 129],
      [3, 17_000, 6, 20],
      [16_500, 3, 5, 2],
    ];
    for (const [queries, base, dim, k] of shapes) {
      it(`${k} of ${base} for ${queries}, dim ${dim}`, async () => {
        for (const [index, metric] of (['cosine', 'dot'] as const).entries()) {
          const kind = KINDS[(queries + base + dim + index) % KINDS.length]!;
          const seed = queries + 31 * base;
          // Queries from the same distribution, so that exact ties and near ties occur.
          const all = makeRows({ rows: queries + base, dim, seed, kind });
          const [left, right] = chunked(all, [queries]) as [Matrix, Matrix];
          await check(left, right, k, metric);
        }
      });
    }

    it('gives ties to the smaller index', async () => {
      const base = makeRows({ rows: 5, dim: 8, seed: 3, kind: 'normal' });
      const data = new Float32Array(200 * 8);
      for (let row = 0; row < 200; row++)
        data.set(base.data.subarray((row % 5) * 8, (row % 5) * 8 + 8), row * 8);
      const { indices } = await nearest(base, { data, rows: 200, dim: 8 }, { k: 3, device });
      expectSame(
        'indices',
        indices,
        Int32Array.from({ length: 15 }, (_, index) => Math.floor(index / 3) + 5 * (index % 3)),
      );
    });

    it('orders scores that float32 cannot tell apart', async () => {
      const cancelling = makeRows({ rows: 300, dim: 1000, seed: 6, kind: 'cancelling' });
      await check(chunked(cancelling, [21])[0]!, cancelling, 200, 'dot');
      const all = makeRows({ rows: 400, dim: 129, seed: 6, kind: 'tight' });
      const [queries, base] = chunked(all, [50]) as [Matrix, Matrix];
      const tell = new Set(reference.nearest(queries, base, 8, 'cosine').scores);
      expect(tell.size).toBeLessThan(40);
      await check(queries, base, 8, 'cosine');
      await check(queries, base, 350, 'dot');
      // Many strips of keys, each of which may hold a better one by less than float32 can tell.
      const normal = normals(7);
      const centre = Float32Array.from({ length: 40 }, normal);
      const data = Float32Array.from({ length: 3000 * 40 }, (_, at) => centre[at % 40]! + 1e-6 * normal());
      const many = { data, rows: 3000, dim: 40 };
      for (const k of [1, 3]) await check(chunked(many, [30])[0]!, many, k, 'dot');
    });

    it('takes zero and huge rows for the dot product', async () => {
      const base = makeRows({ rows: 40, dim: 9, seed: 3, kind: 'normal' });
      const data = base.data as Float32Array;
      data.fill(0, 9, 18);
      for (let column = 0; column < 9; column++) {
        data[20 * 9 + column]! *= 1e37;
        data[21 * 9 + column]! *= 1e-38;
      }
      await check(base, base, 40, 'dot');
      // A sum that leaves float32's range on its way to 0, against one of 5.
      const query = { data: Float32Array.of(1e30, 1e30, 1), rows: 1, dim: 3 };
      const keys = { data: Float32Array.of(1e9, -1e9, 0, 0, 0, 5, -1e9, 1e9, 4), rows: 3, dim: 3 };
      for (const k of [1, 2, 3]) await check(query, keys, k, 'dot');
    });

    it('takes all element types, chunks, files and device matrices', async () => {
      const all = makeRows({ rows: 150, dim: 21, seed: 9, kind: 'clusters' });
      const [queries, base] = chunked(all, [40]) as [Matrix, Matrix];
      const half = convert(base, 'float16');
      await check(queries, half, 6, 'cosine');
      await check(convert(queries, 'bfloat16'), base, 6, 'dot');
      const wanted = reference.nearest(queries, half, 6, 'cosine');
      await withFiles(chunked(half, [33, 1]), async (files) => {
        expectAllSame(await nearest(chunked(queries, [7]), files, { k: 6, device }), wanted);
        using resident = await upload(files, { device });
        expectAllSame(await nearest(queries, resident, { k: 6 }), wanted);
      });
    });

    it('decides the same behind every filter', async () => {
      const shapes: [number, number, number, number][] = [
        [1, 1, 3, 1],
        [40, 300, 40, 1],
        [33, 1100, 64, 10],
        [65, 333, 31, 256],
        [7, 130, 200, 130],
        [3, 2100, 130, 2],
      ];
      for (const [index, [queries, base, dim, k]] of shapes.entries()) {
        for (const kind of KINDS) {
          const all = makeRows({ rows: queries + base, dim, seed: index, kind });
          const [left, right] = chunked(all, [queries]) as [Matrix, Matrix];
          for (const metric of ['cosine', 'dot'] as const) {
            const wanted = reference.nearest(left, right, k, metric);
            for (const way of ways()) {
              const result = await nearest(left, right, { k, metric, device, ...way });
              expectAllSame(result, wanted);
              expect(result.plan).not.toBe('');
            }
          }
        }
      }
    });

    it('stays exact where rows are of very different lengths', async () => {
      const all = makeRows({ rows: 700, dim: 48, seed: 12, kind: 'clusters' });
      const data = all.data as Float32Array;
      for (const [row, factor] of [
        [3, 1e20],
        [100, 1e-20],
        [300, 1e15],
        [500, 1e30],
        [600, 1e-38],
      ] as const) {
        for (let column = 0; column < 48; column++) data[row * 48 + column]! *= factor;
      }
      const [queries, base] = chunked(all, [60]) as [Matrix, Matrix];
      for (const k of [1, 20, 640]) {
        const wanted = reference.nearest(queries, base, k, 'dot');
        for (const way of ways()) {
          expectAllSame(await nearest(queries, base, { k, metric: 'dot', device, ...way }), wanted);
        }
      }
    });

    it('works in little memory, from files on both sides', async () => {
      const all = makeRows({ rows: 9000, dim: 600, seed: 13, kind: 'clusters' });
      const [queries, base] = chunked(all, [40]) as [Matrix, Matrix];
      const wanted = reference.nearest(queries, base, 5, 'cosine');
      await withFiles([queries, ...chunked(base, [3000, 1])], async ([first, ...rest]) => {
        for (const filter of FILTERS) {
          const options = { k: 5, maxMemory: 16 * 2 ** 20, filter, device };
          expectAllSame(await nearest(first!, rest, options), wanted);
        }
      });
    });

    it('names the first bad row of either side', async () => {
      const good = makeRows({ rows: 30, dim: 5, seed: 1, kind: 'normal' });
      const bad = makeRows({ rows: 30, dim: 5, seed: 1, kind: 'normal' });
      bad.data[12 * 5] = Number.NaN;
      bad.data[29 * 5] = Number.NaN;
      await expect(nearest(bad, good, { k: 1, device })).rejects.toMatchObject({
        code: 'INVALID_DATA',
        message: expect.stringMatching(/\b12\b/),
      });
      await expect(nearest(good, bad, { k: 1, device, metric: 'dot' })).rejects.toMatchObject({
        code: 'INVALID_DATA',
        message: expect.stringMatching(/\b12\b/),
      });
      bad.data.fill(0, 3 * 5, 4 * 5);
      await expect(nearest(good, bad, { k: 1, device })).rejects.toMatchObject({
        code: 'INVALID_DATA',
        message: expect.stringMatching(/\b3\b/),
      });
    });

    it('equals the reference on whatever rows', async () => {
      const arbitrary = fc.record({
        queries: fc.integer({ min: 1, max: 40 }),
        base: fc.integer({ min: 1, max: 70 }),
        dim: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 1030 })),
        seed: fc.nat(),
        kind: fc.constantFrom(...KINDS),
        metric: fc.constantFrom('cosine' as const, 'dot' as const),
        share: fc.double({ min: 0, max: 1, noNaN: true }),
      });
      await fc.assert(
        fc.asyncProperty(arbitrary, async ({ queries, base, metric, share, ...recipe }) => {
          const all = makeRows({ rows: queries + base, ...recipe });
          const [left, right] = chunked(all, [queries]) as [Matrix, Matrix];
          const k = Math.max(1, Math.round(base * share));
          const wanted = reference.nearest(left, right, k, metric);
          expectAllSame(await nearest(left, right, { k, metric, device }), wanted);
        }),
        { numRuns: 150, seed: 4 },
      );
    });
  });

  describe('nearest by a product', () => {
    async function check(pairs: Pairs, k: number, cutoff: number, queries?: Pairs): Promise<void> {
      const { images, texts } = pairs as { images: Matrix; texts: Matrix };
      const others = queries as { images: Matrix; texts: Matrix } | undefined;
      const wanted = reference.nearestProduct(images, texts, k, cutoff, others);
      for (const way of ways()) {
        const options = { k, cutoff, device, ...(queries ? { queries } : {}), ...way };
        const result = await nearestProduct(images, texts, options);
        expectAllSame(result, wanted);
        expect(result.plan).not.toBe('');
      }
    }

    const pairsOf = (rows: number, dims: [number, number], seed: number, kind: (typeof KINDS)[number]) => ({
      images: makeRows({ rows, dim: dims[0], seed, kind }),
      texts: makeRows({ rows, dim: dims[1], seed: seed + 1, kind }),
    });

    const shapes: [number, [number, number], number, number][] = [
      [2, [3, 5], 1, 0.98],
      [13, [1, 1], 12, 0.5],
      [33, [16, 48], 32, 0.98],
      [64, [40, 7], 3, 0.2],
      [150, [24, 130], 100, 0.9],
      [131, [65, 64], 1, 2],
      [97, [20, 20], 30, -0.5],
    ];
    for (const [rows, dims, k, cutoff] of shapes) {
      it(`${k} of ${rows} pairs, widths ${dims.join(' and ')}, cut-off ${cutoff}`, async () => {
        for (const kind of KINDS) await check(pairsOf(rows, dims, rows, kind), k, cutoff);
      });
    }

    it('takes queries of their own', async () => {
      const [queries, base] = [pairsOf(37, [30, 50], 5, 'clusters'), pairsOf(300, [30, 50], 5, 'clusters')];
      for (const k of [1, 20, 300]) await check(base, k, 0.95, queries);
      const none = {
        images: { ...queries.images, data: new Float32Array(0), rows: 0 },
        texts: queries.texts,
      };
      const empty = { ...none, texts: { ...none.texts, data: new Float32Array(0), rows: 0 } };
      const result = await nearestProduct(base.images, base.texts, { queries: empty, device });
      expectSame('indices', result.indices, new Int32Array(0));
    });

    it('counts copies and what is over the cut-off as 0, and never finds the query itself', async () => {
      // Pairs 0 to 3: alike in both; 4 and 5: their copies; 6: the image of 0 with another text; 7: turned round.
      const images = [1, 0.1, 1, 0.2, 1, 0.3, 0.9, 0.5, 1, 0.1, 1, 0.2, 1, 0.1, -1, 0];
      const texts = [1, 0.6, 1, 0.5, 1, 0.1, 0.9, 0.5, 1, 0.6, 1, 0.5, 0, 1, -1, -0.2];
      const matrix = (data: number[]): Matrix => ({ data: Float32Array.from(data), rows: 8, dim: 2 });
      await check({ images: matrix(images), texts: matrix(texts) }, 7, 0.98);
      const { indices, scores } = await nearestProduct(matrix(images), matrix(texts), { device });
      expect(indices.length).toBe(8 * 7);
      for (let pair = 0; pair < 8; pair++) {
        const found = indices.subarray(7 * pair, 7 * pair + 7);
        expect(new Set([...found, pair]).size).toBe(8);
        expect([...found]).not.toContain(pair);
      }
      const ofFirst = [...indices.subarray(0, 7)];
      expect(scores[ofFirst.indexOf(4)]).toBe(0);
      expect(scores[ofFirst.indexOf(6)]).toBe(0);
      expect(scores[ofFirst.indexOf(7)]).toBeGreaterThan(0.7);
    });

    it('takes files, chunks, other element types and device matrices', async () => {
      const { images, texts } = pairsOf(120, [21, 34], 9, 'clusters');
      const half = convert(images, 'float16');
      const wanted = reference.nearestProduct(half, texts, 9, 0.97);
      await withFiles([...chunked(half, [33, 1]), texts], async (files) => {
        const options = { k: 9, cutoff: 0.97, device };
        expectAllSame(await nearestProduct(files.slice(0, 3), files[3]!, options), wanted);
        using resident = await upload(half, { device });
        expectAllSame(await nearestProduct(resident, chunked(texts, [50]), options), wanted);
      });
    });

    it('names the first bad row', async () => {
      const good = pairsOf(30, [5, 6], 1, 'normal');
      const bad = pairsOf(30, [5, 6], 1, 'normal');
      (bad.texts.data as Float32Array).fill(0, 12 * 6, 13 * 6);
      const failure = (message: string) => ({
        code: 'INVALID_DATA',
        message: expect.stringContaining(message),
      });
      await expect(nearestProduct(bad.images, bad.texts, { device })).rejects.toMatchObject(
        failure('Row 12 of texts'),
      );
      await expect(nearestProduct(good.images, good.texts, { device, queries: bad })).rejects.toMatchObject(
        failure('Row 12 of queries.texts'),
      );
    });
  });
}
