import { afterEach, expect, test } from 'vitest';
import { GraphBuilder } from '../../src/program/builder.ts';
import { createExecutor, type ExecutorName } from '../../src/program/create.ts';
import type { Executor, ExecutorOptions, Tensor } from '../../src/program/executor.ts';
import type { Graph } from '../../src/program/graph.ts';
import { spread } from './support/gradient.ts';
import { parametersOf, vit } from './support/models.ts';

const open: Executor[] = [];
afterEach(async () => {
  for (const executor of open.splice(0)) await executor.dispose();
});

const of = (graph: Graph): ExecutorOptions => ({
  graphs: { model: graph },
  parameters: parametersOf(graph),
  threads: 1,
});

const small = of(vit({ image: 8, patch: 4, width: 8, depth: 1, heads: 2, out: 4 }));

/** A convolution over three axes, for which there is no native operation. */
function volume(): ExecutorOptions {
  const b = new GraphBuilder('volume');
  const x = b.input('x', 'float32', ['batch', 1, 3, 4, 4]);
  const w = b.parameter('w', [2, 1, 3, 1, 1]);
  const y = b.op('Conv', [x, w], { kernel_shape: [3, 1, 1] }, { name: 'over time' });
  b.output('y', b.op('Relu', [y]), ['batch', 2, 1, 4, 4]);
  return of(b.build());
}

async function made(options: ExecutorOptions, name?: ExecutorName) {
  const { executor, reason } = await createExecutor(options, name);
  open.push(executor);
  return { executor, kind: executor.kind, reason };
}

test('our own executor is the first choice, ONNX Runtime is there by name', async () => {
  expect(await made(small)).toMatchObject({ kind: 'native', reason: undefined });
  expect(await made(small, 'native')).toMatchObject({ kind: 'native', reason: undefined });
  expect(await made(small, 'onnxruntime')).toMatchObject({ kind: 'onnxruntime', reason: undefined });
});

test('what our own lacks is named, and ONNX Runtime trains it', async () => {
  const options = volume();
  const { executor, kind, reason } = await made(options);
  expect(kind).toBe('onnxruntime');
  expect(reason).toMatch(/^graph 'model': .*Conv.*'over time'.* over more than two axes/);
  const x: Tensor = { type: 'float32', dims: [2, 1, 3, 4, 4], data: spread(96, 1) };
  const dims = [2, 2, 1, 4, 4];
  const { y } = await executor.forward('model', { x }, { keep: true });
  expect(y!.dims).toEqual(dims);
  await executor.backward('model', { x }, { y: { type: 'float32', dims, data: spread(64, 2) } });
  const { gradientNorm } = await executor.update({
    rate: 1e-3,
    decay: 0,
    betas: [0.9, 0.98],
    epsilon: 1e-6,
  });
  expect(gradientNorm).toBeGreaterThan(0);
});

test('our own by name does not fall back', async () => {
  await expect(createExecutor(volume(), 'native')).rejects.toMatchObject({
    code: 'MODEL_UNSUPPORTED',
    message: expect.stringMatching(/native executor cannot train this: .*'over time'/),
  });
});

test('another name, and a device that nothing trains on', async () => {
  await expect(createExecutor(small, 'torch' as ExecutorName)).rejects.toThrow(
    'Expected one of auto, native, onnxruntime for executor but received "torch"',
  );
  await expect(createExecutor({ ...small, device: 'cuda:63' })).rejects.toMatchObject({
    code: 'DEVICE_UNAVAILABLE',
  });
});
