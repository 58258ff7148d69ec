import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { packageVersion } from '../../src/native/loader.ts';
import { openRun, readRunRecord } from '../../src/run/folder.ts';

let folder: string;
beforeEach(() => {
  folder = join(mkdtempSync(join(tmpdir(), 'clip-cid-run-')), 'run');
});
afterEach(() => rmSync(join(folder, '..'), { recursive: true, force: true }));

test('is locked while it is open, and remembers configuration, seed and machine', async () => {
  const run = await openRun(folder);
  expect(run.stage('distill')).toBe(join(folder, 'student'));
  expect(run.metrics).toBe(join(folder, 'metrics.jsonl'));
  await expect(openRun(folder)).rejects.toMatchObject({ code: 'RUN_LOCKED' });
  expect(await readRunRecord(folder)).toBeUndefined();
  await run.remember({ seed: 4, balance: { threshold: 0.9 } }, 4);
  await run.dispose();
  await run.dispose();
  expect(readdirSync(folder)).toEqual(['run.json']);
  const first = await readRunRecord(folder);
  expect(first).toMatchObject({
    version: 1,
    package: packageVersion,
    config: { seed: 4, balance: { threshold: 0.9 } },
    seed: 4,
    environment: { node: process.version, arch: process.arch },
  });

  const again = await openRun(folder);
  await again.remember({ device: 'cuda', threads: 2, cluster: { clusters: 3 } }, 5);
  await again.dispose();
  const second = await readRunRecord(folder);
  expect(second).toMatchObject({ seed: 5, started: first!.started });
  // What another machine has not is not asked of it.
  expect(second!.config).toEqual({ cluster: { clusters: 3 } });
});

test('clears what a killed process left half-written', async () => {
  await (await openRun(folder)).dispose();
  writeFileSync(join(folder, '.run.json.12-0badcafe.tmp'), '{');
  await (await openRun(folder)).dispose();
  expect(readdirSync(folder)).toEqual([]);
});

test('a record that is none of ours is not overwritten', async () => {
  const run = await openRun(folder);
  writeFileSync(join(folder, 'run.json'), '[1]');
  await expect(run.remember({}, 0)).rejects.toMatchObject({ code: 'FILE_FORMAT' });
  await run.dispose();
  expect(readFileSync(join(folder, 'run.json'), 'utf8')).toBe('[1]');
  expect(existsSync(join(folder, 'lock'))).toBe(false);
});
