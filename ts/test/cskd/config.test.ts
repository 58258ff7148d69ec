import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { imageSetsOf, parseAestheticsConfig, readAestheticsConfig } from '../../src/cskd/config.ts';

test('an empty configuration has the documented defaults, and a configuration parses to itself', () => {
  const empty = parseAestheticsConfig({});
  expect(empty).toMatchObject({
    seed: 0,
    device: 'auto',
    labels: { splitSeed: 0 },
    train: { mutual: false },
    baselines: false,
  });
  expect(imageSetsOf(empty, 'align')).toEqual([]);
  const config = parseAestheticsConfig({
    clip: 'c',
    unlabelled: ['a', { data: 'b', weight: 2 }],
    labels: { data: 'l.csv', share: 0.1 },
    student: { backbone: { base: 'micro-64', width: 64 }, align: { steps: 3 } },
    align: { weights: { cosine: 1, relational: 0.5 } },
    train: { ratio: 2, unlabelled: 'd' },
  });
  expect(parseAestheticsConfig(config)).toEqual(config);
});

test('image sets are one, several with weights, or those of a phase', () => {
  const at = (unlabelled: unknown) =>
    imageSetsOf(parseAestheticsConfig({ unlabelled }, 'c', '/base'), 'align');
  expect(at('photos')).toEqual([{ data: '/base/photos' }]);
  expect(at({ data: 'photos', weight: 3 })).toEqual([{ data: '/base/photos', weight: 3 }]);
  expect(at(['a', { data: '/b' }])).toEqual([{ data: '/base/a' }, { data: '/b' }]);
  const config = parseAestheticsConfig({ unlabelled: 'a', train: { unlabelled: 'b' } }, 'c', '/base');
  expect(imageSetsOf(config, 'align')).toEqual([{ data: '/base/a' }]);
  expect(imageSetsOf(config, 'train')).toEqual([{ data: '/base/b' }]);
});

test('paths in a file are relative to it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'aesthetics-config-'));
  const file = join(folder, 'config.json');
  writeFileSync(
    file,
    JSON.stringify({
      clip: 'c',
      labels: { data: 'AVA', images: '../jpg' },
      teacher: { init: 't' },
      student: { init: '/s' },
    }),
  );
  const config = await readAestheticsConfig(file);
  expect(config.clip).toBe(join(folder, 'c'));
  expect(config.labels).toMatchObject({ data: join(folder, 'AVA'), images: join(folder, '..', 'jpg') });
  expect([config.teacher.init, config.student.init]).toEqual([join(folder, 't'), '/s']);
  rmSync(folder, { recursive: true });
});

test.each<[unknown, string]>([
  [{ aling: {} }, 'unknown field aling (did you mean align?)'],
  [{ train: { backbonRate: 1 } }, 'unknown field train.backbonRate (did you mean backboneRate?)'],
  [{ student: { backbone: 'vit' } }, 'student.backbone'],
  [{ student: { backbone: { widht: 3 } } }, 'unknown field student.backbone.widht (did you mean width?)'],
  [
    { align: { weights: { cosine: -1 } } },
    'Expected a number of at least 0 for align.weights.cosine but received -1',
  ],
  [{ unlabelled: [{ weight: 1 }] }, 'unlabelled[0]'],
  [{ labels: { share: 0 } }, 'Expected a number over 0 for labels.share but received 0'],
  [{ train: { emd: 'cubed' } }, 'Expected one of "squared", "root" for train.emd but received "cubed"'],
])('%j names the field', (config, message) => {
  expect(() => parseAestheticsConfig(config)).toThrow(message);
});
