import { expect, it } from 'vitest';
import { openRated } from '../../../src/data/rated/open.ts';
import { keysOf, reasonsOf, rowOf, splitsOf, testFolder } from './files.ts';

const { at, put } = testFolder();

const SCORES = ['1.0', '1.5', '2.0', '2.5', '3.0', '3.5', '4.0', '4.5', '5.0'];
const HEADER = `imageName,sessionId,semantic,${SCORES.map((score) => `aestheticScore_${score}`).join(',')},aestheticScore_mean,aestheticScore_std,qualityScore_mean,qualityScore_std`;
const giaa = (...rows: string[]) => `${HEADER}\n${rows.join('\n')}\n`;
const RATINGS =
  'sessionId,imageName,userId,aestheticScore,qualityScore,compositionScore,colorScore,dofScore,contentScore,lightScore,isObjectEmphasis,imgEmotion,difficultyOfJudgment,contentPreference,willingnessToShare,semantic';
const rating = (session: string, image: string, user: string, score: string) =>
  `${session},${image},${user},${score},3.1,3,3,3,3,3,0,neutral,0,3,3,animal`;
const IMAGES = {
  'imgs/session1/iaa_pub1_.jpg': '1',
  'imgs/session1/iaa_pub2_.jpg': '2',
  'imgs/session2/iaa_pub71_.jpg': '71',
};

it('reads distributions with their split', async () => {
  await put({
    ...IMAGES,
    'annotation/PARA-GiaaTrain.csv': giaa(
      'iaa_pub71_.jpg,session2,food,0,0,0,0,0,10,10,0,0,3.75,0.25,3.1,0.4',
      'iaa_pub1_.jpg,session1,plant,1,0,0,0,1,0,0,0,2,3.5,1.6,3,0.4',
    ),
    'annotation/PARA-GiaaTest.csv': giaa('iaa_pub2_.jpg,session1,scene,0,1,0,0,0,0,0,2,0,3.5,1.4,3,0.4'),
  });
  const data = await openRated(at('.'));
  expect(data.format).toBe('para');
  expect(keysOf(data)).toEqual([
    'session1/iaa_pub2_.jpg',
    'session2/iaa_pub71_.jpg',
    'session1/iaa_pub1_.jpg',
  ]);
  expect(splitsOf(data)).toEqual(['test', 'train', 'train']);
  expect(Array.from(data.scores)).toEqual([3.5, 3.75, 3.5]);
  expect(Array.from(data.ratings)).toEqual([3, 20, 4]);
  expect(rowOf(data, 2)).toEqual([0.25, 0, 0, 0, 0.25, 0, 0, 0, 0.5]);
  expect(data.item(1).metadata).toEqual({ score: 3.75, session: 'session2', semantic: 'food' });
  expect(data.scale).toMatchObject({ low: 1, high: 5, bins: 9 });
  expect(Buffer.from(await data.read(1)).toString()).toBe('71');
});

it('leaves out and lists what it cannot use', async () => {
  await put({
    ...IMAGES,
    'imgs/session1/iaa_pub3_.jpg': '',
    'annotation/PARA-GiaaTest.csv': giaa('iaa_pub1_.jpg,session1,scene,0,1,0,0,0,0,0,2,0,3.5,1.4,3,0.4'),
    'annotation/PARA-GiaaTrain.csv': giaa(
      'iaa_pub2_.jpg,session1,plant,1,0,0,0,1,0,0,0,2,3.5,1.6,3,0.4',
      'iaa_pub1_.jpg,session1,plant,1,0,0,0,1,0,0,0,2,3.5,1.6,3,0.4', // a test image
      'iaa_pub3_.jpg,session1,plant,1,0,0,0,1,0,0,0,2,3.5,1.6,3,0.4',
      'iaa_pub4_.jpg,session1,plant,1,0,0,0,1,0,0,0,2,3.5,1.6,3,0.4',
      'iaa_pub71_.jpg,session2,plant,1,0,0,0,1,0,0,0,2,3.75,1.6,3,0.4',
      'iaa_pub72_.jpg,session2,plant,1,0,0,0,-1,0,0,0,2,3.75,1.6,3,0.4',
      'iaa_pub73_.jpg,session2,plant,0,0,0,0,0,0,0,0,0,,1.6,3,0.4',
      ',session2,plant,0,0,0,0,0,0,0,0,1,5,0,3,0.4',
      'iaa_pub74_.jpg,session2,plant',
    ),
  });
  const data = await openRated(at('.'));
  expect(keysOf(data)).toEqual(['session1/iaa_pub1_.jpg', 'session1/iaa_pub2_.jpg']);
  expect(reasonsOf(data)).toEqual({
    'session1/iaa_pub1_.jpg': 'an earlier row has this name and other ratings',
    'session1/iaa_pub3_.jpg': 'the file is empty',
    'session1/iaa_pub4_.jpg': 'no such file',
    'session2/iaa_pub71_.jpg': 'its mean is given as 3.75, but that of its counts is 3.500',
    'session2/iaa_pub72_.jpg': 'a count is not a whole number',
    'session2/iaa_pub73_.jpg': 'it has no ratings',
    'PARA-GiaaTrain.csv, line 9': 'it names no image',
    'PARA-GiaaTrain.csv, line 10': 'the number of fields differs from the header',
  });
});

it('gathers single ratings, in any order', async () => {
  await put({
    ...IMAGES,
    'annotation/PARA-Images.csv': [
      RATINGS,
      rating('session1', 'iaa_pub1_.jpg', 'A1', '3.0'),
      rating('session2', 'iaa_pub71_.jpg', 'B7', '5'),
      rating('session1', 'iaa_pub1_.jpg', 'A2', '4.5'),
      rating('session1', 'iaa_pub1_.jpg', 'A1', '1.0'),
      rating('session2', 'iaa_pub71_.jpg', 'B8', '3.75'),
      rating('session2', 'iaa_pub71_.jpg', 'B9', '5.5'),
      rating('session2', 'iaa_pub71_.jpg', 'C1', ''),
    ].join('\n'),
  });
  for (const source of ['.', 'annotation', 'annotation/PARA-Images.csv']) {
    const data = await openRated(at(source));
    expect(keysOf(data)).toEqual(['session1/iaa_pub1_.jpg', 'session2/iaa_pub71_.jpg']);
    expect(Array.from(data.scores)).toEqual([3.75, 4.375]);
    expect(Array.from(data.ratings)).toEqual([2, 2]);
    expect(rowOf(data, 0)).toEqual([0, 0, 0, 0, 0.5, 0, 0, 0.5, 0]);
    expect(rowOf(data, 1)).toEqual([0, 0, 0, 0, 0, 0.25, 0.25, 0, 0.5]);
    expect(splitsOf(data)).toEqual([undefined, undefined]);
    expect(reasonsOf(data)).toEqual({
      'PARA-Images.csv, line 5': 'the rater has rated this image before',
      'PARA-Images.csv, line 7': 'the score 5.5 is not within 1 to 5',
      'PARA-Images.csv, line 8': 'it has no score',
    });
  }
});

it('says which columns are missing', async () => {
  await put({ 'annotation/PARA-GiaaTrain.csv': 'imageName,sessionId,aestheticScore_1.0\na.jpg,s,1\n' });
  await expect(openRated(at('.'))).rejects.toMatchObject({
    code: 'FILE_FORMAT',
    message: expect.stringMatching(/it has no column aestheticScore_1\.5, aestheticScore_2\.0/),
  });
});
