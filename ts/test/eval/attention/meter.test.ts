import { describe, expect, it } from 'vitest';
import { halfToFloat } from '../../../src/data/half.ts';
import { exposeAttention } from '../../../src/eval/attention/expose.ts';
import { findAttention } from '../../../src/eval/attention/find.ts';
import { AttentionMeter, type AttentionOptions } from '../../../src/eval/attention/meter.ts';
import { openModelSource } from '../../../src/eval/attention/source.ts';
import { encodeModel, writeModel } from '../../../src/onnx/model.ts';
import type { ModelProto } from '../../../src/onnx/onnx_pb.ts';
import { openSession } from '../../../src/onnx/session.ts';
import { hashed } from '../../program/support/torch.ts';
import { type AttentionMeasures, attentionMeasures } from '../../reference/attention.ts';
import { attentionCase, modelFolder } from './fixtures.ts';
import { type Attend, HEADS, plain, SIZE, TOKENS, tinyVit, WIDTH } from './graphs.ts';

const put = modelFolder();
const THREADS = { threads: 2 };

async function withMeter<T>(
  path: string,
  size: number,
  options: AttentionOptions,
  output: string,
  use: (meter: AttentionMeter) => Promise<T>,
): Promise<T> {
  const source = await openModelSource(path, { imageSize: size });
  const meter = await AttentionMeter.open(source, [output], options, THREADS);
  try {
    return await use(meter);
  } finally {
    await meter.dispose();
  }
}

/** Largest difference of measures, relative to what is expected. */
function worst(found: AttentionMeasures, wanted: AttentionMeasures): number {
  const pairs = (['distance', 'entropy'] as const).flatMap((name) =>
    wanted[name].map((value, head) => [found[name][head]!, value] as const),
  );
  return Math.max(
    ...[...pairs, [found.divergence, wanted.divergence] as const].map(
      ([a, b]) => Math.abs(a - b) / Math.abs(b),
    ),
  );
}

const images = (count: number, size = SIZE) => hashed(3, count * 3 * size ** 2, 2);

/** All probabilities of a tiny model, from the model itself. */
async function probabilities(model: ModelProto, pixels: Float32Array): Promise<Float32Array> {
  const session = await openSession(
    encodeModel(exposeAttention(model, findAttention(model, 'pixel_values'))),
    THREADS,
  );
  const dims = [pixels.length / (3 * SIZE ** 2), 3, SIZE, SIZE];
  const results = await session.run({ pixel_values: { type: 'float32', dims, data: pixels } });
  await session.dispose();
  const { type, data } = Object.values(results).at(-1)!;
  return type === 'float16' ? halfToFloat(data as Uint16Array) : (data as Float32Array);
}

const square = { heads: HEADS, tokens: TOKENS, classTokens: 0, columns: 4, cell: 2 };

describe('measures', () => {
  it.each(['multihead', 'unbound', 'batched', 'divided', 'guarded', 'swin'])(
    'of %s are those of PyTorch in float64',
    async (name) => {
      const torch = await attentionCase(name);
      const path = await put(name, torch.model);
      await withMeter(path, torch.size, { windowed: true }, 'output', async (meter) => {
        const { output } = await meter.run(torch.pixels, torch.images);
        expect(meter.skipped).toEqual([]);
        const layers = meter.results();
        expect(layers).toHaveLength(torch.layers.length);
        for (const [i, layer] of layers.entries()) {
          const { heads, tokens, classTokens, cell, windows } = torch.layers[i]!;
          expect(layer).toMatchObject({ heads, tokens, classTokens, cell, windows, grid: [4, 4] });
          // What float32 leaves of the probabilities.
          expect(worst({ ...layer, divergence: layer.divergence! }, torch.layers[i]!)).toBeLessThan(1e-6);
        }
        const data = output!.data as Float32Array;
        for (const [i, value] of torch.output.entries()) expect(data[i]).toBeCloseTo(value, 5);
      });
      const options = { windowed: true, renormalize: true, entropyOf: 'patches' } as const;
      await withMeter(path, torch.size, options, 'output', async (meter) => {
        await meter.run(torch.pixels, torch.images);
        for (const [i, layer] of meter.results().entries()) {
          expect(worst({ ...layer, divergence: layer.divergence! }, torch.layers[i]!.patches)).toBeLessThan(
            1e-6,
          );
        }
      });
    },
  );

  it('are those of the definitions in float64, of the model’s own probabilities', async () => {
    const model = tinyVit(plain);
    const pixels = images(5);
    const values = await probabilities(model, pixels);
    const path = await put('own', model);
    for (const [options, reference] of [
      [{}, {}],
      [
        { renormalize: true, entropyOf: 'patches' as const },
        { renormalize: true, patches: true },
      ],
    ] as const) {
      const wanted = attentionMeasures({ ...square, values, rows: 5 }, reference);
      await withMeter(path, SIZE, options, 'image_embeds', async (meter) => {
        // In several runs.
        await meter.run(pixels.subarray(0, 2 * 3 * SIZE ** 2), 2);
        await meter.run(pixels.subarray(2 * 3 * SIZE ** 2), 3);
        const [layer] = meter.results();
        expect(worst({ ...layer!, divergence: layer!.divergence! }, wanted)).toBeLessThan(1e-12);
        expect(layer!.node).toBe('softmax');
      });
    }
  });

  it('take class tokens and a grid as they are told', async () => {
    const model = tinyVit(plain);
    const pixels = images(2);
    const values = await probabilities(model, pixels);
    const path = await put('told', model);
    for (const [options, layout] of [
      [
        { grid: [3, 5], classTokens: 1 },
        { classTokens: 1, columns: 5, cell: SIZE / 5 },
      ],
      [{ classTokens: 7 }, { classTokens: 7, columns: 3, cell: SIZE / 3 }],
    ] as const) {
      const wanted = attentionMeasures({ ...square, ...layout, values, rows: 2 });
      await withMeter(path, SIZE, options, 'image_embeds', async (meter) => {
        await meter.run(pixels, 2);
        const [layer] = meter.results();
        expect(worst({ ...layer!, divergence: layer!.divergence! }, wanted)).toBeLessThan(1e-12);
      });
    }
  });

  it('stay finite where probabilities are too small for their type', async () => {
    // Scores of thousands: all but one key of a query underflow to 0.
    const sharp: Attend = (b, q, k, v) => {
      const scores = b.op('MatMul', [q, b.op('Transpose', [k], { perm: [0, 1, 3, 2] })]);
      const attention = b.op(
        'Softmax',
        [b.op('Mul', [scores, b.scalar(1e5)])],
        { axis: -1 },
        { name: 'softmax' },
      );
      return b.op('MatMul', [attention, v]);
    };
    const model = tinyVit(sharp);
    const values = await probabilities(model, images(2));
    expect(values).toContain(0);
    const wanted = attentionMeasures({ ...square, values, rows: 2 });
    await withMeter(await put('sharp', model), SIZE, {}, 'image_embeds', async (meter) => {
      await meter.run(images(2), 2);
      const [layer] = meter.results();
      expect(layer!.divergence).toBeCloseTo(wanted.divergence, 9);
      expect(layer!.distance[0]).toBeCloseTo(wanted.distance[0]!, 9);
      expect(layer!.entropy.every((value) => value >= 0 && value < 0.5)).toBe(true);
    });
  });

  it('of float16 probabilities know what float16 can hold', async () => {
    const half: Attend = (b, q, k, v) => {
      const scores = b.op('MatMul', [q, b.op('Transpose', [k], { perm: [0, 1, 3, 2] })]);
      const narrow = b.op('Cast', [b.op('Mul', [scores, b.scalar(30)])], { to: 10 });
      const attention = b.op('Softmax', [narrow], { axis: -1 }, { name: 'softmax' });
      return b.op('MatMul', [b.op('Cast', [attention], { to: 1 }), v]);
    };
    const model = tinyVit(half);
    const values = await probabilities(model, images(2));
    expect(values).toContain(0);
    const wanted = attentionMeasures({ ...square, values, rows: 2 }, { smallest: 2 ** -24 });
    await withMeter(await put('half', model), SIZE, {}, 'image_embeds', async (meter) => {
      await meter.run(images(2), 2);
      const [layer] = meter.results();
      // Where there are no float16 operators, ONNX Runtime leaves the rounding to float16 out.
      expect(worst({ ...layer!, divergence: layer!.divergence! }, wanted)).toBeLessThan(1e-3);
    });
  });

  it('say that one head has nothing to diverge from', async () => {
    const path = await put('one head', tinyVit(plain));
    await withMeter(path, SIZE, { heads: 2 }, 'image_embeds', async (meter) => {
      await meter.run(images(1), 1);
      const [layer] = meter.results();
      expect(layer!.divergence).toBeGreaterThan(0);
      expect(layer!.spread.distance).toBeCloseTo(
        Math.abs(layer!.distance[0]! - layer!.distance[1]!) / Math.SQRT2,
        12,
      );
    });
    const single: Attend = (b, q, k, v) => {
      const merge = (x: string) =>
        b.op('Reshape', [b.op('Transpose', [x], { perm: [0, 2, 1, 3] }), b.ints([0, 1, TOKENS, WIDTH])]);
      return b.op('Reshape', [plain(b, merge(q), merge(k), merge(v)), b.ints([0, HEADS, TOKENS, -1])]);
    };
    await withMeter(await put('single', tinyVit(single)), SIZE, {}, 'image_embeds', async (meter) => {
      await meter.run(images(1), 1);
      expect(meter.results()[0]).toMatchObject({ heads: 1, divergence: null, spread: { distance: 0 } });
    });
  });
});

describe('models', () => {
  it('of a fixed number of images get blank ones that do not count', async () => {
    const pixels = images(3);
    const free = await put('free', tinyVit(plain));
    const fixed = await put('fixed', tinyVit(plain, { batch: 4 }));
    const results = [];
    for (const path of [free, fixed]) {
      results.push(
        await withMeter(path, SIZE, {}, 'image_embeds', async (meter) => {
          await meter.run(pixels, 3);
          return { batchSize: meter.batchSize, layers: meter.results() };
        }),
      );
    }
    expect(results[1]!.batchSize).toBe(4);
    expect(results[1]!.layers).toEqual(results[0]!.layers);
  });

  it('of operator set 12, and with weights beside them, are as others', async () => {
    const wanted = await withMeter(
      await put('set 17', tinyVit(plain)),
      SIZE,
      {},
      'image_embeds',
      async (meter) => {
        await meter.run(images(2), 2);
        return meter.results();
      },
    );
    const old = tinyVit(plain, { opset: 12 });
    const beside = await put('beside', tinyVit(plain));
    await writeModel(beside, large(tinyVit(plain)), { externalData: true });
    for (const path of [await put('set 12', old), beside]) {
      await withMeter(path, SIZE, {}, 'image_embeds', async (meter) => {
        await meter.run(images(2), 2);
        expect(meter.results()).toEqual(wanted);
      });
    }
  });

  it('without attention have no layers', async () => {
    const b = tinyVit((builder, _q, _k, v) => builder.op('Relu', [v]));
    await withMeter(await put('none', b), SIZE, {}, 'image_embeds', async (meter) => {
      const { image_embeds } = await meter.run(images(2), 2);
      expect(image_embeds!.dims).toEqual([2, WIDTH]);
      expect(meter.results()).toEqual([]);
      expect(meter.skipped).toEqual([]);
    });
  });
});

describe('attention that is not between the places of an image', () => {
  /** One query, as a pooling head has it. */
  const pooled: Attend = (b, q, k, v) => {
    const first = b.op('Slice', [q, b.ints([0]), b.ints([1]), b.ints([2])]);
    return plain(b, first, k, v);
  };
  const windows: Attend = (b, q, k, v) => {
    // Four windows of 2 × 2 patches.
    const cut = (x: string) => b.op('Reshape', [x, b.ints([-1, HEADS, TOKENS / 4, WIDTH / HEADS])]);
    return b.op('Reshape', [plain(b, cut(q), cut(k), cut(v)), b.ints([-1, HEADS, TOKENS, WIDTH / HEADS])]);
  };

  it.each([
    [
      'pooling',
      pooled,
      {},
      /None of the 1 attention layers of .* can be measured\. softmax: its scores are \[1, 2, 1, 16\]: not of tokens to each other/,
    ],
    [
      'windows',
      windows,
      {},
      /attention within 4 windows of an image, which are measured where that is asked for \(windowed\)/,
    ],
    [
      'another grid',
      plain,
      { grid: [3, 3], classTokens: 1 },
      /it has 16 tokens, where 3 × 3 patches and 1 other tokens were expected/,
    ],
    [
      'other class tokens',
      plain,
      { classTokens: 1 },
      /its 16 tokens are no square of patches and 1 other tokens: say what grid/,
    ],
    ['too many heads', plain, { heads: 3 }, /they do not divide into 1 images and 3 heads/],
  ] as const)('%s', async (name, attend, options, message) => {
    const path = await put(`not ${name}`, tinyVit(attend));
    const opening = withMeter(path, SIZE, options, 'image_embeds', async () => undefined);
    await expect(opening).rejects.toMatchObject({
      code: 'MODEL_UNSUPPORTED',
      message: expect.stringMatching(message),
    });
  });

  it('is listed beside what is', async () => {
    const model = tinyVit((b, q, k, v) => pooled(b, q, k, plainNamed(b, q, k, v)));
    await withMeter(await put('both', model), SIZE, {}, 'image_embeds', async (meter) => {
      expect(meter.skipped).toEqual([
        { node: 'softmax', reason: 'its scores are [1, 2, 1, 16]: not of tokens to each other' },
      ]);
      await meter.run(images(2), 2);
      expect(meter.results().map(({ node }) => node)).toEqual(['first']);
    });
  });

  it('is listed where only some of it is fused', async () => {
    const model = tinyVit((b, q, k, v) => {
      const tokens = b.op('Reshape', [
        b.op('Transpose', [plain(b, q, k, v)], { perm: [0, 2, 1, 3] }),
        b.ints([0, 0, -1]),
      ]);
      const again = b.op(
        'MultiHeadAttention',
        [tokens, tokens, tokens],
        { num_heads: HEADS },
        { domain: 'com.microsoft', name: 'second' },
      );
      const split = b.op('Reshape', [again, b.ints([0, 0, HEADS, -1])]);
      return b.op('Transpose', [split], { perm: [0, 2, 1, 3] });
    });
    await withMeter(await put('partly', model), SIZE, {}, 'image_embeds', async (meter) => {
      expect(meter.skipped).toEqual([
        {
          node: 'second',
          reason: 'it is fused into com.microsoft.MultiHeadAttention, which gives out no probabilities',
        },
      ]);
      await meter.run(images(2), 2);
      expect(meter.results().map(({ node }) => node)).toEqual(['softmax']);
    });
  });

  it('in windows, is measured within each', async () => {
    const model = tinyVit(windows);
    const pixels = images(3);
    const values = await probabilities(model, pixels);
    const wanted = attentionMeasures({
      values,
      rows: 12,
      heads: HEADS,
      tokens: 4,
      classTokens: 0,
      columns: 2,
      cell: 2,
    });
    await withMeter(await put('windowed', model), SIZE, { windowed: true }, 'image_embeds', async (meter) => {
      await meter.run(pixels, 3);
      const [layer] = meter.results();
      expect(layer).toMatchObject({ windows: 4, grid: [2, 2], cell: 2, tokens: 4 });
      expect(worst({ ...layer!, divergence: layer!.divergence! }, wanted)).toBeLessThan(1e-12);
    });
  });

  it('with a softmax over another axis, is none', async () => {
    const model = tinyVit((b, q, k, v) => {
      const scores = b.op('MatMul', [q, b.op('Transpose', [k], { perm: [0, 1, 3, 2] })]);
      return b.op('MatMul', [b.op('Softmax', [scores], { axis: 1 }, { name: 'over heads' }), v]);
    });
    const opening = withMeter(await put('axis', model), SIZE, {}, 'image_embeds', async () => undefined);
    await expect(opening).rejects.toThrow(
      /over heads: its softmax is over axis 1 of \[1, 2, 16, 16\], not over the keys/,
    );
  });
});

/** {@link plain} under another name. */
const plainNamed: Attend = (b, q, k, v) => {
  const scores = b.op('MatMul', [q, b.op('Transpose', [k], { perm: [0, 1, 3, 2] })]);
  return b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }, { name: 'first' }), v]);
};

/** With an initializer that is large enough to be stored outside. */
function large(model: ModelProto): ModelProto {
  const patch = model.graph!.initializer.find(({ name }) => name === 'patch')!;
  const unused = { ...patch, name: 'unused', dims: [1024n], rawData: new Uint8Array(4096) };
  model.graph!.initializer.unshift(unused);
  return model;
}
