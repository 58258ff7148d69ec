import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type AlignOptions, align } from '../../src/cskd/align.ts';
import { type Dataset, openDataset, subset } from '../../src/data/dataset.ts';
import { decodeImage } from '../../src/data/image.ts';
import { type ImageEncoder, openImageEncoder } from '../../src/encoder/image-encoder.ts';
import type { Matrix } from '../../src/kernels/rows.ts';
import { writeModel } from '../../src/onnx/model.ts';
import { exportModel } from '../../src/program/export.ts';
import { chooseBackbone } from '../../src/student/backbone.ts';
import { exportImageModel } from '../../src/student/image-model.ts';
import { writeShapes } from '../cid/shapes.ts';
import { torchCase } from '../program/support/torch.ts';

const vision = { imageSize: 16, patchSize: 4, width: 24, layers: 1, heads: 2 } as const;

let root: string;
let data: Dataset;
let frozen: ImageEncoder;
let features: Matrix;

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'align-'));
  data = await openDataset(await writeShapes(join(root, 'data')), { captions: false });
  // A frozen model with weights as they start, wider than what learns from it.
  const backbone = await chooseBackbone({ backbone: { ...vision, width: 32 } }, 9);
  const values = new Map(backbone.parameters.map(({ name, value }) => [name, value]));
  await exportImageModel(join(root, 'frozen'), { graph: backbone.graph, values, backbone });
  frozen = await openImageEncoder(join(root, 'frozen'), { imageOutput: 'pooler_output', threads: 1 });
  features = { data: await frozen.embedImages(await images(data)), rows: data.length, dim: frozen.dim };
});
afterAll(async () => {
  await frozen?.dispose();
  await data?.dispose();
  rmSync(root, { recursive: true, force: true });
});

function images(set: Dataset) {
  return Promise.all(Array.from({ length: set.length }, async (_, i) => decodeImage(await set.read(i))));
}

function options(folder: string, more: Partial<AlignOptions> = {}): AlignOptions {
  return {
    sets: [{ data, features }],
    folder: join(root, folder),
    backbone: vision,
    batchSize: 16,
    microBatch: 8,
    steps: 30,
    rate: 3e-3,
    validation: 0.25,
    threads: 1,
    ...more,
  };
}

describe('align', () => {
  it('learns the frozen features, and its folder gives them', async () => {
    const cosines: number[] = [];
    const result = await align(
      options('learn', { steps: 120, onStep: ({ terms }) => cosines.push(terms.cosine!) }),
    );
    expect(cosines.at(-1)!).toBeLessThan(cosines[0]! / 4);
    expect(result.validation!.cosine).toBeGreaterThan(0.8);
    const encoder = await openImageEncoder(result.model, { threads: 1 });
    const own = await openImageEncoder(result.model, { threads: 1, imageOutput: 'pooler_output' });
    try {
      expect([encoder.dim, own.dim, encoder.imageSize]).toEqual([32, 24, 16]);
      const found = await encoder.embedImages(await images(data));
      let mean = 0;
      for (let row = 0; row < data.length; row++) {
        mean += cosine(found, features.data as Float32Array, row, 32) / data.length;
      }
      expect(mean).toBeGreaterThan(0.85);
    } finally {
      await Promise.all([encoder.dispose(), own.dispose()]);
    }
  });

  it('ends with the same bytes after a stop as without one', async () => {
    const whole = await align(options('whole', { ema: 0.9 }));
    const controller = new AbortController();
    const stop = options('stopped', {
      ema: 0.9,
      signal: controller.signal,
      onStep: ({ step }) => {
        if (step === 11) controller.abort();
      },
    });
    await expect(align(stop)).rejects.toMatchObject({ code: 'ABORTED' });
    const resumed = await align(options('stopped', { ema: 0.9 }));
    expect(resumed.validation).toEqual(whole.validation);
    expect(bytes(resumed.model)).toEqual(bytes(whole.model));
    await expect(align(options('stopped', { ema: 0.9, rate: 1e-3 }))).rejects.toMatchObject({
      code: 'RUN_CHANGED',
    });
  });

  it('mixes sets by weight', async () => {
    const few = subset(data, [0, 1, 2, 3, 4, 5, 6, 7]);
    const rows = { data: (features.data as Float32Array).slice(0, 8 * 32), rows: 8, dim: 32 };
    const result = await align(
      options('mixed', {
        sets: [
          { data, features, weight: 1 },
          { data: few, features: rows, weight: 3 },
        ],
        steps: 4,
      }),
    );
    expect(result.steps).toBe(4);
  });

  it('runs the frozen model on the views that the encoder sees', async () => {
    const embed = vi.spyOn(frozen, 'embedImages');
    const losses: number[] = [];
    await align(
      options('online', {
        sets: [{ data }],
        targets: 'online',
        frozen,
        steps: 20,
        weights: { relational: 0.5, feature: 0.5, mse: 0.1 },
        onStep: ({ terms }) => losses.push(terms.total!),
      }),
    );
    // Those held out as they are, once, and the views of every step.
    const calls = embed.mock.calls.map(([views]) => views);
    expect(calls.map(({ length }) => length)).toEqual([12, ...Array(20).fill(16)]);
    expect(calls[3]!.every(({ width, height }) => width === 16 && height === 16)).toBe(true);
    embed.mockRestore();
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
  });

  it('goes on from its own folder, and takes an ONNX file of other makers', async () => {
    const first = await align(options('first'));
    const again = await align(options('again', { init: first.model, steps: 1, rate: 1e-9, decay: 0 }));
    const [a, b] = await Promise.all(
      [first, again].map(({ model }) =>
        openImageEncoder(model, { threads: 1, imageOutput: 'pooler_output' }),
      ),
    );
    const sample = (await images(data)).slice(0, 3);
    const [x, y] = await Promise.all([a!.embedImages(sample), b!.embedImages(sample)]);
    for (const [i, value] of x.entries()) expect(y[i]).toBeCloseTo(value, 5);
    await Promise.all([a!.dispose(), b!.dispose()]);

    const { model } = await torchCase('mobilenet');
    const net = join(root, 'net.onnx');
    await writeModel(net, exportModel(model.graph, new Map(model.parameters.map((p) => [p.name, p.value]))));
    const losses: number[] = [];
    const other = await align(
      options('net', { init: net, steps: 25, onStep: ({ terms }) => losses.push(terms.total!) }),
    );
    expect(losses.at(-1)!).toBeLessThan(losses[0]! * 0.8);
    const loaded = await align(options('net-2', { init: other.model, steps: 1 }));
    expect(loaded.parameters).toBe(other.parameters);
  });

  it('names what is missing or does not fit', async () => {
    const refuse = (more: Partial<AlignOptions>, message: string | RegExp) =>
      expect(align(options('bad', more))).rejects.toThrow(message);
    await refuse({ sets: [] }, 'Expected at least one set of images for sets');
    await refuse({ sets: [{ data }] }, 'Expected features of the frozen model for sets[0].features');
    await refuse({ sets: [{ data }], targets: 'online' }, 'Expected an opened model for frozen');
    await refuse(
      {
        sets: [
          { data, features, weight: 1 },
          { data, features },
        ],
      },
      /weights of all sets or of none/,
    );
    await refuse(
      { sets: [{ data, features: { ...features, rows: 3 } }] },
      /48 rows, one an image, for sets\[0\]/,
    );
    await refuse({ weights: { cosine: 0 } }, 'Expected a weight over 0 for weights');
    await refuse({ backbone: { ...vision, heads: 5 } }, /divisor of 24 for student.vision.heads/);
    await refuse({ backbone: { widht: 3 } as never }, /"widht"/);
    await refuse({ init: join(root, 'nothing') }, /There is no model/);
    await refuse({ init: join(root, 'frozen'), features: 'tokens' }, /no output tokens, but pooler_output/);
  });
});

function cosine(a: Float32Array, b: Float32Array, row: number, dim: number): number {
  let [dot, aa, bb] = [0, 0, 0];
  for (let k = row * dim; k < (row + 1) * dim; k++) {
    dot += a[k]! * b[k]!;
    aa += a[k]! ** 2;
    bb += b[k]! ** 2;
  }
  return dot / Math.sqrt(aa * bb);
}

function bytes(model: string): Buffer {
  return readFileSync(join(model, 'onnx', 'vision_model.onnx'));
}
