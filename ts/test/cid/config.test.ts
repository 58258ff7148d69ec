import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig, readConfig } from '../../src/cid/config.ts';
import { required } from '../../src/run/schema.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'clip-cid-config-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('an empty configuration has the documented defaults', () => {
  expect(parseConfig({})).toMatchObject({
    seed: 0,
    device: 'auto',
    embed: { batchSize: 64 },
    cluster: { iterations: 50, tolerance: 0.001, init: 'k-means++', nInit: 1 },
    distill: {},
  });
  expect(parseConfig({}).baseline).toBeUndefined();
});

test('a configuration parses to itself', () => {
  const config = parseConfig({
    data: 'a.jsonl',
    balance: { threshold: 0.9 },
    distill: { student: { base: 'mini-64' } },
  });
  expect(parseConfig(config)).toEqual(config);
});

test('paths in a file are relative to it, and absolute ones stay', async () => {
  const file = join(folder, 'config.json');
  writeFileSync(
    file,
    JSON.stringify({
      data: 'sub/train.jsonl',
      teacher: '/models/t',
      distill: { init: 'x' },
      eval: { data: '../held.jsonl' },
    }),
  );
  const config = await readConfig(file);
  expect(config.data).toBe(join(folder, 'sub', 'train.jsonl'));
  expect(config.teacher).toBe('/models/t');
  expect(config.distill.init).toBe(join(folder, 'x'));
  expect(config.eval.data).toBe(join(folder, '..', 'held.jsonl'));
});

describe('errors name the field, what was expected and what was given', () => {
  test.each<[unknown, string]>([
    [{ balance: { treshold: 1 } }, 'unknown field balance.treshold (did you mean threshold?)'],
    [{ distil: {} }, 'unknown field distil (did you mean distill?)'],
    [
      { distill: { student: { vision: { widht: 3 } } } },
      'unknown field distill.student.vision.widht (did you mean width?)',
    ],
    [{ distill: { qwertyuiop: 1 } }, 'unknown field distill.qwertyuiop'],
    [{ balance: { threshold: '0.9' } }, 'Expected a number for balance.threshold but received "0.9"'],
    [{ balance: { threshold: 2 } }, 'Expected a number of at most 1 for balance.threshold but received 2'],
    [{ cluster: { clusters: 1.5 } }, 'Expected an integer for cluster.clusters but received 1.5'],
    [{ cluster: { clusters: 0 } }, 'Expected a number of at least 1 for cluster.clusters but received 0'],
    [{ distill: { student: 'huge' } }, 'for distill.student but received "huge"'],
    [{ distill: { student: 5 } }, 'for distill.student but received 5'],
    [
      { distill: { validation: [-1] } },
      'Expected a number of at least 0 for distill.validation[0] but received -1',
    ],
    [
      { distill: { validation: 0.7 } },
      'Expected a number of at most 0.5 for distill.validation but received 0.7',
    ],
    [{ distill: { augment: { scal: [1, 1] } } }, 'unknown field distill.augment.scal (did you mean scale?)'],
    [
      { distill: { learnedCentres: 'yes' } },
      'Expected true or false for distill.learnedCentres but received "yes"',
    ],
    [
      { eval: { templates: ['a photo'] } },
      'Expected a text with {} for the class for eval.templates[0] but received "a photo"',
    ],
    [{ eval: { tasks: ['zero'] } }, 'Expected one of "zero-shot", '],
    [{ device: 'gpu' }, "Expected 'auto', 'cpu', 'cuda' or 'cuda:N' for device but received \"gpu\""],
    [{ data: '' }, 'Expected a text that is not empty for data but received ""'],
    [[], 'Expected an object for the configuration but received []'],
    [null, 'Expected an object for the configuration but received null'],
  ])('%j', (value, message) => {
    expect(() => parseConfig(value, 'my.json')).toThrow(
      expect.objectContaining({ code: 'INVALID_CONFIG', message: expect.stringContaining(message) }),
    );
    expect(() => parseConfig(value, 'my.json')).toThrow(/^my\.json: /);
  });

  test('all of them at once', () => {
    expect(() => parseConfig({ seed: -1, threads: 'two', embed: { dtype: 'int8' } })).toThrow(
      /seed but received -1.*threads but received "two".*"float32", "float16" for embed\.dtype but received "int8"/,
    );
  });

  test('a file that is not JSON, or not there', async () => {
    const file = join(folder, 'broken.json');
    writeFileSync(file, '{ "seed": 1, }');
    await expect(readConfig(file)).rejects.toMatchObject({
      code: 'INVALID_CONFIG',
      message: expect.stringContaining(file),
    });
    await expect(readConfig(join(folder, 'none.json'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });

  test('required', () => {
    expect(required(0, 'x', 'a number')).toBe(0);
    expect(() => required(undefined, 'teacher', 'a model folder')).toThrow(
      'Expected a model folder for teacher but received nothing',
    );
  });
});
