import { create } from '@bufbuild/protobuf';
import { describe, expect, it } from 'vitest';
import { exposeAttention, exposeValues, writeAttentionModel } from '../../../src/eval/attention/expose.ts';
import { findAttention } from '../../../src/eval/attention/find.ts';
import { encodeModel } from '../../../src/onnx/model.ts';
import { FunctionProtoSchema, type ModelProto } from '../../../src/onnx/onnx_pb.ts';
import { openSession } from '../../../src/onnx/session.ts';
import { GraphBuilder } from '../../../src/program/builder.ts';
import { exportModel } from '../../../src/program/export.ts';
import { studentConfig } from '../../../src/student/config.ts';
import { buildStudent } from '../../../src/student/towers.ts';
import { attentionCase, modelFolder } from './fixtures.ts';
import { type Attend, filled, HEADS, plain, SIZE, TOKENS, tinyVit, WIDTH } from './graphs.ts';

const put = modelFolder();
const find = (model: ModelProto) => findAttention(model, 'pixel_values');
const turned = (b: GraphBuilder, k: string) => b.op('Transpose', [k], { perm: [0, 1, 3, 2] });
const scoresOf = (b: GraphBuilder, q: string, k: string) => b.op('MatMul', [q, turned(b, k)]);

/** What an exporter may write, and the softmax that is meant. */
const SPELLINGS: Readonly<Record<string, Attend>> = {
  plain,
  'scores scaled, a bias and a mask added, dropout': (b, q, k, v) => {
    const bias = b.parameter('bias', [1, HEADS, TOKENS, TOKENS]);
    const scaled = b.op('Div', [scoresOf(b, q, k), b.scalar(2)]);
    const masked = b.op('Where', [
      b.constant({ type: 'bool', dims: [1], data: Uint8Array.of(1) }),
      b.op('Add', [scaled, bias]),
      b.scalar(-1e9),
    ]);
    const attention = b.op('Softmax', [masked], { axis: 3 }, { name: 'softmax' });
    return b.op('MatMul', [b.op('Dropout', [attention]), v]);
  },
  'images and heads in one dimension': (b, q, k, v) => {
    const batched = (x: string) => b.op('Reshape', [x, b.ints([-1, TOKENS, WIDTH / HEADS])]);
    const scores = b.op('MatMul', [batched(q), b.op('Transpose', [batched(k)], { perm: [0, 2, 1] })]);
    const attention = b.op('Softmax', [scores], { axis: 2 }, { name: 'softmax' });
    return b.op('Reshape', [
      b.op('MatMul', [attention, batched(v)]),
      b.ints([-1, HEADS, TOKENS, WIDTH / HEADS]),
    ]);
  },
  'einsum on both sides': (b, q, k, v) => {
    const einsum = (equation: string, inputs: string[]) =>
      b.op('Einsum', inputs, { equation: { kind: 'string', value: equation } });
    const attention = b.op('Softmax', [einsum('bhqd,bhkd->bhqk', [q, k])], { axis: -1 }, { name: 'softmax' });
    return einsum('bhqk,bhkd->bhqd', [attention, v]);
  },
  'products that ONNX Runtime has fused with scale and transpose': (b, q, k, v) => {
    const scores = b.op('FusedMatMul', [q, k], { transB: 1, alpha: 0.5 }, { domain: 'com.microsoft' });
    return b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }, { name: 'softmax' }), v]);
  },
  'a guard against rows of NaN, and a cast': (b, q, k, v) => {
    const attention = b.op('Softmax', [scoresOf(b, q, k)], { axis: -1 }, { name: 'softmax' });
    const guarded = b.op('Where', [b.op('IsNaN', [attention]), b.scalar(0), attention]);
    return b.op('MatMul', [b.op('Cast', [guarded], { to: 1 }), v]);
  },
  'softmax written out': (b, q, k, v) => {
    const scores = scoresOf(b, q, k);
    const shifted = b.op('Sub', [scores, b.op('ReduceMax', [scores], { axes: [-1] })]);
    const exponentials = b.op('Exp', [shifted]);
    const attention = b.op(
      'Div',
      [exponentials, b.op('ReduceSum', [exponentials, b.ints([-1])])],
      {},
      { name: 'softmax' },
    );
    return b.op('MatMul', [attention, v]);
  },
  'values on the left': (b, q, k, v) => {
    const attention = b.op('Softmax', [scoresOf(b, q, k)], { axis: -1 }, { name: 'softmax' });
    return turned(b, b.op('MatMul', [turned(b, v), turned(b, attention)]));
  },
  'products in 8 bits': (b, q, k, v) => {
    const product = (x: string, y: string) => {
      const [[a, p, o], [c, r, z]] = [x, y].map((value) =>
        b.ops('DynamicQuantizeLinear', [value], {}, { outputs: 3 }),
      ) as [string[], string[]];
      const whole = b.op('MatMulInteger', [a!, c!, o!, z!]);
      return b.op('Mul', [b.op('Cast', [whole], { to: 1 }), b.op('Mul', [p!, r!])]);
    };
    return product(b.op('Softmax', [product(q, turned(b, k))], { axis: -1 }, { name: 'softmax' }), v);
  },
  'scores softly capped and clipped': (b, q, k, v) => {
    const capped = b.op('Mul', [
      b.op('Tanh', [b.op('Div', [scoresOf(b, q, k), b.scalar(50)])]),
      b.scalar(50),
    ]);
    const attention = b.op(
      'Softmax',
      [b.op('Clip', [capped, b.scalar(-60)])],
      { axis: -1 },
      { name: 'softmax' },
    );
    return b.op('MatMul', [attention, v]);
  },
};

describe('attention is found', () => {
  it.each(Object.keys(SPELLINGS))('%s', async (name) => {
    const model = tinyVit(SPELLINGS[name]!);
    const sites = find(model);
    expect(sites.map(({ value }) => value)).toEqual(['softmax']);
    // The graph still runs, and gives rows that sum to 1.
    const session = await openSession(encodeModel(exposeAttention(model, sites)), { threads: 1 });
    const data = Float32Array.from({ length: 2 * 3 * SIZE ** 2 }, (_, i) => Math.sin(i));
    const results = await session.run({ pixel_values: { type: 'float32', dims: [2, 3, SIZE, SIZE], data } });
    await session.dispose();
    expect(Object.keys(results)).toEqual(['image_embeds', 'softmax']);
    const rows = results.softmax!.data as Float32Array;
    expect(rows.length).toBe(2 * HEADS * TOKENS * TOKENS);
    for (let from = 0; from < rows.length; from += TOKENS) {
      expect(rows.subarray(from, from + TOKENS).reduce((sum, value) => sum + value, 0)).toBeCloseTo(1, 5);
    }
  });

  it.each([
    ['multihead', 2],
    ['unbound', 2],
    ['batched', 2],
    ['divided', 2],
    ['guarded', 2],
    ['swin', 3],
  ])('in what PyTorch exports: %s', async (name, layers) => {
    const { model } = await attentionCase(name);
    const sites = findAttention(model, 'input');
    expect(sites).toHaveLength(layers);
    const softmaxes = model
      .graph!.node.filter(({ opType }) => opType === 'Softmax')
      .map(({ output }) => output[0]);
    expect(sites.map(({ value }) => value)).toEqual(softmaxes.slice(0, layers));
  });

  it('in our own towers: in the image tower, not in the text tower', () => {
    const config = studentConfig('mini-64');
    const student = buildStudent(config, 0);
    const values = new Map(student.parameters.map(({ name, value }) => [name, value]));
    expect(find(exportModel(student.image, values))).toHaveLength(config.vision.layers);
    expect(findAttention(exportModel(student.text, values), 'pixel_values')).toEqual([]);
  });
});

describe('what is no attention', () => {
  it('a softmax of weights, of classes, or of gates', () => {
    const b = new GraphBuilder('gates');
    const pixels = b.input('pixel_values', 'float32', ['batch', 12]);
    const gates = b.op('Softmax', [b.op('MatMul', [pixels, b.parameter('w', [12, 3])])], { axis: -1 });
    const mixed = b.op('MatMul', [gates, b.parameter('experts', [3, 5])]);
    b.output('image_embeds', b.op('Softmax', [mixed], { axis: -1 }), ['batch', 5]);
    expect(find(filled(b))).toEqual([]);
  });
});

describe('attention that cannot be read', () => {
  const fusedBy =
    (op: string, domain: string): Attend =>
    (b, q, k, v) =>
      b.op(op, [q, k, v], { num_heads: HEADS }, { domain, name: 'block0/attention' });

  it.each([
    ['MultiHeadAttention', 'com.microsoft', 'com.microsoft.MultiHeadAttention'],
    ['Attention', 'com.microsoft', 'com.microsoft.Attention'],
    ['Attention', '', '1 Attention'],
    ['FlashAttentionV2', 'custom', 'custom.FlashAttentionV2'],
  ])('%s of %s', (op, domain, named) => {
    expect(() => find(tinyVit(fusedBy(op, domain)))).toThrow(
      expect.objectContaining({
        code: 'MODEL_UNSUPPORTED',
        message: expect.stringMatching(
          new RegExp(`is fused into .*${named.replace('.', '\\.')} \\(such as block0/attention\\).*eager`),
        ),
      }),
    );
  });

  it('in functions of the model', () => {
    const model = tinyVit((b, q, k, v) => b.op('sdpa', [q, k, v], {}, { domain: 'pkg.torch' }));
    const body = [{ opType: 'Softmax', input: ['q'], output: ['y'] }];
    model.functions = [
      create(FunctionProtoSchema, {
        name: 'sdpa',
        domain: 'pkg.torch',
        input: ['q', 'k', 'v'],
        output: ['y'],
        node: body,
      }),
    ];
    expect(() => find(model)).toThrow(
      /inside functions of the model \(such as pkg\.torch\.sdpa\).*inline_local_functions/,
    );
  });
});

describe('exposeValues', () => {
  it('keeps only what its values need, and the model as it was', () => {
    const model = tinyVit(plain);
    const before = encodeModel(model);
    const copy = exposeValues(model, ['softmax']);
    expect(copy.graph!.output.map(({ name }) => name)).toEqual(['softmax']);
    expect(copy.graph!.initializer.map(({ name }) => name)).not.toContain('v');
    expect(copy.graph!.node.length).toBeLessThan(model.graph!.node.length);
    expect(encodeModel(model)).toEqual(before);
    expect(() => exposeValues(model, ['nothing'])).toThrow(
      /Expected values of the graph for values but received "nothing"/,
    );
  });
});

describe('writeAttentionModel', () => {
  it('writes a model that gives probabilities beside its own outputs', async () => {
    const path = await put('plain', tinyVit(plain));
    const out = path.replace('plain', 'exposed');
    const sites = await writeAttentionModel(path, out);
    expect(sites).toEqual([{ value: 'softmax', node: 'softmax', axis: -1 }]);
    const session = await openSession(out, { threads: 1 });
    expect(session.outputs.map(({ name }) => name)).toEqual(['image_embeds', 'softmax']);
    await session.dispose();
  });

  it('refuses a model without attention', async () => {
    const path = await put(
      'none',
      tinyVit((b, _q, _k, v) => b.op('Relu', [v])),
    );
    await expect(writeAttentionModel(path, `${path}.out`)).rejects.toThrow(/none\.onnx has no attention/);
  });
});
