import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DeviceTensor } from '../../src/kernels/device-tensor.ts';
import { type DeviceLossOutput, lossAnywhere } from '../../src/kernels/loss.ts';
import { type Device, devices } from '../../src/native/devices.ts';
import { loadAddon } from '../../src/native/loader.ts';
import { GraphBuilder } from '../../src/program/builder.ts';
import type { Executor, ExecutorState, Parameter } from '../../src/program/executor.ts';
import type { Graph } from '../../src/program/graph.ts';
import { createNativeExecutor } from '../../src/program/native/executor.ts';
import type { ImageTextBatch } from '../../src/student/batches.ts';
import { buildHeads, HEADS } from '../../src/student/heads.ts';
import { type CidLossOptions, cidLoss } from '../../src/student/losses.ts';
import { float32 } from '../../src/student/tensors.ts';
import { train } from '../../src/student/trainer.ts';
import type { BatchSource, Loss, TowerOutputs } from '../../src/student/types.ts';
import { sequence } from '../reference/sequence.ts';

const BATCH = 10;
const WIDTH = 12;
const CENTRES = 19;
const PLACES = 40;

/** A layer by the name of a tower, with the tower's output. */
function tower(name: string, output: string, dim: number): { graph: Graph; parameters: Parameter[] } {
  const builder = new GraphBuilder(name);
  const x = builder.input('x', 'float32', ['batch', WIDTH]);
  const weight = `${name}.weight`;
  builder.output(output, builder.op('MatMul', [x, builder.parameter(weight, [WIDTH, dim])]), ['batch', dim]);
  const value = sequence(WIDTH * dim, name.length);
  return {
    graph: builder.build(),
    parameters: [{ name: weight, dims: [WIDTH, dim], value, decay: true, trainable: true }],
  };
}

interface Case {
  readonly name: string;
  readonly dim: number;
  readonly teacherDim: number;
  readonly learned: boolean;
  readonly sampleRate: number;
  readonly soft: boolean;
  readonly clipOnly?: boolean;
}

const CASES: Case[] = [
  { name: 'projections, a sample', dim: 7, teacherDim: 10, learned: false, sampleRate: 0.5, soft: false },
  { name: 'learned centres', dim: 8, teacherDim: 8, learned: true, sampleRate: 0.7, soft: false },
  {
    name: 'all centres learned, projections',
    dim: 5,
    teacherDim: 9,
    learned: true,
    sampleRate: 1,
    soft: false,
  },
  { name: 'soft targets', dim: 8, teacherDim: 8, learned: false, sampleRate: 1, soft: true },
  { name: 'CLIP alone', dim: 6, teacherDim: 6, learned: false, sampleRate: 1, soft: false, clipOnly: true },
];

async function setUp(c: Case, device: Device): Promise<{ executor: Executor; loss: Loss<ImageTextBatch> }> {
  const { dim, teacherDim } = c;
  const centroids = { data: sequence(CENTRES * teacherDim, 3), rows: CENTRES, dim: teacherDim };
  const image = tower('image', 'image_embeds', dim);
  const text = tower('text', 'text_embeds', dim);
  const heads = buildHeads({ dim, teacherDim, instance: true, ...(c.learned && { centroids }) }, 4);
  const executor = await createNativeExecutor({
    graphs: { image: image.graph, text: text.graph, [HEADS]: heads.graph },
    parameters: [...image.parameters, ...text.parameters, ...heads.parameters],
    device,
    threads: 2,
  });
  const all = c.clipOnly ? 0 : 1;
  const options: CidLossOptions = {
    weights: { clip: 1, clusterCe: 0.7 * all, clusterKl: 0.9 * all, instance: all },
    dim,
    teacherDim,
    targets: async ({ places }) => ({
      image: sequence(BATCH * teacherDim, 5 + places[0]!),
      text: sequence(BATCH * teacherDim, 6 + places[0]!),
    }),
    clusters: {
      centroids,
      labels: Int32Array.from({ length: PLACES }, (_, i) => (i * 7) % CENTRES),
      learned: c.learned,
      sampleRate: c.sampleRate,
      ...(c.soft && {
        soft: {
          softCentroids: sequence(PLACES * teacherDim, 8),
          entropies: new Float32Array(PLACES).fill(2),
        },
      }),
    },
    temperature: 0.1,
    teacherTemperature: 0.08,
    pairing: 'both',
    seed: 2,
    kernel: { device, threads: 2 },
  };
  return { executor, loss: cidLoss(options) };
}

const source: BatchSource<ImageTextBatch> = {
  stepsPerEpoch: 4,
  batchSize: BATCH,
  batch: async (_epoch, step) => {
    const places = Int32Array.from({ length: BATCH }, (_, i) => (step * BATCH + i) % PLACES);
    const pixels = sequence(2 * BATCH * WIDTH, 10 + step);
    const none = new BigInt64Array(0);
    return { places, texts: places, pixels, imageSize: 1, tokens: none, mask: none, contextLength: 0, step };
  },
};

/** Rows of the image tower, and behind them those of the text tower. */
const rowsFor = (first: number) => (batch: ImageTextBatch, from: number, to: number) => ({
  x: float32(batch.pixels.subarray((first + from) * WIDTH, (first + to) * WIDTH), [to - from, WIDTH]),
});

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'device-loss-'));
});
const open: Executor[] = [];
afterEach(async () => {
  rmSync(folder, { recursive: true, force: true });
  for (const executor of open.splice(0)) await executor.dispose();
});

const usable = devices().devices.filter((info) => info.usable);

describe.each(usable)('$device ($name)', ({ device: ofDevice, name }) => {
  const device = ofDevice as Device;

  async function trained(
    c: Case,
    microBatch: number,
    change: (made: { executor: Executor; loss: Loss<ImageTextBatch> }) => {
      executor: Executor;
      loss: Loss<ImageTextBatch>;
    },
    steps = 3,
  ): Promise<{ state: ExecutorState; terms: unknown[]; free: number[] }> {
    const made = await setUp(c, device);
    open.push(made.executor);
    const { executor, loss } = change(made);
    const terms: unknown[] = [];
    const free: number[] = [];
    await train({
      executor,
      towers: [
        { graph: 'image', inputs: rowsFor(0) },
        { graph: 'text', inputs: rowsFor(BATCH) },
      ],
      heads: HEADS,
      source,
      loss,
      schedule: { rate: 0.05, warmup: 1, steps },
      microBatch,
      decay: 0.01,
      betas: [0.9, 0.98],
      epsilon: 1e-6,
      clip: 1,
      folder: join(folder, `${microBatch}-${Math.random()}`),
      checkpointEvery: steps,
      onStep: (step) => {
        terms.push(step.terms);
        free.push(loadAddon().freeMemory(device));
      },
    });
    return { state: await executor.save(), terms, free };
  }

  /** Every tensor comes to the host and goes back. */
  const byHost = ({ executor, loss }: { executor: Executor; loss: Loss<ImageTextBatch> }) => ({
    executor,
    loss: (outputs: TowerOutputs, batch: ImageTextBatch) => loss(outputs, batch),
  });

  test.each(CASES)('$name: the same bytes as by way of the host', async (c) => {
    for (const microBatch of [BATCH, 4]) {
      const expected = await trained(c, microBatch, byHost);
      const seen: string[] = [];
      const actual = await trained(c, microBatch, ({ executor, loss }) => ({
        executor: Object.assign(Object.create(executor), {
          parameters: executor.parameters,
          forward: () => expect.unreachable('outputs on the host'),
          forwardOnDevice: (...call: Parameters<Executor['forward']>) => executor.forwardOnDevice!(...call),
          concatenate: (parts: readonly DeviceTensor[]) => executor.concatenate!(parts),
          backward: (...call: Parameters<Executor['backward']>) => executor.backward(...call),
          addGradient: (...call: Parameters<Executor['addGradient']>) => {
            if (call[1] instanceof DeviceTensor) seen.push(call[0]);
            return executor.addGradient(...call);
          },
          prefetch: (...call: Parameters<NonNullable<Executor['prefetch']>>) => executor.prefetch!(...call),
          update: (...call: Parameters<Executor['update']>) => executor.update(...call),
          save: () => executor.save(),
        }) as Executor,
        loss: Object.assign(
          (() => expect.unreachable('a loss on the host')) as unknown as Loss<ImageTextBatch>,
          {
            anywhere: async (...call: Parameters<NonNullable<typeof loss.anywhere>>) => {
              const [outputs] = call;
              expect(outputs.image!.image_embeds).toBeInstanceOf(DeviceTensor);
              const result = await loss.anywhere!(...call);
              expect(result.gradients.image!.image_embeds).toBeInstanceOf(DeviceTensor);
              expect(result.gradients.text!.text_embeds).toBeInstanceOf(DeviceTensor);
              return result;
            },
          },
        ),
      }));
      expect(actual.terms).toEqual(expected.terms);
      expect(actual.state).toEqual(expected.state);
      expect(seen.includes('heads.centroids')).toBe(c.learned);
      expect(seen.includes('heads.image_projection')).toBe(c.dim !== c.teacherDim);
    }
  });

  // Of other memory, others take and give too.
  if (name.startsWith('Emulated'))
    test('memory of the device is used again from step to step', async () => {
      const { free } = await trained(CASES[1]!, 4, (made) => made, 8);
      expect(free.slice(3).every((bytes) => bytes === free[3])).toBe(true);
    });

  test('says what diverged, although nobody looked at it on the host', async () => {
    const { executor, loss } = await setUp(CASES[0]!, device);
    open.push(executor);
    const state = await executor.save();
    const { offset } = executor.parameters.find((parameter) => parameter.name === 'text.weight')!;
    state.parameters[offset] = Number.NaN;
    await executor.load(state);
    await expect(
      train({
        executor,
        towers: [
          { graph: 'image', inputs: rowsFor(0) },
          { graph: 'text', inputs: rowsFor(BATCH) },
        ],
        heads: HEADS,
        source,
        loss,
        schedule: { rate: 0.05, warmup: 1, steps: 2 },
        microBatch: BATCH,
        decay: 0,
        betas: [0.9, 0.98],
        epsilon: 1e-6,
        folder,
        checkpointEvery: 2,
      }),
    ).rejects.toMatchObject({
      code: 'DIVERGED',
      message: "Output text_embeds of 'text' holds NaN at step 1; a lower rate may help",
    });
  });

  test('tensors on the device are the executor’s own, whole where that matters, and gone when given up', async () => {
    const [first, second] = await Promise.all([setUp(CASES[1]!, device), setUp(CASES[1]!, device)]);
    const one = first.executor;
    const other = second.executor;
    open.push(one, other);
    const batch = await source.batch(0, 0);
    const inputs = rowsFor(0)(batch, 0, BATCH);
    const outputs = await one.forwardOnDevice!('image', inputs);
    const embeds = outputs.image_embeds as DeviceTensor;
    expect(embeds.dims).toEqual([BATCH, 8]);
    const onHost = (await one.forward('image', inputs)).image_embeds!;
    expect(await embeds.read()).toEqual(onHost.data);
    expect(await embeds.rows(2, 5).read()).toEqual(onHost.data.slice(16, 40));
    const joined = await one.concatenate!([embeds, embeds]);
    expect(await joined.rows(BATCH, 2 * BATCH).read()).toEqual(onHost.data);

    await expect(other.backward('image', inputs, { image_embeds: embeds })).rejects.toThrow(
      "Expected the gradient of image_embeds to be this executor's",
    );
    await expect(one.backward('image', inputs, { image_embeds: joined })).rejects.toThrow('Expected shape');
    await expect(one.addGradient('image.weight', embeds)).rejects.toThrow('Expected 96 values');
    await expect(one.concatenate!([embeds.rows(0, 3)])).rejects.toThrow('to be all rows of a tensor');
    const text = (await other.forwardOnDevice!('image', inputs)).image_embeds as DeviceTensor;
    const plain = { clipLogScale: 1 };
    const alone = { ceWeight: 0, klWeight: 0, instanceWeight: 0 };
    await expect(lossAnywhere({ image: embeds, text, ...plain }, alone)).rejects.toThrow(
      'Expected tensors of one executor',
    );
    await expect(
      lossAnywhere({ image: embeds.rows(0, 3), text: embeds.rows(0, 3), ...plain }, alone),
    ).rejects.toThrow('Expected all rows of a tensor');
    const result = await lossAnywhere({ image: embeds, text: embeds, ...plain }, alone);
    const { gradients } = result as DeviceLossOutput;
    await one.backward('image', inputs, { image_embeds: gradients.image });
    embeds.dispose();
    embeds.dispose();
    await expect(embeds.read()).rejects.toMatchObject({ code: 'DISPOSED' });
    // What outlives its executor is no use, and does no harm.
    await one.dispose();
    joined.dispose();
  });
});

afterAll(() => {
  if (usable.length === 1)
    process.stdout.write('the loss in place: on the CPU alone, since there is no usable GPU\n');
});
