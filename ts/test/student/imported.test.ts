import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type PretrainOptions, pretrain } from '../../src/cid/pretrain.ts';
import { type Dataset, openDataset } from '../../src/data/dataset.ts';
import { decodeImage } from '../../src/data/image.ts';
import { openEncoder } from '../../src/encoder/encoder.ts';
import { writeModel } from '../../src/onnx/model.ts';
import { GraphBuilder } from '../../src/program/builder.ts';
import { exportModel } from '../../src/program/export.ts';
import { importImageTower, importTextTower } from '../../src/student/imported.ts';
import { tinyStudent, writeShapes } from '../cid/shapes.ts';
import { spread } from '../program/support/gradient.ts';
import { torchCase } from '../program/support/torch.ts';

let root: string;
let data: Dataset;
let net: string;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'imported-'));
  data = await openDataset(await writeShapes(join(root, 'data')));
  const { model } = await torchCase('mobilenet');
  const values = new Map(model.parameters.map(({ name, value }) => [name, value]));
  net = join(root, 'net.onnx');
  await writeModel(net, exportModel(model.graph, values));
});
afterAll(async () => {
  await data?.dispose();
  rmSync(root, { recursive: true, force: true });
});

function options(folder: string, more: Partial<PretrainOptions> = {}): PretrainOptions {
  return {
    data,
    folder: join(root, folder),
    student: tinyStudent,
    vocabSize: 560,
    batchSize: 48,
    threads: 1,
    rate: 3e-3,
    augment: 'none',
    captions: 'first',
    validation: 0,
    steps: 3,
    ...more,
  };
}

async function losses(settings: PretrainOptions): Promise<number[]> {
  const values: number[] = [];
  await pretrain({ ...settings, onStep: ({ terms }) => values.push(terms.clip!) });
  return values;
}

describe('a student that was imported', () => {
  it('trains and exports a convolutional net with a new text tower', async () => {
    const values = await losses(options('net', { imageModel: net, steps: 40 }));
    expect(values.at(-1)!).toBeLessThan(values[0]! * 0.8);
    const encoder = await openEncoder(join(root, 'net/model'), { threads: 1 });
    const images = await Promise.all([0, 9].map(async (item) => decodeImage(await data.read(item))));
    const embeddings = await encoder.embedImages(images);
    await encoder.dispose();
    const { dim } = await importImageTower(net, undefined);
    expect(embeddings).toHaveLength(2 * dim);
    expect(embeddings.every(Number.isFinite)).toBe(true);
  });

  it('trains a CLIP folder of other makers as the one it was made from', async () => {
    await pretrain(options('origin', { steps: 10 }));
    const foreign = join(root, 'foreign');
    await cp(join(root, 'origin/model'), foreign, { recursive: true });
    const config = JSON.parse(readFileSync(join(foreign, 'config.json'), 'utf8')) as Record<string, unknown>;
    delete config.clip_cid;
    writeFileSync(join(foreign, 'config.json'), JSON.stringify(config));
    // Without decay: what is a table and what a matrix cannot always be told from an ONNX file.
    const own = await losses(options('own', { init: join(root, 'origin/model'), decay: 0 }));
    const imported = await losses(options('imported', { init: foreign, decay: 0 }));
    expect(own[2]!).toBeLessThan(own[0]!);
    for (const [i, value] of own.entries()) expect(imported[i]).toBeCloseTo(value, 4);
    // And what it became opens as a model again, and trains on.
    const again = await losses(options('again', { init: join(root, 'imported/model') }));
    expect(again[0]!).toBeLessThan(imported[0]!);
  });

  it('says once what our own executor lacks, sought at the sizes of training, and trains on ONNX Runtime', async () => {
    const b = new GraphBuilder('frames');
    const pixels = b.input('pixel_values', 'float32', ['batch', 'channels', 'height', 'width']);
    const volume = b.op('Reshape', [pixels, b.ints([0, 1, 3, 16, 16])]);
    const attributes = { kernel_shape: [3, 4, 4], strides: [1, 4, 4] };
    const kernel = b.parameter('kernel', [8, 1, 3, 4, 4]);
    const made = b.op('Conv', [volume, kernel], attributes, { name: 'over channels' });
    const embedding = b.op('Flatten', [b.op('Relu', [made])]);
    b.output('image_embeds', embedding, ['batch', 128]);
    const file = join(root, 'frames.onnx');
    const values = new Map([['kernel', spread(8 * 48, 1)]]);
    await writeModel(file, exportModel(b.build(), values));
    const reasons: string[] = [];
    const onFallback = (reason: string) => reasons.push(reason);
    const more = { imageModel: file, onFallback, steps: 2 };
    expect(await losses(options('frames', more))).toHaveLength(2);
    expect(reasons).toEqual([expect.stringMatching(/^graph 'image': .*Conv.*'over channels'/)]);
    const alone = pretrain(options('frames-native', { ...more, executor: 'native' }));
    await expect(alone).rejects.toMatchObject({ code: 'MODEL_UNSUPPORTED' });
    expect(existsSync(join(root, 'frames-native/last.safetensors'))).toBe(false);
  });

  it('is refused where its file is not such a tower', async () => {
    const text = join(root, 'origin/model/onnx/text_model.onnx');
    await expect(importImageTower(text, 16)).rejects.toMatchObject({
      code: 'MODEL_INVALID',
      message: expect.stringContaining('one float32 input'),
    });
    await expect(importTextTower(net, 10)).rejects.toMatchObject({ code: 'MODEL_INVALID' });
    const missing = pretrain(options('missing', { imageModel: join(root, 'nothing.onnx') }));
    await expect(missing).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});
