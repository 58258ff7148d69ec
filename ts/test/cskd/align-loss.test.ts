import { describe, expect, it } from 'vitest';
import { type AlignWeights, alignLoss } from '../../src/cskd/align-loss.ts';
import { differences, relativeError } from './differences.ts';

const rows = 6;
const dim = 7;
const student = Float32Array.from({ length: rows * dim }, (_, i) => Math.sin(1 + 1.3 * i) * 2);
const frozen = Float32Array.from({ length: rows * dim }, (_, i) => Math.cos(0.7 * i) * 3 + 0.4);
const none: AlignWeights = { cosine: 0, mse: 0, feature: 0, relational: 0 };
const names = ['cosine', 'mse', 'feature', 'relational'] as const;
const loss = (z: Float32Array, t: Float32Array, weights: Partial<AlignWeights>) =>
  alignLoss(z, t, dim, { weights: { ...none, ...weights }, temperature: 0.3 });

describe('alignLoss', () => {
  it.each(names)('has the gradient of finite differences: %s', (name) => {
    const { gradient, terms } = loss(student, frozen, { [name]: 0.7 });
    const expected = differences(student, (moved) => loss(moved, frozen, { [name]: 0.7 }).terms.total);
    expect(relativeError(gradient, expected)).toBeLessThan(5e-6);
    expect(terms.total).toBeCloseTo(0.7 * terms[name]!, 12);
    expect(Object.keys(terms).sort()).toEqual([name, 'total'].sort());
  });

  it('adds its terms', () => {
    const all = loss(student, frozen, { cosine: 1, mse: 0.1, feature: 2, relational: 0.5 });
    const single = names.map((name) => loss(student, frozen, { [name]: 1 }));
    const weights = [1, 0.1, 2, 0.5];
    expect(all.terms.total).toBeCloseTo(
      single.reduce((sum, { terms }, i) => sum + weights[i]! * terms.total, 0),
      9,
    );
    const gradient = student.map((_, k) =>
      single.reduce((sum, part, i) => sum + weights[i]! * part.gradient[k]!, 0),
    );
    expect(relativeError(all.gradient, gradient)).toBeLessThan(1e-5);
  });

  it('is 0 and rests where the features agree, up to length for the terms of directions', () => {
    for (const name of ['cosine', 'relational'] as const) {
      const { terms, gradient } = loss(
        frozen.map((value) => 2 * value),
        frozen,
        { [name]: 1 },
      );
      expect(terms.total).toBeCloseTo(0, 9);
      expect(gradient.every((value) => Math.abs(value) < 1e-7)).toBe(true);
    }
    const { terms } = loss(frozen, frozen, { mse: 1 });
    expect(terms.total).toBe(0);
  });

  it('compares with the layer-normalised target, and turns into a line 2 away', () => {
    const target = Float32Array.from([1, 2, 3, 4, 5, 6, 7]);
    const normed = target.map((value) => (value - 4) / 2);
    const at = (shift: number) =>
      alignLoss(
        normed.map((value) => value + shift),
        target,
        dim,
        {
          weights: { ...none, feature: 1 },
          temperature: 1,
        },
      ).terms.total;
    expect(at(0)).toBeCloseTo(0, 9);
    expect(at(1)).toBeCloseTo(1 / 4, 5);
    expect(at(5)).toBeCloseTo(4, 5);
  });

  it('knows 1 − cosine by hand', () => {
    const value = alignLoss(Float32Array.of(2, 0, 0, 3), Float32Array.of(5, 0, 4, 0), 2, {
      weights: { ...none, cosine: 1 },
      temperature: 1,
    });
    expect(value.terms.cosine).toBeCloseTo(0.5, 12);
  });

  it('leaves a row of zeros where it is', () => {
    const z = student.slice();
    z.fill(0, 0, dim);
    const { gradient, terms } = loss(z, frozen, { cosine: 1, relational: 1 });
    expect(Number.isFinite(terms.total)).toBe(true);
    expect([...gradient.slice(0, dim)]).toEqual(Array(dim).fill(0));
  });

  it('needs two rows to relate', () => {
    expect(() => loss(student.subarray(0, dim), frozen.subarray(0, dim), { relational: 1 })).toThrow(
      /at least 2 rows for the relational term/,
    );
  });
});
