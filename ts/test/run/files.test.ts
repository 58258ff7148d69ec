import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { packageRoot } from '../../src/native/loader.ts';
import { AtomicFile, readJson, removeTemporaries, writeFileAtomic, writeJson } from '../../src/run/files.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-files-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('writeFileAtomic', () => {
  test('writes text, bytes, typed arrays and sequences, and makes folders', async () => {
    const path = join(folder, 'a', 'b', 'file.bin');
    await writeFileAtomic(path, 'héllo');
    expect(readFileSync(path, 'utf8')).toBe('héllo');
    const wide = new Float32Array([0, 1.5, -2, 7]).subarray(1, 3);
    await writeFileAtomic(path, wide);
    expect(new Float32Array(readFileSync(path).buffer.slice(0, 8))).toHaveLength(2);
    expect(readFileSync(path)).toEqual(Buffer.from(wide.buffer, wide.byteOffset, wide.byteLength));
    async function* chunks() {
      yield 'one ';
      yield new Uint8Array([116, 119, 111]);
    }
    await writeFileAtomic(path, chunks());
    expect(readFileSync(path, 'utf8')).toBe('one two');
    expect(readdirSync(join(folder, 'a', 'b'))).toEqual(['file.bin']);
  });

  test('a source that fails leaves the old file and nothing else', async () => {
    const path = join(folder, 'file.txt');
    await writeFileAtomic(path, 'old');
    function* chunks() {
      yield 'new';
      throw new Error('source failed');
    }
    await expect(writeFileAtomic(path, chunks())).rejects.toThrow('source failed');
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(folder)).toEqual(['file.txt']);
  });

  test('a folder in the way is FILE_WRITE with path and reason', async () => {
    const path = join(folder, 'taken');
    mkdirSync(path);
    await expect(writeFileAtomic(path, 'x')).rejects.toMatchObject({
      code: 'FILE_WRITE',
      message: expect.stringContaining(path),
    });
    expect(readdirSync(folder)).toEqual(['taken']);
  });

  test('a full disk (a limit on file sizes) leaves nothing half-written', () => {
    const path = join(folder, 'large.bin');
    writeFileSync(path, 'old');
    const module = join(packageRoot, 'dist', 'run', 'files.js');
    const script = `
      import { writeFileAtomic } from ${JSON.stringify(module)};
      try { await writeFileAtomic(${JSON.stringify(path)}, Buffer.alloc(4 << 20)); console.log('written'); }
      catch (error) { console.log(JSON.stringify([error.code, error.message])); }`;
    const run = spawnSync(
      'bash',
      ['-c', 'ulimit -f 1024; exec "$0" --input-type=module -e "$1"', process.execPath, script],
      {
        encoding: 'utf8',
      },
    );
    const [code, message] = JSON.parse(run.stdout) as [string, string];
    expect(code).toBe('FILE_WRITE');
    expect(message).toContain(path);
    expect(message).toContain('EFBIG');
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(folder)).toEqual(['large.bin']);
  });
});

test('AtomicFile: commit shows it, abort leaves nothing, both may be called again', async () => {
  const path = join(folder, 'stream.txt');
  const file = await AtomicFile.create(path);
  await file.write('a');
  expect(existsSync(path)).toBe(false);
  await file.write('b');
  await file.commit();
  await file.abort();
  expect(readFileSync(path, 'utf8')).toBe('ab');
  await expect(file.write('c')).rejects.toMatchObject({ code: 'DISPOSED' });
  const other = await AtomicFile.create(path);
  await other.write('zzz');
  await other.abort();
  await other.abort();
  expect(readFileSync(path, 'utf8')).toBe('ab');
  expect(readdirSync(folder)).toEqual(['stream.txt']);
});

test('removeTemporaries takes away what a killed process left, and nothing else', async () => {
  writeFileSync(join(folder, '.a.bin.123-0badcafe.tmp'), 'x');
  writeFileSync(join(folder, '.hidden.tmp'), 'x');
  writeFileSync(join(folder, 'a.bin'), 'x');
  await removeTemporaries(folder);
  expect(readdirSync(folder).sort()).toEqual(['.hidden.tmp', 'a.bin']);
  await removeTemporaries(join(folder, 'missing'));
});

test('JSON: round trip; missing and damaged files have their codes', async () => {
  const path = join(folder, 'value.json');
  await writeJson(path, { b: [1, 2], a: null });
  expect(await readJson(path)).toEqual({ b: [1, 2], a: null });
  await expect(readJson(join(folder, 'none.json'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  writeFileSync(path, '{"a": ');
  await expect(readJson(path)).rejects.toMatchObject({
    code: 'FILE_FORMAT',
    message: expect.stringContaining(path),
  });
  await expect(readJson(folder)).rejects.toMatchObject({ code: 'FILE_FORMAT' });
});
