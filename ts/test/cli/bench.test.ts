import { describe, expect, test } from 'vitest';
import { devices } from '../../src/native/devices.ts';
import { clipCid, objects } from './cli.ts';

const SMALL: Record<string, string[]> = {
  dedup: ['--rows', '300', '--dim', '24'],
  kmeans: ['--rows', '300', '--dim', '24', '--clusters', '7', '--iterations', '3'],
  nearest: ['--rows', '300', '--dim', '24', '--queries', '20', '--k', '4'],
  loss: ['--batch', '20', '--dim', '24', '--clusters', '30'],
};
const SHAPES: Record<string, Record<string, number>> = {
  dedup: { rows: 300, dim: 24 },
  kmeans: { rows: 300, dim: 24, clusters: 7, iterations: 3 },
  nearest: { queries: 20, rows: 300, dim: 24, k: 4 },
  loss: { batch: 20, dim: 24, clusters: 30 },
};

describe.each(Object.keys(SMALL))('bench %s', (op) => {
  test('prints one object with what was measured', async () => {
    const ended = await clipCid([
      'bench',
      op,
      ...SMALL[op]!,
      '--repeat',
      '3',
      '--threads',
      '1',
      '--device',
      'cpu',
      '--seed',
      '4',
      '--spectrum',
      'flat',
      '--json',
      '--quiet',
    ]);
    expect(ended.stderr).toBe('');
    const [record, ...more] = objects(ended);
    expect(more).toEqual([]);
    expect(record).toMatchObject({
      op,
      device: 'cpu',
      threads: 1,
      shape: SHAPES[op],
      spectrum: 'flat',
      repeat: 3,
    });
    const { seconds, gflops, peak_gflops, share_of_peak, spread, plan } = record as Record<string, number> & {
      spread: { min: number; max: number };
      plan: unknown;
    };
    expect(seconds).toBeGreaterThan(0);
    expect(spread.min).toBeLessThanOrEqual(seconds!);
    expect(spread.max).toBeGreaterThanOrEqual(seconds!);
    expect(gflops).toBeGreaterThan(0);
    expect(peak_gflops).toBeGreaterThan(0);
    expect(share_of_peak).toBeCloseTo(gflops! / peak_gflops!, 10);
    expect(plan === null || typeof plan === 'string').toBe(true);
  });

  test('help has examples', async () => {
    const { code, stdout } = await clipCid(['bench', op, '--help']);
    expect(code).toBe(0);
    expect(stdout).toContain(`$ clip-cid bench ${op}`);
    for (const flag of [
      '--repeat',
      '--filter',
      '--prefix',
      '--simd',
      '--spectrum',
      '--threads',
      '--device',
      '--json',
    ]) {
      expect(stdout).toContain(flag);
    }
  });
});

describe('bench train', () => {
  const small = [
    'bench',
    'train',
    '--model',
    'mobilenetv3-small',
    '--batch',
    '2',
    '--repeat',
    '2',
    '--quiet',
  ];

  test('prints one object with what was measured', async () => {
    const [record, ...more] = objects(await clipCid([...small, '--threads', '1', '--json']));
    expect(more).toEqual([]);
    expect(record).toMatchObject({
      op: 'train',
      device: 'cpu',
      threads: 1,
      model: 'mobilenetv3-small',
      precision: 'float32',
      shape: { batch: 2, parameters: 2_054_768 },
      repeat: 2,
      plan: 'native executor',
    });
    expect(record!.seconds).toBeGreaterThan(0);
    expect(record).not.toHaveProperty('spectrum');
  });

  test('on ONNX Runtime the operations are the same', async () => {
    const flops = async (...args: string[]) => {
      const [record] = objects(await clipCid([...small, '--json', ...args]));
      return Math.round((record!.gflops as number) * (record!.seconds as number) * 1e9);
    };
    const [own, other] = [await flops(), await flops('--executor', 'onnxruntime')];
    expect(own).toBe(other);
    expect(own).toBeGreaterThan(1e7);
  });

  test('in bf16 only where there are instructions for it, which no AVX2 has', async () => {
    const { code, stderr } = await clipCid([...small, '--simd', 'avx2', '--precision', 'bf16']);
    expect(stderr).toMatch(/bfloat16 .* for precision 'bf16' but received .* 'float32' runs on any/);
    expect(code).toBe(1);
    if (!devices().devices[0]!.bfloat16) return;
    const [record] = objects(await clipCid([...small, '--json', '--precision', 'bf16']));
    expect(record).toMatchObject({ plan: 'native executor', precision: 'bf16' });
  });

  test('help has examples', async () => {
    const { code, stdout } = await clipCid(['bench', 'train', '--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('$ clip-cid bench train --model resnet18');
    expect(stdout).not.toContain('--spectrum');
  });
});

const withoutGpu = !devices().devices.some(({ device, usable }) => device.startsWith('cuda') && usable);

test.runIf(withoutGpu).each(Object.keys(SMALL))('%s on a GPU that is not there says why', async (op) => {
  const { code, stdout, stderr } = await clipCid(['bench', op, ...SMALL[op]!, '--device', 'cuda']);
  expect(stderr).toMatch(/^error: Device 'cuda' is not available: .+ Usable here: 'auto', 'cpu'/m);
  expect(code).toBe(1);
  expect(stdout).toBe('');
});

test('operations are those of brute force', async () => {
  const rate = async (...args: string[]) => {
    const [record] = objects(
      await clipCid(['bench', ...args, '--repeat', '1', '--threads', '1', '--json', '--quiet']),
    );
    return (record!.gflops as number) * (record!.seconds as number) * 1e9;
  };
  const counted = await Promise.all(Object.entries(SMALL).map(([op, sizes]) => rate(op, ...sizes)));
  expect(counted.map(Math.round)).toEqual([
    300 * 299 * 24,
    2 * 300 * 7 * 24 * 3,
    2 * 20 * 300 * 24,
    2 * 24 * (7 * 20 * 20 + 3 * 20 * 30),
  ]);
  expect(Math.round(await rate('loss', ...SMALL.loss!, '--cached'))).toBe(
    2 * 24 * (7 * 20 * 20 + 2 * 20 * 30),
  );
});

test('for people it says what was done and how fast', async () => {
  const { code, stdout } = await clipCid([
    'bench',
    'dedup',
    ...SMALL.dedup!,
    '--repeat',
    '1',
    '--threads',
    '2',
    '--filter',
    'float32',
    '--prefix',
    '0',
    '--simd',
    'plain',
  ]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^dedup on cpu \(plain, 2 threads\): rows 300, dim 24, decaying$/m);
  expect(stdout).toMatch(/^seconds .* 1 runs?\)$/m);
  expect(stdout).toMatch(/^GFLOP\/s .*float32 peak .*share/m);
});

test.each<[string[], RegExp]>([
  [['bench', 'dedup', '--rows', 'many'], /Expected a number/],
  [['bench', 'dedup', '--rows', '0'], /for rows but received 0/],
  [['bench', 'dedup', '--threshold', '2'], /for threshold but received 2/],
  [['bench', 'kmeans', '--rows', '10', '--dim', '4', '--clusters', '11'], /for clusters but received 11/],
  [['bench', 'nearest', '--rows', '10', '--queries', '2', '--k', '11'], /for k but received 11/],
  [['bench', 'dedup', '--spectrum', 'steep'], /for spectrum but received "steep"/],
  [['bench', 'dedup', '--rows', '10', '--filter', 'fp8'], /for filter but received "fp8"/],
  [['bench', 'dedup', '--repeat', '0'], /for repeat but received 0/],
  [['bench', 'dedup', '--simd', 'mmx'], /Allowed choices are plain, avx2/],
  [['bench', 'train', '--model', 'vgg'], /for model but received "vgg"/],
  [['bench', 'train', '--batch', '0'], /for batch but received 0/],
  [['bench', 'train', '--executor', 'tpu'], /for executor but received "tpu"/],
  [['bench', 'train', '--precision', 'half'], /for precision but received "half"/],
  [['bench', 'fly'], /unknown command 'fly'/],
])('misuse %j ends with 2', async (args, message) => {
  const { code, stdout, stderr } = await clipCid(args);
  expect(stderr).toMatch(message);
  expect(code).toBe(2);
  expect(stdout).toBe('');
});
