import { copyFile, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { pack } from 'tar-stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Dataset, manifestEntry, openDataset, subset } from '../../src/data/dataset.ts';

const fixtures = new URL('../fixtures/images/', import.meta.url).pathname;
let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'dataset-'));
});
afterEach(() => rm(folder, { recursive: true }));

/** Writes files; the contents need not be images, since opening a data set looks at none. */
async function put(files: Record<string, string>): Promise<void> {
  for (const [name, contents] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), contents);
  }
}
const at = (name: string) => join(folder, name);
const lines = (...rows: unknown[]) => rows.map((row) => JSON.stringify(row)).join('\n');
const items = (data: Dataset) =>
  Array.from({ length: data.length }, (_, i) => [data.item(i).key, ...data.item(i).captions]);
const text = async (data: Dataset, index: number) => Buffer.from(await data.read(index)).toString();
const failure = (code: string, message: RegExp) => ({ code, message: expect.stringMatching(message) });

async function tar(name: string, members: Record<string, string>): Promise<void> {
  const stream = pack();
  for (const [member, contents] of Object.entries(members)) stream.entry({ name: member }, contents);
  stream.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  await mkdir(dirname(at(name)), { recursive: true });
  await writeFile(at(name), Buffer.concat(chunks));
}

describe('lists', () => {
  beforeEach(() => put({ 'images/a.png': 'A', 'images/b.png': 'BB' }));

  it('reads JSONL, with paths relative to the list', async () => {
    await put({
      'list.jsonl': lines(
        { image: 'images/a.png', caption: 'a cat', label: 3 },
        { key: 'second', image: at('images/b.png'), captions: [' one ', '', 'two'] },
      ),
    });
    const data = await openDataset(at('list.jsonl'));
    expect(items(data)).toEqual([
      ['images/a.png', 'a cat'],
      ['second', 'one', 'two'],
    ]);
    expect(data.item(0).metadata).toEqual({ label: 3 });
    expect(data.location(0)).toBe(at('images/a.png'));
    expect(await text(data, 1)).toBe('BB');
    expect(data.skipped).toEqual([]);
  });

  it('reads CSV and TSV, with quotes and a byte order mark', async () => {
    await put({
      'list.csv': '\uFEFFfilepath,title,n\r\nimages/a.png,"a cat, black",1\r\nimages/b.png,5" screen,2\r\n',
      'list.tsv': 'filepath\ttitle\nimages/a.png\ta cat, black\nimages/b.png\t5" screen\n',
    });
    for (const name of ['list.csv', 'list.tsv']) {
      const data = await openDataset(at(name));
      expect(items(data)).toEqual([
        ['images/a.png', 'a cat, black'],
        ['images/b.png', '5" screen'],
      ]);
    }
    expect((await openDataset(at('list.csv'))).item(1).metadata).toEqual({ n: '2' });
  });

  it('reads Parquet', async () => {
    await copyFile(`${fixtures}list.parquet`, at('images/list.parquet'));
    const data = await openDataset(at('images/list.parquet'));
    expect(items(data)).toEqual([
      ['a.png', 'a cat'],
      ['b.png', 'a dog'],
    ]);
    expect(data.item(1).metadata).toEqual({ width: 2, score: 0.25 });
    expect(data.skipped).toEqual([{ key: 'gone.png', reason: 'no such file' }]);
  });

  it('takes the fields it is told', async () => {
    await put({ 'list.jsonl': lines({ image: 'wrong', mine: 'images/a.png', caption: 'x', said: 'right' }) });
    const data = await openDataset(at('list.jsonl'), { imageField: 'mine', captionField: 'said' });
    expect(items(data)).toEqual([['images/a.png', 'right']]);
  });

  it('joins the captions of repeated rows and refuses a key for two images', async () => {
    await put({
      'list.jsonl': lines(
        { image: 'images/a.png', caption: 'one' },
        { image: 'images/a.png', caption: 'two' },
        { image: 'images/a.png', caption: 'one' },
        { key: 'images/a.png', image: 'images/b.png', caption: 'three' },
      ),
    });
    const data = await openDataset(at('list.jsonl'));
    expect(items(data)).toEqual([['images/a.png', 'one', 'two']]);
    expect(data.skipped).toEqual([{ key: 'images/a.png', reason: 'another image has the same key' }]);
  });

  it('leaves out broken rows with their reasons', async () => {
    await put({
      'list.jsonl': [
        JSON.stringify({ image: 'images/a.png', caption: 'fine' }),
        '{"image": ',
        '',
        JSON.stringify({ caption: 'no image' }),
        JSON.stringify({ image: 'images/c.png', caption: 'x' }),
        JSON.stringify({ image: 'https://example.org/d.png', caption: 'x' }),
        JSON.stringify({ image: 'images/b.png', caption: ' ' }),
        JSON.stringify({ image: 'images/t.tar#x.png', caption: 'x' }),
      ].join('\n'),
    });
    const data = await openDataset(at('list.jsonl'));
    expect(items(data)).toEqual([['images/a.png', 'fine']]);
    expect(Object.fromEntries(data.skipped.map(({ key, reason }) => [key, reason]))).toEqual({
      'line 2': 'not a JSON object',
      'line 4': 'no field names its image',
      'images/c.png': 'no such file',
      'https://example.org/d.png': expect.stringContaining('address'),
      'images/t.tar#x.png': 'no such file',
      'images/b.png': 'no caption',
    });
    expect(items(await openDataset(at('list.jsonl'), { captions: false }))).toHaveLength(2);
  });

  it('leaves out CSV rows with too many or too few fields', async () => {
    await put({ 'list.csv': 'image,caption\nimages/a.png,a,b\nimages/b.png,fine\nimages/a.png\n' });
    const data = await openDataset(at('list.csv'));
    expect(items(data)).toEqual([['images/b.png', 'fine']]);
    expect(data.skipped).toHaveLength(2);
    expect(data.skipped[0].reason).toMatch(/fields/);
  });
});

describe('folders', () => {
  it('takes captions from the text beside an image, one a line', async () => {
    await put({
      'b.jpg': 'B',
      'b.txt': 'one\ntwo\n',
      'cats/a.PNG': 'A',
      'cats/a.txt': 'a cat',
      '.hidden/c.png': '',
    });
    const data = await openDataset(folder);
    expect(items(data)).toEqual([
      ['b.jpg', 'one', 'two'],
      ['cats/a.PNG', 'a cat'],
    ]);
    expect(data.item(0).metadata).toEqual({});
    expect(data.item(1).metadata).toEqual({ folder: 'cats' });
    expect(await text(data, 1)).toBe('A');
  });

  it('takes captions and metadata from metadata.jsonl', async () => {
    await put({
      'set/a.png': 'A',
      'set/b.png': 'B',
      'set/b.txt': 'from the text',
      'set/metadata.jsonl': lines(
        { file_name: 'a.png', text: 'a cat', label: 1 },
        { file_name: 'c.png', text: 'gone' },
      ),
    });
    const data = await openDataset(folder);
    expect(items(data)).toEqual([
      ['set/a.png', 'a cat'],
      ['set/b.png', 'from the text'],
    ]);
    expect(data.item(0).metadata).toEqual({ folder: 'set', label: 1 });
    expect(data.skipped).toEqual([{ key: 'set/c.png', reason: 'a caption without an image' }]);
  });

  it('lists images without captions and captions without images', async () => {
    await put({ 'a.png': '', 'b.png': '', 'b.txt': 'b', 'c.txt': 'c' });
    const data = await openDataset(folder);
    expect(items(data)).toEqual([['b.png', 'b']]);
    expect(data.skipped).toEqual([
      { key: 'a.png', reason: 'no caption' },
      { key: 'c.txt', reason: 'a caption without an image' },
    ]);
    expect(items(await openDataset(folder, { captions: false }))).toEqual([['a.png'], ['b.png', 'b']]);
  });

  it('says when no caption belongs to an image, naming both', async () => {
    await put({ 'a.png': '', 'b.png': '', '1.txt': 'x', '2.txt': 'y', '3.txt': 'z' });
    await expect(openDataset(folder)).rejects.toMatchObject(
      failure(
        'INVALID_DATA',
        /no caption \(2, such as a\.png\); a caption without an image \(3, such as 1\.txt\)/,
      ),
    );
  });

  it('says when there is nothing', async () => {
    await expect(openDataset(folder)).rejects.toMatchObject(failure('INVALID_DATA', /no images/));
    await put({ 'notes.md': 'x' });
    await expect(openDataset(folder)).rejects.toMatchObject(failure('INVALID_DATA', /notes\.md/));
    await expect(openDataset(at('nowhere'))).rejects.toMatchObject(failure('FILE_NOT_FOUND', /nowhere/));
    await expect(openDataset(at('notes.md'))).rejects.toMatchObject(failure('FILE_FORMAT', /jsonl/));
  });
});

describe('WebDataset tars', () => {
  const shard = (...keys: string[]) =>
    Object.fromEntries(
      keys.flatMap((key) => [
        [`${key}.jpg`, `image ${key}`],
        [`${key}.txt`, `caption ${key}`],
        [`${key}.json`, JSON.stringify({ key, caption: 'not this', width: 5 })],
      ]),
    );

  it('reads one tar, a folder, and patterns in order', async () => {
    await tar('data/00000.tar', shard('000000000', '000000001'));
    await tar('data/00001.tar', shard('000010000'));
    const all = [
      ['000000000', 'caption 000000000'],
      ['000000001', 'caption 000000001'],
      ['000010000', 'caption 000010000'],
    ];
    for (const source of ['data', 'data/{00000..00001}.tar', 'data/*.tar', 'da?a/{00000,00001}.tar']) {
      const data = await openDataset(at(source));
      expect(items(data)).toEqual(all);
      expect(data.item(2).metadata).toEqual({ width: 5 });
      expect(await text(data, 1)).toBe('image 000000001');
      expect(data.location(2)).toBe(`${at('data/00001.tar')}#000010000.jpg`);
    }
    expect(items(await openDataset(at('data/00001.tar')))).toEqual(all.slice(2));
    const json = await openDataset(at('data'), { captionField: 'caption' });
    expect(json.item(0).captions).toEqual(['not this']);
  });

  it('reads long names and large members', async () => {
    const name = `${'deep/'.repeat(40)}x.y.png`;
    const long = `${'n'.repeat(300)}.png`;
    await tar('a.tar', { [name]: 'I'.repeat(100_000), [name.replace('y.png', 'txt')]: 'far', [long]: 'L' });
    const data = await openDataset(at('a.tar'), { captions: false });
    expect(items(data)).toEqual([[`${'deep/'.repeat(40)}x`, 'far'], ['n'.repeat(300)]]);
    expect((await data.read(0)).length).toBe(100_000);
    expect(await text(data, 1)).toBe('L');
  });

  it('names the tar in the keys when several use the same ones', async () => {
    await tar('0.tar', shard('a'));
    await tar('1.tar', shard('a', 'b'));
    expect(items(await openDataset(folder)).map(([key]) => key)).toEqual(['0/a', '1/a', '1/b']);
  });

  it('lists samples that lack a part', async () => {
    await tar('0.tar', {
      'a.txt': 'alone',
      'b.png': 'B',
      'c.png': 'C',
      'c.webp': 'again',
      'c.json': '[]',
      'd.png': 'D',
      'd.json': '{"caption": "d"}',
    });
    const data = await openDataset(folder);
    expect(items(data)).toEqual([['d', 'd']]);
    expect(Object.fromEntries(data.skipped.map(({ key, reason }) => [key, reason]))).toEqual({
      '0/a': 'no image of that name',
      '0/b': 'no caption',
      '0/c': 'its .json is not a JSON object',
      '0/c.webp': 'another image has the same name',
    });
  });

  it('keeps what lies before the damage of a tar that was cut short', async () => {
    await tar('0.tar', shard('a', 'b'));
    const whole = await readFile(at('0.tar'));
    // Headers and contents of 512 bytes each: the cut is in the second sample's image.
    await truncate(at('0.tar'), 7 * 512 + 3);
    const data = await openDataset(folder);
    expect(items(data)).toEqual([['a', 'caption a']]);
    expect(data.skipped).toEqual([
      { key: '0.tar', reason: expect.stringMatching(/damaged: cut short at byte 3587/) },
    ]);
    whole.fill(255, 6 * 512, 7 * 512);
    await writeFile(at('0.tar'), whole);
    expect((await openDataset(folder)).skipped[0].reason).toMatch(/no header at byte 3072/);
  });

  it('goes on without a tar that is none, unless it is the only one', async () => {
    await tar('0.tar', shard('a'));
    await put({ '1.tar': 'x'.repeat(2000) });
    const data = await openDataset(at('{0..2}.tar'));
    expect(items(data)).toEqual([['a', 'caption a']]);
    expect(data.skipped).toEqual([
      { key: '1.tar', reason: expect.stringMatching(/not a tar/) },
      { key: '2.tar', reason: 'no such file' },
    ]);
    await expect(openDataset(at('1.tar'))).rejects.toMatchObject(failure('FILE_FORMAT', /not a tar/));
    await expect(openDataset(at('{3..4}.tar'))).rejects.toMatchObject(failure('FILE_NOT_FOUND', /No such/));
  });
});

describe('a data set', () => {
  it('comes back the same from the list written of it', async () => {
    await tar('0.tar', {
      'a.png': 'A',
      'a.txt': 'one',
      'a.json': '{"caption": "old", "label": 2}',
      'b.png': 'BB',
    });
    const data = await openDataset(folder, { captions: false });
    const rows = Array.from({ length: data.length }, (_, i) => manifestEntry(data, i));
    await put({ 'kept/list.jsonl': lines(...rows) });
    const again = await openDataset(at('kept/list.jsonl'), { captions: false });
    expect(again.hash).toBe(data.hash);
    expect(again.item(0)).toMatchObject({ key: 'a', captions: ['one'], metadata: { label: 2 } });
    expect(items(again)).toEqual(items(data));
    expect(again.location(1)).toBe(data.location(1));
    expect(await text(again, 1)).toBe('BB');
  });

  it('names absolute paths, wherever it was opened from', async () => {
    await tar('tars/0.tar', { 'a.png': 'A' });
    await put({ 'images/b.png': 'B', 'list.jsonl': lines({ image: 'images/b.png' }) });
    const here = (name: string) => relative(process.cwd(), at(name));
    const location = async (source: string) =>
      (await openDataset(here(source), { captions: false })).location(0);
    expect(await location('tars')).toBe(`${at('tars/0.tar')}#a.png`);
    expect(await location('tars/*.tar')).toBe(`${at('tars/0.tar')}#a.png`);
    expect(await location('images')).toBe(at('images/b.png'));
    expect(await location('list.jsonl')).toBe(at('images/b.png'));
  });

  it('has a hash of keys, captions and sizes', async () => {
    await put({ 'a.png': 'A', 'a.txt': 'one', 'b.png': 'B', 'b.txt': 'two' });
    const { hash } = await openDataset(folder);
    expect((await openDataset(folder)).hash).toBe(hash);
    await put({ 'b.txt': 'three' });
    const changed = (await openDataset(folder)).hash;
    expect(changed).not.toBe(hash);
    await put({ 'b.txt': 'two', 'b.png': 'BB' });
    expect((await openDataset(folder)).hash).not.toBe(hash);
  });

  it('gives subsets in the order asked for', async () => {
    await put({ 'a.png': 'A', 'b.png': 'B', 'c.png': 'C' });
    const data = await openDataset(folder, { captions: false });
    const some = subset(data, [2, 0]);
    expect(items(some)).toEqual([['c.png'], ['a.png']]);
    expect(await text(some, 0)).toBe('C');
    expect(some.location(1)).toBe(at('a.png'));
    expect(some.hash).not.toBe(subset(data, [0, 2]).hash);
    expect(() => subset(data, [0, 3])).toThrow(/from 0 to 2/);
    expect(() => subset(data, [0, 0])).toThrow(/different indices/);
    expect(() => some.item(2)).toThrow(RangeError);
  });

  it('cannot be read after it is closed, and says which file vanished', async () => {
    await put({ 'a.png': 'A' });
    const data = await openDataset(folder, { captions: false });
    await rm(at('a.png'));
    await expect(data.read(0)).rejects.toMatchObject(failure('FILE_NOT_FOUND', /a\.png/));
    await data.dispose();
    await data.dispose();
    await expect(data.read(0)).rejects.toMatchObject({ code: 'DISPOSED' });
  });

  it('says when a list has no captions where they are needed, and lacks a field that is asked for', async () => {
    await put({ 'a.png': 'A', 'list.csv': 'image,words\na.png,x\n' });
    await expect(openDataset(at('list.csv'))).rejects.toMatchObject(
      failure('INVALID_DATA', /has no captions: expected a field caption, .* but found image, words/),
    );
    expect((await openDataset(at('list.csv'), { captions: false })).length).toBe(1);
    const asked = { captions: false, captionField: 'word' };
    await expect(openDataset(at('list.csv'), asked)).rejects.toMatchObject(
      failure('INVALID_DATA', /expected a field word but found image, words/),
    );
    expect((await openDataset(at('list.csv'), { captionField: 'words' })).item(0).captions).toEqual(['x']);
  });

  it('says when a list names no images at all', async () => {
    await put({ 'list.csv': 'picture,caption\na.png,x\n', 'gone.csv': 'image,caption\na.png,x\nb.png,y\n' });
    await expect(openDataset(at('list.csv'))).rejects.toMatchObject(
      failure('INVALID_DATA', /expected a field image.* but found picture, caption.*'image,caption'/),
    );
    await put({ 'rows.jsonl': '{"picture": "a.png"}\n' });
    await expect(openDataset(at('rows.jsonl'))).rejects.toMatchObject(
      failure('INVALID_DATA', /found picture\. A line is such as \{"image": "photos\/1\.jpg", "caption"/),
    );
    await expect(openDataset(at('gone.csv'))).rejects.toMatchObject(
      failure('FILE_NOT_FOUND', /no such file \(2, such as a\.png\)/),
    );
    await expect(openDataset('')).rejects.toThrow(TypeError);
    await expect(openDataset(folder, { captions: 1 as never })).rejects.toThrow(/true or false for captions/);
  });
});
