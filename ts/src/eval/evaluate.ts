import type { EvaluateOptions, EvaluateResult } from './types.ts';

/** Measures a model folder on a data set. */
export declare function evaluate(options: EvaluateOptions): Promise<EvaluateResult>;
