import { describe, expect, it } from 'vitest';
import { type AdamwOptions, adamw } from '../../src/kernels/adamw.ts';
import { adamwReference } from '../reference/adamw.ts';
import { sequence } from '../reference/sequence.ts';

/** Across chunks of the kernel and not a multiple of any vector. */
const groups = [
  { length: 40_001, rate: 1, decay: 1 },
  { length: 7, rate: 0, decay: 1 },
  { length: 16_385, rate: 0.5, decay: 0 },
  { length: 0 },
];
const length = groups.reduce((sum, group) => sum + group.length, 0);
const options = {
  step: 1,
  rate: 1e-2,
  decay: 0.2,
  betas: [0.9, 0.98],
  epsilon: 1e-6,
  clip: 1,
  ema: 0.9,
  groups,
} as const satisfies AdamwOptions;

const start = () => ({
  parameters: sequence(length, 1),
  gradients: sequence(length, 2),
  first: new Float32Array(length),
  second: new Float32Array(length),
  ema: sequence(length, 1),
});

const difference = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i]! - b[i]!));
  return most;
};

describe('adamw', () => {
  it('follows the float64 reference over steps, with groups, clipping and the average', async () => {
    const state = start();
    const expected = {
      parameters: Float64Array.from(state.parameters),
      gradients: new Float64Array(length),
      first: new Float64Array(length),
      second: new Float64Array(length),
      ema: Float64Array.from(state.ema),
    };
    for (let step = 1; step <= 5; step++) {
      state.gradients.set(sequence(length, 10 + step));
      expected.gradients.set(state.gradients);
      const { gradientNorm } = await adamw(state, { ...options, step });
      const norm = adamwReference(expected, {
        ...options,
        step,
        beta1: 0.9,
        beta2: 0.98,
        emaDecay: 0.9,
        groups: groups.map(({ length, rate = 1, decay = 1 }) => ({ length, rate, decay })),
      });
      expect(gradientNorm / norm).toBeCloseTo(1, 12);
      expect(state.gradients.every((value) => value === 0)).toBe(true);
    }
    // Values near 1, five steps of about five roundings each.
    expect(difference(state.parameters, expected.parameters)).toBeLessThan(2e-6);
    expect(difference(state.ema, expected.ema)).toBeLessThan(2e-6);
    expect(difference(state.first, expected.first)).toBeLessThan(1e-8);
    expect(difference(state.second, expected.second)).toBeLessThan(1e-10);
    // The frozen group has not moved.
    expect(state.parameters.slice(40_001, 40_008)).toEqual(start().parameters.slice(40_001, 40_008));
    expect(state.first.slice(40_001, 40_008)).toEqual(new Float32Array(7));
  });

  it('gives the same bits for 1, 2 and 7 threads', async () => {
    const results = [];
    for (const threads of [1, 2, 7]) {
      const state = start();
      const { gradientNorm } = await adamw(state, { ...options, threads });
      results.push({ ...state, gradientNorm });
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });

  it('follows 20 steps of torch.optim.AdamW with clip_grad_norm_', async () => {
    // Σ_i w_i (p_i − target_i)², w = (i + 1) / 8; the first 24 parameters decay, the others have half the rate and none. Made with
    // torch 1.13: AdamW([{lr: 0.05, weight_decay: 0.2}, {lr: 0.025, weight_decay: 0}], betas=(0.9, 0.98), eps=1e-6), norm 4.
    const state = {
      parameters: Float32Array.from([...sequence(24, 1), ...sequence(13, 2)]),
      gradients: new Float32Array(37),
      first: new Float32Array(37),
      second: new Float32Array(37),
    };
    const target = sequence(37, 3);
    for (let step = 1; step <= 20; step++) {
      let loss = 0;
      for (let i = 0; i < 37; i++) {
        const away = state.parameters[i]! - target[i]!;
        loss += ((i + 1) / 8) * away * away;
        state.gradients[i] = ((i + 1) / 4) * away;
      }
      expect(loss / torch.losses[step - 1]!).toBeCloseTo(1, 5);
      const { gradientNorm } = await adamw(state, {
        step,
        rate: 0.05,
        decay: 0.2,
        betas: [0.9, 0.98],
        epsilon: 1e-6,
        clip: 4,
        groups: [{ length: 24 }, { length: 13, rate: 0.5, decay: 0 }],
      });
      expect(gradientNorm / torch.norms[step - 1]!).toBeCloseTo(1, 5);
    }
    expect(difference(state.parameters, torch.parameters)).toBeLessThan(2e-6);
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])(
    'rejects a gradient of %s and changes nothing',
    async (bad) => {
      const state = start();
      state.gradients[40_008 + 16_384] = bad;
      const before = structuredClone(state);
      await expect(adamw(state, options)).rejects.toMatchObject({
        code: 'INVALID_DATA',
        message: 'The gradient at element 56392 is NaN or infinite',
      });
      expect(state).toEqual(before);
    },
  );

  it('ignores what a frozen group has for gradients', async () => {
    const state = start();
    state.gradients[40_003] = Number.NaN;
    const { gradientNorm } = await adamw(state, options);
    expect(gradientNorm).toBeGreaterThan(0);
    expect(state.gradients[40_003]).toBe(0);
    expect(state.parameters.every(Number.isFinite)).toBe(true);
  });

  it('does not write after an abort', async () => {
    const state = start();
    const before = structuredClone(state);
    await expect(adamw(state, { ...options, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ABORTED',
    });
    expect(state).toEqual(before);
  });

  it('takes nothing at all', async () => {
    const none = () => new Float32Array(0);
    const buffers = { parameters: none(), gradients: none(), first: none(), second: none() };
    expect(await adamw(buffers, { step: 1, rate: 1 })).toEqual({ gradientNorm: 0 });
  });

  it('names what is wrong with its arguments', async () => {
    const state = start();
    const reject = (change: object, message: string, buffers: object = {}) =>
      expect(adamw({ ...state, ...buffers }, { ...options, ...change } as AdamwOptions)).rejects.toThrow(
        message,
      );
    await reject({ step: 0 }, 'Expected an integer of at least 1 for step but received 0');
    await reject({ betas: [0.9, 1] }, 'Expected a number below 1 for betas[1] but received 1');
    await reject(
      { groups: [{ length: 3 }] },
      `Expected groups of ${length} elements together for groups but received 3`,
    );
    await reject({ beta: 1 }, 'for options but received "beta"');
    await reject({ ema: undefined }, 'Expected a decay in options.ema together with buffers.ema');
    await reject({}, `Expected a Float32Array of ${length} for first but received a Float32Array of 3`, {
      first: new Float32Array(3),
    });
    await reject({}, 'Expected memory apart from that of first for second', { second: state.first });
  });
});

const torch = {
  losses: [
    63.67539978027344, 58.97785949707031, 54.5922966003418, 50.50828552246094, 46.718971252441406,
    43.21556091308594, 39.985443115234375, 37.01199722290039, 34.27602767944336, 31.757003784179688,
    29.434791564941406, 27.290969848632812, 25.309776306152344, 23.478015899658203, 21.784311294555664,
    20.218263626098633, 18.7700138092041, 17.430177688598633, 16.18970489501953, 15.039796829223633,
  ],
  norms: [
    28.041534423828125, 27.113052368164062, 26.20945930480957, 25.331005096435547, 24.47963523864746,
    23.656888961791992, 22.86322021484375, 22.098209381103516, 21.360965728759766, 20.650108337402344,
    19.963817596435547, 19.300180435180664, 18.657699584960938, 18.035476684570312, 17.432998657226562,
    16.849857330322266, 16.285690307617188, 15.740178108215332, 15.212854385375977, 14.702923774719238,
  ],
  parameters: [
    0.08232595026493073, -0.5674528479576111, -0.37392181158065796, -0.5932731032371521, 0.11125965416431427,
    0.0978812500834465, -0.5418237447738647, 0.04500241205096245, 0.5740432143211365, 0.27812135219573975,
    0.09653239697217941, -0.011920392513275146, 0.021217279136180878, -0.024497993290424347,
    0.17495328187942505, -0.8064799904823303, -0.3812668025493622, -0.43689239025115967, -0.3376210927963257,
    -0.39266136288642883, -0.3452383279800415, 0.32977452874183655, -0.03692130744457245, 0.05382038280367851,
    -0.8591802716255188, -0.11132124811410904, 0.11688842624425888, 0.2835213541984558, 0.07813939452171326,
    0.14679260551929474, 0.45747578144073486, 0.19387443363666534, 0.005422788672149181, 0.5904728770256042,
    0.5631595253944397, 0.42006731033325195, -0.703914999961853,
  ],
};
