import { expect, test } from 'vitest';
import { Training, trainingData } from '../../src/bench/training.ts';

async function losses(batch: number, microBatch?: number): Promise<number[]> {
  const data = trainingData({ model: 'clip-w192', batch, seed: 3 });
  const training = await Training.start(data, { device: 'cpu', threads: 2 }, { microBatch });
  try {
    return [await training.step(), await training.step(), await training.step()];
  } finally {
    await training.dispose();
  }
}

test('micro-batches of two towers take the steps of the whole batch', { timeout: 120_000 }, async () => {
  const whole = await losses(5);
  // 2, 2 and 1 rows: the last one is another shape.
  const parts = await losses(5, 2);
  expect(whole[2]).toBeLessThan(whole[0]!);
  for (const [i, loss] of parts.entries()) expect(loss / whole[i]! - 1).toBeCloseTo(0, 5);
});

test.each([0, 6, 1.5])('a micro-batch of %s is misuse', async (microBatch) => {
  await expect(losses(5, microBatch)).rejects.toThrow(/for microBatch but received/);
});

test('a large batch has other images, drawn from the same values', () => {
  const { towers, target } = trainingData({ model: 'clip-w192', batch: 130, seed: 1 });
  expect(target).toBeUndefined();
  const [image, text] = towers;
  expect(image!.input.dims).toEqual([130, 3, 64, 64]);
  expect(text!.input.dims).toEqual([130, 77]);
  const data = image!.input.data as Float32Array;
  const size = 3 * 64 * 64;
  const sorted = (begin: number) => data.slice(begin * size, (begin + 64) * size).sort();
  expect(sorted(64)).toEqual(sorted(0));
  expect(data.slice(64 * size, 65 * size)).not.toEqual(data.slice(0, size));
  expect(data.slice(128 * size).every((value) => value !== 0)).toBe(true);
});
