import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, it, vi } from 'vitest';
import { packageRoot } from '../../src/native/loader.ts';
import { tinyStudent, writeShapes } from '../cid/shapes.ts';

vi.setConfig({ testTimeout: 120_000 });

it('a script of the example that is killed leaves no command behind that goes on and holds the lock', async () => {
  const root = mkdtempSync(join(tmpdir(), 'example-'));
  try {
    const config = join(root, 'config.json');
    const data = await writeShapes(join(root, 'data'));
    const pretrain = { student: tinyStudent, vocabSize: 560, steps: 100_000 };
    writeFileSync(config, JSON.stringify({ data, threads: 1, pretrain }));
    const out = join(root, 'out');
    const common = pathToFileURL(join(packageRoot, 'examples/emoji/common.mjs')).href;
    const script = `const { clipCid } = await import(${JSON.stringify(common)});
      await clipCid('pretrain', '--config', ${JSON.stringify(config)}, '--out', ${JSON.stringify(out)});`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'ignore' });
    const closed = once(child, 'close');
    const lock = join(out, 'lock');
    await vi.waitUntil(() => existsSync(lock) || child.exitCode !== null, { timeout: 100_000 });
    const { pid } = JSON.parse(readFileSync(lock, 'utf8')) as { pid: number };
    child.kill('SIGKILL');
    await closed;
    if (pid !== child.pid) process.kill(pid, 'SIGKILL');
    expect(pid).toBe(child.pid);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});
