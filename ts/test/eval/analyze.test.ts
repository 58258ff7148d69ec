import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDataset } from '../../src/data/dataset.ts';
import { decodeImage } from '../../src/data/image.ts';
import { preprocessImages } from '../../src/encoder/preprocess.ts';
import { type AnalyzeOptions, analyzeModel } from '../../src/eval/analyze.ts';
import { AttentionMeter } from '../../src/eval/attention/meter.ts';
import { openModelSource } from '../../src/eval/attention/source.ts';
import { SpreadMeter } from '../../src/eval/collapse.ts';
import { encodeModel } from '../../src/onnx/model.ts';
import type { ModelProto } from '../../src/onnx/onnx_pb.ts';
import { GraphBuilder } from '../../src/program/builder.ts';
import type { ProgressEvent } from '../../src/run/progress.ts';
import { filled, plain, SIZE, TOKENS, tinyVit, WIDTH } from './attention/graphs.ts';

let root: string;
const at = (name: string) => join(root, name);
const analyze = (options: Partial<AnalyzeOptions> = {}) =>
  analyzeModel({ model: at('model'), data: at('images'), threads: 2, ...options });

async function putModel(folder: string, model: ModelProto, name = 'onnx/vision_model.onnx'): Promise<string> {
  await mkdir(join(at(folder), 'onnx'), { recursive: true });
  await writeFile(join(at(folder), name), encodeModel(model));
  return at(folder);
}

const PREPROCESSOR = {
  size: { shortest_edge: SIZE },
  crop_size: { height: SIZE, width: SIZE },
  image_mean: [0.5, 0.4, 0.3],
  image_std: [0.2, 0.25, 0.3],
};

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'analyze-'));
  await mkdir(at('images'));
  for (let i = 0; i < 40; i++) {
    const [width, height] = [12 + (i % 5), 10 + (i % 3)];
    const data = Uint8Array.from({ length: width * height * 3 }, (_, k) => (k * (i + 3) * 37) % 256);
    await sharp(data, { raw: { width, height, channels: 3 } })
      .png()
      .toFile(at(`images/${String(i).padStart(2, '0')}.png`));
  }
  await writeFile(at('images/99.png'), 'not an image');
  await putModel('model', tinyVit(plain));
  await writeFile(at('model/preprocessor_config.json'), JSON.stringify(PREPROCESSOR));
});
afterAll(() => rm(root, { recursive: true }));

it('measures attention and embeddings of all images, whatever the runs are', async () => {
  const events: ProgressEvent[] = [];
  const found = await analyze({ onProgress: (event) => events.push(event) });
  expect(found).toMatchObject({
    model: at('model/onnx/vision_model.onnx'),
    data: { source: at('images'), images: 40, skipped: 1 },
    imageSize: SIZE,
    skipped: [],
    definitions: { renormalize: false, entropyOf: 'all' },
    notes: [],
  });
  expect(events.at(-1)).toEqual({ label: 'analyze', done: 41, total: 41, unit: 'images' });

  const source = await openModelSource(at('model'));
  const data = await openDataset(at('images'), { captions: false });
  const meter = await AttentionMeter.open(source, ['image_embeds'], {}, { threads: 2 });
  const spread = new SpreadMeter(WIDTH);
  for (let i = 0; i < 40; i++) {
    const pixels = await preprocessImages([await decodeImage(await data.read(i))], source.preprocessing);
    spread.add((await meter.run(pixels, 1)).image_embeds!.data as Float32Array);
  }
  const [wanted] = meter.results();
  await meter.dispose();
  const [layer] = found.attention;
  expect(found.attention).toHaveLength(1);
  expect(layer).toMatchObject({
    node: 'softmax',
    heads: 2,
    tokens: TOKENS,
    classTokens: 0,
    grid: [4, 4],
    cell: 2,
  });
  for (const head of [0, 1]) {
    expect(layer!.distance[head]).toBeCloseTo(wanted!.distance[head]!, 5);
    expect(layer!.entropy[head]).toBeCloseTo(wanted!.entropy[head]!, 5);
  }
  const embeddings = await spread.result();
  expect(found.embeddings).toMatchObject({ output: 'image_embeds', images: 40, dim: WIDTH });
  expect(found.embeddings.effectiveRank).toBeCloseTo(embeddings.effectiveRank, 4);
  expect(found.embeddings.meanCosine).toBeCloseTo(embeddings.meanCosine!, 4);
  expect(JSON.parse(JSON.stringify(found))).toEqual(found);
});

it('draws images by seed', async () => {
  const first = await analyze({ images: 10, seed: 1 });
  expect(first.data.images + first.data.skipped).toBe(10);
  expect((await analyze({ images: 10, seed: 1 })).attention).toEqual(first.attention);
  expect((await analyze({ images: 10, seed: 2 })).attention).not.toEqual(first.attention);
});

it('takes data sets that are open, ratings, and lists', async () => {
  const list = Array.from({ length: 5 }, (_, i) => `images/0${i}.png`);
  await writeFile(at('list.csv'), ['file', ...list].join('\n'));
  const named = await analyze({ data: at('list.csv'), imageField: 'file' });
  expect(named.data.images).toBe(5);
  const open = await openDataset(at('list.csv'), { captions: false });
  const given = await analyze({ data: open });
  expect(given.attention).toEqual(named.attention);
  expect((await open.read(0)).length).toBeGreaterThan(0);

  await mkdir(at('ava/images'), { recursive: true });
  for (const id of [11, 12])
    await sharp(await open.read(id - 11))
      .jpeg()
      .toFile(at(`ava/images/${id}.jpg`));
  await writeFile(
    at('ava/AVA.txt'),
    [11, 12].map((id, i) => `${i} ${id} 1 0 0 0 0 0 0 0 0 1 0 0 1`).join('\n'),
  );
  expect((await analyze({ data: at('ava') })).data).toEqual({
    source: at('ava/AVA.txt'),
    images: 2,
    skipped: 0,
  });
});

describe('models', () => {
  it('without a configuration get CLIP’s, which is said', async () => {
    const folder = await putModel('bare', tinyVit(plain), 'tower.onnx');
    const found = await analyze({ model: folder });
    expect(found.notes).toEqual([
      `There is no preprocessor_config.json beside ${at('bare/tower.onnx')}: images are prepared as for CLIP, ${SIZE} pixels wide`,
    ]);
    expect((await analyze({ model: at('bare/tower.onnx') })).attention).toEqual(found.attention);
    expect(found.attention).not.toEqual((await analyze()).attention);
  });

  it('without attention have their embeddings measured', async () => {
    const folder = await putModel(
      'conv',
      tinyVit((b, _q, _k, v) => b.op('Relu', [v])),
    );
    const found = await analyze({ model: folder });
    expect(found.attention).toEqual([]);
    expect(found.embeddings.effectiveRank).toBeGreaterThan(1);
  });

  it('with both towers in one file are looked at on the side of images', async () => {
    const b = new GraphBuilder('both');
    const pixels = b.input('pixel_values', 'float32', ['batch', 3, SIZE, SIZE]);
    const ids = b.input('input_ids', 'int64', ['texts', 5]);
    const flat = b.op('Reshape', [pixels, b.ints([0, -1])]);
    b.output('image_embeds', b.op('MatMul', [flat, b.parameter('w', [3 * SIZE ** 2, 6])]), ['batch', 6]);
    const words = b.op('Gather', [b.parameter('e', [9, 6]), ids]);
    b.output('text_embeds', b.op('ReduceMean', [words], { axes: [1], keepdims: 0 }), ['texts', 6]);
    const found = await analyze({ model: await putModel('both', filled(b), 'onnx/model.onnx') });
    expect(found.embeddings).toMatchObject({ output: 'image_embeds', dim: 6 });
  });

  it('that give tokens or maps have them pooled', async () => {
    const embeddings = async (folder: string, model: ModelProto, options = {}) => {
      const found = await analyze({ model: await putModel(folder, model), ...options });
      const { output, ...spread } = found.embeddings;
      return { output, spread };
    };
    const tokens = await putModel('tokens', tinyVit(plain, { output: 'tokens' }));
    const pooled = await analyze({ model: tokens });
    expect(pooled.embeddings.output).toBe('last_hidden_state');
    const mean = await embeddings('mean', tinyVit(plain, { output: 'mean' }));
    expect(pooled.embeddings.meanCosine).toBeCloseTo(mean.spread.meanCosine!, 6);
    // With class tokens, the first of them stands for the image.
    const classed = await analyze({ model: tokens, classTokens: 7 });
    const first = await embeddings('first', tinyVit(plain, { output: 'first' }), { classTokens: 7 });
    expect(classed.embeddings.meanCosine).toBeCloseTo(first.spread.meanCosine!, 6);
    expect(classed.embeddings.meanCosine).not.toBeCloseTo(mean.spread.meanCosine!, 4);

    const [b, c] = [new GraphBuilder('map'), new GraphBuilder('means')];
    const shape = ['batch', 3, SIZE, SIZE] as const;
    b.output('features', b.op('Abs', [b.input('pixel_values', 'float32', shape)]), shape);
    const maps = c.op('Abs', [c.input('pixel_values', 'float32', shape)]);
    c.output('features', c.op('ReduceMean', [maps], { axes: [2, 3], keepdims: 0 }), ['batch', 3]);
    const [map, means] = [await embeddings('map', filled(b)), await embeddings('means', filled(c))];
    expect(map.spread.effectiveRank).toBeCloseTo(means.spread.effectiveRank, 4);
    expect(map.spread.dim).toBe(3);
  });

  it('are refused with what was expected', async () => {
    const fails = (options: Partial<AnalyzeOptions>, code: string, message: RegExp) =>
      expect(analyze(options)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
    await fails({ model: at('nowhere') }, 'MODEL_INVALID', /There is no model/);
    await fails(
      { model: at('images') },
      'MODEL_INVALID',
      /has no file onnx\/vision_model\.onnx, onnx\/model\.onnx/,
    );
    await fails({ file: 'onnx/other.onnx' }, 'MODEL_INVALID', /has no file onnx\/other\.onnx/);
    await fails({ output: 'logits' }, 'MODEL_INVALID', /has no output logits of floats; it has image_embeds/);
    await fails(
      { imageSize: 16 },
      'MODEL_INVALID',
      /takes images of 8 pixels and its preprocessing makes them 16/,
    );
    await writeFile(at('text.onnx'), encodeModel(textModel()));
    await fails(
      { model: at('text.onnx') },
      'MODEL_INVALID',
      /takes no images: expected the input pixel_values but found input_ids/,
    );
    const fused = tinyVit((b, q, k, v) =>
      b.op('MultiHeadAttention', [q, k, v], {}, { domain: 'com.microsoft' }),
    );
    await fails(
      { model: await putModel('fused', fused) },
      'MODEL_UNSUPPORTED',
      /fused into .*Export it unfused/,
    );
    await writeFile(at('broken.onnx'), 'x');
    await fails({ model: at('broken.onnx') }, 'MODEL_INVALID', /not an ONNX model/);
  });
});

it('refuses options out of range before work starts', async () => {
  await expect(analyze({ images: 1 })).rejects.toThrow(
    'Expected an integer of at least 2 for images but received 1',
  );
  await expect(analyze({ grid: [4, 0] })).rejects.toThrow(/for grid but received 0/);
  await expect(analyze({ classTokens: -1 })).rejects.toThrow(/for classTokens/);
  await expect(analyze({ heads: 0 })).rejects.toThrow(/for heads/);
});

it('fails without an image that can be decoded, and stops when it is told to', async () => {
  await mkdir(at('broken'));
  for (const name of ['a.png', 'b.png']) await writeFile(at(`broken/${name}`), 'x');
  await expect(analyze({ data: at('broken') })).rejects.toMatchObject({ code: 'INVALID_DATA' });
  await expect(analyze({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
});

function textModel(): ModelProto {
  const b = new GraphBuilder('text');
  const ids = b.input('input_ids', 'int64', ['batch', 5]);
  b.output('text_embeds', b.op('Gather', [b.parameter('e', [9, 6]), ids]), ['batch', 5, 6]);
  return filled(b);
}
