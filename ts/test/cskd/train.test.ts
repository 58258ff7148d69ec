import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { openScorer } from '../../src/cskd/scorer.ts';
import {
  type TrainMutualOptions,
  type TrainScorerOptions,
  trainMutual,
  trainScorer,
} from '../../src/cskd/train.ts';
import { type Dataset, openDataset, subset } from '../../src/data/dataset.ts';
import { decodeImage } from '../../src/data/image.ts';
import type { RatedDataset } from '../../src/data/rated/dataset.ts';
import { openRated } from '../../src/data/rated/open.ts';
import { type Splits, splitRated } from '../../src/data/rated/split.ts';
import { openImageEncoder } from '../../src/encoder/image-encoder.ts';
import { measureScores } from '../../src/eval/scores.ts';
import { tinyVision, writeRated } from './drawn.ts';

let root: string;
let rated: RatedDataset;
let splits: Splits;
let plain: Dataset;
const bins = 5;

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'scorer-'));
  rated = await openRated(await writeRated(join(root, 'data')));
  splits = splitRated(rated);
  plain = await openDataset(join(root, 'data'), { captions: false });
});
afterAll(async () => {
  await Promise.all([rated?.dispose(), plain?.dispose()]);
  rmSync(root, { recursive: true, force: true });
});

function options(folder: string, more: Partial<TrainScorerOptions> = {}): TrainScorerOptions {
  return {
    labelled: rated,
    items: { train: splits.train, validation: splits.validation },
    folder: join(root, folder),
    backbone: tinyVision,
    batchSize: 8,
    microBatch: 8,
    steps: 12,
    rate: 3e-3,
    augment: 'none',
    threads: 1,
    ...more,
  };
}

/** Distributions of a scorer over a data set. */
async function distributionsOf(model: string, data: Dataset): Promise<Float32Array> {
  const scorer = await openScorer(model, { threads: 1 });
  const images = await Promise.all(
    Array.from({ length: data.length }, async (_, i) => decodeImage(await data.read(i))),
  );
  const found = await scorer.embedImages(images);
  await scorer.dispose();
  return found;
}

const weights = (model: string) => readFileSync(join(model, 'onnx', 'vision_model.onnx'));

describe('trainScorer', () => {
  it('learns scores from labels, and its folder gives distributions on the scale', async () => {
    const result = await trainScorer(options('labels', { steps: 150 }));
    expect(result.validation!.srcc).toBeGreaterThan(0.85);
    const scorer = await openScorer(result.model, { threads: 1 });
    expect(scorer.scale).toEqual(rated.scale);
    expect([scorer.dim, scorer.imageSize]).toEqual([bins, 16]);
    await scorer.dispose();
    const test = rated.pick(splits.test);
    const distributions = await distributionsOf(result.model, test);
    const scores = Float64Array.from({ length: test.length }, (_, i) => {
      const row = distributions.subarray(i * bins, (i + 1) * bins);
      expect(row.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 5);
      return row.reduce((sum, share, k) => sum + share * (k + 1), 0);
    });
    const { srcc } = await measureScores({ scores, distributions }, test, { resamples: 0 });
    expect(srcc.value).toBeGreaterThan(0.8);
    const features = await openImageEncoder(result.model, { threads: 1, imageOutput: 'pooler_output' });
    expect(features.dim).toBe(tinyVision.width);
    await features.dispose();
  });

  it('learns a teacher from unlabelled images what few labels do not tell', async () => {
    const teacher = await trainScorer(options('teacher', { steps: 150 }));
    const distributions = await distributionsOf(teacher.model, plain);
    // Four labels, all of the lower scores.
    const few = Array.from(splits.train)
      .filter((item) => rated.scores[item]! < 2.6)
      .slice(0, 4);
    const little = { items: { train: few, validation: splits.validation }, batchSize: 4, steps: 150 };
    const alone = await trainScorer(options('few', little));
    const guided = await trainScorer(
      options('guided', { ...little, unlabelled: [{ data: plain, distributions }], ratio: 3 }),
    );
    expect(guided.validation!.squaredEmd!).toBeLessThan(alone.validation!.squaredEmd! / 2);
  });

  it('ends with the same bytes after a stop as without one', async () => {
    const distributions = new Float32Array(plain.length * bins).fill(1 / bins);
    const half = subset(
      plain,
      Array.from({ length: 20 }, (_, i) => i),
    );
    const unlabelled = [
      { data: plain, distributions, weight: 1 },
      { data: half, distributions: distributions.slice(0, 20 * bins), weight: 2 },
    ];
    const more = { unlabelled, ratio: 0.6, ema: 0.9, augment: {} };
    const whole = await trainScorer(options('whole', more));
    const controller = new AbortController();
    const onStep = ({ step }: { step: number }) => {
      if (step === 5) controller.abort();
    };
    const stopped = trainScorer(options('stopped', { ...more, signal: controller.signal, onStep }));
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' });
    const resumed = await trainScorer(options('stopped', more));
    expect(resumed.validation).toEqual(whole.validation);
    expect(weights(resumed.model).equals(weights(whole.model))).toBe(true);
    await expect(trainScorer(options('stopped', { ...more, ratio: 1 }))).rejects.toMatchObject({
      code: 'RUN_CHANGED',
    });
  });

  it('runs the teacher on the views that the student sees', async () => {
    const { model } = await trainScorer(options('online-teacher', { steps: 2 }));
    const teacher = await openScorer(model, { threads: 1 });
    const embed = vi.spyOn(teacher, 'embedImages');
    const seen: number[] = [];
    const result = await trainScorer(
      options('online', {
        teacher,
        targets: 'online',
        unlabelled: [{ data: plain }],
        ratio: 2,
        steps: 3,
        onStep: ({ terms }) => seen.push(terms.unlabelled!),
      }),
    );
    expect(result.steps).toBe(3);
    expect(embed.mock.calls.map(([views]) => views.length)).toEqual([16, 16, 16]);
    expect(seen.every((value) => value >= 0)).toBe(true);
    await teacher.dispose();
  });

  it('leaves out pseudo labels that the teacher is unsure of', async () => {
    // Half the images are rated as surely 3, half as anything.
    const distributions = new Float32Array(plain.length * bins);
    for (let i = 0; i < plain.length; i++) {
      if (i % 2 === 0) distributions[i * bins + 2] = 1;
      else distributions.fill(1 / bins, i * bins, (i + 1) * bins);
    }
    const shares: number[] = [];
    await trainScorer(
      options('sure', {
        unlabelled: [{ data: plain, distributions }],
        ratio: 6,
        maxDeviation: 1,
        steps: 1,
        onStep: ({ terms }) => shares.push(terms.sure!),
      }),
    );
    expect(shares).toEqual([0.5]);
  });

  it('trains the head alone where the encoder has no rate', async () => {
    const { model } = await trainScorer(options('frozen', { backboneRate: 0, steps: 20, decay: 0.5 }));
    const moved = await trainScorer(options('moved', { steps: 20, decay: 0.5 }));
    const encoders = [];
    for (const path of [model, moved.model]) {
      const again = await trainScorer(options(`again-${encoders.length}`, { init: path, steps: 1 }));
      expect(again.steps).toBe(1);
      encoders.push(await openImageEncoder(path, { threads: 1, imageOutput: 'pooler_output' }));
    }
    const fresh = await trainScorer(options('fresh', { backboneRate: 0, steps: 1 }));
    encoders.push(await openImageEncoder(fresh.model, { threads: 1, imageOutput: 'pooler_output' }));
    const sample = [await decodeImage(await plain.read(3))];
    const [kept, changed, start] = await Promise.all(encoders.map((encoder) => encoder.embedImages(sample)));
    expect([...kept!]).toEqual([...start!]);
    expect([...changed!]).not.toEqual([...start!]);
    await Promise.all(encoders.map((encoder) => encoder.dispose()));
  });

  it('names what is missing or does not fit', async () => {
    const refuse = (more: Partial<TrainScorerOptions>, message: string | RegExp) =>
      expect(trainScorer(options('bad', more))).rejects.toThrow(message);
    await refuse({ labelled: plain as never }, 'Expected images with ratings for labelled');
    await refuse({ items: { train: [0] } }, 'There are 1 labelled images; at least 2 are needed');
    await refuse({ items: { train: [0, 99] } }, /from 0 to 47 for items.train but received 99/);
    await refuse(
      { unlabelled: [{ data: plain }] },
      "teacher's distributions for unlabelled[0].distributions",
    );
    await refuse(
      { unlabelled: [{ data: plain, distributions: new Float32Array(5) }] },
      /48 rows of 5 shares/,
    );
    await refuse(
      { unlabelled: [{ data: plain }], targets: 'online' },
      'Expected an opened scorer for teacher',
    );
    await refuse({ ratio: 0 }, 'Expected a number over 0 for ratio but received 0');
    await refuse({ emd: 'cubed' as never }, /'squared', 'root' for emd/);
    await expect(openScorer(join(root, 'nothing'))).rejects.toMatchObject({ code: 'MODEL_INVALID' });
  });
});

describe('trainMutual', () => {
  const mutual = (folder: string, more: Partial<TrainMutualOptions> = {}): TrainMutualOptions => {
    const { backbone: _, ...common } = options(folder);
    return {
      ...common,
      teacher: { backbone: { ...tinyVision, width: 32, imageSize: 24 } },
      student: { backbone: tinyVision },
      unlabelled: [{ data: plain }],
      ...more,
    };
  };

  it('trains two learners on the labels and on each other, and stops and resumes', async () => {
    const terms: Record<string, number>[] = [];
    const whole = await trainMutual(
      mutual('mutual', { steps: 60, onStep: (step) => terms.push(step.terms) }),
    );
    expect(Object.keys(terms[0]!).sort()).toEqual(
      ['student/labelled', 'student/unlabelled', 'teacher/labelled', 'teacher/unlabelled', 'total'].sort(),
    );
    const sum = ({ total: _, ...parts }: Record<string, number>) =>
      Object.values(parts).reduce((all, part) => all + part, 0);
    expect(terms[0]!.total).toBeCloseTo(sum(terms[0]!), 9);
    expect(terms.at(-1)!.total).toBeLessThan(terms[0]!.total! / 2);
    expect(Object.keys(whole.validation!)).toContain('teacher/srcc');
    for (const [name, size] of [
      ['model', 16],
      ['teacher-model', 24],
    ] as const) {
      const scorer = await openScorer(join(root, 'mutual', name), { threads: 1 });
      expect(scorer.imageSize).toBe(size);
      await scorer.dispose();
    }
    const controller = new AbortController();
    const onStep = ({ step }: { step: number }) => {
      if (step === 7) controller.abort();
    };
    const stopped = trainMutual(mutual('mutual-2', { steps: 60, signal: controller.signal, onStep }));
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' });
    const resumed = await trainMutual(mutual('mutual-2', { steps: 60 }));
    expect(weights(resumed.model).equals(weights(whole.model))).toBe(true);
  });

  it('needs unlabelled images', async () => {
    await expect(trainMutual(mutual('none', { unlabelled: [] }))).rejects.toThrow(
      'Expected unlabelled images to learn from each other on for unlabelled',
    );
  });
});
