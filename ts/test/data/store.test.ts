import {
  appendFile,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { floatToHalf } from '../../src/data/half.ts';
import { readNpy, writeNpy } from '../../src/data/npy.ts';
import { openStore, type Store, type StorePlan } from '../../src/data/store.ts';
import { StoreWriter } from '../../src/data/store-writer.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'store-'));
});
afterEach(() => rm(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

const plan: StorePlan = {
  model: 'abc',
  preprocessing: { size: 224 },
  dataset: 'def',
  items: 5,
  dim: 2,
  dtype: 'float32',
  texts: true,
  shardSize: 2,
};

/** Items `from` and on; the values of row r are r and −r, and of its text 10·r and 1. */
function shard(rows: readonly number[], skipped: readonly number[] = []) {
  return {
    images: Float32Array.from(rows.flatMap((row) => [row, -row])),
    texts: Float32Array.from(rows.flatMap((row) => [10 * row, 1])),
    metadata: rows.map((row) => ({ key: `k${row}`, n: row })),
    skipped: skipped.map((row) => ({ key: `k${row}`, reason: 'broken' })),
  };
}

async function write(of: StorePlan = plan): Promise<void> {
  const writer = await StoreWriter.open(folder, of);
  if (writer.next === 0) await writer.add(shard([0, 1]));
  if (writer.next === 1) await writer.add(shard([3], [2]));
  if (writer.next === 2) await writer.add(shard([4]));
  await writer.finish('somewhere', [{ key: 'x', reason: 'no caption' }]);
}

const rowsOf = async (store: Store) => {
  const chunks = await Promise.all(
    store.image.map(async ({ path }) => [...((await readNpy(path)).data as Float32Array)]),
  );
  return chunks.flat();
};
const metadata = async (store: Store) => {
  const rows: unknown[] = [];
  for await (const row of store.metadata()) rows.push(row);
  return rows;
};
const failure = (code: string, message: RegExp) => ({ code, message: expect.stringMatching(message) });

describe('a store of our own', () => {
  it('comes back as it was written', async () => {
    await write();
    const store = await openStore(folder);
    expect(store).toMatchObject({ folder, rows: 4, dim: 2, dtype: 'float32', skipped: 2, model: 'abc' });
    expect(await rowsOf(store)).toEqual([0, -0, 1, -1, 3, -3, 4, -4]);
    expect(store.image.map(({ rows }) => rows)).toEqual([2, 1, 1]);
    expect(store.text!.map(({ path }) => path)).toEqual(
      [0, 1, 2].map((n) => at(`text_emb/text_emb_${n}.npy`)),
    );
    expect(await metadata(store)).toEqual([0, 1, 3, 4].map((n) => ({ key: `k${n}`, n })));
    expect(await readdir(folder)).toEqual(['img_emb', 'metadata', 'store.json', 'text_emb']);
    expect((await openStore(folder, { verify: false })).hash).toBe(store.hash);
  });

  it('holds float16, and images alone', async () => {
    const half = { ...plan, dtype: 'float16' as const, texts: false };
    await write(half);
    const store = await openStore(folder);
    expect([store.dtype, store.text]).toEqual(['float16', undefined]);
    expect(store.image[0]).toMatchObject({ dtype: 'float16', rows: 2 });
    expect((await readNpy(store.image[2].path)).data).toEqual(floatToHalf(Float32Array.of(4, -4)));
    expect(await readdir(folder)).not.toContain('text_emb');
  });

  it('goes on with the next shard after a stop, to the same bytes', async () => {
    await write();
    const whole = await openStore(folder);
    await rm(folder, { recursive: true });
    const first = await StoreWriter.open(folder, plan);
    await first.add(shard([0, 1]));
    // The machine stopped while a line was written, and while a file was.
    await appendFile(at('progress.jsonl'), '{"from":2,"to"');
    await writeFile(at('img_emb/.img_emb_1.npy.1-0a1b2c3d.tmp'), 'half');
    await expect(openStore(folder)).rejects.toMatchObject(failure('FILE_FORMAT', /unfinished/));
    const second = await StoreWriter.open(folder, plan);
    expect([second.next, second.count]).toEqual([1, 3]);
    await write();
    expect((await openStore(folder)).hash).toBe(whole.hash);
    expect(await readdir(at('img_emb'))).toEqual(['img_emb_0.npy', 'img_emb_1.npy', 'img_emb_2.npy']);
  });

  it('makes damaged shards again, and those after them', async () => {
    await write();
    const { hash } = await openStore(folder);
    await truncate(at('img_emb/img_emb_1.npy'), 100);
    expect((await StoreWriter.open(folder, plan)).next).toBe(1);
    await write();
    expect((await openStore(folder)).hash).toBe(hash);
    expect((await StoreWriter.open(folder, plan)).next).toBe(3);
  });

  it('refuses to go on with another plan, saying what differs', async () => {
    await write();
    for (const [other, message] of [
      [{ ...plan, model: 'xyz' }, /another model \(was "abc", now "xyz"\)/],
      [{ ...plan, dtype: 'float16' as const, shardSize: 3 }, /another dtype .*, shardSize \(was 2, now 3\)/],
      [{ ...plan, preprocessing: { size: 32 } }, /another preprocessing/],
    ] as const) {
      await expect(StoreWriter.open(folder, other)).rejects.toMatchObject(failure('RUN_CHANGED', message));
    }
  });

  it('is as it was before when a shard cannot be written', async () => {
    const writer = await StoreWriter.open(folder, plan);
    await writer.add(shard([0, 1]));
    const before = await readFile(at('progress.jsonl'), 'utf8');
    await rm(at('metadata'), { recursive: true });
    await writeFile(at('metadata'), 'in the way');
    await expect(writer.add(shard([3]))).rejects.toMatchObject(failure('FILE_WRITE', /metadata/));
    expect(writer.next).toBe(1);
    expect(await readFile(at('progress.jsonl'), 'utf8')).toBe(before);
  });

  it('says which shard is damaged or missing', async () => {
    await write();
    const path = at('img_emb/img_emb_2.npy');
    const bytes = await readFile(path);
    bytes[bytes.length - 1] ^= 1;
    await writeFile(path, bytes);
    await expect(openStore(folder)).rejects.toMatchObject(failure('FILE_FORMAT', /img_emb_2\.npy.*checksum/));
    expect((await openStore(folder, { verify: false })).rows).toBe(4);
    await writeNpy(path, new Float32Array(4), [2, 2]);
    await expect(openStore(folder, { verify: false })).rejects.toMatchObject(
      failure('FILE_FORMAT', /text_emb_2\.npy.*\[1, 2\] where the images are \[2, 2\]/),
    );
    await rm(path);
    for (const verify of [true, false]) {
      await expect(openStore(folder, { verify })).rejects.toMatchObject(
        failure('FILE_NOT_FOUND', /img_emb_2\.npy/),
      );
    }
    await writeFile(at('store.json'), '{"version": 2}');
    await expect(openStore(folder)).rejects.toMatchObject(failure('FILE_FORMAT', /store\.json/));
  });
});

describe("a store of clip-retrieval's", () => {
  async function put(number: string, rows: number, dim = 2, offset = 0): Promise<void> {
    await mkdir(at('img_emb'), { recursive: true });
    const data = Float32Array.from({ length: rows * dim }, (_, i) => offset + i);
    await writeNpy(at(`img_emb/img_emb_${number}.npy`), floatToHalf(data), [rows, dim]);
  }

  it('orders shards by number, with images alone', async () => {
    await put('10', 1, 2, 20);
    await put('9', 2);
    const store = await openStore(folder);
    expect(store).toMatchObject({
      rows: 3,
      dim: 2,
      dtype: 'float16',
      text: undefined,
      skipped: 0,
      model: undefined,
    });
    expect(store.image.map(({ path }) => path)).toEqual([
      at('img_emb/img_emb_9.npy'),
      at('img_emb/img_emb_10.npy'),
    ]);
    expect(await metadata(store)).toEqual([{}, {}, {}]);
  });

  it('reads Parquet metadata and texts, with leading zeros', async () => {
    await put('0000', 3);
    await mkdir(at('metadata'));
    await mkdir(at('text_emb'));
    await copyFile(
      new URL('../fixtures/images/metadata_0.parquet', import.meta.url),
      at('metadata/metadata_0000.parquet'),
    );
    await writeNpy(at('text_emb/text_emb_0000.npy'), new Uint16Array(6), [3, 2]);
    const store = await openStore(folder);
    expect(await metadata(store)).toEqual([
      { key: '000', image_path: '000', caption: 'zero' },
      { key: '001', image_path: '001', caption: 'one' },
      { key: '002', image_path: '002', caption: 'two' },
    ]);
    expect(store.text).toHaveLength(1);
  });

  it('has a hash of its contents', async () => {
    await put('0', 2);
    const { hash } = await openStore(folder);
    expect((await openStore(folder)).hash).toBe(hash);
    await put('0', 2, 2, 1);
    expect((await openStore(folder)).hash).not.toBe(hash);
  });

  it('says what does not fit together', async () => {
    await put('0', 3);
    await put('1', 3);
    await mkdir(at('text_emb'));
    await writeNpy(at('text_emb/text_emb_0.npy'), new Uint16Array(6), [3, 2]);
    await expect(openStore(folder)).rejects.toMatchObject(
      failure('FILE_NOT_FOUND', /img_emb_1\.npy has no file text_emb_1/),
    );
    await rm(at('text_emb'), { recursive: true });
    await put('1', 3, 4);
    await expect(openStore(folder)).rejects.toMatchObject(
      failure('FILE_FORMAT', /img_emb_1\.npy.*of 4 dim.*of 2/),
    );
    await put('1', 2);
    await put('01', 2);
    await expect(openStore(folder)).rejects.toMatchObject(failure('FILE_FORMAT', /same number/));
    await rm(at('img_emb/img_emb_01.npy'));
    await mkdir(at('metadata'));
    await writeFile(at('metadata/metadata_0.jsonl'), '{}\n{}\n{}\n');
    await writeFile(at('metadata/metadata_1.jsonl'), '{"key": 1}\n');
    const store = await openStore(folder);
    await expect(metadata(store)).rejects.toMatchObject(
      failure('FILE_FORMAT', /metadata_1\.jsonl.*1 rows where the embeddings have 2/),
    );
    await writeFile(at('metadata/metadata_1.jsonl'), '{}\n{}\n{}\n');
    await expect(metadata(store)).rejects.toThrow(/more rows/);
  });

  it('says when a folder is no store', async () => {
    await expect(openStore(folder)).rejects.toMatchObject(failure('FILE_FORMAT', /no embedding store/));
    await expect(openStore(at('gone'))).rejects.toMatchObject(failure('FILE_NOT_FOUND', /gone/));
    await mkdir(at('img_emb'));
    await expect(openStore(folder)).rejects.toMatchObject(failure('FILE_FORMAT', /img_emb_N\.npy/));
  });
});
