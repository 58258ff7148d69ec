import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { abortError } from '../../src/native/errors.ts';
import { writeFileAtomic } from '../../src/run/files.ts';
import { hashFile } from '../../src/run/hash.ts';
import { outputHash, readStage, requireStage, runStage, type StageOptions } from '../../src/run/stage.ts';

let folder: string;
let works: boolean[];
beforeEach(() => {
  folder = join(mkdtempSync(join(tmpdir(), 'clip-cid-stage-')), 'stage');
  works = [];
});
afterEach(() => rmSync(join(folder, '..'), { recursive: true, force: true }));

const stage = (changes: Partial<StageOptions> = {}) =>
  runStage({
    name: 'test',
    folder,
    inputs: { data: 'aa' },
    options: { threshold: 0.9, nested: { b: 1, a: [1, 2] } },
    owns: ['out.txt', 'many'],
    work: async ({ resumed }) => {
      works.push(resumed);
      await writeFileAtomic(join(folder, 'out.txt'), 'result');
      await writeFileAtomic(join(folder, 'many', 'one.txt'), '1');
      await writeFileAtomic(join(folder, 'many', 'two.txt'), '2');
      return { outputs: ['out.txt', 'many'], summary: { rows: 3 } };
    },
    ...changes,
  });

test('a finished stage is skipped; the order of option fields does not matter', async () => {
  const first = await stage();
  expect(first.skipped).toBe(false);
  expect(first.manifest.outputs.map((output) => output.path)).toEqual([
    'out.txt',
    'many/one.txt',
    'many/two.txt',
  ]);
  expect(outputHash(first.manifest, 'out.txt')).toBe(await hashFile(join(folder, 'out.txt')));
  expect(() => outputHash(first.manifest, 'none.txt')).toThrow('names no none.txt');
  const second = await stage({ options: { nested: { a: [1, 2], b: 1 }, threshold: 0.9 } });
  expect(second.skipped).toBe(true);
  expect(second.manifest).toEqual(first.manifest);
  expect(works).toEqual([false]);
});

test('what is wrong with the options is said before anything is refused or touched, and not at all where nothing is to be done', async () => {
  await stage();
  const check = async () => {
    throw new RangeError('too large');
  };
  await stage({ check });
  const before = readdirSync(folder);
  for (const existing of ['resume', 'replace-changed', 'replace'] as const) {
    const other = { check, existing, options: { threshold: 2 } };
    await expect(stage(other)).rejects.toThrow('too large');
    expect(readdirSync(folder)).toEqual(before);
  }
  expect((await readStage(folder))?.status).toBe('done');
  expect(works).toEqual([false]);
});

test('other options or inputs are refused with what differs, and nothing is touched', async () => {
  await stage();
  const before = readFileSync(join(folder, 'manifest.json'), 'utf8');
  await expect(
    stage({ options: { threshold: 0.8, nested: { b: 1, a: [1, 2] }, extra: true }, inputs: { data: 'bb' } }),
  ).rejects.toMatchObject({
    code: 'RUN_CHANGED',
    message: expect.stringMatching(
      /input data.*threshold was 0\.9 and is 0\.8.*extra was not set and is true.*--force/,
    ),
  });
  expect(readFileSync(join(folder, 'manifest.json'), 'utf8')).toBe(before);
  expect(works).toEqual([false]);
});

test('a stage that failed before it wrote anything defends nothing', async () => {
  const failing = stage({
    options: { threshold: 0.8 },
    work: async () => {
      throw new RangeError('too many');
    },
  });
  await expect(failing).rejects.toThrow('too many');
  await expect(requireStage(folder, 'test')).rejects.toThrow('unfinished');
  expect((await stage()).skipped).toBe(false);
  expect(works).toEqual([false]);
});

test('what is replaced comes back when the new work ends before it wrote anything', async () => {
  await stage();
  const before = readFileSync(join(folder, 'manifest.json'), 'utf8');
  const work = async () => {
    throw new RangeError('too many');
  };
  for (const existing of ['replace', 'replace-changed'] as const) {
    await expect(stage({ existing, options: { threshold: 0.1 }, work })).rejects.toThrow('too many');
    expect(readFileSync(join(folder, 'manifest.json'), 'utf8')).toBe(before);
    expect(readFileSync(join(folder, 'out.txt'), 'utf8')).toBe('result');
    expect(readdirSync(folder).sort()).toEqual(['manifest.json', 'many', 'out.txt']);
  }
  expect((await stage()).skipped).toBe(true);
});

test('what is replaced waits until the new result is there, through stops and further attempts', async () => {
  await stage();
  const options = { threshold: 0.1 };
  const stopped = async () => {
    await writeFileAtomic(join(folder, 'out.txt'), 'half');
    throw abortError();
  };
  await expect(stage({ existing: 'replace', options, work: stopped })).rejects.toThrow();
  await expect(stage({ options, work: stopped })).rejects.toThrow();
  await expect(stage({ existing: 'replace', work: stopped })).rejects.toThrow();
  expect(readFileSync(join(folder, '.clip-cid-earlier', 'out.txt'), 'utf8')).toBe('result');
  expect(readFileSync(join(folder, 'out.txt'), 'utf8')).toBe('half');
  expect((await stage()).skipped).toBe(false);
  expect(readdirSync(folder).sort()).toEqual(['manifest.json', 'many', 'out.txt']);
});

test('a process that ends while a result is moved aside, or back, leaves it whole', async () => {
  await stage();
  const move = (name: string) => renameSync(join(folder, name), join(folder, '.clip-cid-earlier', name));
  mkdirSync(join(folder, '.clip-cid-earlier'));
  for (const names of [
    ['manifest.json'],
    ['manifest.json', 'out.txt'],
    ['manifest.json', 'out.txt', 'many'],
  ]) {
    mkdirSync(join(folder, '.clip-cid-earlier'), { recursive: true });
    names.forEach(move);
    expect((await stage()).skipped).toBe(true);
    expect(readdirSync(folder).sort()).toEqual(['manifest.json', 'many', 'out.txt']);
  }
});

test("what was left of a replacement does not take the place of the next one, nor is a folder of that kind anybody else's", async () => {
  await stage();
  mkdirSync(join(folder, '.clip-cid-earlier'));
  mkdirSync(join(folder, 'earlier'));
  writeFileSync(join(folder, '.clip-cid-earlier', 'out.txt'), 'older');
  writeFileSync(join(folder, 'earlier', 'out.txt'), 'mine');
  const work = async () => {
    throw new RangeError('too many');
  };
  await expect(stage({ existing: 'replace', work })).rejects.toThrow('too many');
  expect(readFileSync(join(folder, 'out.txt'), 'utf8')).toBe('result');
  expect((await stage()).skipped).toBe(true);
  await stage({ existing: 'replace' });
  expect(readFileSync(join(folder, 'earlier', 'out.txt'), 'utf8')).toBe('mine');
});

test('replace-changed makes anew only what changed, replace everything', async () => {
  await stage();
  expect((await stage({ existing: 'replace-changed' })).skipped).toBe(true);
  writeFileSync(join(folder, 'many', 'left-over.txt'), 'x');
  const changed = await stage({ existing: 'replace-changed', inputs: { data: 'bb' } });
  expect(changed.manifest.outputs.map((output) => output.path)).not.toContain('many/left-over.txt');
  expect((await stage({ existing: 'replace', inputs: { data: 'bb' } })).skipped).toBe(false);
  expect(works).toEqual([false, false, false]);
});

test('a stage that was stopped resumes, and is never taken for done', async () => {
  await expect(
    stage({
      work: async () => {
        await writeFileAtomic(join(folder, 'many', 'part.txt'), 'kept');
        throw abortError();
      },
    }),
  ).rejects.toMatchObject({ code: 'ABORTED' });
  expect((await readStage(folder))?.status).toBe('running');
  await expect(requireStage(folder, 'test')).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    message: expect.stringContaining('unfinished'),
  });
  await expect(stage({ options: { threshold: 0.1 } })).rejects.toMatchObject({ code: 'RUN_CHANGED' });
  const result = await stage();
  expect(works).toEqual([true]);
  expect(readFileSync(join(folder, 'many', 'part.txt'), 'utf8')).toBe('kept');
  expect(result.manifest.status).toBe('done');
  await requireStage(folder, 'test');
  await expect(requireStage(folder, 'other')).rejects.toMatchObject({ code: 'FILE_FORMAT' });
});

test('missing outputs are made again; edited ones are refused; a new date alone changes nothing', async () => {
  await stage();
  utimesSync(join(folder, 'out.txt'), 1, 1);
  expect((await stage()).skipped).toBe(true);
  rmSync(join(folder, 'many', 'two.txt'));
  const log: string[] = [];
  expect((await stage({ log: (line) => log.push(line) })).skipped).toBe(false);
  expect(works).toEqual([false, true]);
  expect(log.join()).toContain('many/two.txt is missing');
  writeFileSync(join(folder, 'out.txt'), 'tluser');
  await expect(stage()).rejects.toMatchObject({
    code: 'RUN_CHANGED',
    message: expect.stringContaining('out.txt was changed'),
  });
  expect((await stage({ existing: 'replace-changed' })).skipped).toBe(false);
  expect(readFileSync(join(folder, 'out.txt'), 'utf8')).toBe('result');
});

test('files of somebody else are not overwritten, and other files in the folder do not matter', async () => {
  await stage();
  rmSync(join(folder, 'manifest.json'));
  await expect(stage()).rejects.toMatchObject({
    code: 'RUN_CHANGED',
    message: expect.stringContaining('out.txt'),
  });
  rmSync(join(folder, 'out.txt'));
  rmSync(join(folder, 'many'), { recursive: true });
  writeFileSync(join(folder, 'notes.md'), 'mine');
  await stage();
  await stage({ existing: 'replace' });
  expect(readFileSync(join(folder, 'notes.md'), 'utf8')).toBe('mine');
});

test('a record that is none of ours is FILE_FORMAT', async () => {
  await stage();
  writeFileSync(join(folder, 'manifest.json'), '[]');
  await expect(stage()).rejects.toMatchObject({ code: 'FILE_FORMAT' });
  await expect(requireStage(join(folder, 'none'), 'test')).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
});
