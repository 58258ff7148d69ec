import type { Dataset } from '../data/dataset.ts';

/** What an image is for: to learn from, to choose by (checkpoints, settings), or to measure on. */
export type Split = 'train' | 'validation' | 'test';

/** How people scored an image. */
export interface ScoreLabel {
  /** [K] share of the raters in each bin; not negative, and summing to 1. */
  readonly distribution: Float64Array;
  /** Mean score in the unit of the bins' centres: as published where the source has it, or else the mean of the distribution. */
  readonly score: number;
}

/**
 * Images with score distributions by index. `hash` also covers labels, bins and splits; `captions` of the items are empty.
 * A set may hold images that nobody scored.
 */
export interface ScoredDataset extends Dataset {
  /** [K] scores that the bins stand for, ascending, at least 2: 1 to 10 for AVA, 1 to 5 in halves for PARA. */
  readonly centres: readonly number[];
  /** Undefined for an image without a label. */
  label(index: number): ScoreLabel | undefined;
  /** Undefined where neither the source nor the options say. */
  split(index: number): Split | undefined;
}

/** Score distributions of N images: what a scorer gives, and what metrics compare. */
export interface ScoreDistributions {
  /** [K], ascending. */
  readonly centres: readonly number[];
  /** [N, K], row-major; a row is not negative and sums to 1. */
  readonly distributions: Float32Array;
}
