import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { hashDataset, identifyStore } from '../../src/cid/inputs.ts';
import { expectItemsOf, readKept } from '../../src/cid/items.ts';
import { gatherRows } from '../../src/data/gather.ts';
import { floatToHalf } from '../../src/data/half.ts';
import { npyMatrix, writeNpy } from '../../src/data/npy.ts';
import { encoderIdentity, hashModel } from '../../src/encoder/identity.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-inputs-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('gatherRows', () => {
  /** Element i of row r over both files is r + i / 4. */
  async function files(half: boolean) {
    const rows = (from: number, count: number) =>
      Float32Array.from({ length: count * 3 }, (_, at) => from + Math.floor(at / 3) + (at % 3) / 4);
    const write = async (name: string, data: Float32Array) => {
      const path = join(folder, name);
      await writeNpy(path, half ? floatToHalf(data) : data, [data.length / 3, 3]);
      return npyMatrix(path);
    };
    return [await write('a.npy', rows(0, 5)), await write('b.npy', rows(5, 4))];
  }

  test.each([false, true])('takes rows in any order over several files, float16: %s', async (half) => {
    const order = [8, 0, 1, 2, 4, 5, 6, 3, 3, 7];
    const { data, rows, dim } = await gatherRows(await files(half), Int32Array.from(order));
    expect([rows, dim]).toEqual([order.length, 3]);
    expect([...data]).toEqual(order.flatMap((row) => [row, row + 0.25, row + 0.5]));
  });

  test('a row that is not there, and a zero or infinite one with its name', async () => {
    const matrices = await files(false);
    await expect(gatherRows(matrices, Int32Array.of(9))).rejects.toMatchObject({ code: 'INVALID_DATA' });
    const path = join(folder, 'bad.npy');
    await writeNpy(path, Float32Array.of(1, 2, 0, 0, Number.NaN, 1, 5, Number.NEGATIVE_INFINITY), [4, 2]);
    const bad = [await npyMatrix(path)];
    const named = (rows: number[]) => gatherRows(bad, Int32Array.from(rows), (index) => `item ${index}`);
    await expect(named([0, 1])).rejects.toThrow('The embedding of item 1 is zero');
    await expect(named([2])).rejects.toThrow('The embedding of item 0 is not finite');
    await expect(named([0, 0, 3])).rejects.toThrow('The embedding of item 2 is not finite');
    expect((await gatherRows(bad, Int32Array.of(1))).data).toEqual(Float32Array.of(0, 0));
  });
});

describe('readKept', () => {
  const read = async (text: string) => {
    const path = join(folder, 'kept.jsonl');
    writeFileSync(path, text);
    const items = [];
    for await (const item of readKept(path)) items.push(item);
    return items;
  };

  test('reads lines in order and leaves empty ones out', async () => {
    expect(await read('{"row":3,"key":"a"}\n\n{"row":1}\n')).toEqual([{ row: 3, key: 'a' }, { row: 1 }]);
  });

  test.each(['{"row":', '{"key":"a"}', '{"row":-1}', '{"row":"1"}', '[]', 'null'])(
    'refuses %j',
    async (line) => {
      await expect(read(`{"row":0}\n${line}\n`)).rejects.toMatchObject({
        code: 'FILE_FORMAT',
        message: expect.stringContaining('kept.jsonl, line 2'),
      });
    },
  );

  test('a missing list', async () => {
    await expect(readKept(join(folder, 'none')).next()).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});

describe('expectItemsOf', () => {
  const check = async (...kept: object[]) => {
    await writeNpy(join(folder, 'img_emb', 'img_emb_0.npy'), Float32Array.of(1, 2, 3, 4, 5, 6), [3, 2]);
    mkdirSync(join(folder, 'metadata'), { recursive: true });
    const lines = ['a', 'b', 'c'].map((key) => `${JSON.stringify({ key })}\n`);
    writeFileSync(join(folder, 'metadata', 'metadata_0.jsonl'), lines.join(''));
    const path = join(folder, 'kept.jsonl');
    writeFileSync(path, kept.map((line) => `${JSON.stringify(line)}\n`).join(''));
    await expectItemsOf(await identifyStore(folder), path);
  };

  test('refuses rows of other items and rows that are not there', async () => {
    await check({ row: 0, key: 'a' }, { row: 2, key: 'c' });
    await check({ row: 1 });
    // As when an item was put in front of the others, and they were embedded anew.
    await expect(check({ row: 0, key: 'a' }, { row: 1, key: 'c' })).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringMatching(/kept\.jsonl has c in row 1, which is b/),
    });
    await expect(check({ row: 3, key: 'd' })).rejects.toMatchObject({ code: 'INVALID_DATA' });
  });
});

test('a data set is known by the classes of its items too', async () => {
  const path = join(folder, 'held.jsonl');
  writeFileSync(join(folder, 'a.png'), 'image');
  const hash = async (category: string) => {
    writeFileSync(path, JSON.stringify({ key: 'a', image: 'a.png', category }));
    return hashDataset(path);
  };
  const food = await hash('food');
  expect(await hash('food')).toBe(food);
  expect(await hash('people')).not.toBe(food);
});

test('the files that are used of a model folder count, defaults do not', () => {
  expect(encoderIdentity({})).toEqual({});
  expect(encoderIdentity({ providers: ['cpu'] })).toEqual({});
  expect(encoderIdentity({ visionModel: 'onnx/vision_model_fp16.onnx', providers: ['cuda', 'cpu'] })).toEqual(
    {
      encoder: { visionModel: 'onnx/vision_model_fp16.onnx', providers: ['cuda', 'cpu'] },
    },
  );
});

test('a model is known by its graphs and configurations, not by its card', async () => {
  mkdirSync(join(folder, 'onnx'));
  writeFileSync(join(folder, 'config.json'), '{}');
  writeFileSync(join(folder, 'onnx', 'model.onnx'), 'graph');
  const first = await hashModel(folder);
  writeFileSync(join(folder, 'README.md'), 'a card');
  expect(await hashModel(folder)).toBe(first);
  writeFileSync(join(folder, 'onnx', 'model.onnx_data'), 'weights');
  const second = await hashModel(folder);
  expect(second).not.toBe(first);
  writeFileSync(join(folder, 'config.json'), '{"a":1}');
  expect(await hashModel(folder)).not.toBe(second);
  await expect(hashModel(join(folder, 'none'))).rejects.toMatchObject({ code: 'MODEL_INVALID' });
});

test('embeddings of others are known by their bytes', async () => {
  const path = join(folder, 'img_emb', 'img_emb_0.npy');
  await writeNpy(path, Float32Array.of(1, 2, 3, 4), [2, 2]);
  const { hash } = await identifyStore(folder);
  await writeNpy(path, Float32Array.of(1, 2, 3, 4), [2, 2]);
  expect((await identifyStore(folder)).hash).toBe(hash);
  await writeNpy(path, Float32Array.of(1, 2, 3, 5), [2, 2]);
  expect((await identifyStore(folder)).hash).not.toBe(hash);
});
