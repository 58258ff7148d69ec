import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type PretrainOptions, pretrain } from '../../src/cid/pretrain.ts';
import { type Dataset, openDataset } from '../../src/data/dataset.ts';
import { decodeImage } from '../../src/data/image.ts';
import { openEncoder } from '../../src/encoder/encoder.ts';
import { devices } from '../../src/native/devices.ts';
import { retrieval } from '../../src/student/validate.ts';
import { tinyStudent, writeShapes } from './shapes.ts';

let root: string;
let data: Dataset;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'pretrain-'));
  data = await openDataset(await writeShapes(join(root, 'data')));
});
afterAll(async () => {
  await data.dispose();
  rmSync(root, { recursive: true, force: true });
});

function options(folder: string, more: Partial<PretrainOptions> = {}): PretrainOptions {
  return {
    data,
    folder: join(root, folder),
    student: tinyStudent,
    vocabSize: 560,
    batchSize: 24,
    microBatch: 16,
    threads: 1,
    rate: 5e-3,
    augment: { scale: [0.8, 1], brightness: 0.1 },
    validation: 0,
    steps: 6,
    checkpointEvery: 2,
    seed: 3,
    ...more,
  };
}

const bytes = (folder: string, file: string) => readFileSync(join(root, folder, file));
const files = [
  'last.safetensors',
  'model/onnx/vision_model.onnx',
  'model/onnx/text_model.onnx',
  'model/config.json',
];

describe('pretrain', () => {
  it('learns which caption belongs to which image, and its folder opens as a model', async () => {
    const losses: number[] = [];
    const validations: number[] = [];
    const result = await pretrain(
      options('learns', {
        steps: 80,
        validation: Array.from({ length: 8 }, (_, i) => 6 * i),
        validateEvery: 40,
        select: 'last',
        onStep: ({ terms }) => losses.push(terms.clip!),
        onValidation: (_step, { reciprocalRank }) => validations.push(reciprocalRank!),
      }),
    );
    expect(result.steps).toBe(80);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! / 3);
    // Eight held-out images: chance is 0.34.
    expect(validations).toHaveLength(2);
    expect(validations[1]!).toBeGreaterThan(0.6);
    expect(result.best!.value).toBe(Math.max(...validations));
    expect([...result.heldOut]).toEqual([0, 6, 12, 18, 24, 30, 36, 42]);

    // The encoder sees what the trainer's validation saw: the same pixels, the same tokens, the same towers.
    const encoder = await openEncoder(result.model, { threads: 1 });
    try {
      const images = await Promise.all(
        Array.from(result.heldOut, async (item) => decodeImage(await data.read(item))),
      );
      const captions = Array.from(result.heldOut, (item) => data.item(item).captions[0]!);
      const image = await encoder.embedImages(images);
      const text = await encoder.embedTexts(captions);
      const { metrics } = retrieval(image, text, Int32Array.from(captions.keys()), encoder.logitScale!);
      expect(metrics.loss).toBeCloseTo(result.validation!.loss!, 3);
      expect(metrics.reciprocalRank).toBeCloseTo(validations[1]!, 5);
    } finally {
      await encoder.dispose();
    }
  });

  it('ends with the same bytes after a stop as without one', async () => {
    const settings = { ema: 0.9, validation: 0.2, validateEvery: 3, select: 'last' } as const;
    await pretrain(options('straight', settings));
    const controller = new AbortController();
    const stop = pretrain(
      options('stopped', {
        ...settings,
        signal: controller.signal,
        onStep: ({ step }) => {
          if (step === 3) controller.abort();
        },
      }),
    );
    await expect(stop).rejects.toMatchObject({ code: 'ABORTED' });
    const steps: number[] = [];
    await pretrain(options('stopped', { ...settings, onStep: ({ step }) => steps.push(step) }));
    expect(steps).toEqual([4, 5, 6]);
    for (const file of [...files, 'best.safetensors']) {
      expect([file, bytes('stopped', file).equals(bytes('straight', file))]).toEqual([file, true]);
    }
  });

  it.each([
    ['native', 'onnxruntime'],
    ['onnxruntime', 'native'],
  ] as const)('goes on with %s, stopped, on %s, as far as rounding allows', async (first, second) => {
    const losses = async (folder: string, executor: typeof first | typeof second, more = {}) => {
      const values: number[] = [];
      const onStep = ({ terms }: { terms: Readonly<Record<string, number>> }) => values.push(terms.clip!);
      await pretrain(options(folder, { executor, onStep, ema: 0.9, ...more }));
      return values;
    };
    const whole = await losses(`whole-${first}`, first);
    const controller = new AbortController();
    const begun: number[] = [];
    const stop = pretrain(
      options(`exchanged-${first}`, {
        executor: first,
        ema: 0.9,
        signal: controller.signal,
        onStep: ({ step, terms }) => {
          begun.push(terms.clip!);
          if (step === 3) controller.abort();
        },
      }),
    );
    await expect(stop).rejects.toMatchObject({ code: 'ABORTED' });
    const rest = await losses(`exchanged-${first}`, second);
    expect(begun).toEqual(whole.slice(0, 3));
    expect(rest).toHaveLength(3);
    for (const [i, value] of rest.entries()) expect(value).toBeCloseTo(whole[3 + i]!, 3);
  });

  it('gives the same in micro-batches as in one piece, but for rounding', async () => {
    const losses = async (microBatch: number) => {
      const values: number[] = [];
      const onStep = ({ terms }: { terms: Readonly<Record<string, number>> }) => values.push(terms.clip!);
      await pretrain(options(`micro-${microBatch}`, { microBatch, steps: 4, onStep }));
      return values;
    };
    const whole = await losses(24);
    for (const [i, value] of (await losses(10)).entries()) expect(value).toBeCloseTo(whole[i]!, 3);
    expect(whole[3]).not.toBeCloseTo(whole[0]!, 2);
  });

  it('finishes the step in hand when it is stopped in its midst', async () => {
    const controller = new AbortController();
    const steps: number[] = [];
    const onStep = ({ step }: { step: number }) => {
      steps.push(step);
      // The next step is under way when this runs.
      if (step === 1) setTimeout(() => controller.abort());
    };
    const stop = pretrain(options('midst', { signal: controller.signal, onStep, checkpointEvery: 6 }));
    await expect(stop).rejects.toMatchObject({ code: 'ABORTED' });
    const done = steps.length;
    expect(done).toBeLessThan(6);
    await pretrain(options('midst', { onStep: ({ step }) => steps.push(step), checkpointEvery: 6 }));
    expect(steps).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it('gives another student for another seed', async () => {
    await pretrain(options('seed4', { seed: 4 }));
    expect(bytes('straight', files[1]!).equals(bytes('seed4', files[1]!))).toBe(false);
  });

  it('refuses to go on with other options', async () => {
    const other = pretrain(options('seed4', { seed: 4, rate: 1e-3 }));
    await expect(other).rejects.toMatchObject({ code: 'RUN_CHANGED' });
  });

  it('in bf16, where the processor has it, is stopped and goes on with the same bytes, and not in float32', async () => {
    const { vision, text } = tinyStudent;
    // Wide enough for its products to be large.
    const student = { embedDim: 32, vision: { ...vision, width: 48 }, text: { ...text, width: 48 } };
    const half = (folder: string, more: Partial<PretrainOptions> = {}) =>
      options(folder, { student, microBatch: 24, batchSize: 40, steps: 4, precision: 'bf16', ...more });
    if (!devices().devices[0]!.bfloat16) {
      await expect(pretrain(half('half'))).rejects.toMatchObject({ code: 'DEVICE_UNAVAILABLE' });
      expect(existsSync(join(root, 'half'))).toBe(false);
      return;
    }
    await pretrain(half('half'));
    await pretrain(half('single', { precision: 'float32' }));
    const controller = new AbortController();
    const onStep = ({ step }: { step: number }) => {
      if (step === 2) controller.abort();
    };
    const stop = pretrain(half('half-stopped', { signal: controller.signal, onStep }));
    await expect(stop).rejects.toMatchObject({ code: 'ABORTED' });
    const other = pretrain(half('half-stopped', { precision: 'float32' }));
    await expect(other).rejects.toMatchObject({ code: 'RUN_CHANGED' });
    await pretrain(half('half-stopped', { threads: 2 }));
    for (const file of files)
      expect([file, bytes('half-stopped', file).equals(bytes('half', file))]).toEqual([file, true]);
    expect(bytes('half', files[1]!).equals(bytes('single', files[1]!))).toBe(false);
    expect(bytes('half', files[1]!).length).toBe(bytes('single', files[1]!).length);
  });

  it('starts from an exported student', async () => {
    const first = await pretrain(options('first', { steps: 30 }));
    const losses: number[] = [];
    const onStep = ({ terms }: { terms: Readonly<Record<string, number>> }) => losses.push(terms.clip!);
    await pretrain(options('second', { init: first.model, steps: 1, augment: 'none', onStep }));
    await pretrain(options('fresh', { steps: 1, augment: 'none', onStep }));
    expect(losses[0]!).toBeLessThan(losses[1]! / 1.5);
  });

  it('counts broken images once and puts others in their place', async () => {
    const folder = join(root, 'broken');
    const list = await writeShapes(folder);
    writeFileSync(join(folder, 'red-left-white.png'), 'not an image');
    const broken = await openDataset(list);
    const skipped: string[] = [];
    const result = await pretrain(
      options('with-broken', { data: broken, onSkip: (key) => skipped.push(key) }),
    );
    await broken.dispose();
    // Six steps are three epochs: the image came up three times.
    expect(result.skipped).toBe(1);
    expect(skipped).toHaveLength(1);
  });

  it('goes on without validation when no held-out image can be decoded', async () => {
    const folder = join(root, 'broken-heldout');
    const list = await writeShapes(folder);
    writeFileSync(join(folder, 'red-left-white.png'), 'not an image');
    const broken = await openDataset(list);
    const result = await pretrain(
      options('without-validation', { data: broken, validation: [0], validateEvery: 2, steps: 2 }),
    );
    await broken.dispose();
    expect(result.validation).toBeUndefined();
    expect(result.best).toBeUndefined();
  });

  it('names what is wrong with its options', async () => {
    await expect(pretrain(options('x', { batchSize: 49 }))).rejects.toThrow(
      'Expected at most the number of training items (48) for batchSize but received 49',
    );
    await expect(pretrain(options('x', { items: [0, 1, 99] }))).rejects.toThrow(/items\[2\] but received 99/);
    await expect(pretrain(options('x', { items: [3] }))).rejects.toMatchObject({ code: 'INVALID_DATA' });
    await expect(pretrain(options('x', { validation: 0.7 }))).rejects.toThrow(
      /for validation but received 0.7/,
    );
    await expect(pretrain(options('x', { vocabSize: 100 }))).rejects.toThrow(/vocabSize/);
  });
});
