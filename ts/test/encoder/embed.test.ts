import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Dataset, openDataset } from '../../src/data/dataset.ts';
import { decodeImage } from '../../src/data/image.ts';
import { readNpy } from '../../src/data/npy.ts';
import { openStore, type Store } from '../../src/data/store.ts';
import { type EmbedDatasetOptions, embedDataset } from '../../src/encoder/embed.ts';
import { type Encoder, openEncoder } from '../../src/encoder/encoder.ts';
import { writeModelFolder } from './models.ts';

const fixtures = new URL('../fixtures/images/', import.meta.url).pathname;
let root: string;
let folder: string;
let encoder: Encoder;
let dataset: Dataset;

/** Good and broken images by turns: 'b' is cut short, 'd' is no image. */
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'embed-'));
  const images = join(root, 'images');
  await mkdir(images);
  const files = {
    a: 'photo.jpg',
    b: 'cut.jpg',
    c: 'rgba.png',
    d: undefined,
    e: 'rgb.png',
    f: 'gray.png',
    g: 'turned.jpg',
  };
  for (const [name, file] of Object.entries(files)) {
    if (file) await cp(join(fixtures, file), join(images, `${name}${file.slice(-4)}`));
    else await writeFile(join(images, `${name}.png`), 'no image');
    await writeFile(join(images, `${name}.txt`), `a red ${name}\nsecond`);
  }
  dataset = await openDataset(images);
  encoder = await openEncoder(await writeModelFolder(join(root, 'model')), { threads: 1 });
});
afterAll(async () => {
  await encoder.dispose();
  await rm(root, { recursive: true });
});
beforeEach(async () => {
  folder = join(await mkdtemp(join(root, 'run-')), 'embeddings');
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const embed = (options: Partial<EmbedDatasetOptions> = {}) =>
  embedDataset({ dataset, encoder, folder, shardSize: 3, batchSize: 2, ...options });
const keys = async (store: Store) => {
  const found: unknown[] = [];
  for await (const row of store.metadata()) found.push(row.key);
  return found;
};
const values = async (matrices: Store['image']) =>
  (
    await Promise.all(matrices.map(async ({ path }) => [...((await readNpy(path)).data as Float32Array)]))
  ).flat();

describe('embedDataset', () => {
  it('stores images and first captions, and lists what is broken', async () => {
    const done: number[] = [];
    const store = await embed({ onProgress: (event) => done.push(event.done) });
    expect(await keys(store)).toEqual(['a.jpg', 'c.png', 'e.png', 'f.png', 'g.jpg']);
    expect(store).toMatchObject({ rows: 5, dim: encoder.dim, skipped: 2, model: encoder.hash });
    expect(done).toEqual([0, 2, 3, 5, 6, 7]);

    const good = [0, 2, 4, 5, 6];
    const images = await Promise.all(good.map(async (index) => decodeImage(await dataset.read(index))));
    expect(await values(store.image)).toEqual([...(await encoder.embedImages(images))]);
    const captions = good.map((index) => dataset.item(index).captions[0]);
    expect(await values(store.text!)).toEqual([...(await encoder.embedTexts(captions))]);

    const record = JSON.parse(await readFile(join(folder, 'store.json'), 'utf8'));
    const skipped = record.shards.flatMap((shard: { skipped: unknown[] }) => shard.skipped);
    expect(skipped).toEqual([
      { key: 'b.jpg', reason: expect.stringMatching(/cannot be decoded/) },
      { key: 'd.png', reason: expect.stringMatching(/cannot be decoded/) },
    ]);
  });

  it('writes metadata that opens as a list of the images', async () => {
    const store = await embed();
    const lines: string[] = [];
    for await (const row of store.metadata()) lines.push(JSON.stringify(row));
    await writeFile(join(root, 'list.jsonl'), lines.join('\n'));
    const again = await openDataset(join(root, 'list.jsonl'));
    expect(again.length).toBe(5);
    expect(again.item(2).captions).toEqual(['a red e', 'second']);
    expect(await again.read(2)).toEqual(await dataset.read(4));
  });

  it('goes on where it was stopped, to the same bytes', async () => {
    const { hash } = await embed();
    await rm(folder, { recursive: true });
    const stop = new AbortController();
    let seen = 0;
    const stopped = embed({
      signal: stop.signal,
      onProgress: ({ done }) => {
        seen = done;
        if (done >= 3) stop.abort();
      },
    });
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' });
    expect(seen).toBeLessThan(7);
    await expect(openStore(folder)).rejects.toThrow(/unfinished/);
    const done: number[] = [];
    const store = await embed({ onProgress: (event) => done.push(event.done) });
    expect(done[0]).toBe(3);
    expect(store.hash).toBe(hash);
    // A finished one is not made again.
    done.length = 0;
    await embed({ onProgress: (event) => done.push(event.done) });
    expect(done).toEqual([7]);
  });

  it('refuses a folder that holds something else', async () => {
    await embed();
    await expect(embed({ dtype: 'float16' })).rejects.toMatchObject({ code: 'RUN_CHANGED' });
    await expect(embed({ background: '#000000' })).rejects.toMatchObject({ code: 'RUN_CHANGED' });
  });

  it('stores images alone where a caption is missing', async () => {
    const images = join(root, 'plain');
    await mkdir(images, { recursive: true });
    await cp(join(fixtures, 'rgb.png'), join(images, 'a.png'));
    const plain = await openDataset(images, { captions: false });
    const store = await embed({ dataset: plain, dtype: 'float16' });
    expect(store).toMatchObject({ rows: 1, dtype: 'float16', text: undefined });
  });

  it('says when no image can be decoded, and checks its options', async () => {
    const images = join(root, 'broken');
    await mkdir(images, { recursive: true });
    await writeFile(join(images, 'a.png'), 'x');
    const broken = await openDataset(images, { captions: false });
    await expect(embed({ dataset: broken })).rejects.toMatchObject({ code: 'INVALID_DATA' });
    await expect(embed({ shardSize: 0 })).rejects.toThrow(/shardSize/);
    await expect(embed({ dtype: 'int8' as never })).rejects.toThrow(/one of 'float32', 'float16' for dtype/);
  });
});
