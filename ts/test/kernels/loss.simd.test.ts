import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { addonPath } from '../../src/native/loader.ts';
import { lossReference, rows64, softTargetsReference } from '../reference/loss.ts';
import { sequence } from '../reference/sequence.ts';

/** Runs the loss, soft targets and AdamW on made-up inputs for 1, 2 and 7 threads; prints what came out. */
const PROGRAM = `
  const addon = require(process.argv[1]);
  const { shape, options, buffers } = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
  const { batch, dim, teacherDim, clusters } = shape;
  const floats = (values) => Float32Array.from(values);
  const inputs = { batch, dim, teacherDim };
  for (const name of ['image', 'text', 'teacherImage', 'teacherText', 'imageProjection', 'textProjection'])
    inputs[name] = floats(buffers[name]);
  inputs.clip = { weight: options.clipWeight, logScale: 2 };
  inputs.instance = { weight: options.instanceWeight, logScale: 2.5, pairing: options.pairing };
  const centroids = floats(buffers.centroids);
  inputs.cluster = { ...options, centroids, clusters, labels: Int32Array.from(buffers.labels), learned: true };
  (async () => {
    const results = [];
    for (const threads of [1, 2, 7]) {
      const context = { device: 'cpu', threads, seed: 0 };
      const loss = await addon.loss(context, inputs);
      const soft = await addon.softTargets(
        context,
        [{ data: inputs.teacherImage, rows: batch, dim: teacherDim, dtype: 'float32' }],
        [{ data: centroids, rows: clusters, dim: teacherDim, dtype: 'float32' }],
        options.teacherTemperature,
      );
      const state = {
        parameters: floats(buffers.image), gradients: floats(buffers.text),
        first: new Float32Array(batch * dim), second: new Float32Array(batch * dim), ema: floats(buffers.image),
      };
      const norm = await addon.adamw(context, state, {
        step: 1, rate: 0.01, decay: 0.1, beta1: 0.9, beta2: 0.98, epsilon: 1e-6, clip: 1, emaDecay: 0.9,
        groups: [{ length: 17, rate: 1, decay: 1 }, { length: batch * dim - 17, rate: 0.5, decay: 0 }],
      });
      results.push({ ...loss, ...soft, ...state, norm });
    }
    const plain = results.map((result) =>
      Object.fromEntries(Object.entries(result).map(([key, value]) => [key, ArrayBuffer.isView(value) ? [...value] : value])),
    );
    console.log(JSON.stringify({ set: addon.devices()[0].architecture, results: plain }));
  })();
`;

/** Enough centres, and wide enough, for products in fixed point where the set has them. */
const shape = { batch: 45, dim: 37, teacherDim: 67, clusters: 4100 };
const options = {
  clipWeight: 0.7,
  ceWeight: 0.9,
  klWeight: 1.3,
  instanceWeight: 1.1,
  temperature: 0.1,
  teacherTemperature: 0.07,
  pairing: 'both',
} as const;
const buffers: Record<string, Float32Array> = Object.fromEntries(
  (
    [
      ['image', shape.batch, shape.dim],
      ['text', shape.batch, shape.dim],
      ['teacherImage', shape.batch, shape.teacherDim],
      ['teacherText', shape.batch, shape.teacherDim],
      ['imageProjection', shape.dim, shape.teacherDim],
      ['textProjection', shape.dim, shape.teacherDim],
      ['centroids', shape.clusters, shape.teacherDim],
    ] as const
  ).map(([name, rows, dim], seed) => [name, sequence(rows * dim, seed + 1)]),
);
const labels = Int32Array.from({ length: shape.batch }, (_, i) => (i * 31) % shape.clusters);

interface Printed {
  set: string;
  results: Record<string, number | number[]>[];
}

async function run(set: string): Promise<Printed> {
  const json = JSON.stringify({
    shape,
    options,
    buffers: {
      ...Object.fromEntries(Object.entries(buffers).map(([name, data]) => [name, [...data]])),
      labels: [...labels],
    },
  });
  const env = { ...process.env, CLIP_CID_SIMD: set };
  const started = promisify(execFile)(process.execPath, ['-e', PROGRAM, addonPath()], {
    env,
    maxBuffer: 2 ** 28,
  });
  started.child.stdin!.end(json);
  const { stdout } = await started;
  return JSON.parse(stdout) as Printed;
}

const sets = ['plain', 'avx2', 'avx2-vnni', 'avx512', 'avx512-vnni', 'amx', ''];

describe('the loss, its soft targets and AdamW with every instruction set', () => {
  const rows = (name: string, count: number, dim: number) => rows64(buffers[name]!, count, dim);
  const { batch, dim, teacherDim, clusters } = shape;
  const expected = lossReference(
    {
      image: rows('image', batch, dim),
      text: rows('text', batch, dim),
      teacherImage: rows('teacherImage', batch, teacherDim),
      teacherText: rows('teacherText', batch, teacherDim),
      imageProjection: rows('imageProjection', dim, teacherDim),
      textProjection: rows('textProjection', dim, teacherDim),
      centroids: rows('centroids', clusters, teacherDim),
      clipLogScale: 2,
      instanceLogScale: 2.5,
      labels,
    },
    options,
  );
  const soft = softTargetsReference(
    rows('teacherImage', batch, teacherDim),
    rows('centroids', clusters, teacherDim),
    options.teacherTemperature,
  );
  const wanted: Record<string, number | ArrayLike<number>> = { ...expected, ...soft };

  it.each(sets)('agrees with the reference, whatever the threads: %s', async (set) => {
    const { results } = await run(set);
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
    for (const [name, value] of Object.entries(wanted)) {
      const actual = results[0]![name]!;
      if (typeof value === 'number') {
        expect(Math.abs((actual as number) - value), name).toBeLessThan(4e-5);
        continue;
      }
      let error = 0;
      let size = 1 / (options.temperature * batch);
      for (let i = 0; i < value.length; i++) {
        error = Math.max(error, Math.abs((actual as number[])[i]! - value[i]!));
        size = Math.max(size, Math.abs(value[i]!));
      }
      expect(error / size, name).toBeLessThan(2e-5);
    }
  });

  it('steps to the same bits with every instruction set', async () => {
    const states = [];
    for (const set of sets) {
      const { parameters, first, second, ema, norm } = (await run(set)).results[0]!;
      states.push({ parameters, first, second, ema, norm });
    }
    for (const state of states) expect(state).toEqual(states[0]);
  });
});
