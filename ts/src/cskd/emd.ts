import { failRange } from '../native/check.ts';

/** Which distance between score distributions a loss uses. */
export type EmdForm =
  /** Mean over the bins of the squared differences of the cumulative shares: the squared earth mover's distance. */
  | 'squared'
  /** The square root of that for each row, as NIMA trains with. */
  | 'root';

export interface EmdLoss {
  /** Mean over the rows, each by its weight. */
  readonly value: number;
  /** [B, K] gradient of `value` with respect to the logits. */
  readonly gradient: Float32Array;
}

/**
 * Earth mover's distance between predicted and given score distributions, and its gradient. With p = softmax(logits) and the
 * differences d of the cumulative shares of p and of the target, a row costs (1/K) Σ d², or the root of it. The bins count as
 * equally far apart, as in NIMA (Talebi and Milanfar, 2018) and in Hou, Yu and Samaras (2016), who have the squared form.
 *
 * @param logits [B, K].
 * @param targets [B, K] rows that sum to 1; constant, no gradient goes to them.
 * @param weights [B] factor on each row, 1 when not given. The sum is divided by B in any case, so that rows of weight 0 lower
 *   the whole instead of raising the others.
 */
export function emdLoss(
  logits: ArrayLike<number>,
  targets: ArrayLike<number>,
  bins: number,
  form: EmdForm = 'squared',
  weights?: ArrayLike<number>,
): EmdLoss {
  const rows = logits.length / bins;
  if (!Number.isInteger(rows)) failRange(`rows of ${bins} logits`, 'logits', logits);
  if (targets.length !== logits.length) failRange(`${logits.length} shares`, 'targets', targets);
  if (weights && weights.length !== rows) failRange(`${rows} weights`, 'weights', weights);
  const gradient = new Float32Array(logits.length);
  const p = new Float64Array(bins);
  const dp = new Float64Array(bins);
  let total = 0;
  for (let i = 0; i < rows; i++) {
    const weight = weights ? weights[i]! : 1;
    if (weight === 0) continue;
    const at = i * bins;
    softmaxRow(logits, at, p);
    let cumulative = 0;
    let square = 0;
    for (let k = 0; k < bins; k++) {
      cumulative += p[k]! - targets[at + k]!;
      dp[k] = cumulative;
      square += cumulative * cumulative;
    }
    square /= bins;
    const row = form === 'squared' ? square : Math.sqrt(square);
    total += weight * row;
    // At its minimum the root has no derivative; 0 is the one that stays there.
    const outer = form === 'squared' ? 1 : row > 0 ? 0.5 / row : 0;
    // A share counts in the cumulative shares of its own bin and of all behind it.
    let behind = 0;
    let mean = 0;
    for (let k = bins - 1; k >= 0; k--) {
      behind += dp[k]!;
      dp[k] = behind;
      mean += behind * p[k]!;
    }
    const scale = (weight * outer * 2) / (bins * rows);
    for (let k = 0; k < bins; k++) gradient[at + k] = scale * p[k]! * (dp[k]! - mean);
  }
  return { value: rows > 0 ? total / rows : 0, gradient };
}

/** Softmax of each row of [B, K] logits. */
export function softmaxRows(logits: ArrayLike<number>, bins: number): Float32Array {
  const result = new Float32Array(logits.length);
  const p = new Float64Array(bins);
  for (let at = 0; at < logits.length; at += bins) {
    softmaxRow(logits, at, p);
    result.set(p, at);
  }
  return result;
}

function softmaxRow(logits: ArrayLike<number>, at: number, out: Float64Array): void {
  let top = Number.NEGATIVE_INFINITY;
  for (let k = 0; k < out.length; k++) top = Math.max(top, logits[at + k]!);
  let sum = 0;
  for (let k = 0; k < out.length; k++) sum += out[k] = Math.exp(logits[at + k]! - top);
  for (let k = 0; k < out.length; k++) out[k]! /= sum;
}
