import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseAestheticsConfig } from '../../src/cskd/config.ts';
import { decodeImage } from '../../src/data/image.ts';

const at = (name: string) => new URL(`../../../examples/aesthetics/${name}.mjs`, import.meta.url).href;
const { planScene, renderScene, qualityOf, kinds, Drawings } = await import(at('scenes'));
const { emojiOf, rate, writeScenes } = await import(at('prepare'));
const { run } = await import(at('settings'));
const { figures, runDemo, scorers } = await import(at('demo'));

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'aesthetics-example-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Plan = {
  drawings: { emoji: number }[];
  faults: Record<string, number>;
  quality: number;
};

test('a scene follows from its seed, and has up to two faults of known severity', () => {
  expect(planScene('a', 10)).toEqual(planScene('a', 10));
  const plans: Plan[] = Array.from({ length: 400 }, (_, i) => planScene(`s${i}`, 50));
  const seen = new Map<string, number>();
  for (const { drawings, faults, quality } of plans) {
    expect(drawings.length).toBeGreaterThanOrEqual(1);
    expect(drawings.length).toBeLessThanOrEqual(4);
    expect(drawings.every(({ emoji }) => emoji >= 0 && emoji < 50)).toBe(true);
    expect(Object.keys(faults).length).toBeLessThanOrEqual(2);
    expect(quality).toBe(qualityOf(faults));
    expect(quality >= 0 && quality <= 1).toBe(true);
    for (const kind of Object.keys(faults)) seen.set(kind, (seen.get(kind) ?? 0) + 1);
  }
  expect([...seen.keys()].sort()).toEqual([...kinds].sort());
  for (const count of seen.values()) expect(count).toBeGreaterThan(40);
});

test('quality falls with every severity, and the worst counts most', () => {
  expect(qualityOf({})).toBe(1);
  expect(qualityOf({ blur: 1 })).toBe(0);
  expect(qualityOf({ blur: 0.4 })).toBeCloseTo(0.6, 12);
  expect(qualityOf({ blur: 0.4, noise: 0.2 })).toBeCloseTo(0.54, 12);
  expect(qualityOf({ noise: 0.2, blur: 0.4 })).toBe(qualityOf({ blur: 0.4, noise: 0.2 }));
});

test('raters are around the quality, and the same for the same scene', () => {
  const mean = (histogram: number[]) => histogram.reduce((sum, count, k) => sum + count * (k + 1), 0) / 30;
  expect(rate('x', 0.5)).toEqual(rate('x', 0.5));
  for (const quality of [0, 0.3, 0.7, 1]) {
    const histograms: number[][] = Array.from({ length: 40 }, (_, i) => rate(`k${i}`, quality));
    for (const histogram of histograms) expect(histogram.reduce((sum, count) => sum + count, 0)).toBe(30);
    const average = histograms.reduce((sum, histogram) => sum + mean(histogram), 0) / 40;
    // Ratings end at 1 and 10, which draws the means of the best and the worst inwards.
    expect(Math.abs(average - (1 + 9 * quality))).toBeLessThan(0.75);
  }
});

test('each fault changes the picture, more where it is severe; test scenes show other drawings', async () => {
  const { train, heldout } = emojiOf(join(folder, 'emoji'));
  const concepts = new Set(train.map(({ concept }: { concept: string }) => concept));
  expect(heldout.some(({ concept }: { concept: string }) => concepts.has(concept))).toBe(false);
  const drawings = new Drawings();
  const base = { ...planScene('picture', train.length), faults: {} };
  const pixels = async (faults: object) => {
    const bytes = await renderScene({ ...base, faults }, (i: number) => train[i].path, drawings);
    const { width, height, data } = await decodeImage(bytes);
    expect([width, height]).toEqual([96, 96]);
    return data;
  };
  const clean = await pixels({});
  const distance = (other: Uint8Array) =>
    other.reduce((sum, value, i) => sum + Math.abs(value - clean[i]!), 0) / other.length;
  for (const kind of ['jpeg', 'blur', 'noise', 'exposure', 'cast']) {
    const [little, much] = await Promise.all([0.1, 0.9].map((severity) => pixels({ [kind]: severity })));
    expect(distance(little!), kind).toBeGreaterThan(0.2);
    expect(distance(much!), kind).toBeGreaterThan(1.5 * distance(little!));
  }
  const [first, again] = await Promise.all(
    ['one', 'two'].map((name) => writeScenes(join(folder, name), 'same', 3, train)),
  );
  expect(first).toEqual(again);
  const stats = await Promise.all(
    ['one', 'two'].map((name) => sharp(join(folder, name, 'same-00002.jpg')).stats()),
  );
  expect(stats[0]!.channels).toEqual(stats[1]!.channels);
});

test('the settings are a configuration', () => {
  expect(() => parseAestheticsConfig(run)).not.toThrow();
});

test('the whole example, tiny: every scorer is measured, the report shows what the encoders look at, and a second run has nothing to do', async () => {
  const tiny = {
    imageSize: 96,
    patchSize: 16,
    stem: 'conv',
    pooling: 'mean',
    width: 32,
    layers: 1,
    heads: 1,
  };
  const steps = { epochs: undefined, steps: 2, batchSize: 4 };
  const settings = {
    ...run,
    teacher: { backbone: tiny },
    student: { backbone: tiny },
    labels: { count: 8 },
    align: { ...run.align, ...steps },
    train: { ...run.train, ...steps },
  };
  const options = { settings, counts: { unlabelled: 12, labelled: 12, test: 12 } };
  const out = join(folder, 'demo');
  const { models } = await runDemo(out, 1, options);
  expect(Object.keys(models)).toEqual(Object.keys(scorers));
  for (const model of Object.values<Record<string, number>>(models)) {
    for (const figure of Object.keys(figures)) expect(Number.isFinite(model[figure])).toBe(true);
  }
  const report = readFileSync(join(out, 'run', 'report.html'), 'utf8');
  for (const words of ['Attention', 'before', 'after', '+ unlabelled images', 'squared EMD'])
    expect(report).toContain(words);
  expect((await runDemo(out, 1, options)).models).toEqual(models);
}, 60_000);
