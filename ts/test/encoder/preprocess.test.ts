import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { openDataset } from '../../src/data/dataset.ts';
import { decodeImage, type RgbImage, resizeImage } from '../../src/data/image.ts';
import {
  type Preprocessing,
  parsePreprocessing,
  preprocessDataset,
  preprocessImages,
} from '../../src/encoder/preprocess.ts';

const load = async (name: string) =>
  decodeImage(await readFile(new URL(`../fixtures/${name}`, import.meta.url)));
const parse = (config: Record<string, unknown>) => parsePreprocessing(config, 'preprocessor_config.json');
const plain = { do_rescale: false, do_normalize: false };

/** Differences in grey levels, 0 to 255, between pixel values [3, S, S] and an image. */
function compare(pixels: Float32Array, image: RgbImage): { mean: number; max: number } {
  const plane = image.width * image.height;
  expect(pixels.length).toBe(3 * plane);
  let [sum, max] = [0, 0];
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) {
      const difference = Math.abs(pixels[c * plane + i] - image.data[3 * i + c]);
      sum += difference;
      max = Math.max(max, difference);
    }
  }
  return { mean: sum / (3 * plane), max };
}

describe('preprocessing against PIL', () => {
  // Resized and cropped by PIL 9.4 in the way of the usual Python processors. What is enlarged is equal. What is reduced goes
  // through libvips, which shrinks in another place: the mean difference stays under 1 of 256 grey levels (0.2 to 0.3 for
  // reductions of up to 4 times), and no pixel is off by more than 8.
  const cases: [string, string, Record<string, unknown>, number, number][] = [
    [
      'images/rgb.png',
      'rgb-72-bicubic',
      { size: 72, crop_size: { height: 72, width: 72 }, resample: 3 },
      0,
      0,
    ],
    ['images/rgb.png', 'rgb-72-bilinear', { size: 72, crop_size: 72, resample: 2 }, 0, 0],
    ['images/rgb.png', 'rgb-32-bicubic', { size: { shortest_edge: 32 }, crop_size: 32, resample: 3 }, 0.3, 4],
    ['encoder/scene.jpg', 'scene-40-32-bicubic', { size: { shortest_edge: 40 }, crop_size: 32 }, 1, 8],
    [
      'encoder/scene.jpg',
      'scene-40-32-bilinear',
      { size: { shortest_edge: 40 }, crop_size: 32, resample: 2 },
      1,
      8,
    ],
    [
      'encoder/scene.jpg',
      'scene-48x48-bicubic',
      { size: { height: 48, width: 48 }, do_center_crop: false },
      1,
      8,
    ],
  ];
  for (const [source, reference, config, meanBound, maxBound] of cases) {
    it(`agrees on ${reference}`, async () => {
      const pixels = await preprocessImages([await load(source)], parse({ ...plain, ...config }));
      const { mean, max } = compare(pixels, await load(`encoder/${reference}.png`));
      expect(mean).toBeLessThanOrEqual(meanBound);
      expect(max).toBeLessThanOrEqual(maxBound);
    });
  }

  it('tells bicubic from bilinear, and one crop from its neighbour', async () => {
    const scene = await load('encoder/scene.jpg');
    const config = { ...plain, size: 40, crop_size: 32 };
    const pixels = await preprocessImages([scene], parse(config));
    expect(compare(pixels, await load('encoder/scene-40-32-bilinear.png')).mean).toBeGreaterThan(1.5);
    const narrow = { ...scene, data: scene.data.subarray(3 * scene.width * 8), height: scene.height - 8 };
    const moved = await preprocessImages([narrow], parse(config));
    expect(compare(moved, await load('encoder/scene-40-32-bicubic.png')).mean).toBeGreaterThan(1.5);
  });
});

describe('preprocessImages', () => {
  const dot: RgbImage = { width: 1, height: 1, data: Uint8Array.of(0, 128, 255) };

  it("rescales and normalises with CLIP's values where the configuration is silent", async () => {
    const preprocessing = parse({});
    expect(preprocessing.imageSize).toBe(224);
    const pixels = await preprocessImages([dot], preprocessing);
    expect(pixels.length).toBe(3 * 224 * 224);
    const expected = [
      (0 - 0.48145466) / 0.26862954,
      (128 / 255 - 0.4578275) / 0.26130258,
      (1 - 0.40821073) / 0.27577711,
    ];
    for (let c = 0; c < 3; c++) expect(pixels[c * 224 * 224 + 777]).toBeCloseTo(expected[c], 6);
  });

  it('uses the values it is given', async () => {
    const config = {
      size: 1,
      crop_size: 1,
      rescale_factor: 0.5,
      image_mean: [1, 2, 3],
      image_std: [1, 2, 4],
    };
    expect([...(await preprocessImages([dot], parse(config)))]).toEqual([-1, 31, (127.5 - 3) / 4]);
  });

  it('puts one image after the other', async () => {
    const config = parse({ ...plain, size: 1, crop_size: 1 });
    const other = { ...dot, data: Uint8Array.of(7, 8, 9) };
    expect([...(await preprocessImages([dot, other], config))]).toEqual([0, 128, 255, 7, 8, 9]);
    expect(await preprocessImages([], config)).toHaveLength(0);
  });

  it('takes an image as it is where nothing is resized, and refuses one that is too small', async () => {
    const config = parse({ ...plain, do_resize: false, crop_size: 2 });
    const image: RgbImage = { width: 3, height: 2, data: Uint8Array.from({ length: 18 }, (_, i) => i) };
    expect([...(await preprocessImages([image], config))].slice(0, 4)).toEqual([0, 3, 9, 12]);
    await expect(preprocessImages([dot], config)).rejects.toMatchObject({ code: 'INVALID_DATA' });
  });
});

describe('parsePreprocessing', () => {
  it('names the field that cannot be used', () => {
    const cases: [Record<string, unknown>, RegExp, string][] = [
      [{ size: { longest_edge: 224 } }, /size/, 'MODEL_INVALID'],
      [{ size: 0 }, /size in pixels for size/, 'MODEL_INVALID'],
      [{ size: 224, crop_size: 256 }, /crop_size/, 'MODEL_INVALID'],
      [{ crop_size: { height: 224, width: 200 } }, /crop_size/, 'MODEL_INVALID'],
      [{ do_center_crop: false }, /square size/, 'MODEL_INVALID'],
      [{ image_mean: [0.5] }, /three numbers for image_mean/, 'MODEL_INVALID'],
      [{ image_std: [0, 1, 1] }, /image_std/, 'MODEL_INVALID'],
      [{ rescale_factor: 'x' }, /rescale_factor/, 'MODEL_INVALID'],
      [{ resample: 5 }, /filter 5 is not supported/, 'MODEL_UNSUPPORTED'],
    ];
    for (const [config, message, code] of cases) {
      expect(() => parse(config)).toThrow(
        expect.objectContaining({ code, message: expect.stringMatching(message) }),
      );
    }
  });
});

/** The same in plain steps: resized, cut, and each value for itself. */
async function plainly(image: RgbImage, preprocessing: Preprocessing): Promise<Float32Array> {
  const { resize, kernel, imageSize, rescale, mean, std } = preprocessing;
  let [width, height] = [image.width, image.height];
  if (resize && 'shortest' in resize) {
    const factor = resize.shortest / Math.min(width, height);
    [width, height] = [width, height].map((side) => Math.floor(side * factor + 1e-9)) as [number, number];
  } else if (resize) {
    ({ width, height } = resize);
  }
  const { data } = await resizeImage(image, width, height, kernel);
  const [left, top] = [Math.floor((width - imageSize) / 2), Math.floor((height - imageSize) / 2)];
  const pixels = new Float32Array(3 * imageSize ** 2);
  for (let c = 0; c < 3; c++)
    for (let y = 0; y < imageSize; y++)
      for (let x = 0; x < imageSize; x++) {
        const value = data[3 * ((top + y) * width + left + x) + c]!;
        pixels[(c * imageSize + y) * imageSize + x] = (value * rescale - mean[c]!) / std[c]!;
      }
  return pixels;
}

describe('preprocessDataset', () => {
  const folder = new URL('../fixtures/images/', import.meta.url).pathname;
  const configs: Record<string, unknown>[] = [
    { size: 16, crop_size: 16 },
    { size: { shortest_edge: 20 }, crop_size: 12, resample: 2 },
    { size: { height: 24, width: 24 }, do_center_crop: false, resample: 1 },
    { size: 50, crop_size: 50, resample: 3 },
  ];

  it.each(configs)('gives what decoding and preprocessing one by one give (%j)', async (config) => {
    const preprocessing = parse(config);
    const data = await openDataset(folder, { captions: false });
    const indices = Array.from({ length: data.length }, (_, i) => i).reverse();
    for (const background of ['#ffffff', 'teal']) {
      const { pixels, sound, broken } = await preprocessDataset(data, indices, preprocessing, { background });
      const expected: number[] = [];
      const kept: number[] = [];
      for (const index of indices) {
        try {
          const image = await decodeImage(await data.read(index), { background });
          expected.push(...(await plainly(image, preprocessing)));
          kept.push(index);
        } catch {}
      }
      expect(sound).toEqual(kept);
      expect(Array.from(pixels)).toEqual(expected);
      expect(broken.map(({ index, error }) => [data.item(index).key, error.code])).toEqual([
        ['cut.jpg', 'FILE_FORMAT'],
      ]);
    }
    await data.dispose();
    await expect(preprocessDataset(data, [0], preprocessing)).rejects.toMatchObject({ code: 'DISPOSED' });
  });

  it('leaves out what is smaller than the model takes, and stops when told to', async () => {
    const data = await openDataset(folder, { captions: false });
    const photo = Array.from({ length: data.length }, (_, i) => i).find(
      (i) => data.item(i).key === 'photo.jpg',
    )!;
    const preprocessing = parse({ do_resize: false, crop_size: 35 });
    const { sound, broken } = await preprocessDataset(data, [photo], preprocessing);
    expect(sound).toEqual([]);
    expect(broken[0]!.error.message).toBe("An image of 40×30 is smaller than the model's 35 pixels");
    const signal = AbortSignal.abort();
    await expect(preprocessDataset(data, [photo], parse({}), { signal })).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });
});
