export interface Spread {
  readonly count: number;
  readonly mean: number;
  /** Standard deviation of the sample (divisor n − 1); 0 for one value. */
  readonly deviation: number;
  readonly min: number;
  readonly max: number;
}

/** Mean and spread of the same figure over seeds. */
export function spread(values: readonly number[]): Spread {
  const count = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const deviation = count > 1 ? Math.sqrt(square / (count - 1)) : 0;
  return { count, mean, deviation, min: Math.min(...values), max: Math.max(...values) };
}
