import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RgbImage } from '../../src/data/image.ts';
import type { Encoder } from '../../src/encoder/encoder.ts';
import { evaluate } from '../../src/eval/evaluate.ts';
import { formatEvaluation } from '../../src/eval/format.ts';

const words = ['red', 'green', 'blue'];

/** Embeds an image as its mean colour, and a text as the colours that it names: a model that knows all. */
function colourEncoder(folder: string): Encoder {
  const encoder: Partial<Encoder> = {
    folder,
    dim: 3,
    hash: 'colours',
    imageSize: 1,
    async embedImages(images: readonly RgbImage[]) {
      return Float32Array.from(images.flatMap(({ data }) => [data[0]!, data[1]!, data[2]!]));
    },
    async embedTexts(texts: readonly string[]) {
      return Float32Array.from(
        texts.flatMap((text) => words.map((word) => (text.includes(word) ? 1 : 0.01))),
      );
    },
    async dispose() {},
  };
  // Evaluation needs no more of an encoder than this.
  return encoder as Encoder;
}

describe('evaluate', () => {
  const root = mkdtempSync(join(tmpdir(), 'evaluate-'));
  const encoder = colourEncoder(root);
  const heldout = join(root, 'heldout.jsonl');
  const train = join(root, 'train.jsonl');
  const options = { model: encoder, data: heldout, device: 'cpu', templates: ['a {} thing'] } as const;

  beforeAll(async () => {
    mkdirSync(join(root, 'images'));
    const make = async (list: string, concepts: string[], shades: number[]) => {
      const lines: object[] = [];
      for (const [c, colour] of words.entries()) {
        for (const [s, shade] of shades.entries()) {
          const image = join('images', `${concepts[s]}-${colour}.png`);
          const background = { r: shade, g: shade, b: shade, [['r', 'g', 'b'][c]!]: 250 };
          await sharp({ create: { width: 2, height: 2, channels: 3, background } })
            .png()
            .toFile(join(root, image));
          lines.push({
            key: image,
            image,
            captions: [`a ${colour} thing`, 'something'],
            category: colour,
            concept: `${concepts[Math.floor(s / 2)]}-${colour}`,
            vendor: s % 2 === 0 ? 'a' : 'b',
          });
        }
      }
      writeFileSync(list, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    };
    await make(train, ['t', 'u', 'v', 'w'], [10, 30, 60, 90]);
    await make(heldout, ['h', 'i'], [20, 80]);
    // An image that cannot be decoded is counted and left out.
    writeFileSync(join(root, 'images', 'broken.png'), 'not an image');
    writeFileSync(heldout, `{"key":"broken","image":"images/broken.png","category":"red"}\n`, { flag: 'a' });
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  it('reads a list whose fields have names of their own', async () => {
    const list = join(root, 'fields.jsonl');
    const line = { picture: 'images/h-red.png', said: 'a red thing', category: 'red' };
    writeFileSync(list, JSON.stringify(line));
    const fields = { imageField: 'picture', captionField: 'said' };
    const result = await evaluate({ ...options, ...fields, data: list, train: list, tasks: ['image-text'] });
    expect(result.imageText?.data?.imageToText.recall[1]).toBe(1);
    expect(result.train?.images).toBe(1);
  });

  it('runs all that the data allow, and a perfect model scores perfectly', async () => {
    const result = await evaluate({ ...options, train, captionsPerImage: 1 });
    expect(result.data).toEqual({ source: heldout, images: 6, skipped: 1, seen: 0 });
    expect(result.train).toEqual({ source: train, images: 12, skipped: 0 });
    expect(result.zeroShot).toMatchObject({ category: { images: 6, classes: 3, top1: 1, meanPerClass: 1 } });
    expect(result.linearProbe).toMatchObject({ category: { trainImages: 12, top1: 1 } });
    expect(result.imageImage).toMatchObject({ queries: 6, meanAveragePrecision: 1, concepts: 3 });
    expect(result.imageText?.data).toMatchObject({
      imageToText: { queries: 6, candidates: 3, recall: { '1': 1 } },
      textToImage: { queries: 3, candidates: 6, recall: { '1': 1 } },
    });
    expect(JSON.parse(JSON.stringify(result))).toEqual(result);
  });

  it('says when what is measured on was trained on, all of it or some', async () => {
    const seen = await evaluate({ ...options, data: train, train, tasks: ['zero-shot'] });
    expect(seen.data).toMatchObject({ images: 12, seen: 12 });
    expect(formatEvaluation(seen)).toMatch(/NOTE: all of these images are training images/);
    const some = { ...seen, data: { ...seen.data, seen: 3 } };
    expect(formatEvaluation(some)).toMatch(/NOTE: 3 of these images are training images/);
    const none = await evaluate({ ...options, train, tasks: ['zero-shot'] });
    expect(formatEvaluation(none)).not.toMatch(/NOTE/);
  });

  it('says that unseen names are near chance, and only there', async () => {
    const { imageText } = await evaluate({ ...options, train, tasks: ['image-text'] });
    expect(imageText?.data?.note).toMatch(/near chance/);
    expect(imageText?.train?.note).toBeUndefined();
    const seen = await evaluate({ ...options, data: train, train, tasks: ['image-text'] });
    expect(seen.imageText?.data?.note).toBeUndefined();
  });

  it('counts every caption of an image unless told how many', async () => {
    const { imageText } = await evaluate({ ...options, tasks: ['image-text'] });
    expect(imageText?.data?.textToImage.queries).toBe(4);
    expect(imageText?.train).toBeUndefined();
  });

  it('runs what is asked for and nothing else', async () => {
    const result = await evaluate({ ...options, tasks: ['zero-shot'], classes: { category: words } });
    expect(Object.keys(result).sort()).toEqual(['data', 'model', 'seconds', 'zeroShot']);
    expect(result.zeroShot?.category?.perClass.map(({ name }) => name)).toEqual(words);
  });

  it('leaves out by default what the data do not allow', async () => {
    const plain = join(root, 'plain.jsonl');
    writeFileSync(plain, '{"image":"images/h-red.png"}\n{"image":"images/h-blue.png","caption":"blue"}\n');
    const result = await evaluate({ ...options, data: plain });
    expect(Object.keys(result).sort()).toEqual(['data', 'imageText', 'model', 'seconds']);
  });

  it('names what is missing for a task that was asked for', async () => {
    await expect(evaluate({ ...options, tasks: ['image-image'], concept: 'species' })).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringContaining("'species'"),
    });
    await expect(evaluate({ ...options, tasks: ['zero-shot'], labels: ['genus'] })).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringContaining('genus'),
    });
    await expect(evaluate({ ...options, tasks: ['linear-probe'] })).rejects.toThrow(TypeError);
    await expect(evaluate({ ...options, tasks: ['taste' as never] })).rejects.toThrow(RangeError);
    await expect(evaluate({ ...options, classes: { category: ['red', 'green'] } })).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringContaining("'blue'"),
    });
  });

  it('names a class that the probe cannot know', async () => {
    const few = join(root, 'few.jsonl');
    writeFileSync(
      few,
      '{"image":"images/t-red.png","category":"red"}\n{"image":"images/t-blue.png","category":"blue"}\n',
    );
    await expect(evaluate({ ...options, train: few, tasks: ['linear-probe'] })).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringContaining("'green'"),
    });
  });

  it('fails for a model or data that are not there, and stops when told to', async () => {
    await expect(evaluate({ ...options, model: join(root, 'nowhere') })).rejects.toMatchObject({
      name: 'CidError',
    });
    await expect(evaluate({ ...options, data: join(root, 'nowhere.jsonl') })).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
    });
    await expect(evaluate({ ...options, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });

  it('reads as lines for a person', async () => {
    const text = formatEvaluation(await evaluate({ ...options, train, captionsPerImage: 1 }));
    expect(text).toContain('6 images of');
    expect(text).toContain('(1 could not be decoded)');
    expect(text).toContain('zero-shot, category (3): top-1 100.0 %');
    expect(text).toContain('near chance');
  });
});
