import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { lockFolder } from '../../src/run/lock.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-lock-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const holder = (fields: object) =>
  writeFileSync(
    join(folder, 'lock'),
    JSON.stringify({ pid: process.pid, host: hostname(), started: '2026-01-02T03:04:05Z', ...fields }),
  );

test('a lock is there while it is held, and only one can be', async () => {
  const lock = await lockFolder(folder);
  expect(JSON.parse(readFileSync(join(folder, 'lock'), 'utf8'))).toMatchObject({
    pid: process.pid,
    host: hostname(),
  });
  await expect(lockFolder(folder)).rejects.toMatchObject({
    code: 'RUN_LOCKED',
    message: expect.stringContaining(String(process.pid)),
  });
  await lock.release();
  await lock.release();
  expect(readdirSync(folder)).toEqual([]);
  await (await lockFolder(folder)).release();
});

test('a living process keeps its lock, and the error names it', async () => {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
  try {
    holder({ pid: child.pid });
    await expect(lockFolder(folder)).rejects.toMatchObject({
      code: 'RUN_LOCKED',
      message: expect.stringMatching(new RegExp(`process ${child.pid} since 2026-01-02T03:04:05Z`)),
    });
    child.kill('SIGKILL');
    await once(child, 'exit');
    const lock = await lockFolder(folder);
    await lock.release();
  } finally {
    child.kill('SIGKILL');
  }
});

test.runIf(existsSync('/proc/self/stat'))(
  'a process of the same id that started at another time is another one',
  async () => {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
    try {
      holder({ pid: child.pid, ticks: '1' });
      await (await lockFolder(folder)).release();
    } finally {
      child.kill('SIGKILL');
    }
  },
);

test("this process's own id from before a restart, and a damaged lock, are taken over", async () => {
  holder({});
  await (await lockFolder(folder)).release();
  writeFileSync(join(folder, 'lock'), '{"pid": 1');
  await (await lockFolder(folder)).release();
  expect(readdirSync(folder)).toEqual([]);
});

test('another host cannot be checked: the error says which file to delete', async () => {
  holder({ pid: 2 ** 22 + 5, host: 'elsewhere' });
  await expect(lockFolder(folder)).rejects.toMatchObject({
    code: 'RUN_LOCKED',
    message: expect.stringMatching(/on elsewhere.*delete .*lock/),
  });
});

test("of many who find a dead process's lock, one gets it", async () => {
  const gone = spawnSync(process.execPath, ['-e', '0']).pid;
  holder({ pid: gone });
  const results = await Promise.allSettled(Array.from({ length: 16 }, () => lockFolder(folder)));
  expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
  expect(readdirSync(folder)).toEqual(['lock']);
});
