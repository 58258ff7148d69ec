import { afterEach, describe, expect, test } from 'vitest';
import { type Device, devices } from '../../src/native/devices.ts';
import type { Executor, Tensors } from '../../src/program/executor.ts';
import type { Graph } from '../../src/program/graph.ts';
import { NO_DEVICE } from '../../src/program/native/costs.ts';
import { createNativeExecutor, GPU_LINES } from '../../src/program/native/executor.ts';
import { planProgram } from '../../src/program/native/program.ts';
import { startsOf } from '../../src/program/parameters.ts';
import { spread } from './support/gradient.ts';
import { convolutional, parametersOf, text, vit } from './support/models.ts';

const open: Executor[] = [];

afterEach(async () => {
  for (const executor of open.splice(0)) await executor.dispose();
});

const VIT = vit({ image: 16, patch: 8, width: 32, depth: 1, heads: 2, out: 8 });
const TEXT = text({ vocabulary: 11, length: 6, width: 8, depth: 1, heads: 2, out: 8 });

/** For a GPU, of which there need be none: nothing is allocated. */
function plan(graph: Graph, batch: number) {
  const learned = parametersOf(graph).flatMap(({ name, trainable }) => (trainable ? [name] : []));
  return planProgram(graph, {
    dims: Object.fromEntries(
      graph.inputs.map(({ name, dims }) => [name, [batch, ...(dims.slice(1) as number[])]]),
    ),
    training: true,
    learned: new Set(learned),
    starts: startsOf(parametersOf(graph)),
    traits: { ...NO_DEVICE, parts: false, mostLines: GPU_LINES, packedFloats: () => 0 },
  });
}

describe('tensors that a GPU cannot number', () => {
  test('more than 2^31 elements are planned, in 64 bits', () => {
    // 5 tokens of 128 values in the widest layer.
    const { memory, unsupported } = plan(VIT, 2 ** 26);
    expect(unsupported).toEqual([]);
    expect(memory.arenaBytes).toBeGreaterThan(5 * 128 * 4 * 2 ** 26);
    expect(Number.isSafeInteger(memory.arenaBytes)).toBe(true);
  });

  test.each<[string, Graph, number, RegExp]>([
    [
      'rows of a product',
      VIT,
      2 ** 29,
      /^Expected at most 2147479551 (rows|pixels) .* but received \d{10} of '[^']+': take a smaller micro-batch$/,
    ],
    [
      'pixels',
      convolutional(),
      2 ** 24,
      /^Expected at most 2147479551 pixels .* but received 4294967296 of 'pixels'/,
    ],
    ['rows of tokens', TEXT, 2 ** 29, /^Expected at most 2147479551 rows .* but received 3221225472 of '/],
  ])('%s are a RangeError that names the tensor', (_, graph, batch, message) => {
    expect(() => plan(graph, batch)).toThrow(RangeError);
    expect(() => plan(graph, batch)).toThrow(message);
  });
});

describe.each(
  devices()
    .devices.filter(({ device, usable }) => usable && device !== 'cpu')
    .map(({ device }) => device as Device),
)('memory of %s', (device) => {
  const graph = vit({ image: 16, patch: 8, width: 96, depth: 3, heads: 2, out: 8 });
  const options = { graphs: { model: graph }, parameters: parametersOf(graph), device };
  const pixels = (batch: number): Tensors => ({
    pixels: { type: 'float32', dims: [batch, 3, 16, 16], data: spread(batch * 768, 1) },
  });

  test('parameters that do not fit are refused', async () => {
    await expect(createNativeExecutor({ ...options, maxDeviceMemory: 2 ** 20 })).rejects.toMatchObject({
      code: 'OUT_OF_MEMORY',
      message: expect.stringMatching(
        /^Training of \d+ parameters, .* needs \d+ MiB of the GPU's memory, and of the 1 MiB of maxDeviceMemory 1 MiB are left/,
      ),
    });
  });

  test('a batch that does not fit is refused before it runs, and a smaller one works after it', async () => {
    const executor = await createNativeExecutor({ ...options, maxDeviceMemory: 12 * 2 ** 20 });
    open.push(executor);
    await expect(executor.forward('model', pixels(512), { keep: true })).rejects.toMatchObject({
      name: 'CidError',
      code: 'OUT_OF_MEMORY',
      message: expect.stringMatching(
        /^A pass over this batch needs \d+ MiB .* of the 12 MiB of maxDeviceMemory \d MiB/,
      ),
    });
    const { embedding } = await executor.forward('model', pixels(2), { keep: true });
    expect(embedding!.dims).toEqual([2, 8]);
  });

  test.each([0, 2 ** 20 - 1, 1.5])('maxDeviceMemory of %s is misuse', async (maxDeviceMemory) => {
    await expect(createNativeExecutor({ ...options, maxDeviceMemory })).rejects.toThrow(
      /Expected .* for maxDeviceMemory but received/,
    );
  });
});
