import type { NativeAdamwOptions } from '../../src/native/addon.ts';

/** Buffers of equal length, updated in place. */
export interface AdamwState {
  parameters: Float64Array;
  gradients: Float64Array;
  first: Float64Array;
  second: Float64Array;
  ema?: Float64Array;
}

/**
 * One AdamW step in float64 (Loshchilov and Hutter, 2019, algorithm 2, with torch's order of operations and its clipping by
 * norm / (norm + 1e-6)). Zeroes the gradients; returns their norm before clipping. A group of rate 0 counts in nothing but the average.
 */
export function adamwReference(state: AdamwState, options: NativeAdamwOptions): number {
  const { parameters, gradients, first, second, ema } = state;
  const { step, beta1, beta2 } = options;
  const ranges: { from: number; to: number; rate: number; decay: number }[] = [];
  let from = 0;
  for (const group of options.groups) {
    const to = from + group.length;
    ranges.push({ from, to, rate: options.rate * group.rate, decay: options.decay * group.decay });
    from = to;
  }
  let squares = 0;
  ranges.forEach((range, index) => {
    if (options.groups[index]!.rate === 0) return;
    for (let i = range.from; i < range.to; i++) squares += gradients[i]! ** 2;
  });
  const norm = Math.sqrt(squares);
  const scale = options.clip > 0 ? Math.min(1, options.clip / (norm + 1e-6)) : 1;
  ranges.forEach((range, index) => {
    const learns = options.groups[index]!.rate !== 0;
    for (let i = range.from; i < range.to; i++) {
      if (learns) {
        const g = gradients[i]! * scale;
        first[i] = beta1 * first[i]! + (1 - beta1) * g;
        second[i] = beta2 * second[i]! + (1 - beta2) * g * g;
        const m = first[i]! / (1 - beta1 ** step);
        const v = second[i]! / (1 - beta2 ** step);
        parameters[i] =
          parameters[i]! * (1 - range.rate * range.decay) -
          (range.rate * m) / (Math.sqrt(v) + options.epsilon);
      }
      gradients[i] = 0;
      if (ema) ema[i] = options.emaDecay * ema[i]! + (1 - options.emaDecay) * parameters[i]!;
    }
  });
  return norm;
}
