import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseAestheticsConfig } from '../../src/cskd/config.ts';
import { joinStore, openImageSets, openLabels } from '../../src/cskd/sources.ts';
import { openDataset, subset } from '../../src/data/dataset.ts';
import { openStore } from '../../src/data/store.ts';
import { embedDataset } from '../../src/encoder/embed.ts';
import { openImageEncoder } from '../../src/encoder/image-encoder.ts';
import { chooseBackbone } from '../../src/student/backbone.ts';
import { exportImageModel } from '../../src/student/image-model.ts';
import { tinyVision, writeRated } from './drawn.ts';

let root: string;
let list: string;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'sources-'));
  list = await writeRated(join(root, 'data'));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const labels = (more: object) =>
  openLabels(parseAestheticsConfig({ labels: { data: list, ...more } }).labels);

test('labels are those of the training split, or a part of them that grows with its size', async () => {
  const all = await labels({});
  expect([all.splits.train, all.splits.validation, all.splits.test].map(({ length }) => length)).toEqual([
    24, 12, 12,
  ]);
  const few = await labels({ count: 6 });
  const more = await labels({ share: 0.5 });
  expect([few.splits.train.length, more.splits.train.length]).toEqual([6, 12]);
  expect(few.splits.train.every((item) => more.splits.train.includes(item))).toBe(true);
  expect(few.splits.test).toEqual(all.splits.test);
  const other = await labels({ count: 6, splitSeed: 3 });
  expect(other.splits.train).not.toEqual(few.splits.train);
  await expect(labels({ count: 6, share: 0.5 })).rejects.toThrow(/either labels.count or labels.share/);
  await expect(labels({ count: 25 })).rejects.toThrow(
    'at most the number of training images (24) for labels.count',
  );
  await expect(openLabels(parseAestheticsConfig({}).labels)).rejects.toMatchObject({
    code: 'INVALID_CONFIG',
  });
});

test('a store is joined with its data set by key, and with no other', async () => {
  const backbone = await chooseBackbone({ backbone: tinyVision }, 1);
  const values = new Map(backbone.parameters.map(({ name, value }) => [name, value]));
  const model = join(root, 'model');
  await exportImageModel(model, { graph: backbone.graph, values, backbone });
  const encoder = await openImageEncoder(model, { threads: 1, imageOutput: 'pooler_output' });
  writeFileSync(join(root, 'data', '10b.png'), 'broken');
  const [data] = await openImageSets([{ data: join(root, 'data') }]);
  const folder = join(root, 'store');
  await embedDataset({ dataset: data!, encoder, folder, shardSize: 20 });
  const store = await openStore(folder);
  expect([data!.length, store.rows, store.skipped]).toEqual([49, 48, 1]);
  const joined = await joinStore(data!, store);
  expect(joined.data.length).toBe(48);
  expect(joined.items.includes(11)).toBe(false);
  expect(data!.item(11).key).toBe('10b.png');
  expect(joined.data.item(11).key).toBe(data!.item(12).key);
  expect(joined.rows.length).toBe(48 * tinyVision.width);
  await expect(joinStore(subset(data!, [0, 1]), store)).rejects.toMatchObject({
    code: 'INVALID_DATA',
    message: expect.stringContaining('which is not in'),
  });
  await Promise.all([encoder.dispose(), data!.dispose()]);
});

test('sets that open are closed again when another does not', async () => {
  await expect(
    openImageSets([{ data: join(root, 'data') }, { data: join(root, 'none') }]),
  ).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
  });
  const data = await openDataset(join(root, 'data'), { captions: false });
  await data.dispose();
});
