import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { devices, setInstructions } from '../../src/native/devices.ts';
import { INSTRUCTIONS, type Instructions } from '../../src/native/instructions.ts';
import { addonPath } from '../../src/native/loader.ts';
import { peak } from '../../src/native/peak.ts';
import { KINDS, makeRows } from '../kernels/data.ts';
import { withFiles } from '../kernels/files.ts';

/** Prints the instruction set, and a digest of what the kernels decide about the matrices in argv. */
const PROGRAM = `
  const addon = require(process.argv[1]);
  const matrices = JSON.parse(process.argv[2]);
  const { createHash } = require('node:crypto');
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
      for (const filter of ['float32', 'bfloat16', 'int8']) {
        const context = { device: 'cpu', threads: 2, seed: 3, filter };
        for (const threshold of [0.6, 0.9, 1 - 1e-6]) add(await addon.balance(context, [matrix], { threshold, keep: 'central' }));
        add(await addon.balance(context, [matrix], { threshold: 0, keep: 'hard', leastScore: 0.8 }));
        const half = Math.floor(matrix.rows / 2);
        add(await addon.balanceAgainst(context, [matrix], [{ ...matrix, rows: half }], { threshold: 0.9, keep: 'central' }));
        add(await addon.forest(context, [matrix], { floor: 0.2, merges: 30 }));
        for (const metric of ['cosine', 'dot']) add(await addon.nearest(context, [matrix], [matrix], 5, metric));
        add(await addon.nearestProduct(context, [matrix], [matrix], { k: 9, cutoff: 0.98 }));
        for (const spherical of [true, false]) {
          const options = { clusters: 13, spherical, init: 'k-means++', maxIterations: 4, tolerance: 0, movement: 0, runs: 1 };
          const { centroids, labels } = await addon.kmeans(context, [matrix], options);
          add({ centroids, labels });
          if (spherical) add(await addon.semdedup(context, [matrix], { centroids, labels, clusters: 13, threshold: 0.7, order: 'hard' }));
        }
      }
      digests.push(hash.digest('hex'));
    }
    console.log(JSON.stringify({ set: addon.devices()[0].architecture, digests }));
  })();
`;

async function node(program: string, set: string, ...args: string[]): Promise<string> {
  const env = { ...process.env, CLIP_CID_SIMD: set };
  const { stdout } = await promisify(execFile)(process.execPath, [...program.split('\0'), ...args], { env });
  return stdout.trim();
}

describe('instruction sets', () => {
  it('decide the same', { timeout: 300_000 }, async () => {
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
      const run = async (set: string) =>
        JSON.parse(await node(`-e\0${PROGRAM}`, set, addonPath(), JSON.stringify(files))) as {
          set: Instructions;
          digests: string[];
        };
      const best = await run('');
      expect(new Set(best.digests).size).toBe(shapes.length);
      // A set that this machine lacks stands for the best below it.
      const rank = INSTRUCTIONS.indexOf(best.set);
      for (const set of INSTRUCTIONS) {
        const forced = await run(set);
        expect(forced.digests, set).toEqual(best.digests);
        const used = INSTRUCTIONS.indexOf(forced.set);
        if (set === 'plain' || set === best.set) expect(forced.set).toBe(set);
        else expect(used, set).toBeLessThanOrEqual(Math.min(rank, INSTRUCTIONS.indexOf(set)));
      }
    });
  });

  it('are named by the environment or once by an option', async () => {
    const source = JSON.stringify(new URL('../../../dist/native/devices.js', import.meta.url).href);
    const program = (body: string) =>
      `--input-type=module\0-e\0const { devices, setInstructions } = await import(${source}); ${body}`;
    const used = 'console.log(devices().devices[0].architecture)';
    expect(await node(program(`setInstructions('plain'); ${used}`), '')).toBe('plain');
    // The option wins.
    expect(await node(program(`setInstructions('plain'); ${used}`), 'avx2')).toBe('plain');
    await expect(node(program(used), 'avx3')).rejects.toThrow(
      /RangeError: Expected one of 'plain', .* for CLIP_CID_SIMD but received "avx3"/,
    );
  });

  it('cannot change once one is in use', () => {
    const now = devices().devices[0]!.architecture as Instructions;
    setInstructions(now);
    if (now !== 'plain') {
      expect(() => setInstructions('plain')).toThrow(
        expect.objectContaining({ code: 'INVALID_CONFIG', message: expect.stringContaining(now) }),
      );
    }
    expect(() => setInstructions('fast' as Instructions)).toThrow(RangeError);
    expect(() => setInstructions(2 as unknown as Instructions)).toThrow(TypeError);
    expect(devices().devices[0]!.architecture).toBe(now);
  });
});

describe('peak', () => {
  it('measures every precision, the lower the faster', { timeout: 30_000 }, async () => {
    const one = await peak({ threads: 1 });
    for (const rate of [one.float32, one.bfloat16, one.int8]) expect(rate).toBeGreaterThan(0.1);
    expect(one.float32).toBeLessThan(1e4);
    const { architecture } = devices().devices[0]!;
    if (/vnni|amx|dotprod/.test(architecture)) expect(one.int8).toBeGreaterThan(1.5 * one.float32);
    else expect(one.int8).toBe(one.float32);
  });

  it('takes threads and a signal', async () => {
    await expect(peak({ threads: 0 })).rejects.toThrow(RangeError);
    await expect(peak({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
  });
});
