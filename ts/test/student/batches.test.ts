import { describe, expect, it, vi } from 'vitest';
import type { Dataset } from '../../src/data/dataset.ts';
import type { RgbImage } from '../../src/data/image.ts';
import type { LoadedImage } from '../../src/data/load.ts';
import { devices } from '../../src/native/devices.ts';
import { CidError } from '../../src/native/errors.ts';
import { loadAddon } from '../../src/native/loader.ts';
import { resolveAugmentation } from '../../src/student/augment.ts';
import { imageTextSource } from '../../src/student/batches.ts';
import { tabulateCaptions } from '../../src/student/captions.ts';
import { ImageCache, TrainingImages } from '../../src/student/images.ts';
import { decisiveTraining } from '../../src/student/optimise.ts';
import { resolveTraining, splitItems } from '../../src/student/resolve.ts';
import { clipNormalisation } from '../../src/student/views.ts';

const count = 11;

function image(index: number): RgbImage {
  return { data: new Uint8Array(8 * 8 * 3).fill(index * 20), width: 8, height: 8 };
}

const data = {
  item: (index: number) => ({ captions: [`first ${index}`, 'shared', `third ${index}`] }),
} as unknown as Dataset;

function source(
  more: { seed?: number; captions?: 'first' | 'random'; broken?: number[]; cacheBytes?: number } = {},
) {
  const items = Int32Array.from({ length: count }, (_, i) => i);
  const decoded: number[] = [];
  const reported: number[] = [];
  const cache = new ImageCache(
    async (indices) => {
      decoded.push(...indices);
      return indices.map((index) =>
        more.broken?.includes(index) ? new CidError('FILE_FORMAT', 'broken') : image(index),
      );
    },
    more.cacheBytes ?? 2 ** 20,
  );
  const captions = tabulateCaptions(data, items, more.captions ?? 'random');
  const contextLength = 3;
  const ids = Int32Array.from({ length: captions.texts.length * contextLength }, (_, i) => i);
  const images = new TrainingImages(cache, items, (item) => reported.push(item));
  const batches = imageTextSource({
    images,
    captions,
    tokens: { ids, mask: ids.map(() => 1), contextLength },
    imageSize: 8,
    normalisation: clipNormalisation,
    augmentation: resolveAugmentation({ scale: [0.5, 1], brightness: 0.3 }),
    batchSize: 4,
    seed: more.seed ?? 9,
  });
  return { batches, captions, decoded, reported, cache, images };
}

describe('imageTextSource', () => {
  it('gives each item at most once an epoch, in another order in the next', async () => {
    const { batches } = source();
    expect(batches.stepsPerEpoch).toBe(2);
    const orders = [];
    for (const epoch of [0, 1]) {
      const places = [];
      for (const step of [0, 1]) places.push(...(await batches.batch(epoch, step)).places);
      expect(new Set(places).size).toBe(8);
      orders.push(places);
    }
    expect(orders[1]).not.toEqual(orders[0]);
  });

  it('is a function of seed, epoch and step, whatever was asked for before', async () => {
    const a = await source().batches.batch(3, 1);
    const other = source();
    await other.batches.batch(0, 0);
    await other.batches.batch(3, 0);
    const [b] = await Promise.all([other.batches.batch(3, 1), other.batches.batch(2, 0)]);
    expect(b).toEqual(a);
    expect(await source({ seed: 10 }).batches.batch(3, 1)).not.toEqual(a);
    expect(a.step).toBe(7);
  });

  it('pairs images with their own captions, and draws among these', async () => {
    const { batches, captions } = source();
    const seen = new Set<string>();
    for (let epoch = 0; epoch < 12; epoch++) {
      const { places, texts, tokens } = await batches.batch(epoch, 0);
      for (const [row, place] of places.entries()) {
        const text = captions.texts[texts[row]!]!;
        expect(data.item(place).captions).toContain(text);
        seen.add(text.split(' ')[0]!);
        expect([...tokens.slice(3 * row, 3 * row + 3)].map(Number)).toEqual(
          [0, 1, 2].map((k) => 3 * texts[row]! + k),
        );
      }
    }
    expect([...seen].sort()).toEqual(['first', 'shared', 'third']);
    expect(captions.texts).toHaveLength(2 * count + 1);
    const first = source({ captions: 'first' });
    expect(first.captions.texts).toHaveLength(count);
  });

  it("puts the next image in the place of a broken one, with that image's caption", async () => {
    const { batches, reported, captions, images } = source({ broken: [4, 5] });
    const whole = source();
    for (let epoch = 0; epoch < 4; epoch++) {
      for (const step of [0, 1]) {
        const mended = await batches.batch(epoch, step);
        const { places } = await whole.batches.batch(epoch, step);
        expect([...mended.places]).toEqual(
          Array.from(places, (place) => (place === 4 || place === 5 ? 6 : place)),
        );
        for (const [row, place] of mended.places.entries()) {
          expect(data.item(place).captions).toContain(captions.texts[mended.texts[row]!]);
        }
      }
    }
    expect(reported.sort()).toEqual([4, 5]);
    expect(images.broken).toBe(2);
    const none = source({ broken: Array.from({ length: count }, (_, i) => i) });
    await expect(none.batches.batch(0, 0)).rejects.toMatchObject({ code: 'INVALID_DATA' });
  });

  it('takes no image for broken because the data set is closed', async () => {
    const closed = async () => {
      throw new CidError('DISPOSED', 'closed');
    };
    const reported: number[] = [];
    const cache = new ImageCache(closed, 0);
    const images = new TrainingImages(cache, Int32Array.of(0, 1), (item) => reported.push(item));
    await expect(images.many(Int32Array.of(0))).rejects.toMatchObject({ code: 'DISPOSED' });
    expect(reported).toEqual([]);
  });

  it('frees an image when it is neither held nor in use', async () => {
    const released: LoadedImage[] = [];
    const spy = vi.spyOn(loadAddon(), 'releaseImages').mockImplementation((images) => {
      released.push(...images);
    });
    const bytes = 8 * 8 * 3;
    const cache = new ImageCache(async (indices) => indices.map(image), 2 * bytes);
    const [first, second] = (await cache.many([0, 1])) as LoadedImage[];
    expect(cache.bytes).toBe(2 * bytes);
    // Makes room for two others; the first ones are still in use.
    const others = (await cache.many([2, 3, 3])) as LoadedImage[];
    expect([cache.bytes, released]).toEqual([2 * bytes, []]);
    cache.done([first!]);
    expect(released).toEqual([first]);
    cache.done(others);
    expect(released).toEqual([first]);
    cache.done([second!]);
    expect(released).toEqual([first, second]);
    // A decoding that fails gives back what was held.
    await cache.many([4]).then((images) => cache.done(images as LoadedImage[]));
    const failing = new ImageCache(async () => {
      throw new CidError('ABORTED', 'stopped');
    }, 2 * bytes);
    await expect(failing.many([0])).rejects.toMatchObject({ code: 'ABORTED' });
    spy.mockRestore();
  });

  it('holds decoded images up to its bytes', async () => {
    const bytes = 8 * 8 * 3;
    const small = source({ cacheBytes: 3 * bytes });
    const large = source();
    for (const { batches } of [small, large]) {
      for (let epoch = 0; epoch < 5; epoch++) for (const step of [0, 1]) await batches.batch(epoch, step);
    }
    expect(small.cache.bytes).toBe(3 * bytes);
    expect(small.decoded.length).toBeGreaterThan(20);
    expect(large.decoded).toHaveLength(new Set(large.decoded).size);
  });
});

describe('splitItems', () => {
  const items = Int32Array.from({ length: 40 }, (_, i) => 100 + i);

  it('holds out a share by the seed, or what it is told to', () => {
    const { training, heldOut } = splitItems(items, 0.25, 1);
    expect(heldOut).toHaveLength(10);
    expect([...training, ...heldOut].sort((a, b) => a - b)).toEqual(Array.from({ length: 40 }, (_, i) => i));
    expect(splitItems(items, 0.25, 1)).toEqual({ training, heldOut });
    expect(splitItems(items, 0.25, 2).heldOut).not.toEqual(heldOut);
    expect([...splitItems(items, [139, 100]).heldOut]).toEqual([0, 39]);
    expect(() => splitItems(items, [7])).toThrow(
      'Expected an item that is in use for validation[0] but received 7',
    );
  });
});

describe('resolveTraining', () => {
  it('fills in defaults from the number of items', () => {
    expect(resolveTraining({ folder: '' }, 1000, 50)).toMatchObject({
      batchSize: 256,
      stepsPerEpoch: 3,
      steps: 96,
      warmup: 10,
      validateEvery: 10,
      checkpointEvery: 10,
      select: 'best',
    });
    expect(resolveTraining({ folder: '' }, 100, 0)).toMatchObject({
      batchSize: 100,
      steps: 32,
      select: 'last',
    });
  });

  it('leaves out of what decides the student how it is computed', () => {
    const of = (options: object) => decisiveTraining(resolveTraining({ folder: '', ...options }, 100, 0));
    expect(of({ maxActivationMemory: 2 ** 26, executor: 'native', threads: 1 })).toEqual(of({}));
    expect(of({ decay: 0.3 })).not.toEqual(of({}));
  });

  it('takes bf16 where the processor has it, as a decision', () => {
    const of = (options: object) => decisiveTraining(resolveTraining({ folder: '', ...options }, 100, 0));
    // What was begun before there was a choice goes on.
    expect(of({ precision: 'float32' })).toEqual(of({}));
    expect(of({})).not.toHaveProperty('precision');
    if (devices().devices[0]!.bfloat16)
      expect(of({ precision: 'bf16' })).toEqual({ ...(of({}) as object), precision: 'bf16' });
    else expect(() => of({ precision: 'bf16' })).toThrow(/bfloat16 .* for precision 'bf16' but received/);
  });

  it.each([
    [{ epochs: 0 }, /for epochs but received 0/],
    [{ rate: -1 }, /for rate but received -1/],
    [{ betas: [0.9, 1] as [number, number] }, /for betas\[1\] but received 1/],
    [{ maxActivationMemory: 0 }, /for maxActivationMemory but received 0/],
    [{ ema: 1 }, /for ema but received 1/],
    [{ captions: 'all' as 'first' }, /for captions but received "all"/],
    [{ precision: 'half' as 'bf16' }, /one of 'float32', 'bf16' for precision but received "half"/],
  ])('names the field of %j', (options, message) => {
    expect(() => resolveTraining({ folder: '', ...options }, 100, 0)).toThrow(message);
  });
});
