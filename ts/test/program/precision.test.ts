import { afterEach, describe, expect, test } from 'vitest';
import { devices } from '../../src/native/devices.ts';
import { createExecutor } from '../../src/program/create.ts';
import type { Executor, ExecutorOptions, Tensor, Tensors } from '../../src/program/executor.ts';
import type { Graph } from '../../src/program/graph.ts';
import { createNativeExecutor } from '../../src/program/native/executor.ts';
import { explain } from '../../src/program/native/explain.ts';
import { type Precision, precisionOf } from '../../src/program/precision.ts';
import { spread } from './support/gradient.ts';
import { convolutional, parametersOf, text, vit } from './support/models.ts';
import { hashed, torchCase } from './support/torch.ts';

// Every processor has the products, if only as plain loops; only `createExecutor` asks for instructions.

const open: Executor[] = [];

afterEach(async () => {
  for (const executor of open.splice(0)) await executor.dispose();
});

interface Case {
  readonly name: string;
  readonly make: () => Promise<{
    options: ExecutorOptions;
    inputs: Tensors;
    output: string;
    dims: readonly number[];
  }>;
  /** Whether any product is large enough for bf16. */
  readonly changes: boolean;
  /** Of gradients, in all, where convolutions are in bf16; see {@link ENLARGED}. Defaults to half of {@link BOUND}. */
  readonly bound?: number;
}

const float32 = (dims: readonly number[], data: Float32Array): Tensor => ({ type: 'float32', dims, data });

const built = (graph: Graph, inputs: Tensors, dims: readonly number[]) => async () => ({
  options: { graphs: { model: graph }, parameters: parametersOf(graph) },
  inputs,
  output: 'embedding',
  dims,
});

const exported = (name: string) => async () => {
  const { model, inputs, output } = await torchCase(name);
  return {
    options: { graphs: { model: model.graph }, parameters: model.parameters },
    inputs: inputs as Tensors,
    output: 'output',
    dims: output,
  };
};

const pixels = (batch: number) => ({ pixels: float32([batch, 3, 16, 16], spread(batch * 768, 1)) });
const ids = (batch: number, length: number): Tensor => ({
  type: 'int64',
  dims: [batch, length],
  data: BigInt64Array.from({ length: batch * length }, (_, i) =>
    BigInt(i % length === length - 1 ? 10 : (i * 7) % 10),
  ),
});

const VIT = { image: 16, patch: 4, width: 48, depth: 3, heads: 3, out: 32 };
const TEXT = { vocabulary: 11, length: 12, width: 64, depth: 3, heads: 2, out: 32 };

/**
 * Batch norms over few values enlarge what is rounded before them: the gradients of PyTorch's ResNet, over six images of 32 pixels, change by 0.12 of
 * their norm in float32 when nothing but the weights of its convolutions is rounded to bfloat16, where the outputs change by 0.003.
 */
const ENLARGED = { convolutional: 0.05, resnet: 0.35 };

const CASES: Case[] = [
  { name: 'a vision transformer', make: built(vit(VIT), pixels(40), [40, 32]), changes: true },
  {
    name: 'a vision transformer in parts',
    make: built(vit({ ...VIT, patch: 2, width: 32, heads: 2, depth: 2 }), pixels(192), [192, 32]),
    changes: true,
  },
  {
    name: 'a text transformer',
    make: built(text(TEXT), { ids: ids(33, 12) }, [33, 32]),
    changes: true,
  },
  {
    name: 'convolutions and batch norms',
    make: built(convolutional(), pixels(4), [4, 8]),
    changes: false,
    bound: ENLARGED.convolutional,
  },
  { name: "PyTorch's ResNet", make: exported('resnet'), changes: false, bound: ENLARGED.resnet },
  { name: "PyTorch's vision transformer", make: exported('vit'), changes: false },
];

/**
 * Of outputs, and of the gradients of every parameter that has a hundredth of the whole, relative to those in float32. Elements are off by
 * up to 2^-8 where they are rounded, about 2^-9.8 in the mean, forward and backward, some ten products one after the other.
 */
const BOUND = 0.02;

const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
const difference = (a: Float32Array, b: Float32Array) => norm(a.map((x, i) => x - b[i]!));

async function start(options: ExecutorOptions, precision: Precision, more = {}): Promise<Executor> {
  const executor = await createNativeExecutor({ threads: 2, ...options, precision, ...more });
  open.push(executor);
  return executor;
}

const usable = devices().devices.filter((info) => info.usable);
if (usable.length === 1) process.stdout.write('bf16: on the CPU alone, since there is no usable GPU\n');

/** Output, and all gradients, flat: with β₁ = 0 a step leaves them in the first moments. */
async function gradient(executor: Executor, c: Awaited<ReturnType<Case['make']>>) {
  const { inputs, output, dims } = c;
  const weights = float32(
    dims,
    hashed(
      7,
      dims.reduce((a, b) => a * b, 1),
    ),
  );
  const { [output]: result } = await executor.forward('model', inputs, { keep: true });
  await executor.backward('model', inputs, { [output]: weights });
  await executor.update({ rate: 0, decay: 0, betas: [0, 0.9], epsilon: 1e-6 });
  return { output: result!.data as Float32Array, gradients: (await executor.save()).first };
}

const LARGE = CASES.filter(({ changes }) => changes);

describe.each(usable)('$device ($name)', ({ device }) => {
  // There convolutions and attention are in bf16 too, whatever their sizes.
  const onGpu = device !== 'cpu';
  const begin = (options: ExecutorOptions, precision: Precision, more = {}) =>
    start({ ...options, device }, precision, more);

  test.each(CASES)(
    '$name: outputs and gradients are near those of float32',
    async ({ make, changes, bound }) => {
      const made = await make();
      const executor = await begin(made.options, 'bf16');
      const [actual, expected] = [
        await gradient(executor, made),
        await gradient(await begin(made.options, 'float32'), made),
      ];
      if (!changes && !onGpu) {
        expect(actual).toEqual(expected);
        return;
      }
      expect(difference(actual.output, expected.output)).toBeLessThan(BOUND * norm(expected.output));
      const whole = norm(expected.gradients);
      const error = difference(actual.gradients, expected.gradients);
      expect(error).toBeLessThan((bound ?? 0.5 * BOUND) * whole);
      // That of float32 would be a thousand times smaller.
      expect(error).toBeGreaterThan(1e-4 * whole);
      if (bound !== undefined) return;
      for (const { name, offset, length } of executor.parameters) {
        const [a, b] = [actual, expected].map(({ gradients }) => gradients.subarray(offset, offset + length));
        if (norm(b!) > 0.01 * whole) expect(difference(a!, b!), name).toBeLessThan(BOUND * norm(b!));
      }
    },
  );

  test.each(LARGE)('$name: the same bytes every time, on 1, 2 and 7 threads', async ({ make }) => {
    const made = await make();
    const results = [];
    for (const threads of [2, 2, 1, 7]) {
      results.push(await gradient(await begin(made.options, 'bf16', { threads }), made));
    }
    for (const result of results.slice(1)) expect(result).toEqual(results[0]);
  });

  test.each(LARGE)('$name: the same bytes where activations are made again', async ({ make }) => {
    const made = await make();
    const { graphs, parameters } = made.options;
    const dims = made.inputs[graphs.model!.inputs[0]!.name]!.dims;
    const { activations } = explain(graphs.model!, parameters, dims[0]!, {}, { precision: 'bf16' }).training!;
    const less = { maxActivationMemory: Math.floor(0.9 * activations) };
    const [all, again] = [await begin(made.options, 'bf16'), await begin(made.options, 'bf16', less)];
    expect(await gradient(again, made)).toEqual(await gradient(all, made));
  });

  test('outputs that are not for training are in float32', async () => {
    const made = await CASES[0]!.make();
    const [half, whole] = [await begin(made.options, 'bf16'), await begin(made.options, 'float32')];
    expect(await half.forward('model', made.inputs)).toEqual(await whole.forward('model', made.inputs));
    const [a, b] = await Promise.all(
      [half, whole].map((executor) => executor.forward('model', made.inputs, { training: true })),
    );
    expect(a).not.toEqual(b);
  });

  test('it learns what float32 learns', async () => {
    const made = await CASES[0]!.make();
    const target = hashed(8, 40 * 32);
    const learn = async (precision: Precision) => {
      const executor = await begin(made.options, precision);
      const losses: number[] = [];
      for (let step = 0; step < 100; step++) {
        const { embedding } = await executor.forward('model', made.inputs, { keep: true });
        const errors = (embedding!.data as Float32Array).map((value, i) => value - target[i]!);
        losses.push(norm(errors) ** 2 / errors.length);
        const data = errors.map((error) => (2 * error) / errors.length);
        await executor.backward('model', made.inputs, { embedding: float32(made.dims, data) });
        await executor.update({ rate: 1e-3, decay: 0.1, betas: [0.9, 0.98], epsilon: 1e-6, clip: 1 });
      }
      return losses;
    };
    const [half, whole] = [await learn('bf16'), await learn('float32')];
    for (const [step, loss] of whole.entries())
      expect(Math.abs(half[step]! - loss), `step ${step}`).toBeLessThan(0.02 * whole[0]!);
    expect(half.at(-1)).toBeLessThan(half[0]! / 3);
  });
});

test('products of a side under 32 stay float32', () => {
  for (const [m, n, k] of [
    [31, 100, 100],
    [100, 31, 100],
    [100, 100, 31],
  ] as const)
    expect(precisionOf('bf16', m, n, k)).toBe('float32');
  expect(precisionOf('bf16', 32, 32, 32)).toBe('bf16');
  expect(precisionOf('float32', 320, 320, 320)).toBe('float32');
});

test('a plan tells products in bf16 from others, and counts their memory', async () => {
  const { options } = await CASES[1]!.make();
  const { graphs, parameters } = options;
  const plan = (precision: Precision) => explain(graphs.model!, parameters, 192, {}, { precision });
  const [half, whole] = [plan('bf16'), plan('float32')];
  const operations = (costs: readonly { op: string; runs: number }[]) =>
    Object.fromEntries(costs.map(({ op, runs }) => [op, runs]));
  expect(half.precision).toBe('bf16');
  expect(Object.keys(operations(half.training!.forward))).toContain('bf16 product + chain');
  expect(Object.keys(operations(whole.training!.forward)).join()).not.toContain('bf16');
  expect(half.inference).toEqual(whole.inference);
  // Weights that all parts share are packed, and take half the memory.
  expect(half.training!.activations).toBeLessThan(whole.training!.activations);
});

test('what cannot be is an error that names the option', async () => {
  const { options } = await CASES[0]!.make();
  const wrong = { ...options, precision: 'float16' as Precision };
  await expect(createNativeExecutor(wrong)).rejects.toThrow(
    /one of .float32., .bf16. for precision but received "float16"/,
  );
  await expect(createExecutor(wrong)).rejects.toThrow(/for precision but received "float16"/);
  const chosen = createExecutor({ ...options, precision: 'bf16' }).then(({ executor }) => {
    open.push(executor);
    return executor.kind;
  });
  if (!devices().devices[0]!.bfloat16) {
    await expect(chosen).rejects.toThrow(
      /^Expected a processor with dot products of bfloat16 .* for precision/,
    );
    return;
  }
  expect(await chosen).toBe('native');
  const other = createExecutor({ ...options, precision: 'bf16' }, 'onnxruntime');
  await expect(other).rejects.toThrow(/'native' or 'auto' for executor with precision 'bf16'/);
});
