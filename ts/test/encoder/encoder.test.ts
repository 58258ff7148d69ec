import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { RgbImage } from '../../src/data/image.ts';
import { type Encoder, type OpenEncoderOptions, openEncoder } from '../../src/encoder/encoder.ts';
import {
  CONTEXT,
  config,
  DIM,
  END,
  type FolderFiles,
  imageReference,
  preprocessor,
  SIZE,
  textReference,
  tinyModel,
  tokenizerJson,
  VOCABULARY,
  writeModelFolder,
} from './models.ts';

let folder: string;
const opened: Encoder[] = [];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'model-'));
});
afterEach(async () => {
  for (const encoder of opened.splice(0)) await encoder.dispose();
  await rm(folder, { recursive: true });
});

async function open(files: FolderFiles = {}, options: OpenEncoderOptions = {}): Promise<Encoder> {
  const encoder = await openEncoder(await writeModelFolder(folder, files), { threads: 1, ...options });
  opened.push(encoder);
  return encoder;
}

/** Images of noise that follows from the seed. */
function noise(count: number, width = 9, height = 7): RgbImage[] {
  return Array.from({ length: count }, (_, n) => ({
    width,
    height,
    data: Uint8Array.from({ length: width * height * 3 }, (_, i) => ((i + 3) * (n + 7) * 2654435761) >>> 24),
  }));
}

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-5): void {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < actual.length; i++) {
    expect(Math.abs(actual[i] - expected[i])).toBeLessThanOrEqual(tolerance * (1 + Math.abs(expected[i])));
  }
}

async function expectImages(encoder: Encoder, count: number, tolerance?: number): Promise<void> {
  const images = noise(count);
  const pixels = await encoder.preprocess(images);
  const width = 3 * SIZE * SIZE;
  const expected = images.flatMap((_, n) => [...imageReference(pixels.subarray(n * width, (n + 1) * width))]);
  expectClose(await encoder.embedImages(images), expected, tolerance);
  expectClose(await encoder.embedPixels(pixels), expected, tolerance);
}

async function expectTexts(encoder: Encoder, padded: boolean): Promise<void> {
  const texts = ['a red cat', '', 'dog', 'a blue dog and a red cat and a red dog', 'a'];
  const { inputIds, attentionMask } = encoder.tokenizer.encode(texts, CONTEXT);
  const expected = texts.flatMap((_, row) => {
    const ids = [...inputIds.subarray(row * CONTEXT, (row + 1) * CONTEXT)];
    return textReference(ids.filter((_, i) => padded || attentionMask[row * CONTEXT + i] === 1));
  });
  expectClose(await encoder.embedTexts(texts), expected);
}

describe('openEncoder', () => {
  it('embeds images and texts with separate files', async () => {
    const encoder = await open({}, { batchSize: 3 });
    expect([encoder.dim, encoder.imageSize, encoder.contextLength]).toEqual([DIM, SIZE, CONTEXT]);
    await expectImages(encoder, 8);
    await expectTexts(encoder, false);
    expect(await encoder.embedImages([])).toHaveLength(0);
    expect(await encoder.embedTexts([])).toHaveLength(0);
  });

  it('embeds with one file for both, one modality at a time', async () => {
    const both = tinyModel(['image', 'text']);
    const encoder = await open({ vision: null, text: null, both }, { batchSize: 4 });
    await expectImages(encoder, 5);
    await expectTexts(encoder, false);
  });

  it('feeds int32 ids, float16 pixels, and no mask where there is none', async () => {
    const vision = tinyModel(['image'], { float: 'float16' });
    const text = tinyModel(['text'], { float: 'float16', ids: 'int32', mask: false });
    const encoder = await open({ vision, text });
    await expectTexts(encoder, true);
    // Pixels and sums are rounded to 11 bits.
    await expectImages(encoder, 2, 2e-2);
  });

  it('fills up the runs of a model that fixes their rows', async () => {
    const encoder = await open({
      vision: tinyModel(['image'], { batch: 3 }),
      text: tinyModel(['text'], { batch: 2 }),
    });
    await expectImages(encoder, 7);
    await expectTexts(encoder, false);
  });

  it('takes other files, and other names where there is no doubt', async () => {
    const rename = { pixel_values: 'input', image_embeds: 'features' };
    await writeModelFolder(folder, { vision: null });
    await writeFile(
      join(folder, 'small.onnx'),
      tinyModel(['image'], { rename, extraOutput: 'pooler_output' }),
    );
    const encoder = await openEncoder(folder, { threads: 1, visionModel: 'small.onnx' });
    opened.push(encoder);
    await expectImages(encoder, 2);
  });

  it('knows the logit scale only where the configuration holds a trained one', async () => {
    expect((await open()).logitScale).toBeUndefined();
    expect(
      (await open({ config: config({}, { logit_scale_init_value: 2.6592 }) })).logitScale,
    ).toBeUndefined();
    expect(
      (await open({ config: config({}, { logit_scale_init_value: Math.log(50) }) })).logitScale,
    ).toBeCloseTo(50);
  });

  it('has a hash of models, external data, preprocessing and tokenizer', async () => {
    const first = (await open()).hash;
    expect((await open()).hash).toBe(first);
    const changes: FolderFiles[] = [
      { vision: tinyModel(['image'], { rename: { image_embeds: 'embeds' } }) },
      { preprocessor: preprocessor({ resample: 2 }) },
      { config: config({}, { note: 1 }) },
    ];
    for (const files of changes) expect((await open(files)).hash).not.toBe(first);
    await appendFile(join(await writeModelFolder(folder), 'onnx', 'text_model.onnx_data'), 'weights');
    expect((await open()).hash).not.toBe(first);
  });

  it('runs calls that are made at once, and none after it was closed', async () => {
    const encoder = await open();
    const images = noise(6);
    const one = await encoder.embedImages(images);
    const many = await Promise.all(images.map((image) => encoder.embedImages([image])));
    expectClose(
      many.flatMap((row) => [...row]),
      one,
    );
    await encoder.dispose();
    await encoder.dispose();
    for (const call of [
      () => encoder.embedImages(images),
      () => encoder.embedTexts(['a']),
      () => encoder.embedPixels(new Float32Array(0)),
      () => encoder.preprocess(images),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: 'DISPOSED' });
    }
  });

  it('leaves the pixels it is given as they are, and checks how many they are', async () => {
    const encoder = await open();
    const pixels = await encoder.preprocess(noise(2));
    const copy = pixels.slice();
    await encoder.embedPixels(pixels);
    expect(pixels).toEqual(copy);
    await expect(encoder.embedPixels(pixels.subarray(1))).rejects.toThrow(/\[n, 3, 6, 6\] for pixels/);
  });
});

describe('a model folder that cannot be used', () => {
  const cases: [string, FolderFiles, OpenEncoderOptions, RegExp][] = [
    ['a missing model', { text: null }, {}, /no file .*text_model\.onnx, nor .*onnx\/model\.onnx/],
    ['a missing model by name', {}, { visionModel: 'onnx/gone.onnx' }, /no file .*gone\.onnx$/],
    ['a missing configuration', { config: null }, {}, /config\.json/],
    ['missing preprocessing', { preprocessor: null }, {}, /preprocessor_config\.json/],
    ['a missing tokenizer', { tokenizer: null }, {}, /tokenizer\.json/],
    ['a configuration that is not JSON', { config: '{' }, {}, /config\.json is not valid JSON/],
    ['a file that is no model', { vision: 'not a model' }, {}, /vision_model\.onnx/],
    [
      'a model without the input',
      { vision: tinyModel(['text']) },
      {},
      /input pixel_values .*found input_ids, attention_mask/,
    ],
    [
      'a model with inputs nobody fills',
      { vision: tinyModel(['image'], { extraInput: 'extra' }) },
      {},
      /found pixel_values, extra/,
    ],
    [
      'features before the projection',
      { vision: tinyModel(['image'], { rename: { image_embeds: 'pooler_output' } }) },
      {},
      /output image_embeds .*found pooler_output; .*before the projection/,
    ],
    [
      'two outputs that could be meant',
      { vision: tinyModel(['image'], { rename: { image_embeds: 'a' }, extraOutput: 'b' }) },
      {},
      /image_embeds .*found a, b/,
    ],
    ['two widths', { text: tinyModel(['text'], { dim: 5 }) }, {}, /images have 4 dimensions and texts 5/],
    [
      'another image size',
      { vision: tinyModel(['image'], { size: 7 }) },
      {},
      /takes images of 7 pixels .* makes them 6/,
    ],
    [
      'a tokenizer with too many tokens',
      { config: config({ vocab_size: VOCABULARY - 1 }) },
      {},
      new RegExp(`tokenizer.*${VOCABULARY} tokens where the text model has ${VOCABULARY - 1}`),
    ],
    [
      'a tokenizer with another end',
      { config: config({ eos_token_id: 7 }) },
      {},
      new RegExp(`tokenizer.*id ${END} where .* 7`),
    ],
    [
      'a tokenizer that the text model refuses',
      { config: {}, text: tinyModel(['text'], { vocabulary: 400 }) },
      {},
      new RegExp(`tokenizer .*is not the model's: the text model refuses its token ${END}`),
    ],
    [
      'a tokenizer without start and end',
      { tokenizer: { ...tokenizerJson, post_processor: null } },
      {},
      /wrong tokenizer for a CLIP text tower/,
    ],
  ];
  for (const [what, files, options, message] of cases) {
    it(`says so of ${what}`, async () => {
      await expect(open(files, options)).rejects.toMatchObject({
        code: 'MODEL_INVALID',
        message: expect.stringMatching(message),
      });
    });
  }

  it('says so of a missing folder and of an execution provider that is not there', async () => {
    await expect(openEncoder(join(folder, 'gone'))).rejects.toMatchObject({ code: 'MODEL_INVALID' });
    await expect(open({}, { providers: ['nonsense'] })).rejects.toMatchObject({
      code: 'PROVIDER_UNAVAILABLE',
    });
    await expect(open({}, { batchSize: 0 })).rejects.toThrow(RangeError);
  });
});
