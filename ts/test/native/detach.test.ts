import { describe, expect, it } from 'vitest';
import { runProgram } from './process.ts';

/** Transfers a buffer away and frees it, while the calls of `work` (an expression over `matrix`) run on it. */
const transferred = (work: string) => `
  const matrix = rows();
  const calls = Promise.allSettled(${work});
  structuredClone(matrix.data.buffer, { transfer: [matrix.data.buffer] });
  // What was transferred has no owner any more: it is freed now.
  for (let round = 0; round < 3; round++) gc();
  const fresh = Array.from({ length: 8 }, () => new Float32Array(length).fill(NaN));
  for (const { status, reason } of await calls) console.log(reason?.name ?? status, reason?.code, reason?.message);
  console.log(matrix.data.length, fresh.length);
`;
const REFUSED =
  'CidError DISPOSED The memory of an argument was transferred to another owner while the operation used it\n';

describe('a buffer that is transferred away and freed while a call reads it', () => {
  it('is an error with a code, for every kernel', async () => {
    const { stdout, stderr } = await runProgram(
      transferred(`[
        cid.balance(matrix, { threshold: 0.5 }),
        cid.balance([matrix, matrix], { threshold: 0.5 }),
        cid.kmeans(matrix, { clusters: 300, iterations: 20 }),
        cid.nearest(matrix, matrix, { k: 10 }),
        (async () => { for await (const batch of cid.pairs(matrix, { threshold: 0.99 })); })(),
        cid.upload(matrix).then((resident) => resident.dispose()),
        cid.clusterInstanceLoss({ image: matrix, text: matrix, clipLogScale: 2 }, { ceWeight: 0, klWeight: 0, instanceWeight: 0 }),
        cid.softTargets(matrix, { ...matrix, data: matrix.data.slice(0, 3000 * 256), rows: 3000 }),
      ]`),
      ['--expose-gc'],
    );
    expect({ stdout, stderr }).toEqual({ stdout: `${REFUSED.repeat(8)}0 8\n`, stderr: '' });
  });

  it('also by a worker that takes it and ends', async () => {
    const { stdout, stderr } = await runProgram(
      `import { Worker } from 'node:worker_threads';
      const matrix = rows();
      const call = cid.balance(matrix, { threshold: 0.5 });
      const worker = new Worker('', { eval: true });
      worker.postMessage(matrix.data, [matrix.data.buffer]);
      await worker.terminate();
      gc();
      await call.catch((error) => console.log(error.code));`,
      ['--expose-gc'],
    );
    expect({ stdout, stderr }).toEqual({ stdout: 'DISPOSED\n', stderr: '' });
  });

  it('is refused before it starts, as is memory that may shrink', async () => {
    const { stdout } = await runProgram(`
      const gone = rows();
      structuredClone(gone.data, { transfer: [gone.data.buffer] });
      await cid.balance(gone, { threshold: 0.5 }).catch((error) => console.log(error.message));
      const data = new Float32Array(new ArrayBuffer(64, { maxByteLength: 128 }), 0, 16).fill(1);
      await cid.balance({ data, rows: 4, dim: 4 }, { threshold: 0.5 }).catch((error) => console.log(error.message));
      const shared = new Float32Array(new SharedArrayBuffer(64)).fill(1);
      console.log((await cid.balance({ data: shared, rows: 4, dim: 4 }, { threshold: 0.5 })).groups);`);
    expect(stdout.split('\n')).toEqual([
      'Expected 12000 × 256 elements for rows.data but received a Float32Array of 0',
      'Expected an array over a buffer of fixed length for data',
      '1',
      '',
    ]);
  });
});
