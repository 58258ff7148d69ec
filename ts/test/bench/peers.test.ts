import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { packageRoot } from '../../src/native/loader.ts';

const script = join(packageRoot, 'bench', 'peers', 'run.mjs');
const run = (...args: string[]) => spawnSync(process.execPath, [script, ...args], { encoding: 'utf8' });

test.each<[string[], RegExp]>([
  [[], /Expected one of dedup, kmeans, nearest, loss, train, all but received nothing/],
  [['fly'], /but received fly/],
  [['dedup', 'loss'], /but received dedup loss/],
  [['dedup', '--rounds', 'many'], /for --rounds but received many/],
  [['dedup', '--threads', '0'], /for --threads but received 0/],
  [['dedup', '--work', 'kmeans-100k'], /Expected a work of dedup for --work but received kmeans-100k/],
  [['loss', '--spectrum', 'flat'], /Expected data of this work for --spectrum but received flat/],
  [['train', '--work', 'loss-1024x20k'], /Expected a work of train for --work but received loss-1024x20k/],
  [['all', '--json', '--markdown'], /--json or --markdown but received both/],
  [['all', '--fast'], /'--fast'/],
])('misuse %j ends with 2', (args, message) => {
  const { status, stdout, stderr } = run(...args);
  expect(stderr).toMatch(message);
  expect(status).toBe(2);
  expect(stdout).toBe('');
});

test('help has examples and names what to install', () => {
  const { status, stdout } = run('--help');
  expect(status).toBe(0);
  expect(stdout).toContain('node bench/peers/run.mjs dedup --work dedup-20k');
  expect(stdout).toContain(
    'apt-get install python3-torch python3-torchvision libopenblas0-openmp python3-faiss python3-sklearn',
  );
});

test.each([
  ['kmeans', 'apt-get install python3-sklearn python3-faiss'],
  ['train', 'apt-get install python3-torch python3-torchvision'],
])('without Python the packages to install for %s are named, and nothing is made', (op, message) => {
  const cache = mkdtempSync(join(tmpdir(), 'clip-cid-peers-test-'));
  try {
    const { status, stderr } = run(op, '--python', join(cache, 'none'), '--cache', cache);
    expect(stderr).toContain(message);
    expect(status).toBe(1);
    expect(readdirSync(cache)).toEqual([]);
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
});
