import { afterEach, describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../src/program/builder.ts';
import { createExecutor } from '../../src/program/create.ts';
import type { Executor, Tensor, Tensors } from '../../src/program/executor.ts';
import type { Graph } from '../../src/program/graph.ts';
import { NO_DEVICE, operationsOf, total } from '../../src/program/native/costs.ts';
import { createNativeExecutor } from '../../src/program/native/executor.ts';
import { explain } from '../../src/program/native/explain.ts';
import { activationBytes, type NativeProgram, planProgram } from '../../src/program/native/program.ts';
import { startsOf } from '../../src/program/parameters.ts';
import { spread } from './support/gradient.ts';
import { convolutional, parametersOf, text, vit } from './support/models.ts';

const open: Executor[] = [];

afterEach(async () => {
  for (const executor of open.splice(0)) await executor.dispose();
});

const pixels = (batch: number): Tensors => ({
  pixels: { type: 'float32', dims: [batch, 3, 16, 16], data: spread(batch * 768, 1) },
});
const SIZE = { image: 16, width: 32, heads: 2, out: 8 };
const CASES: { name: string; graph: Graph; inputs: Tensors; parts: number }[] = [
  {
    name: 'a vision transformer',
    graph: vit({ ...SIZE, patch: 4, depth: 6 }),
    inputs: pixels(3),
    parts: 1,
  },
  {
    name: 'a vision transformer in parts',
    graph: vit({ ...SIZE, patch: 2, depth: 3 }),
    inputs: pixels(192),
    parts: 2,
  },
  {
    name: 'a text transformer',
    graph: text({ vocabulary: 11, length: 6, width: 16, depth: 4, heads: 2, out: 8 }),
    inputs: {
      ids: {
        type: 'int64',
        dims: [5, 6],
        data: BigInt64Array.from({ length: 30 }, (_, i) => BigInt(i % 11)),
      },
    },
    parts: 1,
  },
  { name: 'convolutions and batch norms', graph: convolutional(), inputs: pixels(4), parts: 1 },
];

function plan(graph: Graph, inputs: Tensors, maxActivationMemory?: number): NativeProgram {
  const learned = parametersOf(graph).flatMap(({ name, trainable }) => (trainable ? [name] : []));
  return planProgram(graph, {
    dims: Object.fromEntries(Object.entries(inputs).map(([name, { dims }]) => [name, dims])),
    training: true,
    learned: new Set(learned),
    starts: startsOf(parametersOf(graph)),
    traits: NO_DEVICE,
    ...(maxActivationMemory === undefined ? {} : { maxActivationMemory }),
  });
}

/** What the error says that is needed at least. */
function leastOf(graph: Graph, inputs: Tensors): number {
  try {
    plan(graph, inputs, 1);
  } catch (error) {
    const [, bytes] = /^Expected at least (\d+) bytes for maxActivationMemory/.exec(
      (error as Error).message,
    )!;
    return Number(bytes);
  }
  throw new Error('A byte was enough');
}

const bytesOf = (program: NativeProgram) => activationBytes(program, NO_DEVICE);
const workOf = ({ phases }: NativeProgram) => total(phases, operationsOf);
const forwardOf = ({ phases, forwardPhases }: NativeProgram) =>
  total(phases.slice(0, forwardPhases), operationsOf);

describe.each(CASES)('$name', ({ graph, inputs, parts }) => {
  const free = plan(graph, inputs);
  const least = leastOf(graph, inputs);

  test('keeps to every limit that it says it can, for at most one more forward pass', () => {
    expect(free.parts).toBeGreaterThanOrEqual(parts);
    expect(least).toBeLessThan(0.9 * bytesOf(free));
    for (let share = 0; share <= 4; share++) {
      const limit = Math.floor(least + (share / 4) * (bytesOf(free) - least));
      const program = plan(graph, inputs, limit);
      expect(bytesOf(program)).toBeLessThanOrEqual(limit);
      expect(workOf(program)).toBeLessThanOrEqual(workOf(free) + forwardOf(free));
    }
    expect(() => plan(graph, inputs, least - 1)).toThrow(`but received ${least - 1}`);
  });

  test('is what it was where the limit does not matter', () => {
    expect(plan(graph, inputs, bytesOf(free)).code).toEqual(free.code);
    expect(workOf(plan(graph, inputs, least))).toBeGreaterThan(workOf(free));
  });

  test('trains to the same bytes', async () => {
    const states = [];
    for (const limited of [false, true]) {
      // Packed weights take room that a plan without a device does not know.
      const executor = await createNativeExecutor({
        graphs: { model: graph },
        parameters: parametersOf(graph),
        threads: 2,
        ...(limited ? { maxActivationMemory: Math.ceil((least + bytesOf(free)) / 2) } : {}),
      });
      open.push(executor);
      for (const keep of [true, false]) {
        const { embedding } = await executor.forward('model', inputs, { keep, training: true });
        const gradient: Tensor = { ...embedding!, data: spread(embedding!.data.length, 2) };
        await executor.backward('model', inputs, { embedding: gradient });
        await executor.update({ rate: 1e-3, decay: 0.1, betas: [0.9, 0.99], epsilon: 1e-6 });
      }
      states.push(await executor.save());
    }
    expect(states[1]).toEqual(states[0]);
  });
});

test('a limit that cannot be met is told by the call that meets it, and nothing is lost', async () => {
  const { graph, inputs } = CASES[0]!;
  const executor = await createNativeExecutor({
    graphs: { model: graph },
    parameters: parametersOf(graph),
    maxActivationMemory: 1000,
  });
  open.push(executor);
  await expect(executor.forward('model', inputs, { keep: true })).rejects.toThrow(
    /^Expected at least \d+ bytes for maxActivationMemory, which 'vit' needs at this batch, but received 1000; a smaller/,
  );
  // Outputs alone have no limit.
  expect((await executor.forward('model', inputs)).embedding!.dims).toEqual([3, 8]);
});

test('misuse is named before anything runs', async () => {
  const { graph } = CASES[0]!;
  const options = { graphs: { model: graph }, parameters: parametersOf(graph) };
  for (const maxActivationMemory of [0, 1.5, Number.NaN]) {
    await expect(createExecutor({ ...options, maxActivationMemory })).rejects.toThrow(
      `Expected an integer of at least 1 for maxActivationMemory but received ${maxActivationMemory}`,
    );
  }
  await expect(createExecutor({ ...options, maxActivationMemory: 1e6 }, 'onnxruntime')).rejects.toThrow(
    `Expected the executor 'native' or 'auto' for executor with maxActivationMemory but received "onnxruntime"`,
  );
  const b = new GraphBuilder('volume');
  const x = b.input('x', 'float32', ['batch', 2, 5, 5, 5]);
  const w = b.parameter('w', [2, 2, 3, 3, 3]);
  b.output('y', b.op('Conv', [x, w], { kernel_shape: [3, 3, 3] }, { name: 'c' }), ['batch', 2, 3, 3, 3]);
  const volume = b.build();
  await expect(
    createExecutor({
      graphs: { model: volume },
      parameters: parametersOf(volume),
      maxActivationMemory: 1e6,
    }),
  ).rejects.toMatchObject({
    code: 'MODEL_UNSUPPORTED',
    message: expect.stringMatching(/^maxActivationMemory takes the native executor, .*Conv.*'c'/),
  });
});

test('explain shows the plan under a limit', () => {
  const { graph } = CASES[0]!;
  const free = explain(graph, parametersOf(graph), 3).training!;
  const limited = explain(
    graph,
    parametersOf(graph),
    3,
    {},
    {
      maxActivationMemory: Math.floor(0.8 * free.activations),
    },
  ).training!;
  expect(limited.activations).toBeLessThanOrEqual(0.8 * free.activations);
  const backward = ({ backward }: typeof free) => backward.reduce((sum, { flops }) => sum + flops, 0);
  expect(backward(limited)).toBeGreaterThan(backward(free));
  const work = ({ forward }: typeof free) => forward.map(({ op, runs, flops }) => ({ op, runs, flops }));
  expect(work(limited)).toEqual(work(free));
});
