import type { Schedule } from './types.ts';

/**
 * Learning rate of an optimiser step, counted from 1: linear from 0 over the warm-up, then a cosine that reaches `finalRate`
 * with the last step.
 */
export function learningRate(schedule: Schedule, step: number): number {
  const { rate, warmup, steps, finalRate = 0 } = schedule;
  if (step <= warmup) return (rate * step) / warmup;
  const share = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  return finalRate + (rate - finalRate) * 0.5 * (1 + Math.cos(Math.PI * share));
}
