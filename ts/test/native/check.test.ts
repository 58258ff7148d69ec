import { describe, expect, it } from 'vitest';
import {
  describeValue,
  expectFloat32,
  expectInteger,
  expectNumber,
  expectObject,
  expectOneOf,
  expectPositive,
  expectString,
} from '../../src/native/check.ts';

describe('check', () => {
  it('passes what is right', () => {
    expect(expectInteger('k', 3, 1, 3)).toBe(3);
    expect(expectNumber('t', -0.5, -1, 1)).toBe(-0.5);
    expect(expectPositive('rate', 1e-9)).toBe(1e-9);
    expect(expectString('path', 'x')).toBe('x');
    expect(expectOneOf('metric', 'dot', ['cosine', 'dot'])).toBe('dot');
    expect(expectFloat32('init', new Float32Array(6), 6)).toHaveLength(6);
    expect(expectObject('options', { a: 1 }, ['a', 'b'])).toEqual({ a: 1 });
  });

  it('tells a wrong type from a wrong value', () => {
    const cases: [() => unknown, typeof TypeError | typeof RangeError, string][] = [
      [
        () => expectInteger('k', '3', 1),
        TypeError,
        'Expected an integer of at least 1 for k but received "3"',
      ],
      [
        () => expectInteger('k', 2.5, 1, 9),
        RangeError,
        'Expected an integer from 1 to 9 for k but received 2.5',
      ],
      [
        () => expectInteger('k', Number.NaN),
        RangeError,
        'Expected an integer of at least 0 for k but received NaN',
      ],
      [() => expectNumber('t', 2, -1, 1), RangeError, 'Expected a number from -1 to 1 for t but received 2'],
      [() => expectNumber('t', Number.NaN), RangeError, 'Expected a number for t but received NaN'],
      [() => expectPositive('rate', 0), RangeError, 'Expected a number over 0 for rate but received 0'],
      [
        () => expectOneOf('metric', 'l2', ['cosine', 'dot']),
        RangeError,
        `Expected one of 'cosine', 'dot' for metric but received "l2"`,
      ],
      [
        () => expectFloat32('init', new Float32Array(5), 6, '[K, D]'),
        RangeError,
        'Expected a Float32Array of 6 [K, D] for init but received a Float32Array of 5',
      ],
      [
        () => expectFloat32('init', [1, 2]),
        TypeError,
        'Expected a Float32Array for init but received [1, 2]',
      ],
      [
        () => expectObject('options', { treshold: 1 }, ['threshold', 'metric']),
        TypeError,
        'Expected threshold, metric for options but received "treshold" (did you mean threshold?)',
      ],
      [() => expectObject('options', null), TypeError, 'Expected an object for options but received null'],
    ];
    for (const [run, type, message] of cases) {
      expect(run).toThrow(type);
      expect(run).toThrow(expect.objectContaining({ message }));
    }
  });

  it('shows any value in one short line', () => {
    const values: unknown[] = [
      undefined,
      -0,
      10n,
      Symbol('x'),
      () => 1,
      new Map(),
      Object.create(null),
      'long '.repeat(1000),
      new Array(1e6).fill({}),
      new Float64Array(9),
      Object.fromEntries(Array.from({ length: 99 }, (_, index) => [`key${index}`, index])),
    ];
    for (const value of values) {
      const text = describeValue(value);
      expect(text.length).toBeLessThanOrEqual(60);
      expect(text).not.toMatch(/\n/);
    }
    expect(describeValue(new Map())).toBe('an instance of Map');
    expect(describeValue({ a: 1 })).toBe('an object with a');
  });
});
