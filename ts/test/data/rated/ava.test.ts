import { expect, it } from 'vitest';
import { openRated } from '../../../src/data/rated/open.ts';
import { keysOf, reasonsOf, rowOf, splitsOf, testFolder } from './files.ts';

const { at, put } = testFolder();

const images = (...ids: number[]) => Object.fromEntries(ids.map((id) => [`images/${id}.jpg`, `image ${id}`]));
/** Rows of AVA.txt; neither indices nor ids are sorted. */
const ROWS = [
  '1 910203 0 0 1 4 10 5 0 0 0 0 1 22 1396',
  '3 4711 0 0 0 0 0 0 2 2 0 0 15 0 37',
  '2 88001 20 0 0 0 0 0 0 0 0 20 0 0 99',
];

it('reads counts, tags and challenge of rows in any order', async () => {
  await put({ 'AVA.txt': `${ROWS.join('\n')}\n`, ...images(910203, 4711, 88001) });
  const data = await openRated(at('.'));
  expect(data.format).toBe('ava');
  expect(keysOf(data)).toEqual(['910203', '4711', '88001']);
  expect(Array.from(data.ratings)).toEqual([20, 4, 40]);
  expect(data.scores[0]).toBeCloseTo((3 + 16 + 50 + 30) / 20, 12);
  expect(data.scores[1]).toBe(7.5);
  expect(data.scores[2]).toBe(5.5);
  expect(rowOf(data, 1)).toEqual([0, 0, 0, 0, 0, 0, 0.5, 0.5, 0, 0]);
  expect(data.item(0).metadata).toEqual({ score: data.scores[0], tags: [1, 22], challenge: 1396 });
  expect(data.item(1).metadata.tags).toEqual([15]);
  expect(data.item(2).metadata.tags).toEqual([]);
  expect(data.scale).toMatchObject({ low: 1, high: 10, bins: 10, threshold: 5 });
  expect(splitsOf(data)).toEqual([undefined, undefined, undefined]);
  expect(Buffer.from(await data.read(1)).toString()).toBe('image 4711');
  expect(data.location(1)).toBe(at('images/4711.jpg'));
  expect(data.skipped).toEqual([]);
});

it('takes AVA.txt itself, CRLF, a byte order mark and spaces at the ends of lines', async () => {
  await put({ 'AVA.txt': `\uFEFF${ROWS.join(' \r\n')}\r\n\r\n`, ...images(910203, 4711, 88001) });
  expect(keysOf(await openRated(at('AVA.txt')))).toHaveLength(3);
});

it('leaves out and lists what it cannot use', async () => {
  await put({
    'AVA.txt': [
      ...ROWS,
      '4 100 0 0 1 4 10 5 0 0 0 0 1 22', // a column is missing
      '5 101 0 0 1 4 10 5 0 0 0 0 1 22 7 8', // one too many
      '6 102 0 0 1 -4 10 5 0 0 0 0 1 22 7',
      '7 103 0 0 1 4.5 10 5 0 0 0 0 1 22 7',
      '8 104 0 0 0 0 0 0 0 0 0 0 1 22 7',
      '9 x105 0 0 1 4 10 5 0 0 0 0 1 22 7',
      '10 4711 0 0 0 0 0 0 1 1 0 0 15 0 37', // the same shares again
      '11 4711 0 0 0 0 0 0 1 3 0 0 15 0 37',
      '12 106 0 0 1 4 10 5 0 0 0 0 1 22 7',
      '13 107 0 0 1 4 10 5 0 0 0 0 1 22 7',
    ].join('\n'),
    ...images(910203, 4711, 88001),
    'images/107.jpg': '',
  });
  const data = await openRated(at('.'));
  expect(keysOf(data)).toEqual(['910203', '4711', '88001']);
  expect(data.skipped).toHaveLength(10);
  expect(reasonsOf(data)).toEqual({
    'line 4': 'expected 15 columns but found 14',
    'line 5': 'expected 15 columns but found 16',
    'line 6': 'a count is not a whole number',
    'line 7': 'a count is not a whole number',
    'line 8': 'it has no ratings',
    'line 9': 'the image id is not a whole number',
    '4711': 'an earlier row has this name and other ratings',
    '106': 'no such file',
    '107': 'the file is empty',
  });
  expect(data.skipped.filter(({ key }) => key === '4711').map(({ reason }) => reason)).toContain(
    'repeats an earlier row',
  );
});

it('has the test images of the official list, and all others for training', async () => {
  await put({
    'AVA.txt': ROWS.join('\n'),
    'aesthetics_image_lists/generic_test.jpgl': '4711\n555\nfive\n',
    ...images(910203, 4711, 88001),
  });
  const data = await openRated(at('.'));
  expect(splitsOf(data)).toEqual(['train', 'test', 'train']);
  expect(reasonsOf(data)).toEqual({
    '555': 'the test list names it and AVA.txt does not',
    'generic_test.jpgl, line 3': 'the image id is not a whole number',
  });
});

it('has only the training images of a list when one is given, and never one that is tested', async () => {
  await put({
    'AVA.txt': ROWS.join('\n'),
    'aesthetics_image_lists/generic_test.jpgl': '4711\n',
    'aesthetics_image_lists/generic_ls_train.jpgl': '88001\n4711\n',
    ...images(910203, 4711, 88001),
  });
  const data = await openRated(at('.'), { trainList: at('aesthetics_image_lists/generic_ls_train.jpgl') });
  expect(splitsOf(data)).toEqual([undefined, 'test', 'train']);
  expect(data.notes).toEqual([
    '1 images are in the training list and in the test list; they are test images only',
  ]);
});

it('finds images where the copies of AVA have them, or where it is told to', async () => {
  for (const folder of ['images/images', 'images', 'image', '.', 'elsewhere']) {
    const root = `copy ${folder.replace('/', ' ')}`;
    await put({
      [`${root}/AVA.txt`]: ROWS[0]!,
      [`${root}/${folder}/910203.jpg`]: 'x',
      [`${root}/images/a.txt`]: '',
    });
    const options = folder === 'elsewhere' ? { images: at(`${root}/${folder}`) } : {};
    expect((await openRated(at(root), options)).location(0)).toBe(at(`${root}/${folder}/910203.jpg`));
  }
});

it('refuses a file in which nothing can be used, with the reasons', async () => {
  await put({ 'AVA.txt': '1 2 3\n4 5 6\n' });
  await expect(openRated(at('.'))).rejects.toMatchObject({
    code: 'INVALID_DATA',
    message: expect.stringMatching(/expected 15 columns but found 3 \(2, such as line 1\)/),
  });
  await put({ 'AVA.txt': ROWS.join('\n') });
  await expect(openRated(at('.'))).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    message: expect.stringMatching(/no such file \(3, such as 910203\)/),
  });
  await put({ 'AVA.txt': '' });
  await expect(openRated(at('.'))).rejects.toMatchObject({ code: 'INVALID_DATA' });
});

it('hashes what it holds', async () => {
  await put({ 'AVA.txt': ROWS.join('\n'), ...images(910203, 4711, 88001) });
  const { hash } = await openRated(at('.'));
  expect((await openRated(at('.'))).hash).toBe(hash);
  await put({ 'AVA.txt': ROWS.join('\n').replace('20 0 0 0 0 0 0 0 0 20', '20 0 0 0 0 0 0 0 1 19') });
  expect((await openRated(at('.'))).hash).not.toBe(hash);
});
