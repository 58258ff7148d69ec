import { expect, it } from 'vitest';
import { openRated } from '../../../src/data/rated/open.ts';
import { keysOf, reasonsOf, rowOf, splitsOf, testFolder } from './files.ts';

const { at, put } = testFolder();

const labels = (list: string, what: string) => `imgListFiles_label/imgList${list}Regression_${what}.txt`;
const SCORES = {
  [labels('Train', 'score')]: 'farm1_1_a_b.jpg 0.5\nfarm1_2_a_b.jpg 0.85 \n',
  [labels('Validation', 'score')]: 'farm1_3_a_b.jpg 0.35\n',
  [labels('TestNew', 'score')]: 'farm1_4_a_b.jpg 0.9\nfarm1_5_a_b.jpg 1\n',
};
const IMAGES = {
  'datasetImages_originalSize/farm1_1_a_b.jpg': '1',
  'datasetImages_originalSize/farm1_2_a_b.jpg': '2',
  'datasetImages_originalSize/farm1_3_a_b.jpg': '3',
  'AADB_newtest_originalSize/0.900_farm1_4_a_b.jpg': '4',
  'AADB_newtest_originalSize/farm1_5_a_b.jpg': '5',
};

it('reads the lists of all splits, and images whose name begins with the score', async () => {
  await put({ ...SCORES, ...IMAGES });
  const data = await openRated(at('.'));
  expect(data.format).toBe('aadb');
  expect(keysOf(data)).toEqual([4, 5, 3, 1, 2].map((n) => `farm1_${n}_a_b.jpg`));
  expect(splitsOf(data)).toEqual(['test', 'test', 'validation', 'train', 'train']);
  expect(Array.from(data.scores)).toEqual([0.9, 1, 0.35, 0.5, 0.85]);
  expect(data.location(0)).toBe(at('AADB_newtest_originalSize/0.900_farm1_4_a_b.jpg'));
  expect(Buffer.from(await data.read(1)).toString()).toBe('5');
  expect(data.skipped).toEqual([]);
});

it('shares a score between the bins beside it', async () => {
  await put({ ...SCORES, ...IMAGES });
  const data = await openRated(at('.'));
  expect(rowOf(data, 0).map((share) => Number(share.toFixed(6)))).toEqual([0, 0, 0, 0.4, 0.6]);
  expect(rowOf(data, 1)).toEqual([0, 0, 0, 0, 1]);
  expect(rowOf(data, 3)).toEqual([0, 0, 1, 0, 0]);
  expect((await openRated(at('.'), { bins: 11 })).distributions.length).toBe(55);
});

it('reads attributes as metadata, those of some images missing', async () => {
  await put({
    ...SCORES,
    ...IMAGES,
    [labels('Train', 'BalacingElements')]: 'farm1_1_a_b.jpg -0.2\nfarm1_2_a_b.jpg 1.0\n',
    [labels('Train', 'VividColor')]: 'farm1_2_a_b.jpg 0\n',
  });
  const data = await openRated(at('.'));
  expect(data.item(3).metadata).toEqual({ score: 0.5, BalacingElements: -0.2 });
  expect(data.item(4).metadata).toEqual({ score: 0.85, BalacingElements: 1, VividColor: 0 });
  expect(data.notes).toEqual(['1 images lack some of the attributes']);
});

it('keeps an image of several lists out of training', async () => {
  await put({
    ...SCORES,
    ...IMAGES,
    [labels('Train', 'score')]: 'farm1_1_a_b.jpg 0.5\nfarm1_4_a_b.jpg 0.9\nfarm1_3_a_b.jpg 0.35\n',
  });
  const data = await openRated(at('.'));
  expect(splitsOf(data)).toEqual(['test', 'test', 'validation', 'train']);
  expect(data.notes).toEqual([
    '2 images are in several lists; they stay in the test or validation list only',
  ]);
});

it('takes the older test list where the new one is missing, the folder of the lists, and a folder of images', async () => {
  await put({
    [labels('Test', 'score')]: 'a b.jpg 0.25\n',
    'pictures/a b.jpg': 'x',
  });
  const data = await openRated(at('imgListFiles_label'), { images: at('pictures') });
  expect(keysOf(data)).toEqual(['a b.jpg']);
  expect(splitsOf(data)).toEqual(['test']);
});

it('leaves out and lists what it cannot use', async () => {
  await put({
    ...IMAGES,
    [labels('Train', 'score')]: [
      'farm1_2_a_b.jpg 0.7',
      'farm1_1_a_b.jpg 0.5',
      'farm1_1_a_b.jpg 0.5',
      'farm1_3_a_b.jpg 1.2',
      'farm1_4_a_b.jpg nan',
      'farm1_5_a_b.jpg',
      'gone.jpg 0.1',
    ].join('\n'),
  });
  const data = await openRated(at('.'));
  expect(keysOf(data)).toEqual(['farm1_2_a_b.jpg', 'farm1_1_a_b.jpg']);
  expect(reasonsOf(data)).toEqual({
    'farm1_1_a_b.jpg': 'repeats an earlier row',
    'farm1_3_a_b.jpg': 'the score 1.2 is not within 0 to 1',
    'imgListTrainRegression_score.txt, line 5': 'expected a name and a number',
    'imgListTrainRegression_score.txt, line 6': 'expected a name and a number',
    'gone.jpg': 'no such file',
  });
});

it('refuses what is wrong in whole', async () => {
  await put({ [labels('Train', 'score')]: 'a.jpg 0.5\nb.jpg 0.6\n' });
  await expect(openRated(at('.'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  await expect(openRated(at('.'), { bins: 1 })).rejects.toThrow(
    'Expected an integer from 2 to 1000 for bins but received 1',
  );
  await expect(openRated(at('.'), { format: 'ava' })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
});
