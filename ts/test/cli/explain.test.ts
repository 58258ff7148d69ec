import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { encodeModel } from '../../src/onnx/model.ts';
import { GraphBuilder } from '../../src/program/builder.ts';
import { exportModel } from '../../src/program/export.ts';
import { parametersOf, text } from '../program/support/models.ts';
import { clipCid, objects } from './cli.ts';

let folder: string;
let model: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-explain-'));
  model = join(folder, 'text.onnx');
  const graph = text({ vocabulary: 50, length: 9, width: 16, depth: 2, heads: 2, out: 8 });
  const values = new Map(parametersOf(graph).map(({ name, value }) => [name, value]));
  writeFileSync(model, encodeModel(exportModel(graph, values)));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('a table for people', async () => {
  const { code, stdout, stderr } = await clipCid(['explain', model, '--batch', '5']);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  expect(stdout).toMatch(/^input +ids: int64 \[5, 9\]$/m);
  expect(stdout).toMatch(/^output +embedding: float32 \[5, 8\]$/m);
  expect(stdout).toMatch(/^fused .*2 Attention/m);
  expect(stdout).toMatch(/^missing +nothing/m);
  expect(stdout).toMatch(/^outputs alone +runs +GFLOP +MB$/m);
  expect(stdout).toMatch(/^ {2}attentionGradient +2 /m);
  expect(stdout).toMatch(/^training, float32 +runs +GFLOP +MB$/m);
  expect(stdout).toMatch(/^training holds .* MB: parameters .*, gradients .*, moments .*, activations/m);
});

test('one object with --json', async () => {
  const [record, ...more] = objects(await clipCid(['explain', model, '--json', '--output', 'embedding']));
  expect(more).toEqual([]);
  expect(record).toMatchObject({ model, batch: 32, unsupported: [], inference: { parts: 1 } });
  expect(record!.outputs).toEqual([{ name: 'embedding', type: 'float32', dims: [32, 8] }]);
});

test('activations are those of the threads that are asked about', async () => {
  const held = async (...args: string[]) => {
    const [record] = objects(await clipCid(['explain', model, '--batch', '4096', '--json', ...args]));
    return (record as { training: { activations: number } }).training.activations;
  };
  const [one, two, eight] = [
    await held('--threads', '1'),
    await held('--threads', '2'),
    await held('--threads', '8'),
  ];
  expect(two - one).toBeGreaterThan(0);
  expect(eight - one).toBe(7 * (two - one));
  expect((await clipCid(['explain', model, '--threads', '3'])).stdout).toMatch(/ on 3 threads$/m);
  expect((await clipCid(['explain', model, '--threads', '1'])).stdout).toMatch(/ on 1 thread$/m);
});

test('what is missing, and what runs step by step, by node', async () => {
  const b = new GraphBuilder('odd');
  const x = b.input('x', 'float32', ['batch', 1, 3, 4, 4]);
  const w = b.parameter('w', [2, 1, 3, 1, 1]);
  const y = b.op('Conv', [x, w], { kernel_shape: [3, 1, 1] }, { name: 'over time' });
  b.output('y', b.op('Erf', [y], {}, { name: 'curve' }), ['batch', 2, 1, 4, 4]);
  const file = join(folder, 'odd.onnx');
  writeFileSync(file, encodeModel(exportModel(b.build(), new Map([['w', new Float32Array(6)]]))));
  const { code, stdout } = await clipCid(['explain', file]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^not fused +Erf \(node 'curve'\) is not in the form of Gelu/m);
  expect(stdout).toMatch(
    /^missing +Conv \(node 'over time'\) over more than two axes has no native operation$/m,
  );
  expect(stdout).not.toMatch(/GFLOP/);
});

test.each<[string[], RegExp, number]>([
  [['--batch', '0'], /for batch but received 0/, 2],
  [['--size', 'length'], /Expected AXIS=N for --size but received length/, 2],
  [['--max-activation-memory', '0'], /for maxActivationMemory but received 0/, 2],
  [['--max-activation-memory', '1kB'], /at least \d+ bytes for maxActivationMemory.*but received 1000/, 2],
  [['--threads', '0'], /for threads but received 0/, 2],
  [['--precision', 'fp8'], /for precision but received "fp8"/, 2],
  [['--output', 'logits'], /Expected one of embedding for outputs but received logits/, 2],
])('misuse %j', async (args, message, expected) => {
  const { code, stdout, stderr } = await clipCid(['explain', model, ...args]);
  expect(stderr).toMatch(message);
  expect(code).toBe(expected);
  expect(stdout).toBe('');
});

test('a file that is no model, or none', async () => {
  const other = join(folder, 'other.onnx');
  writeFileSync(other, 'hello');
  expect((await clipCid(['explain', other])).stderr).toMatch(/other\.onnx is not an ONNX model/);
  const { code, stderr } = await clipCid(['explain', join(folder, 'none.onnx')]);
  expect(stderr).toMatch(/none\.onnx/);
  expect(code).toBe(1);
});
