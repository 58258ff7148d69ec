import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { packageVersion } from '../../src/native/loader.ts';
import { studentNames } from '../../src/student/config.ts';
import { studentParameters } from '../../src/student/towers.ts';
import { clipCid, objects } from './cli.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-cli-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const commands = [
  'run',
  'embed',
  'balance',
  'cluster',
  'distill',
  'pretrain',
  'eval',
  'report',
  'explain',
  'doctor',
  'bench',
];

describe('help', () => {
  test('of the program names every command and the exit codes', async () => {
    const { code, stdout } = await clipCid(['--help']);
    expect(code).toBe(0);
    for (const name of commands) expect(stdout).toMatch(new RegExp(`^  ${name} `, 'm'));
    expect(stdout).toContain('130 interrupted');
  });

  test('of every command has examples', async () => {
    const texts = await Promise.all(commands.map((name) => clipCid([name, '--help'])));
    for (const [index, { code, stdout }] of texts.entries()) {
      expect(code).toBe(0);
      expect(stdout).toContain(`$ clip-cid ${commands[index]}`);
    }
  });

  test('of the trainings lists the students that have a name, with their sizes', async () => {
    for (const name of ['distill', 'pretrain']) {
      const { stdout } = await clipCid([name, '--help']);
      for (const student of studentNames) {
        const { image, text } = studentParameters(student);
        const sizes = [image, text].map((count) => (count / 1e6).toFixed(2)).join(' +');
        expect(stdout).toMatch(new RegExp(`^  ${student} +${sizes} +\\d+ +\\d+ px$`, 'm'));
      }
    }
  });

  test('the version is the package’s', async () => {
    expect((await clipCid(['--version'])).stdout).toBe(`${packageVersion}\n`);
  });
});

describe('misuse ends with 2 and says what is wrong', () => {
  test.each<[string[], RegExp]>([
    [['balance', '--treshold', '0.9'], /unknown option '--treshold'.*\n?.*--threshold/],
    [['fly'], /unknown command 'fly'/],
    [['balance', '--threshold', 'high', '--out', 'x'], /Expected a number/],
    [['balance', '--threshold', '0.9', '--keep-ratio', '0.5', '--out', 'x'], /cannot be used with/],
    [['balance', '--embeddings', 'e'], /Expected either --run DIR or --out DIR but received neither/],
    [['balance', '--embeddings', 'e', '--run', 'a', '--out', 'b'], /but received both/],
    [
      ['balance', '--embeddings', 'e', '--out', 'x', '--threshold', '2'],
      /Expected a number of at most 1 for balance\.threshold but received 2/,
    ],
    [
      ['balance', '--out', 'x', '--threshold', '0.9'],
      /Expected an embedding store for --embeddings but received nothing/,
    ],
    [['cluster', '--embeddings', 'e', '--out', 'x'], /cluster\.clusters \(--clusters\)/],
    [['embed', '--data', 'd', '--out', 'x'], /teacher \(--model\)/],
    [['embed', '--out', 'x', '--device', 'gpu'], /device but received "gpu"/],
    [['cluster', '--simd', 'avx3', '--out', 'x'], /--simd.*avx3.*Allowed choices are plain, avx2/],
    [['distill', '--out', 'x', '--student', 'huge'], /distill\.student but received "huge"/],
    [['pretrain', '--out', 'x'], /data \(--data\)/],
    [['eval', '--data', 'd'], /--model/],
    [['run'], /configuration file/],
    [['report'], /--run DIR/],
  ])('%j', async (args, message) => {
    const { code, stdout, stderr } = await clipCid(args, { cwd: folder });
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
    expect(stdout).toBe('');
  });
});

describe('configuration', () => {
  test('an unknown field and a wrong type name field and file', async () => {
    const file = join(folder, 'c.json');
    writeFileSync(file, JSON.stringify({ balance: { treshold: 0.9 }, seed: 'one' }));
    for (const args of [
      ['run', file],
      ['balance', '--config', file, '--out', 'x', '--embeddings', 'e'],
    ]) {
      const { code, stderr } = await clipCid(args, { cwd: folder });
      expect(code).toBe(2);
      expect(stderr).toContain(file);
      expect(stderr).toContain('unknown field balance.treshold (did you mean threshold?)');
      expect(stderr).toContain('seed but received "one"');
    }
  });

  test('a missing file is an error of its own', async () => {
    const { code, stderr } = await clipCid(['run', 'none.json'], { cwd: folder });
    expect(code).toBe(1);
    expect(stderr).toContain('No such file: none.json');
  });

  test('what run needs is checked before anything is done', async () => {
    writeFileSync(join(folder, 'c.json'), JSON.stringify({ data: 'd', teacher: 't' }));
    const { code, stderr } = await clipCid(['run', 'c.json'], { cwd: folder });
    expect(code).toBe(2);
    expect(stderr).toContain('Expected a number of centres for cluster.clusters but received nothing');
  });
});

describe('what is not there ends with 1', () => {
  test.each<[string[], RegExp]>([
    [['balance', '--embeddings', 'none', '--threshold', '0.9', '--out', 'x'], /none/],
    [['embed', '--data', 'none', '--model', 'model', '--out', 'x'], /none/],
    [['report', '--run', 'none'], /none/],
    [['eval', '--model', 'none', '--data', 'images'], /none|images/],
  ])('%j', async (args, message) => {
    mkdirSync(join(folder, 'images'));
    const { code, stdout, stderr } = await clipCid(args, { cwd: folder });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: /);
    expect(stderr).toMatch(message);
    expect(stderr).not.toContain('unexpected');
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stdout).toBe('');
  });

  test('the stack is shown when asked for', async () => {
    const args = ['report', '--run', join(folder, 'none')];
    expect((await clipCid(args)).stderr).not.toContain('    at ');
    expect((await clipCid(args, { env: { CLIP_CID_DEBUG: '1' } })).stderr).toContain('    at ');
  });
});

test('doctor says what works, and for programs as JSON', async () => {
  const text = await clipCid(['doctor']);
  expect(text.code).toBe(0);
  for (const part of ['Node', 'Native core', 'cpu', 'auto', 'ONNX Runtime', 'sharp'])
    expect(text.stdout).toContain(part);
  const [found] = objects(await clipCid(['doctor', '--json']));
  expect(found).toMatchObject({
    package: { version: packageVersion },
    environment: { node: process.version },
    core: { ok: true },
    onnxRuntime: { ok: true, providers: expect.arrayContaining([{ name: 'cpu', bundled: true }]) },
    sharp: { ok: true },
  });
});

test('doctor reports a part that does not work, and ends with 1', async () => {
  const ended = await clipCid(['doctor', '--json'], { env: { CLIP_CID_ADDON: join(folder, 'none.node') } });
  expect(ended.code).toBe(1);
  expect(objects(ended)[0]).toMatchObject({ core: { ok: false }, onnxRuntime: { ok: true } });
});
