import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CidError } from '../../src/native/errors.ts';
import type { Executor } from '../../src/program/executor.ts';
import type { StepSpeed } from '../../src/run/speed.ts';
import { learningRate } from '../../src/student/schedule.ts';
import { float32 } from '../../src/student/tensors.ts';
import { batchesAhead, train } from '../../src/student/trainer.ts';
import type { BatchSource, Loss, TrainOptions } from '../../src/student/types.ts';
import { linearExecutor } from './linear-executor.ts';

interface Batch {
  x: Float32Array;
  y: Float32Array;
}

const rows = 6;
const width = 3;

/** Batches that are a function of (epoch, step). */
const source: BatchSource<Batch> = {
  stepsPerEpoch: 4,
  batchSize: rows,
  batch: async (epoch, step) => {
    const x = Float32Array.from({ length: rows * width }, (_, i) =>
      Math.sin(1 + i * 1.7 + step * 0.9 + epoch * 0.3),
    );
    const y = Float32Array.from({ length: rows }, (_, i) => 2 * x[3 * i]! - x[3 * i + 1]! + 0.5);
    return { x, y };
  },
};

/** Squared error; every row's gradient depends on the whole batch through the mean residual. */
const loss: Loss<Batch> = async (outputs, batch) => {
  const y = outputs.tower!.y!.data as Float32Array;
  const bias = outputs.heads!.bias!.data[0] as number;
  const residual = y.map((value, i) => value + bias - batch.y[i]!);
  const mean = residual.reduce((a, b) => a + b, 0) / rows;
  const total = residual.reduce((sum, r) => sum + r * r, 0) / rows + mean * mean;
  const gradient = residual.map((r) => (2 * r + 2 * mean) / rows);
  return {
    terms: { total, mean: mean * mean },
    gradients: { tower: { y: float32(gradient, [rows, 1]) } },
    parameterGradients: { 'heads.bias': Float32Array.of(gradient.reduce((a, b) => a + b, 0)) },
  };
};

let folder: string;
let executor: Executor;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'trainer-'));
  executor = linearExecutor(width);
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function options(more: Partial<TrainOptions<Batch>> = {}): TrainOptions<Batch> {
  return {
    executor,
    towers: [
      {
        graph: 'tower',
        inputs: ({ x }, from, to) => ({ x: float32(x.slice(from * width, to * width), [to - from, width]) }),
      },
    ],
    heads: 'heads',
    source,
    loss,
    schedule: { rate: 0.05, warmup: 2, steps: 12 },
    microBatch: 2,
    decay: 0.01,
    betas: [0.9, 0.98],
    epsilon: 1e-6,
    clip: 1,
    ema: 0.9,
    folder,
    checkpointEvery: 5,
    ...more,
  };
}

describe('learningRate', () => {
  it('warms up linearly and ends with the cosine', () => {
    const schedule = { rate: 2, warmup: 4, steps: 12, finalRate: 0.2 };
    expect([1, 2, 4, 8, 12].map((step) => learningRate(schedule, step))).toEqual([0.5, 1, 2, 1.1, 0.2]);
    expect(learningRate({ rate: 1, warmup: 0, steps: 4 }, 2)).toBeCloseTo(0.5, 12);
    expect(learningRate({ rate: 1, warmup: 5, steps: 5 }, 5)).toBe(1);
  });
});

describe('train', () => {
  it('lowers the loss', async () => {
    const totals: number[] = [];
    const schedule = { rate: 0.1, warmup: 2, steps: 60 };
    await train(options({ schedule, onStep: ({ terms }) => totals.push(terms.total!) }));
    expect(totals).toHaveLength(60);
    expect(totals.at(-1)!).toBeLessThan(totals[0]! / 20);
  });

  it('gives the same whether rows go through at once or in micro-batches', async () => {
    await train(options({ microBatch: 4, schedule: { rate: 0.05, warmup: 0, steps: 3 } }));
    const parts = await executor.save();
    rmSync(folder, { recursive: true });
    executor = linearExecutor(width);
    await train(options({ microBatch: 6, schedule: { rate: 0.05, warmup: 0, steps: 3 } }));
    const whole = await executor.save();
    for (const [i, value] of whole.parameters.entries()) expect(parts.parameters[i]).toBeCloseTo(value, 5);
    for (const [i, value] of whole.first.entries()) expect(parts.first[i]).toBeCloseTo(value, 5);
  });

  it('goes on from a stop with the same bytes, files and metrics', async () => {
    const validate = async (current: Executor) => {
      const { parameters } = await current.save();
      return { value: Math.abs(parameters[0]! - 1.9), metrics: { distance: Math.abs(parameters[0]! - 1.9) } };
    };
    const settings = { validate, validateEvery: 2 };
    const straight = await train(options(settings));
    const files = ['last.safetensors', 'best.safetensors'].map((name) => readFileSync(join(folder, name)));
    const lines = metrics();
    rmSync(folder, { recursive: true });

    // Killed at step 8: what is left is the checkpoint of step 5, and metrics past it.
    executor = linearExecutor(width);
    const killed = new Error('killed');
    const kill = ({ step }: { step: number }) => {
      if (step === 8) throw killed;
    };
    await expect(train(options({ ...settings, onStep: kill }))).rejects.toBe(killed);
    // Stopped by a signal: at once, with a checkpoint of its own.
    executor = linearExecutor(width);
    const controller = new AbortController();
    const steps: number[] = [];
    const stop = ({ step }: { step: number }) => {
      steps.push(step);
      if (step === 7) controller.abort();
    };
    const stopped = train(options({ ...settings, onStep: stop, signal: controller.signal }));
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' });
    expect(steps).toEqual([6, 7]);
    executor = linearExecutor(width);
    steps.length = 0;
    const resumed = await train(options({ ...settings, onStep: ({ step }) => steps.push(step) }));
    expect(steps).toEqual([8, 9, 10, 11, 12]);
    expect({ ...resumed, speed: undefined }).toEqual({ ...straight, speed: undefined });
    expect(metrics()).toEqual(lines);
    for (const [i, name] of ['last.safetensors', 'best.safetensors'].entries()) {
      expect(readFileSync(join(folder, name)).equals(files[i]!)).toBe(true);
    }
  });

  it('has nothing left to do when it is done', async () => {
    const first = await train(options());
    const again = await train(options({ onStep: () => expect.unreachable() }));
    expect(again).toEqual({ ...first, speed: undefined });
  });

  it('refuses the checkpoint of another run, of other parameters, and a damaged one', async () => {
    await train(options({ identity: 'a' }));
    await expect(train(options({ identity: 'b' }))).rejects.toMatchObject({ code: 'RUN_CHANGED' });
    executor = linearExecutor(width + 1);
    await expect(train(options({ identity: 'a' }))).rejects.toMatchObject({ code: 'RUN_CHANGED' });
    const { writeFileSync } = await import('node:fs');
    const path = join(folder, 'last.safetensors');
    writeFileSync(path, readFileSync(path).subarray(0, 200));
    await expect(train(options({ identity: 'a' }))).rejects.toMatchObject({ code: 'FILE_FORMAT' });
  });

  it('names step and term when the loss is not finite, and leaves the last checkpoint', async () => {
    let calls = 0;
    const broken: Loss<Batch> = async (outputs, batch) => {
      const result = await loss(outputs, batch);
      return ++calls === 7 ? { ...result, terms: { ...result.terms, mean: Number.NaN } } : result;
    };
    await expect(train(options({ loss: broken }))).rejects.toMatchObject({
      code: 'DIVERGED',
      message: expect.stringMatching(/'mean' is NaN at step 7/),
    });
    expect(existsSync(join(folder, 'last.safetensors'))).toBe(true);
    const steps: number[] = [];
    await train(options({ onStep: ({ step }) => steps.push(step) }));
    expect(steps[0]).toBe(6);
  });

  it('names the tower whose output is not finite', async () => {
    const nan: BatchSource<Batch> = {
      ...source,
      batch: async () => ({ x: new Float32Array(rows * width).fill(Number.NaN), y: new Float32Array(rows) }),
    };
    await expect(train(options({ source: nan }))).rejects.toMatchObject({
      code: 'DIVERGED',
      message: expect.stringMatching(/'tower'.* step 1/),
    });
  });

  it('names the step at which the optimiser refuses the gradient', async () => {
    const refuse = async () => {
      throw new CidError('INVALID_DATA', 'A gradient is not finite');
    };
    await expect(train(options({ executor: { ...executor, update: refuse } }))).rejects.toMatchObject({
      code: 'DIVERGED',
      message: expect.stringMatching(/gradient.* step 1/),
    });
  });

  it('takes the later of equal validations for the best', async () => {
    const validate = async () => ({ value: 1, metrics: {} });
    const { best } = await train(options({ validate, validateEvery: 4, higherIsBetter: true }));
    expect(best).toEqual({ step: 12, value: 1 });
  });

  it('records how fast loader and step were', async () => {
    const speeds: StepSpeed[] = [];
    const result = await train(options({ onStep: ({ speed }) => speeds.push(speed) }));
    const lines = readFileSync(join(folder, 'metrics.jsonl'), 'utf8').trim().split('\n');
    for (const [i, line] of lines.entries()) {
      const record = JSON.parse(line) as Record<string, number>;
      const { items, step, loader, waited } = speeds[i]!;
      expect([items, step, loader, waited]).toEqual(
        ['items', 'step', 'loader', 'waited'].map((name) => record[`speed/${name}`]),
      );
      expect(items).toBeGreaterThan(0);
      expect(step).toBeGreaterThanOrEqual(items);
      expect(rows / items - rows / step).toBeCloseTo(waited, 6);
    }
    expect(result.speed!.waitedShare).toBeGreaterThanOrEqual(0);
    expect(result.speed!.waitedShare).toBeLessThan(1);
  });

  it.each<[number | undefined, number, number]>([
    [undefined, 1e9, 1],
    [100, 99, 1],
    [100, 350, 3],
    [100, 1e9, 8],
  ])('prepares as many batches as fit: of %s bytes in %i are %i', (batchBytes, bytes, ahead) => {
    expect(batchesAhead(batchBytes, bytes)).toBe(ahead);
  });

  it('stops at once where it waits for data, to go on from there', async () => {
    const controller = new AbortController();
    let asked = 0;
    let ended = 0;
    const slow: BatchSource<Batch> = {
      ...source,
      batch: (epoch, step, signal) => {
        if (++asked < 4) return source.batch(epoch, step);
        return new Promise((_, reject) => {
          const end = () => {
            ended++;
            reject(new CidError('ABORTED', 'stopped'));
          };
          signal!.addEventListener('abort', end, { once: true });
        });
      },
    };
    const steps: number[] = [];
    const onStep = ({ step }: { step: number }) => {
      steps.push(step);
      if (step === 3) setImmediate(() => controller.abort());
    };
    const stopped = train(options({ source: slow, signal: controller.signal, onStep }));
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' });
    expect(ended).toBe(asked - 3);
    executor = linearExecutor(width);
    await train(options({ onStep: ({ step }) => steps.push(step) }));
    expect(steps).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  });

  it.each([2, 6])(
    'announces the next batch while the last call backward runs, in micro-batches of %i',
    async (microBatch) => {
      const log: string[] = [];
      const base = linearExecutor(width);
      let last: Promise<unknown> = Promise.resolve();
      // One call after the other, each a turn of the event loop, as on a device.
      const queued = <Args extends unknown[], T>(name: string, work: (...args: Args) => Promise<T>) => {
        return (...args: Args): Promise<T> => {
          const result = last.then(async () => {
            await new Promise(setImmediate);
            log.push(name);
            return work(...args);
          });
          last = result;
          return result;
        };
      };
      const announced: unknown[] = [];
      executor = {
        ...base,
        backward: queued('backward', base.backward),
        addGradient: queued('addGradient', base.addGradient),
        update: queued('update', base.update),
        prefetch: async (graph, inputs) => {
          log.push(`next of ${graph}`);
          announced.push(inputs.x!.data);
        },
      };
      const steps = 3;
      await train(options({ microBatch, schedule: { rate: 0.05, warmup: 0, steps } }));
      const calls = (more: string[]) => [
        ...Array.from({ length: rows / microBatch - 1 }, () => 'backward'),
        ...more,
        'backward',
        'addGradient',
        'update',
      ];
      const next = calls(['next of tower']);
      expect(log).toEqual([...next, ...next, ...calls([])]);
      const second = await Promise.all([1, 2].map((step) => source.batch(0, step)));
      expect(announced).toEqual(second.map(({ x }) => x.slice(0, microBatch * width)));
    },
  );

  it('passes on the failure of a batch that was prepared ahead', async () => {
    const failing: BatchSource<Batch> = {
      ...source,
      batch: async (epoch, step) => {
        if (step === 2) throw new Error('no image');
        return source.batch(epoch, step);
      },
    };
    await expect(train(options({ source: failing }))).rejects.toThrow('no image');
  });
});

/** Lines of the metrics without what depends on the clock. */
function metrics(): unknown[] {
  return readFileSync(join(folder, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => {
      const record = JSON.parse(line) as Record<string, unknown>;
      return Object.fromEntries(Object.entries(record).filter(([field]) => !field.startsWith('speed/')));
    });
}
