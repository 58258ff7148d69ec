import { execFile } from 'node:child_process';
import { truncate } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { balance } from '../../src/kernels/balance.ts';
import { kmeans } from '../../src/kernels/kmeans.ts';
import type { FileMatrix } from '../../src/kernels/rows.ts';
import type { NativeAddon, NativeContext } from '../../src/native/addon.ts';
import { addonPath, loadAddon } from '../../src/native/loader.ts';
import { makeRows } from '../kernels/data.ts';
import { withFiles } from '../kernels/files.ts';

const path = JSON.stringify(addonPath());
/** A call of the addon without the package, for processes and threads of their own; long enough to be interrupted. */
const LONG_CALL = `
  const addon = require(${path});
  const data = Float32Array.from({ length: 12000 * 256 }, (_, index) => Math.sin(index * index));
  const rows = [{ data, dtype: 'float32', rows: 12000, dim: 256 }];
`;
const SHORT_CALL = `
  const addon = require(${path});
  const rows = [{ data: Float32Array.of(1, 0, 1, 0.01, 0, 1), dtype: 'float32', rows: 3, dim: 2 }];
  const result = addon.balance({ device: 'cpu', threads: 2, seed: 0 }, rows, { threshold: 0.9, keep: 'central' });
`;

describe('addon', () => {
  it('loads again as the same module, and in worker threads at once', async () => {
    const require = createRequire(import.meta.url);
    expect(require(addonPath())).toBe(require(addonPath()));
    const source = `${SHORT_CALL} result.then(({ labels }) => require('node:worker_threads').parentPort.postMessage([...labels]));`;
    for (let round = 0; round < 3; round++) {
      const labels = await Promise.all(
        [1, 2, 3].map(async () => {
          const worker = new Worker(source, { eval: true });
          const exited = new Promise((resolve) => worker.once('exit', resolve));
          const message = await new Promise((resolve, reject) => {
            worker.once('message', resolve);
            worker.once('error', reject);
          });
          expect(await exited).toBe(0);
          return message;
        }),
      );
      expect(labels).toEqual([
        [0, 0, 2],
        [0, 0, 2],
        [0, 0, 2],
      ]);
    }
    expect(
      (await balance(makeRows({ rows: 9, dim: 3, seed: 1, kind: 'duplicates' }), { threshold: 0.99 })).groups,
    ).toBe(5);
  });

  it('lets a process end when the work is done, and by process.exit in the middle of it', async () => {
    const run = (source: string) => promisify(execFile)(process.execPath, ['-e', source]);
    const done = await run(`${SHORT_CALL} result.then(({ groups }) => console.log(groups));`);
    expect(done.stdout).toBe('2\n');
    const midway = await run(`${LONG_CALL}
      addon.balance({ device: 'cpu', threads: 2, seed: 0, progress: () => process.exit(0) }, rows, { threshold: 0.5, keep: 'central' })
        .then(() => console.log('finished'));`);
    expect(midway).toEqual({ stdout: '', stderr: '' });
    const pending = await run(`${LONG_CALL}
      addon.balance({ device: 'cpu', threads: 2, seed: 0 }, rows, { threshold: 0.5, keep: 'central' });
      process.exit(0);`);
    expect(pending).toEqual({ stdout: '', stderr: '' });
  });

  it('outlives a worker that is terminated in the middle of its work', async () => {
    const worker = new Worker(
      `${LONG_CALL}
      const { parentPort } = require('node:worker_threads');
      addon.balance({ device: 'cpu', threads: 2, seed: 0, progress: () => parentPort.postMessage('going') }, rows, { threshold: 0.5, keep: 'central' });`,
      { eval: true },
    );
    await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    await worker.terminate();
    expect(
      (await balance(makeRows({ rows: 9, dim: 3, seed: 1, kind: 'normal' }), { threshold: 0.9999 })).groups,
    ).toBe(9);
  });

  it('keeps the event loop free', async () => {
    const matrix = makeRows({ rows: 16_000, dim: 128, seed: 1, kind: 'normal' });
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    await balance(matrix, { threshold: 0.9 });
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(0);
  });

  it('runs several calls at once', async () => {
    const matrix = makeRows({ rows: 300, dim: 40, seed: 1, kind: 'clusters' });
    const wanted = [await balance(matrix, { threshold: 0.9 }), await kmeans(matrix, { clusters: 9 })];
    const calls = Array.from({ length: 6 }, () => [
      balance(matrix, { threshold: 0.9 }),
      kmeans(matrix, { clusters: 9 }),
    ]);
    for (const call of calls) expect(await Promise.all(call)).toEqual(wanted);
  });
});

describe('abort', () => {
  const matrix = makeRows({ rows: 12_000, dim: 256, seed: 1, kind: 'normal' });

  it('stops work in the middle', async () => {
    for (const call of [
      (options: object) => balance(matrix, { threshold: 0.5, ...options }),
      (options: object) => kmeans(matrix, { clusters: 500, iterations: 1000, tolerance: 0, ...options }),
    ]) {
      const controller = new AbortController();
      let last: { done: number; total: number } | undefined;
      const running = call({
        signal: controller.signal,
        onProgress: (progress: { done: number; total: number }) => {
          last = progress;
          controller.abort();
        },
      });
      await expect(running).rejects.toMatchObject({ name: 'CidError', code: 'ABORTED' });
      expect(last!.done).toBeLessThan(last!.total);
    }
  });

  it('is seen before the work starts', async () => {
    const signal = AbortSignal.abort();
    await expect(balance(matrix, { threshold: 0.5, signal })).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('comes with the error that onProgress throws', async () => {
    const onProgress = () => {
      throw new Error('enough');
    };
    await expect(balance(matrix, { threshold: 0.5, onProgress })).rejects.toThrow('enough');
  });
});

describe('errors of the addon', () => {
  const small = makeRows({ rows: 6, dim: 4, seed: 1, kind: 'normal' });

  it('name a file that is missing, too short, or no file', async () => {
    await withFiles([small], async ([file], folder) => {
      const call = (rows: FileMatrix) => balance([small, rows], { threshold: 0.5 });
      const missing = join(folder, 'missing.npy');
      await expect(call({ ...file!, path: missing })).rejects.toMatchObject({
        name: 'CidError',
        code: 'FILE_NOT_FOUND',
        message: expect.stringContaining(missing),
      });
      await expect(call({ ...file!, path: folder })).rejects.toMatchObject({ name: 'CidError' });
      await truncate(file!.path, file!.offset + 6 * 4 * 4 - 1);
      await expect(call(file!)).rejects.toMatchObject({
        code: 'FILE_FORMAT',
        message: expect.stringContaining(file!.path),
      });
      await expect(call({ ...file!, offset: 2 ** 52 })).rejects.toMatchObject({ code: 'FILE_FORMAT' });
    });
  });

  it('guard memory against lengths that do not fit', async () => {
    const addon = loadAddon();
    const context: NativeContext = { device: 'cpu', threads: 1, seed: 0 };
    const data = new Float32Array(12);
    const rows = (change: object) => [{ data, dtype: 'float32' as const, rows: 3, dim: 4, ...change }];
    const options = { threshold: 0.5, keep: 'central' as const };
    type Call = (addon: NativeAddon) => unknown;
    const calls: Call[] = [
      (native) => native.balance(context, rows({ rows: 4 }), options),
      (native) => native.balance(context, rows({ dim: 5 }), options),
      (native) => native.balance(context, rows({ stride: 5 }), options),
      (native) => native.balance(context, rows({ stride: 3 }), options),
      (native) => native.balance(context, rows({ rows: -1 }), options),
      (native) => native.balance(context, rows({ rows: 2 ** 40 }), options),
      (native) => native.balance(context, rows({ rows: Number.NaN }), options),
      (native) => native.balance(context, rows({ dtype: 'float16' }), options),
      (native) => native.balance(context, rows({ dtype: 'int8' }), options),
      (native) => native.balance(context, rows({ data: new Uint16Array(12) }), options),
      (native) => native.balance(context, rows({ data: [1] }), options),
      (native) => native.balance(context, [...rows({}), ...rows({ rows: 2, dim: 6 })], options),
      (native) => native.balance(context, {} as never, options),
      (native) => native.balance(context, rows({}), 'x' as never),
      (native) => native.balance(context, rows({}), { threshold: 0.5, keep: 'last' as never }),
      (native) => native.balance(context, rows({}), { ...options, keep: 'best' }),
      (native) =>
        native.balance(context, rows({}), { ...options, keep: 'best', scores: new Float64Array(2) }),
      ...[
        { second: Int32Array.of(3) },
        { first: Int32Array.of(-1) },
        { second: new Int32Array(0) },
        { first: Int32Array.of(0, 0), second: Int32Array.of(1, 1), dots: Float64Array.of(1, 1) },
      ].map(
        (change): Call =>
          (native) => {
            const edge = { first: Int32Array.of(0), second: Int32Array.of(1), dots: Float64Array.of(1) };
            return native.balance(context, rows({}), { ...options, forest: { ...edge, ...change } });
          },
      ),
      (native) => native.forest(context, rows({}), { floor: 0, merges: 0 }),
      (native) => native.forest(context, rows({ rows: 4 }), { floor: 0 }),
      (native) => native.balance({ ...context, device: 'tpu' }, rows({}), options),
      (native) => native.balance({ ...context, threads: 0 }, rows({}), options),
      (native) => native.balance({ ...context, cancel: new Int32Array(0) }, rows({}), options),
      (native) => native.nearest(context, rows({}), rows({ rows: 2, dim: 6 }), 1, 'cosine'),
      (native) => native.nearest(context, rows({}), rows({}), 4, 'cosine'),
      (native) => native.nearest(context, rows({}), rows({}), 0, 'cosine'),
      ...[
        { clusters: 4 },
        { clusters: 0 },
        { batch: 2 },
        { batch: 0 },
        { centroids: new Float32Array(7) },
        { maxIterations: -1 },
      ].map(
        (change): Call =>
          (native) =>
            native.kmeans(context, rows({}), {
              clusters: 2,
              spherical: true,
              init: 'random',
              maxIterations: 3,
              runs: 1,
              movement: 0,
              tolerance: 0,
              ...change,
            }),
      ),
    ];
    for (const [index, call] of calls.entries()) {
      const outcome = await (async () => call(addon))().then(
        () => 'accepted',
        (error: unknown) => error,
      );
      expect(outcome, String(calls[index])).toBeInstanceOf(Error);
    }
  });
});
