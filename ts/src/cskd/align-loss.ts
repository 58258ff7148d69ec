import { failRange } from '../native/check.ts';

/** Weights of what compares a student's features with the frozen ones; a term of weight 0 is not computed. */
export interface AlignWeights {
  /** 1 − cosine. What the paper aligns with. */
  readonly cosine: number;
  /** Mean squared difference of the elements, as the two models give them. */
  readonly mse: number;
  /**
   * Smooth L1 distance, turning at 2, to the frozen feature layer-normalised without scale and shift: the loss of feature
   * distillation (Wei et al., 2022), which has it on the maps of features and not, as here, on those of whole images.
   */
  readonly feature: number;
  /** Kullback-Leibler divergence from the frozen to the student's softmax over the cosines to the other images of the batch. */
  readonly relational: number;
}

export interface AlignLossOptions {
  /** Weights of the terms, each at least 0. */
  readonly weights: AlignWeights;
  /** Temperature of the relational term's softmax. */
  readonly temperature: number;
}

export interface AlignLoss {
  /** Unweighted terms that have weight, and their weighted sum. */
  readonly terms: Readonly<Partial<Record<keyof AlignWeights, number>>> & { readonly total: number };
  /** [B, D] gradient of the total with respect to the student's features. */
  readonly gradient: Float32Array;
}

/** Where smooth L1 turns from a parabola into a line, as published with feature distillation. */
const TURN = 2;
const NORM_EPSILON = 1e-6;

/**
 * Distance of features to the frozen model's of the same images, and its gradient. Each term is a mean over the batch.
 *
 * @param student [B, D] features after the projector.
 * @param frozen [B, D]; constant.
 */
export function alignLoss(
  student: Float32Array,
  frozen: Float32Array,
  dim: number,
  { weights, temperature }: AlignLossOptions,
): AlignLoss {
  const rows = student.length / dim;
  if (!Number.isInteger(rows)) failRange(`rows of ${dim} features`, 'student', student);
  if (frozen.length !== student.length) failRange(`${student.length} features`, 'frozen', frozen);
  const sum = new Float64Array(student.length);
  const terms: Partial<Record<keyof AlignWeights, number>> = {};
  let total = 0;
  const add = (name: keyof AlignWeights, value: number) => {
    terms[name] = value;
    total += weights[name] * value;
  };
  if (weights.cosine > 0 || weights.relational > 0) {
    const z = unitRows(student, dim);
    const t = unitRows(frozen, dim);
    // Of the unit features; the chain through the norm is the same for both terms.
    const dz = new Float64Array(student.length);
    if (weights.cosine > 0) add('cosine', cosine(z.unit, t.unit, rows, weights.cosine, dz));
    if (weights.relational > 0) {
      add('relational', relational(z.unit, t.unit, dim, temperature, weights.relational, dz));
    }
    throughNorm(z, dz, dim, sum);
  }
  if (weights.mse > 0) add('mse', meanSquare(student, frozen, weights.mse, sum));
  if (weights.feature > 0) {
    add('feature', smoothDistance(student, layerNorm(frozen, dim), weights.feature, sum));
  }
  return { terms: { ...terms, total }, gradient: Float32Array.from(sum) };
}

interface Unit {
  readonly unit: Float64Array;
  /** 1 / norm of each row; 0 for a row of zeros. */
  readonly inverse: Float64Array;
}

function unitRows(rows: Float32Array, dim: number): Unit {
  const unit = Float64Array.from(rows);
  const inverse = new Float64Array(rows.length / dim);
  for (let i = 0; i < inverse.length; i++) {
    let square = 0;
    for (let k = i * dim; k < (i + 1) * dim; k++) square += unit[k]! * unit[k]!;
    inverse[i] = square > 0 ? 1 / Math.sqrt(square) : 0;
    for (let k = i * dim; k < (i + 1) * dim; k++) unit[k]! *= inverse[i]!;
  }
  return { unit, inverse };
}

/** Adds to `sum` the gradient of the rows before they were normalised. */
function throughNorm({ unit, inverse }: Unit, dz: Float64Array, dim: number, sum: Float64Array): void {
  for (let i = 0; i < inverse.length; i++) {
    let along = 0;
    for (let k = i * dim; k < (i + 1) * dim; k++) along += dz[k]! * unit[k]!;
    for (let k = i * dim; k < (i + 1) * dim; k++) sum[k]! += (dz[k]! - along * unit[k]!) * inverse[i]!;
  }
}

function cosine(z: Float64Array, t: Float64Array, rows: number, weight: number, dz: Float64Array): number {
  let dots = 0;
  for (let k = 0; k < z.length; k++) {
    dots += z[k]! * t[k]!;
    dz[k]! -= (weight / rows) * t[k]!;
  }
  return 1 - dots / rows;
}

/** The cosine to an image itself is 1 in both models and says nothing, so the diagonal is left out. */
function relational(
  z: Float64Array,
  t: Float64Array,
  dim: number,
  temperature: number,
  weight: number,
  dz: Float64Array,
): number {
  const rows = z.length / dim;
  if (rows < 2) failRange('at least 2 rows for the relational term', 'student', z);
  const p = otherSoftmax(t, dim, temperature);
  const q = otherSoftmax(z, dim, temperature);
  let divergence = 0;
  const scale = weight / (rows * temperature);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < rows; j++) {
      if (i === j) continue;
      const share = Math.exp(p[i * rows + j]!);
      divergence += share * (p[i * rows + j]! - q[i * rows + j]!);
      // A cosine is of two rows, and moves both.
      const slope = scale * (Math.exp(q[i * rows + j]!) - share);
      for (let k = 0; k < dim; k++) {
        dz[i * dim + k]! += slope * z[j * dim + k]!;
        dz[j * dim + k]! += slope * z[i * dim + k]!;
      }
    }
  }
  return divergence / rows;
}

/** [B, B] logarithm of the softmax of each row's cosines to the others over the temperature; the diagonal means nothing. */
function otherSoftmax(unit: Float64Array, dim: number, temperature: number): Float64Array {
  const rows = unit.length / dim;
  const logits = new Float64Array(rows * rows);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < i; j++) {
      let dot = 0;
      for (let k = 0; k < dim; k++) dot += unit[i * dim + k]! * unit[j * dim + k]!;
      logits[i * rows + j] = logits[j * rows + i] = dot / temperature;
    }
  }
  for (let i = 0; i < rows; i++) {
    let top = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < rows; j++) if (j !== i) top = Math.max(top, logits[i * rows + j]!);
    let sum = 0;
    for (let j = 0; j < rows; j++) if (j !== i) sum += Math.exp(logits[i * rows + j]! - top);
    const all = top + Math.log(sum);
    for (let j = 0; j < rows; j++) logits[i * rows + j]! -= all;
  }
  return logits;
}

function meanSquare(z: Float32Array, t: Float32Array, weight: number, sum: Float64Array): number {
  let square = 0;
  for (let k = 0; k < z.length; k++) {
    const difference = z[k]! - t[k]!;
    square += difference * difference;
    sum[k]! += (2 * weight * difference) / z.length;
  }
  return square / z.length;
}

function layerNorm(rows: Float32Array, dim: number): Float64Array {
  const normed = new Float64Array(rows.length);
  for (let from = 0; from < rows.length; from += dim) {
    let mean = 0;
    for (let k = from; k < from + dim; k++) mean += rows[k]!;
    mean /= dim;
    let variance = 0;
    for (let k = from; k < from + dim; k++) variance += (rows[k]! - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / dim + NORM_EPSILON);
    for (let k = from; k < from + dim; k++) normed[k] = (rows[k]! - mean) * scale;
  }
  return normed;
}

function smoothDistance(z: Float32Array, target: Float64Array, weight: number, sum: Float64Array): number {
  let distance = 0;
  for (let k = 0; k < z.length; k++) {
    const difference = z[k]! - target[k]!;
    const size = Math.abs(difference);
    const near = size < TURN;
    distance += near ? (size * size) / (2 * TURN) : size - TURN / 2;
    sum[k]! += (weight * (near ? difference / TURN : Math.sign(difference))) / z.length;
  }
  return distance / z.length;
}
