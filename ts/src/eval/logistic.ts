import { type MinimiseOptions, type Minimum, minimise } from './lbfgs.ts';

/** Features and classes of a multinomial logistic regression. */
export interface LogisticData {
  /** [rows, dim]. */
  readonly features: Float64Array;
  readonly rows: number;
  readonly dim: number;
  /** [rows], 0 to classes − 1. */
  readonly labels: Int32Array;
  readonly classes: number;
}

/**
 * Mean cross-entropy of softmax(x W + b) plus l2/2 · ‖W‖²; the bias b is not penalised. Parameters are W, [dim, classes], then b.
 * Returns the value and writes the gradient, of the parameters' shape.
 */
export function logisticLoss(
  data: LogisticData,
  l2: number,
  parameters: Float64Array,
  gradient: Float64Array,
): number {
  const { features, rows, dim, labels, classes } = data;
  const bias = dim * classes;
  // Sums over rows, then one division: four rows at a time, so that a row of W or of the gradient is read once for four.
  gradient.fill(0);
  const scores = new Float64Array(4 * classes);
  let loss = 0;
  for (let first = 0; first < rows; first += 4) {
    const count = Math.min(4, rows - first);
    logits(data, parameters, first, count, scores);
    for (let r = 0; r < count; r++) loss += softmaxInPlace(scores, r * classes, classes, labels[first + r]!);
    // Rows that are not there add nothing.
    scores.fill(0, count * classes);
    const [p0, p1, p2, p3] = [0, classes, 2 * classes, 3 * classes];
    const at = (r: number) => Math.min(first + r, rows - 1) * dim;
    const [x0, x1, x2, x3] = [at(0), at(1), at(2), at(3)];
    for (let d = 0; d < dim; d++) {
      const [f0, f1, f2, f3] = [features[x0 + d]!, features[x1 + d]!, features[x2 + d]!, features[x3 + d]!];
      const row = d * classes;
      for (let c = 0; c < classes; c++) {
        gradient[row + c]! +=
          f0 * scores[p0 + c]! + f1 * scores[p1 + c]! + f2 * scores[p2 + c]! + f3 * scores[p3 + c]!;
      }
    }
    for (let c = 0; c < classes; c++) {
      gradient[bias + c]! += scores[p0 + c]! + scores[p1 + c]! + scores[p2 + c]! + scores[p3 + c]!;
    }
  }
  let penalty = 0;
  for (let i = 0; i < gradient.length; i++) {
    gradient[i]! /= rows;
    if (i < bias) {
      gradient[i]! += l2 * parameters[i]!;
      penalty += parameters[i]! * parameters[i]!;
    }
  }
  return loss / rows + 0.5 * l2 * penalty;
}

/** x W + b of `count` rows from `first` on into `scores`, [4, classes]. */
function logits(
  { features, dim, classes }: LogisticData,
  parameters: Float64Array,
  first: number,
  count: number,
  scores: Float64Array,
): void {
  const bias = dim * classes;
  for (let r = 0; r < count; r++) {
    const to = r * classes;
    for (let c = 0; c < classes; c++) scores[to + c] = parameters[bias + c]!;
    const from = (first + r) * dim;
    let d = 0;
    for (; d + 4 <= dim; d += 4) {
      const [f0, f1, f2, f3] = [
        features[from + d]!,
        features[from + d + 1]!,
        features[from + d + 2]!,
        features[from + d + 3]!,
      ];
      const w0 = d * classes;
      const w1 = w0 + classes;
      const w2 = w1 + classes;
      const w3 = w2 + classes;
      for (let c = 0; c < classes; c++) {
        scores[to + c]! +=
          f0 * parameters[w0 + c]! +
          f1 * parameters[w1 + c]! +
          f2 * parameters[w2 + c]! +
          f3 * parameters[w3 + c]!;
      }
    }
    for (; d < dim; d++) {
      const f = features[from + d]!;
      for (let c = 0; c < classes; c++) scores[to + c]! += f * parameters[d * classes + c]!;
    }
  }
}

/** Scores become softmax minus one-hot, the gradient of the cross-entropy that is returned. */
function softmaxInPlace(scores: Float64Array, at: number, classes: number, label: number): number {
  let most = Number.NEGATIVE_INFINITY;
  for (let c = 0; c < classes; c++) most = Math.max(most, scores[at + c]!);
  let sum = 0;
  const target = scores[at + label]! - most;
  for (let c = 0; c < classes; c++) sum += scores[at + c] = Math.exp(scores[at + c]! - most);
  for (let c = 0; c < classes; c++) scores[at + c]! /= sum;
  scores[at + label]! -= 1;
  return Math.log(sum) - target;
}

/** Parameters of the least regularised loss, from `start` or from 0. */
export function fitLogistic(
  data: LogisticData,
  l2: number,
  start?: Float64Array,
  options?: MinimiseOptions,
): Minimum {
  const parameters = start ?? new Float64Array((data.dim + 1) * data.classes);
  return minimise((x, gradient) => logisticLoss(data, l2, x, gradient), parameters, options);
}

/** Class with the largest score for each row; ties go to the smaller class. */
export function predictLogistic(
  data: Pick<LogisticData, 'features' | 'rows' | 'dim' | 'classes'>,
  parameters: Float64Array,
): Int32Array {
  const labels = new Int32Array(data.rows);
  const scores = new Float64Array(4 * data.classes);
  for (let row = 0; row < data.rows; row++) {
    logits({ ...data, labels }, parameters, row, 1, scores);
    let best = 0;
    for (let c = 1; c < data.classes; c++) if (scores[c]! > scores[best]!) best = c;
    labels[row] = best;
  }
  return labels;
}
