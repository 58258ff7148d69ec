import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { balance } from '../../src/kernels/balance.ts';
import { makeRows } from '../kernels/data.ts';
import { program, runProgram } from './process.ts';

describe('pairs in a process of their own', () => {
  it('keep it up while they are waited for', async () => {
    const { stdout, stderr } = await runProgram(`
      let count = 0;
      const data = Float32Array.from({ length: 3000 * 4 }, (_, i) => 1 + 1e-3 * Math.sin(i));
      for await (const { first } of cid.pairs({ data, rows: 3000, dim: 4 }, { threshold: 0.5, batchSize: 5000 })) {
        count += first.length;
      }
      console.log(count);`);
    expect({ stdout, stderr }).toEqual({ stdout: `${(3000 * 2999) / 2}\n`, stderr: '' });
  });

  it('let it end when nobody reads them, and by process.exit', async () => {
    const abandoned = await runProgram(`
      const iterator = cid.pairs(rows(), { threshold: -0.9, batchSize: 10 });
      console.log((await iterator.next()).value.first.length > 0);`);
    expect(abandoned).toEqual({ stdout: 'true\n', stderr: '' });
    const exited = await runProgram(`
      for await (const batch of cid.pairs(rows(), { threshold: -0.9, batchSize: 10 })) process.exit(0);`);
    expect(exited).toEqual({ stdout: '', stderr: '' });
  });

  it('let a worker be terminated, full buffer or not', async () => {
    for (const threshold of [-0.9, 0.9999]) {
      const source = program(`
        import { parentPort } from 'node:worker_threads';
        const onProgress = () => parentPort.postMessage('going');
        for await (const batch of cid.pairs(rows(), { threshold: ${threshold}, batchSize: 10, onProgress })) {
          parentPort.postMessage('going');
          await new Promise(() => setInterval(() => {}, 1000));
        }`);
      const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`));
      await new Promise((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
      });
      await worker.terminate();
    }
    expect(
      (await balance(makeRows({ rows: 9, dim: 3, seed: 1, kind: 'normal' }), { threshold: 0.9999 })).groups,
    ).toBe(9);
  });
});
