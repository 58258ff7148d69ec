import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { encodeModel, writeModel } from '../../src/onnx/model.ts';
import { openSession } from '../../src/onnx/session.ts';
import { GraphBuilder } from '../../src/program/builder.ts';
import { exportModel } from '../../src/program/export.ts';

let folder: string;
let path: string;

/** y = x · w + 1 and the indices' doubles. */
function affine() {
  const b = new GraphBuilder('affine');
  const x = b.input('x', 'float32', ['batch', 3]);
  const ids = b.input('ids', 'int64', ['batch']);
  b.output('y', b.op('Add', [b.op('MatMul', [x, b.parameter('w', [3, 2])]), b.scalar(1)]), ['batch', 2]);
  b.output('twice', b.op('Add', [ids, ids]), ['batch'], 'int64');
  return exportModel(b.build(), new Map([['w', Float32Array.of(1, 2, 3, 4, 5, 6)]]));
}

const feeds = (batch: number) => ({
  x: { type: 'float32', dims: [batch, 3], data: new Float32Array(batch * 3).fill(1) } as const,
  ids: { type: 'int64', dims: [batch], data: new BigInt64Array(batch).fill(4n) } as const,
});

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'session-'));
  path = join(folder, 'model.onnx');
  await writeModel(path, affine());
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('opens from a file and from bytes, tells its values, and runs', async () => {
  for (const model of [path, encodeModel(affine())]) {
    const session = await openSession(model, { threads: 1 });
    expect(session.inputs).toEqual([
      { name: 'x', type: 'float32', dims: ['batch', 3] },
      { name: 'ids', type: 'int64', dims: ['batch'] },
    ]);
    expect(session.outputs.map(({ name }) => name)).toEqual(['y', 'twice']);
    const { y, twice } = await session.run(feeds(2));
    expect(y).toEqual({ type: 'float32', dims: [2, 2], data: Float32Array.of(10, 13, 10, 13) });
    expect(twice!.data).toEqual(BigInt64Array.of(8n, 8n));
    await session.dispose();
  }
});

test('computes the outputs that are asked for', async () => {
  const session = await openSession(path, { threads: 1 });
  expect(Object.keys(await session.run(feeds(2), { outputs: ['twice'] }))).toEqual(['twice']);
  expect(Object.keys(await session.run(feeds(2)))).toEqual(['y', 'twice']);
  await session.dispose();
});

test('finds the weights beside a model that comes as bytes', async () => {
  const b = new GraphBuilder('wide');
  const x = b.input('x', 'float32', ['batch', 3]);
  b.output('y', b.op('MatMul', [x, b.parameter('w', [3, 400])]), ['batch', 400]);
  const outside = join(folder, 'outside.onnx');
  const weights = new Float32Array(1200).fill(2);
  await writeModel(outside, exportModel(b.build(), new Map([['w', weights]])), { externalData: true });
  const bytes = readFileSync(outside);
  const session = await openSession(bytes, { threads: 1, dataFolder: folder });
  const { y } = await session.run({ x: feeds(1).x });
  expect(y!.data).toEqual(new Float32Array(400).fill(6));
  await session.dispose();
  await expect(openSession(bytes, { threads: 1 })).rejects.toMatchObject({ code: 'MODEL_INVALID' });
});

test('answers come in order; inputs are the caller’s again, unless given up', async () => {
  const session = await openSession(path, { threads: 1 });
  const results = await Promise.all([1, 2, 3, 4, 5, 6].map((batch) => session.run(feeds(batch))));
  expect(results.map(({ y }) => y!.dims[0])).toEqual([1, 2, 3, 4, 5, 6]);
  const kept = feeds(2);
  await session.run(kept);
  expect(kept.x.data.length).toBe(6);
  const given = feeds(2);
  expect((await session.run(given, { transfer: true })).y!.data[0]).toBe(10);
  expect(given.x.data.length).toBe(0);
  await session.dispose();
});

test('the event loop goes on while a model runs', async () => {
  const b = new GraphBuilder('slow');
  let x = b.input('x', 'float32', [600, 600]);
  for (let i = 0; i < 40; i++) x = b.op('MatMul', [x, x]);
  b.output('y', x, [600, 600]);
  const session = await openSession(encodeModel(exportModel(b.build(), new Map())), { threads: 1 });
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  await session.run({ x: { type: 'float32', dims: [600, 600], data: new Float32Array(360000) } });
  clearInterval(timer);
  expect(turns).toBeGreaterThan(3);
  await session.dispose();
});

test('what cannot be opened or run is an error with a code', async () => {
  await expect(openSession(join(folder, 'none.onnx'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  const broken = join(folder, 'broken.onnx');
  writeFileSync(broken, 'not a model');
  await expect(openSession(broken)).rejects.toMatchObject({
    code: 'MODEL_INVALID',
    message: expect.stringContaining('broken.onnx'),
  });
  await expect(openSession(path, { providers: ['tpu'] })).rejects.toMatchObject({
    code: 'PROVIDER_UNAVAILABLE',
    message: expect.stringMatching(/'tpu'.*cpu/),
  });
  const session = await openSession(path, { threads: 1 });
  await expect(session.run({ x: feeds(2).x })).rejects.toMatchObject({
    message: expect.stringContaining('ids'),
  });
  // It still works.
  expect((await session.run(feeds(1))).y!.dims).toEqual([1, 2]);
  const last = session.run(feeds(1));
  await Promise.all([session.dispose(), session.dispose()]);
  expect((await last).y!.dims).toEqual([1, 2]);
  await expect(session.run(feeds(1))).rejects.toMatchObject({ code: 'DISPOSED' });
});

test('a process with an open session ends by itself', () => {
  const module = new URL('../../../dist/onnx/session.js', import.meta.url).href;
  const script = `const { openSession } = await import(${JSON.stringify(module)});
    const session = await openSession(${JSON.stringify(path)}, { threads: 2 });
    console.log(session.inputs.length);`;
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 30_000 });
  expect(output.toString().trim()).toBe('2');
});
