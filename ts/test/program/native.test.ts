import { afterEach, describe, expect, test } from 'vitest';
import { type Device, devices } from '../../src/native/devices.ts';
import type { Executor, ExecutorOptions, Tensor, Tensors } from '../../src/program/executor.ts';
import type { Graph } from '../../src/program/graph.ts';
import { createNativeExecutor } from '../../src/program/native/executor.ts';
import { createExecutor } from '../../src/program/ort/executor.ts';
import { specialize } from '../../src/program/static.ts';
import { caseGraph, CASES as OPERATORS } from './support/cases.ts';
import { gradientsOf, runGraph, spread } from './support/gradient.ts';
import { convolutional, parametersOf, text, vit } from './support/models.ts';
import { hashed, torchCase } from './support/torch.ts';

const open: Executor[] = [];

afterEach(async () => {
  for (const executor of open.splice(0)) await executor.dispose();
});

async function both(device: Device, options: ExecutorOptions): Promise<{ native: Executor; ort: Executor }> {
  const native = await createNativeExecutor({ threads: 2, device, ...options });
  const ort = await createExecutor({ threads: 2, ...options });
  open.push(native, ort);
  return { native, ort };
}

const float32 = (dims: readonly number[], data: Float32Array): Tensor => ({ type: 'float32', dims, data });

/** Gradients by parameter: with β₁ = 0 a step leaves them in the first moments. */
async function gradients(executor: Executor): Promise<Map<string, Float32Array>> {
  await executor.update({ rate: 0, decay: 0, betas: [0, 0.9], epsilon: 1e-6 });
  const { first } = await executor.save();
  return new Map(
    executor.parameters.map(({ name, offset, length }) => [name, first.subarray(offset, offset + length)]),
  );
}

const norm = (values: ArrayLike<number>) => Math.hypot(...Array.from(values));
const difference = (a: Float32Array, b: Float32Array) => norm(a.map((x, i) => x - b[i]!));

interface Case {
  name: string;
  make: () => Promise<{
    graph: Graph;
    options: ExecutorOptions;
    inputs: Tensors;
    output: string;
    dims: number[];
  }>;
  /** Relative to a parameter's gradient. */
  bound: number;
}

const VIT = { image: 16, patch: 8, width: 24, depth: 2, heads: 3, out: 8 };
const TEXT = { vocabulary: 11, length: 6, width: 8, depth: 2, heads: 2, out: 8 };
const ids = (batch: number, length: number): Tensor => ({
  type: 'int64',
  dims: [batch, length],
  data: BigInt64Array.from({ length: batch * length }, (_, i) =>
    BigInt(i % length === 4 ? 10 : (i * 7) % 10),
  ),
});

const built = (graph: Graph, inputs: Tensors, dims: number[]) => async () => ({
  graph,
  options: { graphs: { model: graph }, parameters: parametersOf(graph) },
  inputs,
  output: 'embedding',
  dims,
});

const exported = (name: string) => async () => {
  const { model, inputs, output } = await torchCase(name);
  return {
    graph: model.graph,
    options: { graphs: { model: model.graph }, parameters: model.parameters },
    inputs: inputs as Tensors,
    output: 'output',
    dims: output,
  };
};

const CASES: Case[] = [
  {
    name: 'a vision transformer',
    make: built(vit(VIT), { pixels: float32([4, 3, 16, 16], spread(4 * 768, 1)) }, [4, 8]),
    bound: 1e-5,
  },
  {
    name: 'a vision transformer in parts',
    make: built(
      vit({ ...VIT, patch: 2, width: 32, heads: 2 }),
      { pixels: float32([192, 3, 16, 16], spread(192 * 768, 1)) },
      [192, 8],
    ),
    bound: 1e-5,
  },
  { name: 'a text transformer', make: built(text(TEXT), { ids: ids(5, 6) }, [5, 8]), bound: 1e-5 },
  {
    name: 'convolutions and batch norms',
    make: built(convolutional(), { pixels: float32([4, 3, 16, 16], spread(4 * 768, 1)) }, [4, 8]),
    bound: 1e-5,
  },
  { name: "PyTorch's ResNet", make: exported('resnet'), bound: 2e-4 },
  { name: "PyTorch's MobileNet", make: exported('mobilenet'), bound: 2e-5 },
  { name: "PyTorch's vision transformer", make: exported('vit'), bound: 1e-5 },
  { name: "PyTorch's text transformer", make: exported('text'), bound: 1e-5 },
];

const STEP = { rate: 1e-3, decay: 0.1, betas: [0.9, 0.98], epsilon: 1e-6, clip: 1 } as const;

/** Steps towards a target; returns the losses. */
async function learn(
  executor: Executor,
  c: Awaited<ReturnType<Case['make']>>,
  steps: number,
): Promise<number[]> {
  const { inputs, output, dims } = c;
  const target = hashed(
    8,
    dims.reduce((a, b) => a * b, 1),
  );
  const losses: number[] = [];
  for (let step = 0; step < steps; step++) {
    const data = (await executor.forward('model', inputs, { keep: true }))[output]!.data as Float32Array;
    const errors = data.map((value, i) => value - target[i]!);
    losses.push(errors.reduce((sum, value) => sum + value * value, 0) / data.length);
    await executor.backward('model', inputs, {
      [output]: float32(
        dims,
        errors.map((value) => (2 * value) / data.length),
      ),
    });
    await executor.update(STEP);
  }
  return losses;
}

/** Steps that are followed; few where a GPU is emulated. */
const STEPS = 200;
const FEW_STEPS = 3;

// The same tests for every device of this machine. In float32 a GPU is held to the bounds of the CPU.
const usable = devices().devices.filter((info) => info.usable);
if (usable.length === 1) process.stdout.write('training: on the CPU alone, since there is no usable GPU\n');

describe.each(usable)('$device ($name)', (info) => {
  const device = info.device as Device;
  const emulated = info.name.startsWith('Emulated');
  const steps = emulated ? FEW_STEPS : STEPS;
  // Parts are for a processor's caches, and the batch that is cut into them is much for an emulated device.
  const cases = CASES.filter(({ name }) => !emulated || !name.includes('parts'));

  test.each(cases)('$name: outputs and gradients are those of ONNX Runtime', async ({ make, bound }) => {
    const { options, inputs, output, dims } = await make();
    const { native, ort } = await both(device, options);
    const weights = float32(
      dims,
      hashed(
        7,
        dims.reduce((a, b) => a * b, 1),
      ),
    );
    for (const training of [false, true]) {
      const [a, b] = await Promise.all([native, ort].map((e) => e.forward('model', inputs, { training })));
      expect(a![output]!.dims).toEqual(dims);
      const [x, y] = [a![output]!.data as Float32Array, b![output]!.data as Float32Array];
      expect(difference(x, y)).toBeLessThan(bound * norm(y));
    }
    await Promise.all([native, ort].map((e) => e.backward('model', inputs, { [output]: weights })));
    const [actual, expected] = [await gradients(native), await gradients(ort)];
    const largest = Math.max(...[...expected.values()].map(norm));
    for (const [name, gradient] of expected) {
      const error = difference(actual.get(name)!, gradient);
      // Some gradients are 0 but for rounding, as that of the bias of keys.
      expect(error, name).toBeLessThan(bound * norm(gradient) + 1e-7 * largest);
    }
  });

  test.each(cases.filter(({ name }) => !name.includes('parts')))(
    `$name: ${steps} steps follow those of ONNX Runtime`,
    async ({ make }) => {
      const made = await make();
      const { native, ort } = await both(device, made.options);
      const [ours, theirs] = [await learn(native, made, steps), await learn(ort, made, steps)];
      // Rounding differs from the first step on, and training amplifies it: a few parts in a thousand of the first loss.
      for (const [step, loss] of theirs.entries()) {
        expect(Math.abs(ours[step]! - loss), `step ${step}`).toBeLessThan(5e-3 * theirs[0]!);
      }
      expect(ours.at(-1)).toBeLessThan(ours[0]! / (steps === STEPS ? 3 : 1));
    },
  );

  test.each(cases)('$name: the same bytes every time, on 1, 2 and 7 threads', async ({ make }) => {
    const made = await make();
    const states = [];
    for (const threads of [2, 2, 1, 7]) {
      const executor = await createNativeExecutor({ threads, device, ...made.options });
      open.push(executor);
      await learn(executor, made, 3);
      states.push(await executor.save());
    }
    for (const state of states.slice(1)) expect(state).toEqual(states[0]);
  });

  test.each(cases)(
    '$name: held activations give the gradients of activations made again',
    async ({ make }) => {
      const made = await make();
      const { inputs, output, dims } = made;
      const weights = float32(
        dims,
        hashed(
          7,
          dims.reduce((a, b) => a * b, 1),
        ),
      );
      const results = [];
      for (const keep of [true, false]) {
        const executor = await createNativeExecutor({ threads: 2, device, ...made.options });
        open.push(executor);
        await executor.forward('model', inputs, { keep, training: true });
        await executor.backward('model', inputs, { [output]: weights });
        results.push(await gradients(executor));
      }
      expect(results[1]).toEqual(results[0]);
    },
  );

  test('inputs that were announced give the same, used at once, late, or not at all', async () => {
    const made = await cases[0]!.make();
    const { inputs, output } = made;
    const other = { pixels: float32([4, 3, 16, 16], spread(4 * 768, 9)) };
    const seeds = { [output]: float32([4, 8], hashed(7, 32)) };
    const results = [];
    for (const announced of [false, true]) {
      const executor = await createNativeExecutor({ threads: 2, device, ...made.options });
      open.push(executor);
      const announce = async (next: Tensors) => {
        if (announced) await executor.prefetch!('model', next);
      };
      const outputs: unknown[] = [];
      await announce(inputs);
      outputs.push(await executor.forward('model', inputs, { training: true }));
      await announce(other);
      // Several at once, of which only one was announced.
      outputs.push(
        ...(await Promise.all([inputs, other, inputs].map((one) => executor.forward('model', one)))),
      );
      await Promise.all([inputs, other].map((one) => executor.backward('model', one, seeds)));
      await announce(other);
      await announce(inputs);
      results.push({ outputs, gradients: await gradients(executor) });
    }
    expect(results[1]).toEqual(results[0]);
  });

  test('activations of other inputs, or from before a step, are not used', async () => {
    const made = await CASES[0]!.make();
    const { native, ort } = await both(device, made.options);
    const other = { pixels: float32([4, 3, 16, 16], spread(4 * 768, 9)) };
    const weights = { embedding: float32([4, 8], hashed(7, 32)) };
    for (const executor of [native, ort]) {
      await executor.forward('model', other, { keep: true });
      await executor.backward('model', made.inputs, weights);
      await executor.forward('model', made.inputs, { keep: true });
      await executor.update(STEP);
      await executor.backward('model', made.inputs, weights);
    }
    const [actual, expected] = [await gradients(native), await gradients(ort)];
    for (const [name, gradient] of expected) {
      if (name.endsWith('attention.k.bias')) continue;
      expect(difference(actual.get(name)!, gradient), name).toBeLessThan(1e-4 * norm(gradient));
    }
  });

  test.each([
    ['native', 'onnxruntime'],
    ['onnxruntime', 'native'],
  ])('a run of %s goes on with %s', async (first, second) => {
    const made = await CASES[0]!.make();
    const create = async (kind: string) => {
      const { native, ort } = await both(device, made.options);
      return kind === 'native' ? native : ort;
    };
    const whole = await create(first);
    const expected = await learn(whole, made, 20);
    const begun = await create(first);
    await learn(begun, made, 10);
    const resumed = await create(second);
    await resumed.load(await begun.save());
    const rest = await learn(resumed, made, 10);
    for (const [i, loss] of rest.entries()) {
      expect(Math.abs(loss - expected[10 + i]!)).toBeLessThan(1e-3 * expected[0]!);
    }
  });

  test.each(OPERATORS)('$name: values and gradients are those of ONNX Runtime', async (given) => {
    const { graph, all, weights } = caseGraph(given);
    const parameters = graph.parameters.map(({ name, dims }) => ({
      name,
      dims,
      value: all[name]!.data as Float32Array,
      decay: false,
      trainable: true,
    }));
    const executor = await createNativeExecutor({ graphs: { model: graph }, parameters, device, threads: 2 });
    open.push(executor);
    const inputs = Object.fromEntries(graph.inputs.map(({ name }) => [name, all[name] as Tensor]));
    const dims = Object.fromEntries(graph.inputs.map(({ name }) => [name, all[name]!.dims]));
    const expected = await runGraph(specialize(graph, dims, { training: true }).toGraph(), all);
    const outputs = await executor.forward('model', inputs, { training: true });
    const seeds: Record<string, Tensor> = {};
    for (const { name } of graph.outputs) {
      const [actual, value] = [outputs[name]!.data as Float32Array, expected[name]!.data as Float32Array];
      expect(outputs[name]!.dims).toEqual(expected[name]!.dims);
      expect(difference(actual, value), name).toBeLessThan(2e-6 * norm(value) + 1e-6);
      seeds[name] = float32(outputs[name]!.dims, weights[name]!);
    }
    const reference = await gradientsOf(graph, all, weights);
    await executor.backward('model', inputs, seeds);
    for (const [name, gradient] of await gradients(executor)) {
      const error = difference(gradient, reference.get(name)!);
      expect(error, name).toBeLessThan(1e-5 * norm(reference.get(name)!) + 1e-6);
    }
  });
});
