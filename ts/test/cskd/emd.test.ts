import { describe, expect, it } from 'vitest';
import { emdLoss, softmaxRows } from '../../src/cskd/emd.ts';
import { differences, relativeError } from './differences.ts';

const rows = 5;
const bins = 10;
const logits = Float32Array.from({ length: rows * bins }, (_, i) => Math.sin(1 + 1.7 * i) * 1.5);
const targets = softmaxRows(
  Float32Array.from({ length: rows * bins }, (_, i) => 2 * Math.cos(0.9 * i)),
  bins,
);

describe('emdLoss', () => {
  it('is the squared distance of the cumulative shares, by hand', () => {
    // p = (1/2, 1/2, 0) against (0, 1/2, 1/2): cumulative differences 1/2, 1/2, 0.
    const p = Float32Array.from([0, 0, -200]);
    expect(emdLoss(p, [0, 0.5, 0.5], 3).value).toBeCloseTo(0.5 / 3, 7);
    expect(emdLoss(p, [0, 0.5, 0.5], 3, 'root').value).toBeCloseTo(Math.sqrt(0.5 / 3), 7);
    expect(emdLoss(p, [0.5, 0.5, 0], 3).value).toBeCloseTo(0, 12);
  });

  it('grows with how far shares have to go', () => {
    const at = (bin: number) => Float32Array.from({ length: 10 }, (_, k) => (k === bin ? 60 : 0));
    const target = Float64Array.from({ length: 10 }, (_, k) => (k === 0 ? 1 : 0));
    const values = [0, 1, 4, 9].map((bin) => emdLoss(at(bin), target, 10).value);
    expect(values).toEqual([0, 0.1, 0.4, 0.9].map((value) => expect.closeTo(value, 9)));
  });

  it.each(['squared', 'root'] as const)('has the gradient of finite differences (%s)', (form) => {
    const weights = [1, 0.5, 0, 2, 1];
    const { gradient } = emdLoss(logits, targets, bins, form, weights);
    const expected = differences(logits, (moved) => emdLoss(moved, targets, bins, form, weights).value);
    expect(relativeError(gradient, expected)).toBeLessThan(2e-6);
    expect([...gradient.slice(20, 30)]).toEqual(Array(10).fill(0));
  });

  it('divides by all rows, those of weight 0 included', () => {
    const all = emdLoss(logits, targets, bins).value;
    const weights = [0, 1, 1, 1, 1];
    const first = emdLoss(logits.subarray(0, bins), targets.subarray(0, bins), bins).value;
    expect(emdLoss(logits, targets, bins, 'squared', weights).value).toBeCloseTo(all - first / rows, 9);
  });

  it('rests where prediction and target agree, and bears huge logits', () => {
    for (const form of ['squared', 'root'] as const) {
      const rest = emdLoss(new Float32Array(4), Float64Array.of(0.25, 0.25, 0.25, 0.25), 4, form);
      expect(rest.value).toBe(0);
      expect([...rest.gradient]).toEqual([0, 0, 0, 0]);
    }
    const huge = emdLoss(Float32Array.of(1e30, -1e30, 0), [0, 0, 1], 3);
    expect(huge.value).toBeCloseTo(2 / 3, 12);
    expect(huge.gradient.every(Number.isFinite)).toBe(true);
  });

  it('names what does not fit', () => {
    expect(() => emdLoss(logits, targets.subarray(1), bins)).toThrow('Expected 50 shares for targets');
    expect(() => emdLoss(logits, targets, 7)).toThrow('Expected rows of 7 logits for logits');
    expect(() => emdLoss(logits, targets, bins, 'squared', [1])).toThrow('Expected 5 weights for weights');
  });
});
