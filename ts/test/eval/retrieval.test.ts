import { describe, expect, it } from 'vitest';
import { chanceOfHit, imageImageRetrieval, imageTextRetrieval, retrieval } from '../../src/eval/retrieval.ts';
import type { Matrix } from '../../src/kernels/rows.ts';

/** Rows on the unit circle at these angles in degrees: the nearest by cosine is the nearest angle. */
function circle(...degrees: number[]): Matrix {
  const data = Float32Array.from(
    degrees.flatMap((degree) => {
      const angle = (degree * Math.PI) / 180;
      return [3 * Math.cos(angle), 3 * Math.sin(angle)];
    }),
  );
  return { data, rows: degrees.length, dim: 2 };
}

const cpu = { device: 'cpu' } as const;

describe('retrieval', () => {
  it('counts a query as found when any right row is among the first k', async () => {
    const base = circle(0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110);
    // Ranks of the right row: 0, 3 and 11; the last query has none and does not count.
    const result = await retrieval(circle(1, 1, 1, 1), base, [[0], [3, 9], [11], []], cpu);
    expect(result.queries).toBe(3);
    expect(result.candidates).toBe(12);
    expect(result.recall).toEqual({ '1': 1 / 3, '5': 2 / 3, '10': 2 / 3 });
    expect(result.chance['1']).toBeCloseTo((1 / 12 + 2 / 12 + 1 / 12) / 3, 12);
  });

  it('gives equal scores to the smaller index', async () => {
    const result = await retrieval(circle(0, 0), circle(5, 5), [[0], [1]], cpu);
    expect(result.recall['1']).toBe(0.5);
  });

  it('has nothing to say without queries', async () => {
    expect((await retrieval(circle(), circle(1), [], cpu)).queries).toBe(0);
  });
});

describe('imageTextRetrieval', () => {
  it('handles several captions an image and several images a caption', async () => {
    const images = circle(0, 20, 90);
    const texts = circle(2, 40, 88, 17);
    const { imageToText, textToImage } = await imageTextRetrieval(images, texts, [[0], [1, 3], [1, 2]], cpu);
    expect(imageToText.recall['1']).toBe(1);
    expect(imageToText.queries).toBe(3);
    // Text 1 (40°) is nearest to image 1, which it belongs to.
    expect(textToImage.recall['1']).toBe(1);
    const crossed = await imageTextRetrieval(images, texts, [[2], [3], [0]], cpu);
    expect(crossed.imageToText.recall['1']).toBe(1 / 3);
    expect(crossed.textToImage.queries).toBe(3);
  });
});

describe('imageImageRetrieval', () => {
  it('ranks only images of another domain, and averages precision over the whole ranking', async () => {
    // Query 0 (a, group x at 0°) sees the b images in the order 10° (y), 30° (x), 50° (x): precision (1/2 + 2/3) / 2.
    const images = circle(0, 5, 10, 30, 50);
    const groups = ['x', 'x', 'y', 'x', 'x'];
    const domains = ['a', 'a', 'b', 'b', 'b'];
    const result = await imageImageRetrieval(images, groups, domains, cpu);
    // The y image has no partner in a. Queries 0 and 1 (5°) see y first; 3 and 4 see 5°, then 0°: both x.
    expect(result.queries).toBe(4);
    expect(result.recall['1']).toBe(2 / 4);
    expect(result.recall['5']).toBe(1);
    expect(result.meanAveragePrecision).toBeCloseTo((2 * ((1 / 2 + 2 / 3) / 2) + 2) / 4, 12);
    expect(result.concepts).toBe(1);
  });

  it('leaves out the query itself, and counts a concept once however many images it has', async () => {
    const images = circle(0, 1, 2, 90, 91, 180, 92);
    const groups = ['x', 'x', 'x', 'y', 'z', 'z', undefined];
    const none = groups.map(() => undefined);
    const result = await imageImageRetrieval(images, groups, none, cpu);
    // x: three of three; z: 91° sees 90° (y) or 92° first, 180° sees 92°. y is alone.
    expect(result.queries).toBe(5);
    expect(result.recall['1']).toBe(3 / 5);
    expect(result.recall1PerConcept).toBe(1 / 2);
  });
});

describe('chanceOfHit', () => {
  it('is the hypergeometric chance of at least one', () => {
    expect(chanceOfHit(10, 1, 1)).toBeCloseTo(0.1, 12);
    expect(chanceOfHit(10, 1, 5)).toBeCloseTo(0.5, 12);
    expect(chanceOfHit(5, 2, 2)).toBeCloseTo(1 - (3 / 5) * (2 / 4), 12);
    expect(chanceOfHit(3, 1, 10)).toBe(1);
    expect(chanceOfHit(4, 0, 2)).toBe(0);
  });
});
