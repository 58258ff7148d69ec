import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import sharp from 'sharp';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDataset, subset } from '../../src/data/dataset.ts';
import { decodeImage, type RgbImage, resizeImage } from '../../src/data/image.ts';
import {
  decodeImages,
  holdImages,
  type LoadedImage,
  loadImages,
  releaseImages,
} from '../../src/data/load.ts';
import { CidError } from '../../src/native/errors.ts';
import { loadAddon } from '../../src/native/loader.ts';
import { centreView } from '../../src/student/augment.ts';
import { renderPixels } from '../../src/student/views.ts';

const fixtures = new URL('../fixtures/images/', import.meta.url).pathname;
let root: string;
/** Encoded images by a name that says what is particular to them. */
const files: Record<string, Buffer> = {};
/** What the native core is for; the others are left to sharp. */
const ordinary = [
  'jpeg',
  'jpeg-444',
  'jpeg-progressive',
  'jpeg-grey',
  'jpeg-profile',
  'png',
  'png-alpha',
  'png-palette',
  'png-interlaced',
  'png-grey',
  'webp',
  'webp-lossless-alpha',
  'photograph',
];

function raw(width: number, height: number, channels: 1 | 3 | 4) {
  const data = new Uint8Array(width * height * channels);
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++)
        data[i++] = 128 + 90 * Math.sin(x / 9 + c) + 37 * Math.cos((x * y) / 50 + c) + ((x * 7 + y * 3) % 5);
  return sharp(data, { raw: { width, height, channels } });
}

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'load-'));
  const grey = () => raw(61, 47, 1).toColourspace('b-w');
  files.jpeg = await raw(83, 61, 3).jpeg().toBuffer();
  files['jpeg-444'] = await raw(83, 61, 3).jpeg({ chromaSubsampling: '4:4:4' }).toBuffer();
  files['jpeg-progressive'] = await raw(83, 61, 3).jpeg({ progressive: true }).toBuffer();
  files['jpeg-grey'] = await grey().jpeg().toBuffer();
  files['jpeg-profile'] = await raw(40, 30, 3).withIccProfile('p3').jpeg().toBuffer();
  files['jpeg-turned'] = await raw(40, 30, 3).withMetadata({ orientation: 6 }).jpeg().toBuffer();
  files.png = await raw(83, 61, 3).png().toBuffer();
  files['png-alpha'] = await raw(83, 61, 4).png().toBuffer();
  files['png-palette'] = await raw(83, 61, 4).png({ palette: true }).toBuffer();
  files['png-interlaced'] = await raw(83, 61, 4).png({ progressive: true }).toBuffer();
  files['png-grey'] = await grey().png().toBuffer();
  files['png-16'] = await raw(20, 20, 3).toColourspace('rgb16').png().toBuffer();
  files['png-grey-alpha'] = await grey().ensureAlpha(0.5).png().toBuffer();
  files.webp = await raw(83, 61, 3).webp().toBuffer();
  files['webp-lossless-alpha'] = await raw(83, 61, 4).webp({ lossless: true }).toBuffer();
  files.photograph = await raw(700, 460, 3).jpeg({ quality: 90 }).toBuffer();
  files.pixel = await raw(1, 1, 3).png().toBuffer();
  for (const name of await readdir(fixtures)) {
    if (!name.endsWith('.parquet')) files[name] = await readFile(join(fixtures, name));
  }
});
afterAll(() => rm(root, { recursive: true }));

async function plainly(bytes: Uint8Array, background?: string, shortest = 0): Promise<RgbImage | string> {
  try {
    const image = await decodeImage(bytes, background === undefined ? {} : { background });
    const factor = shortest / Math.min(image.width, image.height);
    if (shortest === 0 || factor >= 1) return image;
    return await resizeImage(
      image,
      Math.round(image.width * factor),
      Math.round(image.height * factor),
      'linear',
    );
  } catch (error) {
    return (error as CidError).message;
  }
}

const plain = (image: RgbImage | CidError | string) =>
  image instanceof CidError
    ? image.message
    : typeof image === 'string'
      ? image
      : { width: image.width, height: image.height, data: Buffer.from(image.data).toString('base64') };

describe('decodeImages', () => {
  it.each([
    [undefined, 0],
    ['#0ac803', 0],
    [undefined, 200],
    [undefined, 37],
    ['red', 16],
  ])('gives what sharp gives, on %s, shrunk to %i', async (background, shortest) => {
    const options = { shortest, ...(background !== undefined && { background }) };
    const images = await decodeImages(Object.values(files), options);
    for (const [i, [name, bytes]] of Object.entries(files).entries()) {
      expect([name, plain(images[i]!)]).toEqual([name, plain(await plainly(bytes, background, shortest))]);
    }
  });

  it('has ordinary images decoded by the native core', async () => {
    await decodeImages([files.png!]);
    const context = { device: 'cpu', threads: 2, seed: 0 };
    const found = await loadAddon().decodeImages(
      context,
      Object.values(files),
      Uint8Array.of(1, 2, 3),
      0,
      false,
    );
    const done = Object.keys(files).filter((_, i) => found[i] !== undefined);
    expect(done).toEqual(expect.arrayContaining(ordinary));
    for (const name of ['jpeg-turned', 'png-16', 'png-grey-alpha', 'cmyk.jpg', 'cut.jpg', 'palette.gif']) {
      expect(done).not.toContain(name);
    }
  });

  it('takes no damage that sharp does not take', async () => {
    const names = ['jpeg', 'jpeg-progressive', 'png-alpha', 'png-interlaced', 'webp'];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...names),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.integer({ min: 0, max: 255 }),
        async (name, cut, at, value) => {
          const bytes = Buffer.from(files[name]!);
          bytes[Math.floor(at * (bytes.length - 1))] = value;
          const damaged = bytes.subarray(0, cut < 0.5 ? bytes.length : Math.ceil(cut * bytes.length));
          const [image] = await decodeImages([damaged]);
          expect(plain(image!)).toEqual(plain(await plainly(damaged)));
        },
      ),
      { numRuns: 150, seed: 7 },
    );
  });

  it('gives the same on any number of threads, and nothing of nothing', async () => {
    const one = await decodeImages(Object.values(files), { threads: 1, shortest: 30 });
    const many = await decodeImages(Object.values(files), { threads: 5, shortest: 30 });
    expect(many.map(plain)).toEqual(one.map(plain));
    expect(await decodeImages([])).toEqual([]);
  });

  it('stops when it is told to', async () => {
    const signal = AbortSignal.abort();
    await expect(decodeImages([files.png!], { signal })).rejects.toMatchObject({ code: 'ABORTED' });
    const stop = new AbortController();
    const many = decodeImages(Array<Buffer>(400).fill(files.photograph!), {
      signal: stop.signal,
      threads: 1,
    });
    stop.abort();
    await expect(many).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

describe('loadImages', () => {
  it('reads files and parts of tars, in any order, and says what is broken or gone', async () => {
    const folder = join(root, 'images');
    await mkdir(folder);
    for (const name of ['photo.jpg', 'rgb.png', 'cut.jpg', 'turned.jpg', 'gray.png']) {
      await cp(join(fixtures, name), join(folder, name));
    }
    await writeFile(join(folder, 'empty.jpg'), '');
    await writeFile(join(folder, 'gone.jpg'), 'x');
    const archive = pack();
    for (const name of await readdir(folder)) {
      archive.entry({ name }, await readFile(join(folder, name)));
      archive.entry({ name: name.replace(/\.\w+$/, '.txt') }, 'a caption');
    }
    archive.finalize();
    const chunks: Buffer[] = [];
    for await (const chunk of archive) chunks.push(chunk as Buffer);
    const tar = join(root, 'images.tar');
    await writeFile(tar, Buffer.concat(chunks));

    const inFolder = await openDataset(folder, { captions: false });
    await rm(join(folder, 'gone.jpg'));
    for (const data of [inFolder, await openDataset(tar)]) {
      const all = Array.from({ length: data.length }, (_, i) => i);
      const expected: unknown[] = [];
      for (const index of all) {
        expected.push(plain(await data.read(index).then(plainly, (error: CidError) => error.message)));
      }
      expect((await loadImages(data, all)).map(plain)).toEqual(expected);
      const mixed = [3, 0, 5, 3];
      expect((await loadImages(data, mixed)).map(plain)).toEqual(mixed.map((index) => expected[index]));
      const part = subset(data, [4, 1]);
      expect((await loadImages(part, [0, 1])).map(plain)).toEqual([expected[4], expected[1]]);
      await part.dispose();
      await expect(loadImages(part, [0])).rejects.toMatchObject({ code: 'DISPOSED' });
      await data.dispose();
      await expect(loadImages(data, [0])).rejects.toMatchObject({ code: 'DISPOSED' });
    }
  });

  it('says what is wrong in the words of the readers', async () => {
    const list = join(root, 'list.jsonl');
    await cp(join(fixtures, 'rgb.png'), join(root, 'a.png'));
    await cp(join(fixtures, 'rgb.png'), join(root, 'b.png'));
    await writeFile(
      list,
      ['a', 'b'].map((name) => JSON.stringify({ image: `${name}.png`, caption: 'x' })).join('\n'),
    );
    const data = await openDataset(list);
    await rm(join(root, 'a.png'));
    await writeFile(join(root, 'b.png'), 'no image');
    const [gone, broken] = await loadImages(data, [0, 1]);
    expect(gone).toMatchObject({ code: 'FILE_NOT_FOUND', message: expect.stringContaining('a.png') });
    expect(broken).toMatchObject({
      code: 'FILE_FORMAT',
      message: expect.stringContaining('cannot be decoded'),
    });
  });

  it('leaves pixels with the native core, which frees them when they are released', async () => {
    const data = await openDataset(fixtures, { captions: false });
    const all = Array.from({ length: data.length }, (_, i) => i);
    const held = await holdImages(data, all);
    const plainImages = await loadImages(data, all);
    const normalisation = { mean: [0.1, 0.2, 0.3], std: [1, 2, 3] };
    for (const [i, image] of held.entries()) {
      const other = plainImages[i]!;
      if (image instanceof CidError || other instanceof CidError) {
        expect(plain(other)).toBe((image as CidError).message);
        continue;
      }
      const view = centreView(image.width, image.height);
      const [a, b] = [new Float32Array(300), new Float32Array(300)];
      await renderPixels([image], [view], 10, normalisation, a);
      await renderPixels([other], [view], 10, normalisation, b);
      expect(a).toEqual(b);
    }
    const sound = held.filter((image) => !(image instanceof CidError)) as LoadedImage[];
    const out = new Float32Array(300 * sound.length);
    const views = sound.map(({ width, height }) => centreView(width, height));
    // Work that has begun keeps them.
    const working = renderPixels(sound, views, 10, normalisation, out);
    releaseImages(sound);
    releaseImages(sound);
    await working;
    expect(out.some((value) => value !== 0)).toBe(true);
    const again = new Float32Array(300);
    const [first] = sound.filter(({ data: pixels }) => !(pixels instanceof Uint8Array));
    const late = renderPixels([first!], [centreView(4, 4)], 10, normalisation, again);
    await expect(late).rejects.toThrow(/released before it was used/);
  });

  it('checks its options', async () => {
    await expect(decodeImages([], { shortest: -1 })).rejects.toThrow(
      'Expected an integer from 0 to 32768 for shortest but received -1',
    );
    await expect(decodeImages([], { background: '' })).rejects.toThrow(/background/);
  });
});
