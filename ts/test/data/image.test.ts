import { readFile } from 'node:fs/promises';
import fc from 'fast-check';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { decodeImage, type ResizeKernel, type RgbImage, resizeImage } from '../../src/data/image.ts';
import { setThreads, threads } from '../../src/native/devices.ts';
import { resample } from '../reference/resample.ts';

const fixture = (name: string) => readFile(new URL(`../fixtures/images/${name}`, import.meta.url));
const pixels = async (name: string, count: number) => [
  ...(await decodeImage(await fixture(name))).data.subarray(0, 3 * count),
];

describe('decodeImage', () => {
  // Values that PIL 9.4 gives for the same files.
  it('gives the same pixels as PIL for PNG, JPEG, GIF and grey', async () => {
    expect(await pixels('rgb.png', 3)).toEqual([185, 204, 158, 191, 217, 158, 193, 227, 160]);
    expect(await pixels('photo.jpg', 3)).toEqual([175, 202, 169, 180, 213, 168, 189, 225, 164]);
    expect(await pixels('palette.gif', 3)).toEqual([170, 194, 133, 218, 210, 134, 224, 224, 133]);
    expect(await pixels('gray.png', 3)).toEqual([177, 177, 177, 186, 186, 186, 197, 197, 197]);
  });

  it('gives three channels of 8 bits from 16 bits and CMYK', async () => {
    const deep = await decodeImage(await fixture('gray16.png'));
    expect([...deep.data]).toEqual([0, 10, 128, 200, 255, 3].flatMap((v) => [v, v, v]));
    const print = await decodeImage(await fixture('cmyk.jpg'));
    expect([print.width, print.height, print.data.length]).toEqual([40, 30, 3600]);
  });

  it('lays transparent pixels on white, or on the colour given', async () => {
    const bytes = await fixture('rgba.png');
    const white = await decodeImage(bytes);
    expect([...white.data]).toEqual([255, 0, 0, 127, 127, 255, 255, 255, 255, 0, 255, 0]);
    const black = await decodeImage(bytes, { background: '#000000' });
    expect([...black.data]).toEqual([255, 0, 0, 0, 0, 128, 0, 0, 0, 0, 255, 0]);
  });

  it('turns the image as its EXIF orientation says', async () => {
    const { data, width, height } = await decodeImage(await fixture('turned.jpg'));
    expect([width, height]).toEqual([16, 24]);
    // The lower row of the file, grey 10, is now the left column; red is at the top right.
    expect(data[0]).toBeLessThan(30);
    expect(data[3 * 15]).toBeGreaterThan(200);
    expect(data[3 * 15 + 2]).toBeLessThan(60);
  });

  it('fails for what is cut short, empty or no image', async () => {
    for (const bytes of [await fixture('cut.jpg'), new Uint8Array(0), Buffer.from('not an image')]) {
      await expect(decodeImage(bytes)).rejects.toMatchObject({ name: 'CidError', code: 'FILE_FORMAT' });
    }
  });

  it('decodes many at once, one at a time as well', async () => {
    const bytes = await fixture('photo.jpg');
    const before = threads();
    setThreads(1);
    const images = await Promise.all(Array.from({ length: 20 }, () => decodeImage(bytes)));
    setThreads(before);
    expect(images.every(({ data }) => Buffer.compare(data, images[0].data) === 0)).toBe(true);
  });
});

describe('resizeImage', () => {
  it('returns an image of that size as it is, and any other stretched', async () => {
    const image = await decodeImage(await fixture('photo.jpg'));
    expect(await resizeImage(image, 40, 30, 'cubic')).toBe(image);
    const { data, width, height } = await resizeImage(image, 7, 9, 'cubic');
    expect([width, height, data.length]).toEqual([7, 9, 7 * 9 * 3]);
  });

  const kernels: ResizeKernel[] = ['nearest', 'linear', 'cubic', 'lanczos3'];
  const sides = fc.integer({ min: 1, max: 90 });
  const noise = (width: number, height: number): RgbImage => ({
    width,
    height,
    data: Uint8Array.from(
      { length: 3 * width * height },
      (_, i) => (Math.imul(i + 1, 2654435761) >>> 13) & 255,
    ),
  });

  it('gives what PIL gives where it enlarges, and with nearest', async () => {
    await fc.assert(
      fc.asyncProperty(
        sides,
        sides,
        sides,
        sides,
        fc.constantFrom(...kernels),
        async (w, h, x, y, kernel) => {
          // To the same size there is nothing to do; reducing is another's.
          if ((w === x && h === y) || (kernel !== 'nearest' && x <= w && y <= h)) return;
          const image = noise(w, h);
          expect(await resizeImage(image, x, y, kernel)).toEqual(resample(image, x, y, kernel));
        },
      ),
      { numRuns: 150, seed: 5 },
    );
  });

  it('gives what sharp gives where it reduces', async () => {
    await fc.assert(
      fc.asyncProperty(
        sides,
        sides,
        sides,
        sides,
        fc.constantFrom(...kernels.slice(1)),
        async (a, b, c, d, kernel) => {
          const [width, height] = [Math.max(a, c), Math.max(b, d)];
          const [x, y] = [Math.min(a, c), Math.min(b, d)];
          if (width === x && height === y) return;
          const image = noise(width, height);
          const raw = { width, height, channels: 3 as const };
          const expected = await sharp(image.data, { raw })
            .resize(x, y, { fit: 'fill', kernel })
            .raw()
            .toBuffer();
          const { data } = await resizeImage(image, x, y, kernel);
          expect(Buffer.compare(data, expected)).toBe(0);
        },
      ),
      { numRuns: 150, seed: 6 },
    );
  });
});

describe('the reference of resampling', () => {
  it('gives what PIL gives, to the bit, also where it reduces', async () => {
    // PIL 9.4: rgb.png resized to 42 × 32, bicubic, and its middle cut out.
    const [source, reference] = await Promise.all([
      fixture('rgb.png'),
      fixture('../encoder/rgb-32-bicubic.png'),
    ]);
    const resized = resample(await decodeImage(source), 42, 32, 'cubic');
    const expected = await decodeImage(reference);
    for (let y = 0; y < 32; y++) {
      const row = resized.data.subarray(3 * (y * 42 + 5), 3 * (y * 42 + 37));
      expect([...row]).toEqual([...expected.data.subarray(96 * y, 96 * (y + 1))]);
    }
  });

  it('repeats pixels with nearest', () => {
    const image = { width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 4, 5, 6) };
    expect([...resample(image, 4, 2, 'nearest').data]).toEqual([
      1,
      2,
      3,
      1,
      2,
      3,
      4,
      5,
      6,
      4,
      5,
      6,
      ...[1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6],
    ]);
  });
});
