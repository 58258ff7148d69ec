import { describe, expect, it } from 'vitest';
import { classEmbeddings, zeroShot } from '../../src/eval/zero-shot.ts';

const cpu = { device: 'cpu' } as const;

/** Embeds a text as counts of the letters a, b and c, times a length that must not matter. */
const letters = {
  dim: 3,
  async embedTexts(texts: readonly string[]) {
    return Float32Array.from(
      texts.flatMap((text, i) => ['a', 'b', 'c'].map((l) => (i + 1) * (text.split(l).length - 1))),
    );
  },
};

describe('classEmbeddings', () => {
  it('averages the unit embeddings of the prompts of a class', async () => {
    const { data, rows, dim } = await classEmbeddings(letters, ['a', 'b'], ['{}', 'c {}{}c']);
    expect([rows, dim]).toEqual([2, 3]);
    // 'a' → (1, 0, 0); 'c aac' → (2, 0, 2) → (√½, 0, √½). Their mean made unit: half the angle, 22.5°.
    expect(data[0]).toBeCloseTo(Math.cos(Math.PI / 8), 6);
    expect(data[1]).toBe(0);
    expect(data[2]).toBeCloseTo(Math.sin(Math.PI / 8), 6);
    expect(data[4]).toBeCloseTo(Math.cos(Math.PI / 8), 6);
  });

  it('wants classes, templates, and a place for the class in each', async () => {
    await expect(classEmbeddings(letters, [], ['{}'])).rejects.toThrow(RangeError);
    await expect(classEmbeddings(letters, ['a'], [])).rejects.toThrow(RangeError);
    await expect(classEmbeddings(letters, ['a'], ['an emoji'])).rejects.toThrow(/'\{\}'/);
  });

  it('names a prompt that has no direction', async () => {
    await expect(classEmbeddings(letters, ['a', 'x'], ['{}'])).rejects.toMatchObject({
      code: 'INVALID_DATA',
    });
  });
});

describe('zeroShot', () => {
  const basis = Array.from({ length: 6 }, (_, c) => Array.from({ length: 6 }, (_, d) => (c === d ? 1 : 0)));
  const classes = { data: Float32Array.from(basis.flat()), rows: 6, dim: 6 };
  const names = ['a', 'b', 'c', 'd', 'e', 'f'];

  it('counts the first, the first five, and the mean over classes that have images', async () => {
    const images = {
      data: Float32Array.from([
        ...[9, 1, 2, 3, 4, 5], // a: first
        ...[9, 1, 2, 3, 4, 5], // f: second
        ...[9, 1, 2, 3, 4, 5], // b: sixth
        ...[0, 0, 0, 0, 0, 2], // f: first
      ]),
      rows: 4,
      dim: 6,
    };
    const result = await zeroShot({ images, labels: Int32Array.of(0, 5, 1, 5), classes, names, ...cpu });
    expect(result).toMatchObject({ images: 4, classes: 6, top1: 0.5, top5: 0.75, chance: 1 / 6 });
    expect(result.meanPerClass).toBeCloseTo((1 + 0 + 0.5) / 3, 12);
    expect(result.perClass).toEqual([
      { name: 'a', images: 1, top1: 1 },
      { name: 'b', images: 1, top1: 0 },
      { name: 'f', images: 2, top1: 0.5 },
    ]);
  });

  it('gives a tie to the smaller class, and works with fewer than five', async () => {
    const two = { data: Float32Array.of(1, 0, 0, 1), rows: 2, dim: 2 };
    const images = { data: Float32Array.of(1, 1), rows: 1, dim: 2 };
    const options = { images, classes: two, names: ['a', 'b'], ...cpu };
    expect(await zeroShot({ ...options, labels: Int32Array.of(0) })).toMatchObject({ top1: 1, top5: 1 });
    expect(await zeroShot({ ...options, labels: Int32Array.of(1) })).toMatchObject({ top1: 0, top5: 1 });
  });
});
