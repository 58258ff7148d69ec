import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Dataset } from '../../src/data/dataset.ts';
import type { RgbImage } from '../../src/data/image.ts';
import { CidError } from '../../src/native/errors.ts';
import { type AugmentOptions, resolveAugmentation, type View } from '../../src/student/augment.ts';
import { type ImageTextBatch, imageTextSource } from '../../src/student/batches.ts';
import { tabulateCaptions } from '../../src/student/captions.ts';
import { type DecodeMany, ImageCache, TrainingImages } from '../../src/student/images.ts';
import { clipNormalisation, renderImages, renderPixels } from '../../src/student/views.ts';
import { ViewRenderer } from '../reference/views.ts';

/** Pictures of many shapes, from one pixel to larger than any view. */
const SHAPES = [
  [61, 40],
  [24, 24],
  [1, 1],
  [5, 90],
  [130, 97],
  [17, 33],
  [48, 64],
  [200, 31],
  [12, 12],
  [96, 96],
  [33, 57],
] as const;

function picture(index: number): RgbImage {
  const [width, height] = SHAPES[index]!;
  const data = new Uint8Array(3 * width * height);
  let state = index + 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = ((state >>> 24) + 3 * i) & 255;
  }
  return { data, width, height };
}

const captioned = {
  item: (index: number) => ({ captions: [`a ${index}`, `b ${index}`, 'c'] }),
} as unknown as Dataset;

function source(augment: AugmentOptions | 'none', viewSize?: number, threads?: number) {
  return rowsOf(
    async (indices) =>
      indices.map((index) => (index === 6 ? new CidError('FILE_FORMAT', 'broken') : picture(index))),
    { augment, ...(viewSize !== undefined && { viewSize }), ...(threads !== undefined && { threads }) },
  );
}

function rowsOf(
  decode: DecodeMany,
  {
    augment = 'none',
    ...options
  }: { augment?: AugmentOptions | 'none'; viewSize?: number; threads?: number } = {},
) {
  const items = Int32Array.from(SHAPES.keys());
  const cache = new ImageCache(decode, 2 ** 20);
  const captions = tabulateCaptions(captioned, items, 'random');
  const ids = Int32Array.from({ length: 3 * captions.texts.length }, (_, i) => i);
  return imageTextSource({
    images: new TrainingImages(cache, items),
    captions,
    tokens: { ids, mask: ids.map((id) => id & 1), contextLength: 3 },
    imageSize: 24,
    normalisation: clipNormalisation,
    augmentation: resolveAugmentation(augment),
    batchSize: 5,
    seed: 77,
    ...options,
  });
}

function digest(batch: ImageTextBatch): string {
  const hash = createHash('sha256');
  for (const array of [batch.places, batch.texts, batch.pixels, batch.tokens, batch.mask]) {
    hash.update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
  }
  for (const { data } of batch.views ?? []) hash.update(data);
  return hash.digest('hex').slice(0, 16);
}

const colour: AugmentOptions = {
  flip: 0.5,
  brightness: 0.3,
  contrast: 0.4,
  saturation: 0.5,
  grayscale: 0.2,
};

// As they were when views were first rendered: a training run that goes on from an old checkpoint must see the same.
describe('batches stay what they were', () => {
  it.each<[string, AugmentOptions | 'none', number | undefined, string[]]>([
    ['plain', 'none', undefined, ['c3884e8fbc2f5b74', 'e6ea8ab1e4148eba', '805d5b3318387040']],
    ['cropped', {}, undefined, ['709b78124f57d9f4', 'c12137c494cd922c', '18d2771c46cc6ac8']],
    [
      'small crops, narrow and wide',
      { scale: [0.05, 0.4], ratio: [0.2, 5] },
      undefined,
      ['79fc7202803bfe75', 'aea1542c986feef4', '37ebdbafef09064d'],
    ],
    [
      'coloured, with views for a teacher',
      colour,
      17,
      ['eeb93f5db2212f05', '71b22766d4ce4d54', 'a7db28d97e478fd7'],
    ],
  ])('%s', async (_, augment, viewSize, expected) => {
    const batches = source(augment, viewSize);
    const found = [];
    for (const [epoch, step] of [
      [0, 0],
      [0, 1],
      [3, 1],
    ] as const) {
      found.push(digest(await batches.batch(epoch, step)));
    }
    expect(found).toEqual(expected);
  });
});

/** Any view that an image of this size can have, also beyond what is ever drawn. */
function anyView(width: number, height: number): fc.Arbitrary<View> {
  const number = (min: number, max: number) => fc.double({ min, max, noNaN: true });
  const factor = fc.oneof(fc.constant(1), number(0, 2));
  return fc.record({
    left: number(-2, width),
    top: number(-2, height),
    width: number(1e-3, width + 3),
    height: number(1e-3, height + 3),
    flip: fc.boolean(),
    angle: fc.oneof(fc.constant(0), number(-Math.PI, Math.PI)),
    brightness: factor,
    contrast: factor,
    saturation: factor,
    hue: fc.oneof(fc.constant(0), number(-3, 3)),
  });
}

const anyCase = fc.nat(SHAPES.length - 1).chain((index) =>
  fc.record({
    index: fc.constant(index),
    view: anyView(SHAPES[index]![0], SHAPES[index]![1]),
    size: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constant(64)),
  }),
);

const bits = ({ buffer, byteOffset, byteLength }: Float32Array | Uint8Array) =>
  Buffer.from(buffer, byteOffset, byteLength).toString('base64');

describe('rendering on all threads', () => {
  it('gives the bits of the reference, whatever the view', async () => {
    const { mean, std } = clipNormalisation;
    await fc.assert(
      fc.asyncProperty(anyCase, async ({ index, view, size }) => {
        // A single pixel that is turned has no neighbours to be read between.
        if (size === 1) view = { ...view, angle: 0 };
        const image = picture(index);
        const found = new Float32Array(3 * size * size);
        await renderPixels([image], [view], size, clipNormalisation, found);
        const expected = new Float32Array(3 * size * size);
        new ViewRenderer(size).pixels(image, view, mean, std, expected, 0);
        expect(bits(found)).toBe(bits(expected));
        const [small] = await renderImages([image], [view], size);
        expect(bits(small!.data)).toBe(bits(new ViewRenderer(size).image(image, view).data));
      }),
      { numRuns: 300, seed: 11 },
    );
  });

  it('gives the same on any number of threads', async () => {
    const places = Array.from({ length: 50 }, (_, i) => i % SHAPES.length);
    const images = places.map(picture);
    const views = fc.sample(anyView(1, 1), { numRuns: places.length, seed: 3 });
    const results = [];
    for (const threads of [1, 2, 7]) {
      const out = new Float32Array(50 * 3 * 20 * 20);
      await renderPixels(images, views, 20, clipNormalisation, out, 0, { threads });
      results.push(bits(out));
    }
    expect(new Set(results).size).toBe(1);
  });

  it('turns a single pixel into itself', async () => {
    const view = { ...fc.sample(anyView(1, 1), { numRuns: 1, seed: 1 })[0]!, angle: 1 };
    const [turned] = await renderImages([picture(0)], [view], 1);
    const [upright] = await renderImages([picture(0)], [{ ...view, angle: 0 }], 1);
    expect(turned).toEqual(upright);
  });

  it('stops when it is told to, and refuses what is outside memory', async () => {
    const [view] = fc.sample(anyView(8, 8), { numRuns: 1, seed: 2 });
    const render = (image: RgbImage, more: Partial<View>, length: number, signal?: AbortSignal) =>
      renderPixels([image], [{ ...view!, ...more }], 4, clipNormalisation, new Float32Array(length), 0, {
        ...(signal && { signal }),
      });
    await expect(render(picture(0), {}, 48, AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' });
    await expect(render(picture(0), {}, 47)).rejects.toThrow(/48 elements for out/);
    await expect(render({ ...picture(0), height: 41 }, {}, 48)).rejects.toThrow(/elements for data/);
    for (const left of [Number.NaN, Number.POSITIVE_INFINITY, 1e12]) {
      await expect(render(picture(0), { left }, 48)).rejects.toThrow(/views/);
    }
    await expect(render(picture(0), { width: -1 }, 48)).rejects.toThrow(/views/);
  });
});

describe('batches under way', () => {
  it('are the same when several are asked for at once, on any number of threads', async () => {
    const expected = [];
    for (const step of [0, 1]) expected.push(digest(await source(colour, 17).batch(2, step)));
    for (const threads of [1, 4]) {
      const batches = source(colour, 17, threads);
      const found = await Promise.all([batches.batch(2, 0), batches.batch(2, 1), batches.batch(2, 0)]);
      expect(found.map(digest)).toEqual([expected[0], expected[1], expected[0]]);
    }
  });

  it('come in the memory of batches that were given back, and are the same', async () => {
    const batches = source(colour, 17);
    const first = await batches.batch(2, 0);
    const [digestOfFirst, { pixels }] = [digest(first), first];
    batches.reuse!(first);
    batches.reuse!(first);
    const second = await batches.batch(2, 1);
    expect(second.pixels).toBe(pixels);
    const third = await batches.batch(2, 0);
    expect(third.pixels).not.toBe(pixels);
    expect(digest(third)).toBe(digestOfFirst);
    expect(digest(second)).toBe(digest(await source(colour, 17).batch(2, 1)));
  });

  it('end with their failure, and leave nothing at work', async () => {
    let running = 0;
    let fail = false;
    const batches = rowsOf(async (indices) => {
      running++;
      await new Promise((resolve) => setImmediate(resolve));
      running--;
      if (fail) throw new CidError('DISPOSED', 'closed');
      return indices.map(picture);
    });
    await batches.batch(0, 0);
    fail = true;
    await expect(batches.batch(0, 1)).rejects.toMatchObject({ code: 'DISPOSED' });
    expect(running).toBe(0);
    fail = false;
    await expect(batches.batch(0, 0, AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' });
    await batches.batch(0, 1);
  });
});
