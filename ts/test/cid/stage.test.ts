import { expect, it } from 'vitest';
import { toTheEnd } from '../../src/cid/stage.ts';
import type { ProgressEvent } from '../../src/run/progress.ts';

const run = async (reports: readonly number[]) => {
  const seen: ProgressEvent[] = [];
  const settings = { folder: 'x', onProgress: (event: ProgressEvent) => void seen.push(event) };
  const result = await toTheEnd(settings, 'balance', async ({ onProgress }) => {
    for (const done of reports) onProgress?.({ done, total: 1000 });
    return 7;
  });
  expect(result).toBe(7);
  return seen.map(({ label, done, total }) => [label, done, total]);
};

it('progress ends at its whole, however early the last report came', async () => {
  expect(await run([100, 950])).toEqual([
    ['balance', 100, 1000],
    ['balance', 950, 1000],
    ['balance', 1000, 1000],
  ]);
  expect(await run([1000])).toEqual([['balance', 1000, 1000]]);
  // What was too quick to report anything needs no end.
  expect(await run([])).toEqual([]);
});

it('work that fails has no end', async () => {
  const seen: ProgressEvent[] = [];
  const settings = { folder: 'x', onProgress: (event: ProgressEvent) => void seen.push(event) };
  const failing = toTheEnd(settings, 'balance', async ({ onProgress }) => {
    onProgress?.({ done: 1, total: 9 });
    throw new Error('no');
  });
  await expect(failing).rejects.toThrow('no');
  expect(seen).toHaveLength(1);
});
