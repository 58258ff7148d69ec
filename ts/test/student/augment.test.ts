import { describe, expect, it } from 'vitest';
import type { RgbImage } from '../../src/data/image.ts';
import {
  type AugmentOptions,
  centreView,
  drawView,
  resolveAugmentation,
  type View,
} from '../../src/student/augment.ts';
import { Random } from '../../src/student/random.ts';
import { type Normalisation, renderImages, renderPixels } from '../../src/student/views.ts';

function image(width: number, height: number, pixel: (x: number, y: number) => readonly number[]): RgbImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) data.set(pixel(x, y), 3 * (y * width + x));
  return { data, width, height };
}

const plain: Normalisation = { mean: [0, 0, 0], std: [1, 1, 1] };

/** Values 0 to 1, [3, size, size]. */
async function render(source: RgbImage, size: number, view: Partial<View> = {}): Promise<Float32Array> {
  const out = new Float32Array(3 * size * size);
  const full = { ...centreView(source.width, source.height), ...view };
  await renderPixels([source], [full], size, plain, out);
  return out;
}

function draw(options: AugmentOptions, position: number, width = 40, height = 30): View {
  return drawView(resolveAugmentation(options)!, width, height, new Random(5, 2, position, 1));
}

const noise = image(16, 16, (x, y) => [(x * 37 + y * 11) % 256, (x * 5 + y * 71) % 256, (x * y * 3) % 256]);

describe('rendering', () => {
  it('leaves an image of the same size as it is, normalised', async () => {
    const out = new Float32Array(2 * 3 * 256);
    const normalisation = { mean: [0.5, 0.4, 0.3], std: [0.2, 0.25, 0.5] };
    await renderPixels([noise], [centreView(16, 16)], 16, normalisation, out, 1);
    expect(out.subarray(0, 768).every((value) => value === 0)).toBe(true);
    for (let i = 0; i < 256; i++) {
      expect(out[768 + i]).toBeCloseTo((noise.data[3 * i]! / 255 - 0.5) / 0.2, 5);
      expect(out[768 + 256 + i]).toBeCloseTo((noise.data[3 * i + 1]! / 255 - 0.4) / 0.25, 5);
      expect(out[768 + 512 + i]).toBeCloseTo((noise.data[3 * i + 2]! / 255 - 0.3) / 0.5, 5);
    }
  });

  it.each([3, 7, 16, 45])('keeps a flat colour at every size and crop (%i)', async (size) => {
    const flat = image(20, 17, () => [51, 102, 204]);
    for (const view of [{}, { left: 0.3, top: 9.9, width: 4.2, height: 7 }, { angle: 0.4 }]) {
      const out = await render(flat, size, view);
      for (let i = 0; i < size * size; i++) {
        expect(out[i]).toBeCloseTo(0.2, 5);
        expect(out[size * size + i]).toBeCloseTo(0.4, 5);
        expect(out[2 * size * size + i]).toBeCloseTo(0.8, 5);
      }
    }
  });

  it('reads a ramp where the crop says', async () => {
    const ramp = image(64, 64, (x, y) => [4 * x, 4 * y, 0]);
    const out = await render(ramp, 8, { left: 10, top: 20, width: 24, height: 16 });
    for (let y = 0; y < 8; y++) {
      for (let x = 0; x < 8; x++) {
        expect(out[y * 8 + x]! * 255).toBeCloseTo(4 * (10 + (x + 0.5) * 3 - 0.5), 2);
        expect(out[64 + y * 8 + x]! * 255).toBeCloseTo(4 * (20 + (y + 0.5) * 2 - 0.5), 2);
      }
    }
  });

  it('averages when it shrinks: a fine chequerboard becomes grey', async () => {
    const board = image(64, 64, (x, y) => Array(3).fill((x + y) % 2 === 0 ? 0 : 255));
    for (const value of await render(board, 8)) expect(value).toBeCloseTo(0.5, 1);
  });

  it('is bilinear as PIL is when it enlarges', async () => {
    const two = image(2, 1, (x) => Array(3).fill(x * 200));
    const out = await render(two, 4, { left: 0, top: 0, width: 2, height: 1 });
    // PIL.Image.resize((4, 1), BILINEAR) of [0, 200].
    expect(Array.from(out.subarray(0, 4), (value) => Math.round(value * 255))).toEqual([0, 50, 150, 200]);
  });

  it('mirrors and turns', async () => {
    const mirrored = await render(noise, 16, { flip: true });
    const plain = await render(noise, 16);
    expect(mirrored[5 * 16 + 3]).toBeCloseTo(plain[5 * 16 + 12]!, 6);
    const quarter = await render(noise, 16, { angle: Math.PI / 2 });
    // Counter-clockwise: the right column becomes the upper row.
    expect(quarter[3]).toBeCloseTo(plain[3 * 16 + 15]!, 4);
  });

  it('changes colours as their definitions say', async () => {
    const grey = (rgb: readonly number[]) => 0.299 * rgb[0]! + 0.587 * rgb[1]! + 0.114 * rgb[2]!;
    const rgb = [0.6, 0.4, 0.2];
    const flat = image(4, 4, () => rgb.map((value) => value * 255));
    const colour = async (view: Partial<View>) => {
      const out = await render(flat, 4, view);
      return [out[0]!, out[16]!, out[32]!];
    };
    const close = (a: readonly number[], b: readonly number[]) => {
      for (const i of [0, 1, 2]) expect(a[i]).toBeCloseTo(b[i]!, 3);
    };
    close(await colour({ brightness: 1.5 }), [0.9, 0.6, 0.3]);
    close(await colour({ brightness: 2 }), [1, 0.8, 0.4]);
    close(await colour({ saturation: 0 }), Array(3).fill(grey(rgb)));
    close(
      await colour({ saturation: 0.5 }),
      rgb.map((value) => (value + grey(rgb)) / 2),
    );
    // Of one colour all over, contrast moves each channel towards the mean grey.
    close(
      await colour({ contrast: 0.5 }),
      rgb.map((value) => (value + grey(rgb)) / 2),
    );
    close(
      await colour({ contrast: 0.5, brightness: 1.2 }),
      rgb.map((value) => (1.2 * (value + grey(rgb))) / 2),
    );
    close(await colour({ hue: 2 * Math.PI }), rgb);
    const turned = await colour({ hue: 0.5 });
    expect(grey(turned)).toBeCloseTo(grey(rgb), 3);
    expect(Math.abs(turned[0]! - rgb[0]!)).toBeGreaterThan(0.01);
  });

  it('gives a teacher the same view in 8 bits', async () => {
    const view = draw({ scale: [0.3, 0.5], brightness: 0.3 }, 1, 16, 16);
    const [picture] = await renderImages([noise], [view], 9);
    const { data, width } = picture!;
    const out = await render(noise, 9, view);
    expect(width).toBe(9);
    for (let i = 0; i < 81; i++) expect(data[3 * i + 1]! / 255).toBeCloseTo(out[81 + i]!, 2);
  });
});

describe('views', () => {
  it('are a function of their random numbers', () => {
    const options = { rotation: 10, brightness: 0.2, hue: 0.1, flip: 0.5, grayscale: 0.2 };
    expect(draw(options, 3)).toEqual(draw(options, 3));
    expect(draw(options, 3)).not.toEqual(draw(options, 4));
  });

  it('cover the shares and ratios that were asked for, inside the image', () => {
    const views = Array.from({ length: 2000 }, (_, i) => draw({ scale: [0.2, 0.6], ratio: [0.5, 2] }, i));
    const areas = views.map(({ width, height }) => (width * height) / 1200);
    const ratios = views.map(({ width, height }) => Math.log(width / height));
    expect(Math.min(...areas)).toBeGreaterThan(0.199);
    expect(Math.max(...areas)).toBeLessThan(0.601);
    expect(Math.min(...areas)).toBeLessThan(0.21);
    expect(Math.max(...areas)).toBeGreaterThan(0.58);
    expect(areas.reduce((a, b) => a + b) / 2000).toBeCloseTo(0.4, 1);
    expect(Math.min(...ratios)).toBeGreaterThan(Math.log(0.5) - 1e-6);
    expect(Math.max(...ratios)).toBeLessThan(Math.log(2) + 1e-6);
    for (const { left, top, width, height } of views) {
      expect(left).toBeGreaterThanOrEqual(0);
      expect(top).toBeGreaterThanOrEqual(0);
      expect(left + width).toBeLessThanOrEqual(40 + 1e-9);
      expect(top + height).toBeLessThanOrEqual(30 + 1e-9);
    }
  });

  it('flip, grey and turn as often and as far as asked', () => {
    const views = Array.from({ length: 2000 }, (_, i) =>
      draw({ flip: 0.3, grayscale: 0.2, rotation: 15, saturation: 0.4 }, i),
    );
    const share = (test: (view: View) => boolean) => views.filter(test).length / views.length;
    expect(share(({ flip }) => flip)).toBeCloseTo(0.3, 1);
    expect(share(({ saturation }) => saturation === 0)).toBeCloseTo(0.2, 1);
    const largest = Math.max(...views.map(({ angle }) => Math.abs(angle)));
    expect(largest).toBeLessThanOrEqual((15 * Math.PI) / 180);
    expect(largest).toBeGreaterThan((14.5 * Math.PI) / 180);
    for (const { saturation } of views)
      expect(saturation === 0 || Math.abs(saturation - 1) <= 0.4).toBe(true);
  });

  it('are the whole image when everything is off', () => {
    const view = draw({ scale: [1, 1], ratio: [1, 1] }, 0, 32, 32);
    expect(view).toEqual({ ...centreView(32, 32), left: expect.closeTo(0, 9), top: expect.closeTo(0, 9) });
  });

  it('name the option that is wrong', () => {
    expect(resolveAugmentation('none')).toBeUndefined();
    expect(() => resolveAugmentation({ scale: [0.5, 1.5] })).toThrow(/augment\.scale/);
    expect(() => resolveAugmentation({ ratio: [2, 1] })).toThrow(/augment\.ratio/);
    expect(() => resolveAugmentation({ flip: 2 })).toThrow(
      'Expected a number from 0 to 1 for augment.flip but received 2',
    );
    expect(() => resolveAugmentation({ mirror: 1 } as object)).toThrow(/received "mirror"/);
  });
});
