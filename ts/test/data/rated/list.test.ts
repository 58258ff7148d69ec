import { describe, expect, it } from 'vitest';
import { openRated } from '../../../src/data/rated/open.ts';
import { scoreScale } from '../../../src/data/rated/scale.ts';
import { keysOf, reasonsOf, rowOf, splitsOf, testFolder } from './files.ts';

const { at, put } = testFolder();
const IMAGES = { 'images/a.png': 'A', 'images/b.png': 'B', 'images/c.png': 'C' };
const scores = (data: { scores: Float64Array }) => Array.from(data.scores);

describe('scores', () => {
  it('reads a CSV of paths and scores on a scale', async () => {
    await put({ ...IMAGES, 'list.csv': 'path,score,who\nimages/a.png,2.5,me\nimages/b.png,9,you\n' });
    const data = await openRated(at('list.csv'), { scale: scoreScale(1, 10, 10, 5) });
    expect(data.format).toBe('list');
    expect(keysOf(data)).toEqual(['images/a.png', 'images/b.png']);
    expect(scores(data)).toEqual([2.5, 9]);
    expect(rowOf(data, 0)).toEqual([0, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0]);
    expect(Array.from(data.ratings)).toEqual([0, 0]);
    expect(data.item(0).metadata).toEqual({ score: 2.5, who: 'me' });
  });

  it('needs no scale for scores from 0 to 1', async () => {
    await put({ ...IMAGES, 'list.csv': 'image,mos\nimages/a.png,0\nimages/b.png,0.625\n' });
    const data = await openRated(at('list.csv'));
    expect(data.scale).toEqual({ low: 0, high: 1, bins: 5, threshold: 0.5 });
    expect(rowOf(data, 1)).toEqual([0, 0, 0.5, 0.5, 0]);
  });

  it('asks for a scale otherwise', async () => {
    await put({ ...IMAGES, 'list.csv': 'image,score\nimages/a.png,3\nimages/b.png,7.5\n' });
    await expect(openRated(at('list.csv'))).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringMatching(/go from 3 to 7\.5: say what scale they are on/),
    });
  });

  it('takes other fields by name, and splits', async () => {
    await put({
      ...IMAGES,
      'list.csv': 'f,beauty,part\nimages/a.png,0.1,training\nimages/b.png,0.2,Val\nimages/c.png,0.3,\n',
    });
    const options = { imageField: 'f', scoreField: 'beauty', splitField: 'part' };
    const data = await openRated(at('list.csv'), options);
    expect(splitsOf(data)).toEqual(['train', 'validation', undefined]);
    expect(data.item(0).metadata).toEqual({ score: 0.1 });
    await expect(openRated(at('list.csv'), { ...options, scoreField: 'nice' })).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringMatching(/expected a field nice but found f, beauty, part/),
    });
  });
});

describe('histograms', () => {
  it('reads a field a bin, whose numbers are the scale', async () => {
    await put({
      ...IMAGES,
      'list.csv': 'id,path,n_1.0,n_1.5,n_2.0\nx,images/a.png,0,1,3\ny,images/b.png,5,0,0\n',
    });
    const data = await openRated(at('list.csv'));
    expect(data.scale).toEqual({ low: 1, high: 2, bins: 3, threshold: 1.5 });
    expect(keysOf(data)).toEqual(['x', 'y']);
    expect(scores(data)).toEqual([1.875, 1]);
    expect(Array.from(data.ratings)).toEqual([4, 5]);
  });

  it('reads one field with a list, as text or JSON', async () => {
    await put({
      ...IMAGES,
      'list.tsv': 'path\thistogram\nimages/a.png\t0 1 3\nimages/b.png\t[2, 0, 2]\n',
      'list.jsonl': [
        JSON.stringify({ path: 'images/a.png', histogram: [0, 1, 3] }),
        JSON.stringify({ path: 'images/b.png', histogram: [0.5, 0, 0.5], split: 'test' }),
      ].join('\n'),
    });
    for (const name of ['list.tsv', 'list.jsonl']) {
      const data = await openRated(at(name));
      expect(data.scale).toEqual({ low: 1, high: 3, bins: 3, threshold: 2 });
      expect(rowOf(data, 0)).toEqual([0, 0.25, 0.75]);
      expect(scores(data)).toEqual([2.75, 2]);
    }
    expect(Array.from((await openRated(at('list.jsonl'))).ratings)).toEqual([4, 0]);
  });

  it('keeps a score of its own', async () => {
    await put({
      ...IMAGES,
      'list.jsonl': JSON.stringify({ path: 'images/a.png', score: 2.5, histogram: [0, 1, 3] }),
    });
    expect(scores(await openRated(at('list.jsonl')))).toEqual([2.5]);
  });
});

it('leaves out and lists what it cannot use', async () => {
  await put({
    ...IMAGES,
    'list.jsonl': [
      { path: 'images/b.png', histogram: [1, 1] },
      { path: 'images/a.png', histogram: [1, 1, 1] },
      { path: 'images/c.png', histogram: [1, -1] },
      { key: 'zero', path: 'images/c.png', histogram: [0, 0] },
      { key: 'text', path: 'images/c.png', histogram: [1, 'many'] },
      { key: 'far', path: 'images/c.png', histogram: [1, 1], score: 3 },
      { key: 'gone', path: 'images/d.png', histogram: [1, 1] },
      { key: 'web', path: 'https://somewhere/d.png', histogram: [1, 1] },
      { key: 'part', path: 'images/c.png', histogram: [1, 1], split: 'holdout' },
      { key: 'nameless', histogram: [1, 1] },
      { path: 'images/b.png', histogram: [2, 2] },
    ]
      .map((row) => JSON.stringify(row))
      .concat('{broken')
      .join('\n'),
  });
  const data = await openRated(at('list.jsonl'));
  expect(keysOf(data)).toEqual(['images/b.png']);
  expect(reasonsOf(data)).toEqual({
    'images/a.png': 'expected 2 entries in its histogram but found 3',
    'images/c.png': 'the histogram has an entry that is not a number from 0 on',
    zero: 'it has no ratings',
    text: 'the histogram has an entry that is not a number from 0 on',
    far: 'the score 3 is not within 1 to 2',
    gone: 'no such file',
    web: 'the image is an address, not a file; download it first',
    part: 'its split is none of train, validation, test',
    nameless: 'no field names its image',
    'images/b.png': 'repeats an earlier row',
    'line 12': 'not a JSON object',
  });
});

it('says what it expected of a list without ratings, and of other sources', async () => {
  await put({ ...IMAGES, 'list.csv': 'path,caption\nimages/a.png,a cat\n', 'notes.txt': '' });
  await expect(openRated(at('list.csv'))).rejects.toMatchObject({
    code: 'INVALID_DATA',
    message: expect.stringMatching(
      /neither scores nor histograms: expected a field score, mos.* but found path, caption/,
    ),
  });
  await expect(openRated(at('images'))).rejects.toMatchObject({ code: 'FILE_FORMAT' });
  await expect(openRated(at('notes.txt'))).rejects.toMatchObject({ code: 'FILE_FORMAT' });
  await expect(openRated(at('nowhere'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  await expect(openRated('')).rejects.toThrow('Expected a non-empty string for source');
  await expect(openRated(at('images'), { format: 'xyz' as 'ava' })).rejects.toThrow(/Expected one of 'ava'/);
});

it('gives a part with its ratings', async () => {
  await put({
    ...IMAGES,
    'list.csv': 'path,score,split\nimages/a.png,0.1,train\nimages/b.png,0.2,test\nimages/c.png,0.3,\n',
  });
  const data = await openRated(at('list.csv'));
  const part = data.pick([2, 1]);
  expect(keysOf(part)).toEqual(['images/c.png', 'images/b.png']);
  expect(scores(part)).toEqual([0.3, 0.2]);
  expect(splitsOf(part)).toEqual([undefined, 'test']);
  expect(rowOf(part, 1)).toEqual(rowOf(data, 1));
  expect(part.hash).not.toBe(data.hash);
  await data.dispose();
  expect(Buffer.from(await part.read(0)).toString()).toBe('C');
  await expect(data.read(0)).rejects.toMatchObject({ code: 'DISPOSED' });
  expect(() => data.pick([0, 0])).toThrow(/different indices/);
  expect(() => data.item(3)).toThrow(/Expected an integer from 0 to 2 for index/);
});
