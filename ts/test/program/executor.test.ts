import { afterEach, describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../src/program/builder.ts';
import type {
  CreateExecutor,
  Executor,
  ExecutorOptions,
  Tensor,
  UpdateOptions,
} from '../../src/program/executor.ts';
import { createNativeExecutor } from '../../src/program/native/executor.ts';
import { createExecutor as createOrtExecutor } from '../../src/program/ort/executor.ts';
import { spread } from './support/gradient.ts';
import { convolutional, parametersOf, text, vit } from './support/models.ts';

const VIT = { image: 16, patch: 8, width: 24, depth: 2, heads: 3, out: 8 };
const STEP: UpdateOptions = { rate: 3e-3, decay: 0.1, betas: [0.9, 0.98], epsilon: 1e-6 };

const EXECUTORS: { kind: string; createExecutor: CreateExecutor }[] = [
  { kind: 'native', createExecutor: createNativeExecutor },
  { kind: 'onnxruntime', createExecutor: createOrtExecutor },
];
const open: Executor[] = [];

describe.each(EXECUTORS)('$kind', ({ kind, createExecutor }) => {
  async function make(options: Omit<ExecutorOptions, 'threads'> & { threads?: number }): Promise<Executor> {
    const executor = await createExecutor({ threads: 2, ...options });
    open.push(executor);
    return executor;
  }

  afterEach(async () => {
    for (const executor of open.splice(0)) await executor.dispose();
  });

  const float32 = (dims: readonly number[], data: Float32Array): Tensor => ({ type: 'float32', dims, data });
  const pixels = (batch: number, seed = 1) => float32([batch, 3, 16, 16], spread(batch * 768, seed));

  /** Mean squared distance to a target and its gradient. */
  function distance(output: Tensor, target: Float32Array): { loss: number; gradient: Tensor } {
    const data = output.data as Float32Array;
    const difference = data.map((value, i) => value - target[i]!);
    const loss = difference.reduce((sum, value) => sum + value * value, 0) / data.length;
    return {
      loss,
      gradient: float32(
        output.dims,
        difference.map((value) => (2 * value) / data.length),
      ),
    };
  }

  async function train(
    executor: Executor,
    steps: number,
    options: Partial<UpdateOptions> = {},
  ): Promise<number[]> {
    const target = spread(4 * 8, 77);
    const losses: number[] = [];
    for (let i = 0; i < steps; i++) {
      const inputs = { pixels: pixels(4) };
      const { embedding } = await executor.forward('vit', inputs, { keep: true });
      const { loss, gradient } = distance(embedding!, target);
      losses.push(loss);
      await executor.backward('vit', inputs, { embedding: gradient });
      await executor.update({ ...STEP, ...options });
    }
    return losses;
  }

  const vitOptions = () => ({ graphs: { vit: vit(VIT) }, parameters: parametersOf(vit(VIT)) });

  test('a model learns its targets', async () => {
    const losses = await train(await make(vitOptions()), 40);
    expect(losses.at(-1)).toBeLessThan(losses[0]! / 20);
  });

  test('two runs end with the same bytes, also when one is saved and loaded between', async () => {
    const whole = await make(vitOptions());
    await train(whole, 6, { ema: 0.9, clip: 0.5 });
    const first = await make(vitOptions());
    await train(first, 3, { ema: 0.9, clip: 0.5 });
    const state = await first.save();
    const second = await make(vitOptions());
    await second.load(state);
    await train(second, 3, { ema: 0.9, clip: 0.5 });
    expect(await second.save()).toEqual(await whole.save());
    expect((await whole.save()).step).toBe(6);
  });

  test('gradients of micro-batches add up to those of the batch', async () => {
    const gradient = spread(4 * 8, 5);
    const half = (tensor: Tensor, i: number): Tensor => {
      const size = tensor.data.length / 2;
      const data = (tensor.data as Float32Array).slice(i * size, (i + 1) * size);
      return float32(tensor.dims.with(0, 2), data);
    };
    const whole = await make(vitOptions());
    await whole.backward('vit', { pixels: pixels(4) }, { embedding: float32([4, 8], gradient) });
    const parts = await make(vitOptions());
    for (const i of [0, 1]) {
      await parts.backward(
        'vit',
        { pixels: half(pixels(4), i) },
        { embedding: half(float32([4, 8], gradient), i) },
      );
    }
    const [a, b] = [await whole.update(STEP), await parts.update(STEP)];
    expect(b.gradientNorm).toBeCloseTo(a.gradientNorm, 4);
    expect(a.gradientNorm).toBeGreaterThan(0.1);
  });

  test('a table that two places share gathers both gradients', async () => {
    const b = new GraphBuilder('tied');
    const table = b.parameter('table', [4, 2]);
    const rows = b.op('Gather', [table, b.input('ids', 'int64', [3])]);
    b.output('y', b.op('MatMul', [rows, b.op('Transpose', [table], { perm: [1, 0] })]), [3, 4]);
    const value = spread(8, 1);
    const parameters = [{ name: 'table', dims: [4, 2], value, decay: false, trainable: true }];
    const executor = await make({ graphs: { tied: b.build() }, parameters });
    const ids = [1, 1, -1];
    const dy = spread(12, 2);
    await executor.backward(
      'tied',
      { ids: { type: 'int64', dims: [3], data: BigInt64Array.from(ids, BigInt) } },
      { y: float32([3, 4], dy) },
    );
    const expected = new Float64Array(8);
    ids.forEach((id, i) => {
      const row = id < 0 ? id + 4 : id;
      for (let j = 0; j < 4; j++) {
        for (let k = 0; k < 2; k++) {
          expected[row * 2 + k]! += dy[i * 4 + j]! * value[j * 2 + k]!;
          expected[j * 2 + k]! += dy[i * 4 + j]! * value[row * 2 + k]!;
        }
      }
    });
    const { gradientNorm } = await executor.update({ ...STEP, betas: [0, 0.5], rate: 0 });
    expect(gradientNorm).toBeCloseTo(Math.hypot(...expected), 5);
    // With β₁ = 0 the first moment is the gradient.
    const { first } = await executor.save();
    expected.forEach((value, i) => {
      expect(first[i]).toBeCloseTo(value, 5);
    });
  });

  test('a text tower trains, at batches of several sizes', async () => {
    const size = { vocabulary: 11, length: 6, width: 8, depth: 1, heads: 2, out: 8 };
    const executor = await make({ graphs: { text: text(size) }, parameters: parametersOf(text(size)) });
    const ids = (batch: number) =>
      ({
        type: 'int64',
        dims: [batch, 6],
        data: BigInt64Array.from({ length: batch * 6 }, (_, i) => BigInt(i % 6 === 4 ? 10 : (i * 7) % 10)),
      }) as const;
    const losses: number[] = [];
    for (let step = 0; step < 30; step++) {
      const batch = 1 + (step % 3);
      const { embedding } = await executor.forward('text', { ids: ids(batch) });
      expect(embedding!.dims).toEqual([batch, 8]);
      const { loss, gradient } = distance(embedding!, spread(8 * batch, 4));
      losses.push(loss);
      await executor.backward('text', { ids: ids(batch) }, { embedding: gradient });
      await executor.update({ ...STEP, rate: 0.01 });
    }
    expect(losses.at(-1)).toBeLessThan(losses[2]! / 2);
  });

  test('batch norms train with the batch and run with the running statistics', async () => {
    const graph = convolutional();
    const parameters = parametersOf(graph);
    const executor = await make({ graphs: { conv: graph }, parameters });
    const inputs = { pixels: pixels(4) };
    const slot = (name: string) => executor.parameters.find((parameter) => parameter.name === name)!;
    const before = (await executor.forward('conv', inputs)).embedding!;
    const training = (await executor.forward('conv', inputs, { training: true })).embedding!;
    expect(training.data).not.toEqual(before.data);

    await executor.backward('conv', inputs, { embedding: float32([4, 8], new Float32Array(32)) });
    const one = (await executor.save()).parameters;
    const { offset, length } = slot('bn1.mean');
    const mean = one.slice(offset, offset + length);
    expect(mean.some((value) => value !== 0)).toBe(true);
    // A second look at the same batch moves the average by nine tenths of the first step.
    await executor.backward('conv', inputs, { embedding: float32([4, 8], new Float32Array(32)) });
    const two = (await executor.save()).parameters.slice(offset, offset + length);
    mean.forEach((value, i) => {
      expect(two[i]).toBeCloseTo(1.9 * value, 6);
    });
    // An optimiser step leaves running statistics alone.
    await executor.update({ ...STEP, decay: 1 });
    expect((await executor.save()).parameters.slice(offset, offset + length)).toEqual(two);
    // Running statistics tend to the batch's: then both modes agree, but for the variance's n/(n − 1).
    for (let i = 0; i < 200; i++) {
      await executor.backward('conv', inputs, { embedding: float32([4, 8], new Float32Array(32)) });
    }
    const inference = (await executor.forward('conv', inputs)).embedding!.data as Float32Array;
    const batch = (await executor.forward('conv', inputs, { training: true })).embedding!
      .data as Float32Array;
    batch.forEach((value, i) => {
      expect(inference[i]).toBeCloseTo(value, 1);
    });
  });

  test('moving average, clamps, frozen parameters and gradients given from outside', async () => {
    const b = new GraphBuilder('line');
    b.output('y', b.op('Mul', [b.input('x', 'float32', ['n']), b.parameter('slope', [1])]), ['n']);
    const parameter = { dims: [1], decay: false, trainable: true };
    const executor = await make({
      graphs: { line: b.build() },
      parameters: [
        { ...parameter, name: 'slope', value: Float32Array.of(2) },
        { ...parameter, name: 'frozen', value: Float32Array.of(5), trainable: false },
        { ...parameter, name: 'scale', value: Float32Array.of(1), max: 1.05 },
      ],
    });
    const inputs = { x: float32([1], Float32Array.of(3)) };
    expect((await executor.forward('line', inputs, { parameters: 'ema' })).y!.data[0]).toBe(6);
    await executor.addGradient('slope', Float32Array.of(1));
    await executor.addGradient('slope', Float32Array.of(2));
    await executor.addGradient('scale', Float32Array.of(-4));
    await executor.addGradient('frozen', Float32Array.of(100));
    const { gradientNorm } = await executor.update({ ...STEP, rate: 0.1, ema: 0.5, epsilon: 1e-8 });
    expect(gradientNorm).toBeCloseTo(5, 5);
    const { parameters, ema } = await executor.save();
    expect(parameters[0]).toBeCloseTo(1.9, 5);
    expect(parameters[1]).toBe(5);
    expect(parameters[2]).toBe(Math.fround(1.05));
    expect(ema![0]).toBeCloseTo(1.95, 5);
    expect((await executor.forward('line', inputs)).y!.data[0]).toBeCloseTo(5.7, 5);
    expect((await executor.forward('line', inputs, { parameters: 'ema' })).y!.data[0]).toBeCloseTo(5.85, 5);
  });

  test('misuse is named', async () => {
    const executor = await make(vitOptions());
    const gradient = float32([4, 8], new Float32Array(32));
    await expect(executor.forward('vat', {})).rejects.toThrow(/Expected one of vit for graph/);
    await expect(executor.forward('vit', {})).rejects.toThrow(/input pixels of vit but received none/);
    await expect(
      executor.forward('vit', { pixels: float32([1, 3, 8, 8], new Float32Array(192)) }),
    ).rejects.toThrow(/Expected shape \[batch, 3, 16, 16\] for input pixels of vit but received \[1,3,8,8\]/);
    await expect(executor.backward('vit', { pixels: pixels(4) }, { embeddings: gradient })).rejects.toThrow(
      /Expected one of embedding for an output gradient/,
    );
    await expect(executor.addGradient('nothing', new Float32Array(1))).rejects.toThrow(RangeError);
    // The executor is still good.
    expect((await executor.forward('vit', { pixels: pixels(4) })).embedding!.dims).toEqual([4, 8]);

    const { graphs, parameters } = vitOptions();
    await expect(createExecutor({ graphs, parameters: parameters.slice(1) })).rejects.toThrow(
      /Expected parameter/,
    );
    expect((await make({ graphs, parameters })).kind).toBe(kind);
  });

  test('an operator without a gradient is named when it is trained through', async () => {
    const b = new GraphBuilder('odd');
    b.output('y', b.op('Mod', [b.parameter('p', [2]), b.scalar(2)], { fmod: 1 }, { name: 'remainder' }), [2]);
    const parameters = [{ name: 'p', dims: [2], value: new Float32Array(2), decay: false, trainable: true }];
    const executor = await make({ graphs: { odd: b.build() }, parameters });
    await expect(
      executor.backward('odd', {}, { y: float32([2], Float32Array.of(1, 1)) }),
    ).rejects.toMatchObject({
      code: 'MODEL_UNSUPPORTED',
      message: expect.stringContaining("Mod (node 'remainder')"),
    });
  });

  test('a model that computes in another precision is refused, not trained in part', async () => {
    const b = new GraphBuilder('half');
    const half = b.op('Cast', [b.parameter('p', [2])], { to: 10 }, { name: 'down' });
    b.output('y', b.op('Cast', [b.op('Exp', [half])], { to: 1 }), [2]);
    const parameters = [{ name: 'p', dims: [2], value: new Float32Array(2), decay: false, trainable: true }];
    const executor = await make({ graphs: { half: b.build() }, parameters });
    await expect(
      executor.backward('half', {}, { y: float32([2], Float32Array.of(1, 1)) }),
    ).rejects.toMatchObject({
      code: 'MODEL_UNSUPPORTED',
      message: expect.stringContaining("Cast (node 'down')"),
    });
  });

  test('dispose waits for what runs, may be called twice, and ends all use', async () => {
    const executor = await make(vitOptions());
    const running = executor.forward('vit', { pixels: pixels(2) });
    await Promise.all([executor.dispose(), executor.dispose()]);
    expect((await running).embedding!.dims).toEqual([2, 8]);
    await expect(executor.forward('vit', { pixels: pixels(2) })).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});
