import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { encodeModel } from '../../src/onnx/model.ts';
import { type Attend, plain, SIZE, tinyVit } from '../eval/attention/graphs.ts';
import { clipCid, objects } from './cli.ts';

let root: string;
const at = (name: string) => join(root, name);

/** Scores three times as large. */
const sharper: Attend = (b, q, k, v) => plain(b, b.op('Mul', [q, b.scalar(3)]), k, v);

function putModel(name: string, attend: Attend): void {
  mkdirSync(at(`${name}/onnx`), { recursive: true });
  writeFileSync(at(`${name}/onnx/vision_model.onnx`), encodeModel(tinyVit(attend)));
  const size = { size: { shortest_edge: SIZE }, crop_size: { height: SIZE, width: SIZE } };
  writeFileSync(at(`${name}/preprocessor_config.json`), JSON.stringify(size));
}

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'clip-cid-analyze-'));
  mkdirSync(at('images'));
  for (let i = 0; i < 6; i++) {
    const data = Uint8Array.from({ length: 12 * 10 * 3 }, (_, k) => (k * (i + 3) * 37) % 256);
    await sharp(data, { raw: { width: 12, height: 10, channels: 3 } })
      .png()
      .toFile(at(`images/${i}.png`));
  }
  putModel('plain', plain);
  putModel('sharper', sharper);
  putModel('fused', (b, q, k, v) => b.op('MultiHeadAttention', [q, k, v], {}, { domain: 'com.microsoft' }));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const analyze = (...args: string[]) =>
  clipCid(['aesthetics', 'analyze', '--data', at('images'), '--threads', '1', ...args]);

test('prints a table, and with --json an object a model', async () => {
  const { code, stdout, stderr } = await analyze('--model', at('plain'));
  expect(stderr).toMatch(/analyze model +100% +6\/6 images/);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^model: .*plain\/onnx\/vision_model\.onnx$/m);
  expect(stdout).toMatch(/^ {2}1 +2 +4 × 4 +\d+\.\d ± \d+\.\d/m);
  expect(stdout).toMatch(/embeddings \(image_embeds, 4\): effective rank/);

  const both = await analyze('--model', at('sharper'), '--before', at('plain'), '--json', '--quiet');
  expect(both.stderr).toBe('');
  const [before, after] = objects(both);
  expect([before!.name, after!.name]).toEqual(['before', 'after']);
  const entropy = (record: Record<string, unknown>) =>
    (record.attention as { entropy: number[] }[])[0]!.entropy[0]!;
  expect(entropy(after!)).toBeLessThan(entropy(before!));
});

test('writes results and plots into a folder, once', async () => {
  const args = ['--model', at('sharper'), '--before', at('plain'), '--out', at('out'), '--images', '4'];
  const first = await analyze(...args);
  expect(first.code).toBe(0);
  expect(first.stdout).toMatch(/before → after\n {2}attention distance, px +\d/);
  expect(first.stderr).toContain(`Plots are in ${at('out/report.html')}`);
  expect(readFileSync(at('out/report.html'), 'utf8')).toContain('Attention distance');
  const manifest = JSON.parse(readFileSync(at('out/manifest.json'), 'utf8'));
  expect(manifest).toMatchObject({ stage: 'analyze', status: 'done', options: { images: 4 } });
  expect(Object.keys(manifest.inputs)).toEqual(['data', 'before', 'after']);

  const again = await analyze(...args);
  expect(again.stderr).toContain('analyze: was done already');
  expect(again.stdout).toBe(first.stdout);
  const other = await analyze(...args.slice(0, -1), '5');
  expect(other.code).toBe(1);
  expect(other.stderr).toMatch(/images was 4 and is 5.*--force/s);
  expect((await analyze(...args.slice(0, -1), '5', '--force')).code).toBe(0);
});

test('goes on with the model that was not done', async () => {
  const args = ['--model', at('sharper'), '--before', at('plain'), '--out', at('resumed')];
  expect((await analyze(...args)).code).toBe(0);
  const before = readFileSync(at('resumed/before.json'), 'utf8');
  rmSync(at('resumed/after.json'));
  rmSync(at('resumed/report.html'));
  expect((await analyze(...args)).code).toBe(0);
  expect(readFileSync(at('resumed/before.json'), 'utf8')).toBe(before);
  expect(existsSync(at('resumed/after.json'))).toBe(true);
  expect(existsSync(at('resumed/report.html'))).toBe(true);
});

test('says what is wrong', async () => {
  const fails = async (args: string[], code: number, message: RegExp) => {
    const ended = await analyze(...args);
    expect(ended.stderr).toMatch(message);
    expect(ended.code).toBe(code);
    expect(ended.stdout).toBe('');
  };
  await fails([], 2, /Expected a model folder or an ONNX file for --model/);
  await fails(['--run', 'a', '--out', 'b'], 2, /Expected --out or --run but received both/);
  await fails(['--run', 'a', '--model', at('plain')], 2, /Expected --model or --run but received both/);
  await fails(['--run', at('run')], 1, /has no aligned encoder: run clip-cid aesthetics align first/);
  await fails(['--model', at('plain'), '--grid', '4'], 2, /Expected rows and columns, such as '14x14'/);
  await fails(['--model', at('plain'), '--images', '1'], 2, /at least 2 for images but received 1/);
  await fails(
    ['--model', at('plain'), '--grid', '5x5'],
    1,
    /it has 16 tokens, where 5 × 5 patches were expected/,
  );
  await fails(
    ['--model', at('fused'), '--out', at('never')],
    1,
    /fused into 1 com\.microsoft\.MultiHeadAttention.*eager/,
  );
  await fails(['--model', at('nowhere')], 1, /There is no model/);
});

test('has help with examples', async () => {
  const { code, stdout } = await clipCid(['aesthetics', 'analyze', '--help']);
  expect(code).toBe(0);
  expect(stdout).toContain('$ clip-cid aesthetics analyze --model');
  expect((await clipCid(['aesthetics', '--help'])).stdout).toMatch(/^ {2}analyze /m);
});
