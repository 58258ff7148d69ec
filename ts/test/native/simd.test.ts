import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { addonPath } from '../../src/native/loader.ts';
import { KINDS, makeRows } from '../kernels/data.ts';
import { withFiles } from '../kernels/files.ts';

/** Prints the instruction set, and a digest of what the kernels decide about the matrices in argv. */
const PROGRAM = `
  const addon = require(process.argv[1]);
  const matrices = JSON.parse(process.argv[2]);
  const { createHash } = require('node:crypto');
  const context = { device: 'cpu', threads: 2, seed: 3 };
  (async () => {
    const digests = [];
    for (const matrix of matrices) {
      const hash = createHash('sha256');
      const add = (result) => {
        for (const key of Object.keys(result).sort()) {
          if (key === 'plan') continue; // names the instruction set
          const value = result[key];
          hash.update(key).update(ArrayBuffer.isView(value) ? new Uint8Array(value.buffer) : String(value));
        }
      };
      for (const threshold of [0.6, 0.9, 1 - 1e-6]) add(await addon.balance(context, [matrix], threshold));
      for (const metric of ['cosine', 'dot']) add(await addon.nearest(context, [matrix], [matrix], 5, metric));
      add(await addon.nearestProduct(context, [matrix], [matrix], { k: 9, cutoff: 0.98 }));
      for (const spherical of [true, false]) {
        const options = { clusters: 13, spherical, init: 'k-means++', maxIterations: 4, tolerance: 0, movement: 0, runs: 1 };
        add(await addon.kmeans(context, [matrix], options));
      }
      digests.push(hash.digest('hex'));
    }
    console.log(JSON.stringify({ set: addon.devices()[0].architecture, digests }));
  })();
`;

it('decides the same with every instruction set', async () => {
  const shapes = [
    [160, 33],
    [131, 100],
    [97, 512],
    [210, 15],
    [64, 64],
  ];
  const matrices = shapes.map(([rows, dim], index) =>
    makeRows({ rows: rows!, dim: dim!, seed: index, kind: KINDS[index]! }),
  );
  await withFiles(matrices, async (files) => {
    const run = async (set: string) => {
      const env = { ...process.env, CLIP_CID_SIMD: set };
      const { stdout } = await promisify(execFile)(
        process.execPath,
        ['-e', PROGRAM, addonPath(), JSON.stringify(files)],
        { env },
      );
      return JSON.parse(stdout) as { set: string; digests: string[] };
    };
    const best = await run('');
    const avx2 = await run('avx2');
    const plain = await run('plain');
    expect(plain.set).toMatch(/^(plain|neon)$/);
    expect(new Set(best.digests).size).toBe(shapes.length);
    expect(avx2.digests).toEqual(best.digests);
    expect(plain.digests).toEqual(best.digests);
  });
});
