import { InferenceSession, Tensor } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { encodeModel } from '../../src/onnx/model.ts';
import { exportModel } from '../../src/program/export.ts';
import type { Graph } from '../../src/program/graph.ts';
import { type StudentName, studentConfig, studentNames } from '../../src/student/config.ts';
import {
  buildExportedText,
  buildStudent,
  type StudentProgram,
  studentParameters,
} from '../../src/student/towers.ts';

const tiny = studentConfig({
  embedDim: 6,
  vision: { imageSize: 16, patchSize: 8, width: 12, layers: 2, heads: 3 },
  text: { vocabSize: 40, contextLength: 7, width: 8, layers: 2, heads: 2 },
});

async function session(graph: Graph, { parameters }: StudentProgram): Promise<InferenceSession> {
  const values = new Map(parameters.map(({ name, value }) => [name, value]));
  return InferenceSession.create(encodeModel(exportModel(graph, values)));
}

function ids(rows: readonly (readonly number[])[]): Tensor {
  return new Tensor('int64', BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0]!.length]);
}

async function text(model: InferenceSession, rows: readonly (readonly number[])[]): Promise<number[][]> {
  const { text_embeds } = await model.run({ input_ids: ids(rows) });
  const data = Array.from(text_embeds!.data as Float32Array);
  return rows.map((_, i) => data.slice(i * tiny.embedDim, (i + 1) * tiny.embedDim));
}

function expectClose(a: readonly number[], b: readonly number[]): void {
  expect(a.length).toBe(b.length);
  for (const [i, value] of a.entries()) expect(value).toBeCloseTo(b[i]!, 5);
}

it('counts the parameters of a student as the builders make them, without drawing any', () => {
  for (const student of [
    'micro-64',
    { base: 'micro-64', vision: { stem: 'conv', pooling: 'class' } },
  ] as const) {
    const { image, text, parameters } = buildStudent(studentConfig(student), 0);
    const length = new Map(parameters.map(({ name, value }) => [name, value.length]));
    const sum = (graph: Graph) => graph.parameters.reduce((all, { name }) => all + length.get(name)!, 0);
    expect(studentParameters(student)).toEqual({ image: sum(image), text: sum(text) });
  }
  // ViT-B/32 of CLIP has 151 million with the biases and norms that ours has too.
  const { image, text } = studentParameters('vit-b-32');
  expect((image + text) / 1e6).toBeCloseTo(151.3, 0);
});

describe('text tower', () => {
  it('sees nothing after the end token, and the end token decides where it is read', async () => {
    const program = buildStudent(tiny, 1);
    const model = await session(program.text, program);
    const [a, b, c] = await text(model, [
      [38, 5, 6, 39, 39, 39, 39],
      [38, 5, 6, 39, 1, 2, 3],
      [38, 5, 7, 39, 39, 39, 39],
    ]);
    expectClose(a!, b!);
    expect(Math.abs(a![0]! - c![0]!)).toBeGreaterThan(1e-4);
  });

  it('takes texts of any length when exported, with the embeddings of padded ones', async () => {
    const program = buildStudent(tiny, 2);
    const fixed = await session(program.text, program);
    const exported = await session(buildExportedText(tiny), program);
    const [long] = await text(fixed, [[38, 5, 6, 39, 39, 39, 39]]);
    for (const row of [
      [38, 5, 6, 39],
      [38, 5, 6, 39, 39],
      [38, 5, 6, 39, 39, 39, 39],
    ]) {
      expectClose((await text(exported, [row]))[0]!, long!);
    }
  });
});

describe('image tower', () => {
  it.each([
    ['class', 'patch'],
    ['mean', 'patch'],
    ['class', 'conv'],
    ['mean', 'conv'],
  ] as const)('embeds each image by itself (%s, %s)', async (pooling, stem) => {
    const config = studentConfig({ ...tiny, vision: { ...tiny.vision, pooling, stem } });
    const program = buildStudent(config, 3);
    const model = await session(program.image, program);
    const pixels = Float32Array.from({ length: 2 * 3 * 16 * 16 }, (_, i) => Math.sin(i * 0.37));
    const both = await model.run({ pixel_values: new Tensor('float32', pixels, [2, 3, 16, 16]) });
    const second = await model.run({
      pixel_values: new Tensor('float32', pixels.slice(3 * 256), [1, 3, 16, 16]),
    });
    const joined = Array.from(both.image_embeds!.data as Float32Array);
    expect(both.image_embeds!.dims).toEqual([2, 6]);
    expectClose(joined.slice(6), Array.from(second.image_embeds!.data as Float32Array));
    expect(Math.abs(joined[0]! - joined[6]!)).toBeGreaterThan(1e-4);
  });
});

describe('convolutions as the stem', () => {
  const config = studentConfig({
    ...tiny,
    vision: { ...tiny.vision, imageSize: 32, patchSize: 8, width: 48, stem: 'conv' },
  });

  it('halve the sides until a patch is a token, with twice the channels up to the width', () => {
    const { parameters } = buildStudent(config, 0);
    const shapes = parameters.filter(({ name }) => /stem.*weight|patch/.test(name)).map(({ dims }) => dims);
    expect(shapes).toEqual([
      [16, 3, 3, 3],
      [24, 16, 3, 3],
      [48, 24, 3, 3],
      [48, 48, 1, 1],
    ]);
    expect(parameters.find(({ name }) => name === 'vision.positions')!.dims).toEqual([16, 48]);
  });

  it('keep the scale of what goes through them', async () => {
    const program = buildStudent(config, 4);
    const graph = {
      ...program.image,
      outputs: [{ name: 'Conv_3', type: 'float32' as const, dims: ['batch', 48, 4, 4] }],
    };
    const model = await session(graph, program);
    const pixels = Float32Array.from({ length: 3 * 32 * 32 }, (_, i) => Math.sin(i * i * 0.37));
    const { Conv_3 } = await model.run({ pixel_values: new Tensor('float32', pixels, [1, 3, 32, 32]) });
    expect(Conv_3!.dims).toEqual([1, 48, 4, 4]);
    const data = Conv_3!.data as Float32Array;
    const spread = Math.sqrt(data.reduce((sum, x) => sum + x * x, 0) / data.length);
    expect(spread).toBeGreaterThan(0.2);
    expect(spread).toBeLessThan(2);
  });
});

describe('parameters', () => {
  it('start the same for a seed, whatever the other tower is, and differ for another', () => {
    const value = (program: StudentProgram, name: string) =>
      program.parameters.find((parameter) => parameter.name === name)!.value;
    const a = buildStudent(tiny, 1);
    const b = buildStudent(studentConfig({ ...tiny, vision: { ...tiny.vision, layers: 4 } }), 1);
    const name = 'text.blocks.1.mlp.in.weight';
    expect(value(b, name)).toEqual(value(a, name));
    expect(value(buildStudent(tiny, 2), name)).not.toEqual(value(a, name));
  });

  it("have CLIP's spread, and decay on matrices alone", () => {
    const config = studentConfig({ base: 'micro-64', text: { vocabSize: 600 } });
    const { parameters } = buildStudent(config, 0);
    const { width, layers } = config.vision;
    const std = (name: string) => {
      const { value } = parameters.find((parameter) => parameter.name === name)!;
      return Math.sqrt(value.reduce((sum, x) => sum + x * x, 0) / value.length);
    };
    expect(std('vision.blocks.0.attn.qkv.weight')).toBeCloseTo(width ** -0.5, 2);
    expect(std('vision.blocks.0.mlp.out.weight')).toBeCloseTo(width ** -0.5 * (2 * layers) ** -0.5, 2);
    expect(std('text.tokens')).toBeCloseTo(0.02, 3);
    for (const { name, decay } of parameters) {
      const matrix = /(patch|qkv|out|in)\.weight$|projection$/.test(name) && !/norm/.test(name);
      expect([name, decay]).toEqual([name, matrix]);
    }
  });

  /** Learned numbers of both towers at their full size, from towers of one and two layers. */
  function count(base: StudentName): { image: number; text: number } {
    const full = studentConfig(base);
    const of = (layers: number) => {
      const { parameters } = buildStudent(
        studentConfig({ base, vision: { layers }, text: { layers, vocabSize: 8 } }),
        0,
      );
      const sum = (tower: string) =>
        parameters
          .filter(({ name }) => name.startsWith(`${tower}.`))
          .reduce((total, { value }) => total + value.length, 0);
      return { image: sum('vision'), text: sum('text') };
    };
    const [one, two] = [of(1), of(2)];
    return {
      image: one.image + (full.vision.layers - 1) * (two.image - one.image),
      text:
        one.text +
        (full.text.layers - 1) * (two.text - one.text) +
        (full.text.vocabSize - 8) * full.text.width,
    };
  }

  // OpenCLIP's profiles: millions of each tower, the text's with the logit scale; and the models that OpenAI published, in all. The class
  // token, a row as wide as the image tower, is one with its position here.
  it.each<[StudentName, number, number, number | undefined]>([
    ['vit-s-32', 22.64, 40.44, undefined],
    ['vit-s-16', 21.81, 40.44, undefined],
    ['vit-b-32', 87.85, 63.43, 151_277_313],
    ['vit-b-16', 86.19, 63.43, 149_620_737],
    ['vit-l-14', 303.97, 123.65, 427_616_513],
  ])('are as many as published: %s', (name, imageMillions, textMillions, all) => {
    const { width } = studentConfig(name).vision;
    const { image, text } = count(name);
    expect((image + width) / 1e6).toBeCloseTo(imageMillions, 2);
    expect((text + 1) / 1e6).toBeCloseTo(textMillions, 2);
    if (all !== undefined) expect(image + width + text + 1).toBe(all);
  });

  it("are as many as in DeiT-Ti/16, but for CLIP's first norm and projection and DeiT's biases and class token", () => {
    // 5,717,416 with a head for 1,000 classes.
    const deit = 5_717_416 - (192 * 1000 + 1000);
    expect(count('vit-ti-16').image).toBe(deit + 2 * 192 + 192 * 256 - 192 - 192);
  });
});

describe('architectures by name', () => {
  it.each(studentNames)('%s makes towers that fit together', (name) => {
    const { embedDim, vision, text } = studentConfig(name);
    // One layer tells the shapes, and a large vocabulary only takes time.
    const { image, text: words } = buildStudent(
      studentConfig({ base: name, vision: { layers: 1 }, text: { layers: 1, vocabSize: 8 } }),
      0,
    );
    expect(image.inputs).toMatchObject([
      { name: 'pixel_values', dims: ['batch', 3, vision.imageSize, vision.imageSize] },
    ]);
    expect(words.inputs).toMatchObject([{ name: 'input_ids', dims: ['batch', text.contextLength] }]);
    expect(image.outputs).toMatchObject([{ name: 'image_embeds', dims: ['batch', embedDim] }]);
    expect(words.outputs).toMatchObject([{ name: 'text_embeds', dims: ['batch', embedDim] }]);
    expect(vision.width % vision.heads).toBe(0);
    if (name.startsWith('vit-')) {
      expect(vision.imageSize).toBe(224);
      expect(`-${vision.patchSize}`).toBe(name.slice(-3));
      // As CLIP: heads of 64.
      expect([vision.width / vision.heads, text.width / text.heads, text.contextLength]).toEqual([
        64, 64, 77,
      ]);
    }
  });
});

describe('studentConfig', () => {
  it('names what does not fit', () => {
    expect(() => studentConfig('vit-b-33' as 'vit-b-32')).toThrow(
      /Expected one of .* for student but received "vit-b-33"/,
    );
    expect(() => studentConfig({ vision: { heads: 5 } })).toThrow(/student\.vision\.heads but received 5/);
    expect(() => studentConfig({ vision: { patchSize: 7 } })).toThrow(/student\.vision\.patchSize/);
    expect(() => studentConfig({ vision: { imageSize: 96, patchSize: 12, stem: 'conv' } })).toThrow(
      "Expected a power of two for the stem 'conv' for student.vision.patchSize but received 12",
    );
    expect(() => studentConfig({ vision: { depth: 3 } as object })).toThrow(
      /student\.vision but received "depth"/,
    );
  });
});
