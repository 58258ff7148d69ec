import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MetricsWriter, readMetrics } from '../../src/run/metrics.ts';

let path: string;
beforeEach(() => {
  path = join(mkdtempSync(join(tmpdir(), 'clip-cid-metrics-')), 'run', 'metrics.jsonl');
});
afterEach(() => rmSync(join(path, '..', '..'), { recursive: true, force: true }));

test('appends, keeps what a resumed stage may keep, and drops a line that was cut short', async () => {
  const writer = await MetricsWriter.open(path);
  writer.write({ stage: 'embed', images: 10 });
  for (let step = 1; step <= 4; step++) writer.write({ stage: 'distill', step, loss: 1 / step });
  writer.close();
  writer.close();
  writer.write({ stage: 'late' });
  appendFileSync(path, '{"stage":"distill","step":5,"lo');
  expect((await readMetrics(path)).map((record) => record.step)).toEqual([undefined, 1, 2, 3, 4]);

  const resumed = await MetricsWriter.open(path, (record) => record.stage !== 'distill' || record.step! <= 2);
  resumed.write({ stage: 'distill', step: 3, loss: 0.3 });
  resumed.close();
  expect(readFileSync(path, 'utf8')).toBe(
    '{"stage":"embed","images":10}\n{"stage":"distill","step":1,"loss":1}\n{"stage":"distill","step":2,"loss":0.5}\n' +
      '{"stage":"distill","step":3,"loss":0.3}\n',
  );
});

test('a missing file has no records', async () => {
  expect(await readMetrics(path)).toEqual([]);
});
