/**
 * The three-part loss in float64 as its equations stand, with whole logit matrices. What the kernels are held against; its own
 * gradients are held against finite differences of its value.
 */

/** Row-major. */
export interface Rows64 {
  data: Float64Array;
  rows: number;
  dim: number;
}

export interface LossReferenceInputs {
  image: Rows64;
  text: Rows64;
  teacherImage?: Rows64;
  teacherText?: Rows64;
  /** [Ds, Dt]. */
  imageProjection?: Rows64;
  textProjection?: Rows64;
  clipLogScale?: number;
  instanceLogScale?: number;
  centroids?: Rows64;
  /** What the teacher's softmax is over; `centroids` when absent. For differences of the centres, which P does not follow. */
  teacherCentroids?: Rows64;
  labels?: Int32Array;
  sample?: Int32Array;
}

export interface LossReferenceOptions {
  clipWeight: number;
  ceWeight: number;
  klWeight: number;
  instanceWeight: number;
  temperature: number;
  teacherTemperature: number;
  pairing: 'same' | 'cross' | 'both';
}

export interface LossReferenceResult {
  total: number;
  clip: number;
  clusterCe: number;
  clusterKl: number;
  instance: number;
  image: Float64Array;
  text: Float64Array;
  clipLogScale: number;
  instanceLogScale: number;
  imageProjection?: Float64Array;
  textProjection?: Float64Array;
  /** [K, Dt]. */
  centroids?: Float64Array;
}

const zeros = (rows: number, dim: number): Rows64 => ({ data: new Float64Array(rows * dim), rows, dim });

export const rows64 = (data: ArrayLike<number>, rows: number, dim: number): Rows64 => ({
  data: Float64Array.from(data),
  rows,
  dim,
});

/** out[M, N] += factor · a[M, D] · b[N, D]ᵀ */
function addTimesTransposed(out: Rows64, a: Rows64, b: Rows64, factor: number): void {
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < b.rows; j++) {
      let sum = 0;
      for (let k = 0; k < a.dim; k++) sum += a.data[i * a.dim + k]! * b.data[j * b.dim + k]!;
      out.data[i * out.dim + j]! += factor * sum;
    }
  }
}

function transpose(a: Rows64): Rows64 {
  const out = zeros(a.dim, a.rows);
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < a.dim; j++) out.data[j * a.rows + i] = a.data[i * a.dim + j]!;
  }
  return out;
}

function normalise(raw: Rows64): { unit: Rows64; norms: Float64Array } {
  const unit = zeros(raw.rows, raw.dim);
  const norms = new Float64Array(raw.rows);
  for (let i = 0; i < raw.rows; i++) {
    norms[i] = Math.hypot(...raw.data.subarray(i * raw.dim, (i + 1) * raw.dim));
    for (let k = 0; k < raw.dim; k++) unit.data[i * raw.dim + k] = raw.data[i * raw.dim + k]! / norms[i]!;
  }
  return { unit, norms };
}

/** Gradient of the raw rows from that of the unit rows: (g − (g·u) u) / norm. */
function throughNormalise(gradient: Rows64, unit: Rows64, norms: Float64Array): Rows64 {
  const out = zeros(unit.rows, unit.dim);
  for (let i = 0; i < unit.rows; i++) {
    const at = i * unit.dim;
    let along = 0;
    for (let k = 0; k < unit.dim; k++) along += gradient.data[at + k]! * unit.data[at + k]!;
    for (let k = 0; k < unit.dim; k++) {
      out.data[at + k] = (gradient.data[at + k]! - along * unit.data[at + k]!) / norms[i]!;
    }
  }
  return out;
}

/** Softmax of each row and the log of its denominator. */
function softmax(z: Rows64): { p: Rows64; lse: Float64Array } {
  const p = zeros(z.rows, z.dim);
  const lse = new Float64Array(z.rows);
  for (let i = 0; i < z.rows; i++) {
    const row = z.data.subarray(i * z.dim, (i + 1) * z.dim);
    const max = row.reduce((a, b) => Math.max(a, b), -Infinity);
    lse[i] = max + Math.log(row.reduce((sum, value) => sum + Math.exp(value - max), 0));
    row.forEach((value, j) => {
      p.data[i * z.dim + j] = Math.exp(value - lse[i]!);
    });
  }
  return { p, lse };
}

/** Mean cross-entropy of the rows of z against `labels`, and its gradient. */
function crossEntropy(z: Rows64, labels: ArrayLike<number>): { value: number; gradient: Rows64 } {
  const { p, lse } = softmax(z);
  let value = 0;
  for (let i = 0; i < z.rows; i++) {
    value += (lse[i]! - z.data[i * z.dim + labels[i]!]!) / z.rows;
    p.data[i * z.dim + labels[i]!]! -= 1;
  }
  p.data.forEach((x, index) => {
    p.data[index] = x / z.rows;
  });
  return { value, gradient: p };
}

const accumulate = (into: Rows64, from: Rows64, factor = 1): void =>
  from.data.forEach((value, index) => {
    into.data[index]! += factor * value;
  });

export function lossReference(
  inputs: LossReferenceInputs,
  options: LossReferenceOptions,
): LossReferenceResult {
  const batch = inputs.image.rows;
  const diagonal = Int32Array.from({ length: batch }, (_, i) => i);
  const result = { clip: 0, clusterCe: 0, clusterKl: 0, instance: 0, clipLogScale: 0, instanceLogScale: 0 };
  const image = normalise(inputs.image);
  const text = normalise(inputs.text);
  const imageGradient = zeros(batch, inputs.image.dim);
  const textGradient = zeros(batch, inputs.text.dim);

  /** InfoNCE of x against y with the matching row as target; adds weighted gradients, returns the value and d/d(log scale). */
  const contrast = (
    x: Rows64,
    y: Rows64,
    logScale: number,
    weight: number,
    columns: boolean,
    dx: Rows64,
    dy?: Rows64,
  ): { value: number; logScale: number } => {
    const scale = Math.exp(logScale);
    const z = zeros(batch, batch);
    addTimesTransposed(z, x, y, scale);
    const byRow = crossEntropy(z, diagonal);
    let value = byRow.value;
    const dz = zeros(batch, batch);
    accumulate(dz, byRow.gradient, columns ? 0.5 : 1);
    if (columns) {
      const byColumn = crossEntropy(transpose(z), diagonal);
      value = (value + byColumn.value) / 2;
      accumulate(dz, transpose(byColumn.gradient), 0.5);
    }
    addTimesTransposed(dx, dz, transpose(y), weight * scale);
    if (dy) addTimesTransposed(dy, transpose(dz), transpose(x), weight * scale);
    return { value, logScale: weight * dz.data.reduce((sum, g, index) => sum + g * z.data[index]!, 0) };
  };

  if (options.clipWeight > 0) {
    const dx = zeros(batch, inputs.image.dim);
    const dy = zeros(batch, inputs.text.dim);
    const term = contrast(image.unit, text.unit, inputs.clipLogScale!, options.clipWeight, true, dx, dy);
    result.clip = term.value;
    result.clipLogScale = term.logScale;
    accumulate(imageGradient, throughNormalise(dx, image.unit, image.norms));
    accumulate(textGradient, throughNormalise(dy, text.unit, text.norms));
  }

  const projected = (raw: Rows64, projection?: Rows64) => {
    if (!projection) return normalise(raw);
    const out = zeros(raw.rows, projection.dim);
    addTimesTransposed(out, raw, transpose(projection), 1);
    return normalise(out);
  };
  const useCluster = options.ceWeight > 0 || options.klWeight > 0;
  const useInstance = options.instanceWeight > 0;
  const out: LossReferenceResult = {
    total: 0,
    ...result,
    image: imageGradient.data,
    text: textGradient.data,
  };
  if (useCluster || useInstance) {
    const s = projected(inputs.image, inputs.imageProjection);
    const sText = projected(inputs.text, inputs.textProjection);
    const ds = zeros(batch, s.unit.dim);
    const dsText = zeros(batch, sText.unit.dim);

    if (useCluster) {
      const { centroids, labels } = inputs;
      const sample = inputs.sample ?? Int32Array.from({ length: centroids!.rows }, (_, j) => j);
      const choose = (all: Rows64): Rows64 => {
        const chosen = zeros(sample.length, all.dim);
        sample.forEach((centre, j) => {
          chosen.data.set(all.data.subarray(centre * all.dim, (centre + 1) * all.dim), j * all.dim);
        });
        return chosen;
      };
      const c = normalise(choose(centroids!));
      const { dim } = centroids!;
      const target = labels!.map((label) => sample.indexOf(label));
      const z = zeros(batch, sample.length);
      addTimesTransposed(z, s.unit, c.unit, 1 / options.temperature);
      const dz = zeros(batch, sample.length);
      const ce = crossEntropy(z, target);
      if (options.ceWeight > 0) {
        out.clusterCe = ce.value;
        accumulate(dz, ce.gradient, options.ceWeight);
      }
      if (options.klWeight > 0) {
        const zTeacher = zeros(batch, sample.length);
        addTimesTransposed(
          zTeacher,
          normalise(inputs.teacherImage!).unit,
          normalise(choose(inputs.teacherCentroids ?? centroids!)).unit,
          1 / options.teacherTemperature,
        );
        const p = softmax(zTeacher);
        const q = softmax(z);
        for (let i = 0; i < p.p.data.length; i++) {
          const row = Math.floor(i / sample.length);
          const difference = zTeacher.data[i]! - p.lse[row]! - (z.data[i]! - q.lse[row]!);
          out.clusterKl += (p.p.data[i]! * difference) / batch;
          dz.data[i]! += (options.klWeight * (q.p.data[i]! - p.p.data[i]!)) / batch;
        }
      }
      addTimesTransposed(ds, dz, transpose(c.unit), 1 / options.temperature);
      const dc = zeros(sample.length, dim);
      addTimesTransposed(dc, transpose(dz), transpose(s.unit), 1 / options.temperature);
      const dRaw = throughNormalise(dc, c.unit, c.norms);
      out.centroids = new Float64Array(centroids!.data.length);
      sample.forEach((centre, j) => {
        out.centroids!.set(dRaw.data.subarray(j * dim, (j + 1) * dim), centre * dim);
      });
    }

    if (useInstance) {
      const t = normalise(inputs.teacherImage!).unit;
      const tText = normalise(inputs.teacherText!).unit;
      const logScale = inputs.instanceLogScale!;
      const pairs: [Rows64, Rows64, Rows64, boolean][] = [];
      if (options.pairing !== 'cross') pairs.push([s.unit, t, ds, true], [sText.unit, tText, dsText, true]);
      if (options.pairing !== 'same') pairs.push([s.unit, tText, ds, false], [sText.unit, t, dsText, false]);
      for (const [x, y, dx, columns] of pairs) {
        const term = contrast(x, y, logScale, options.instanceWeight / pairs.length, columns, dx);
        out.instance += term.value / pairs.length;
        out.instanceLogScale += term.logScale;
      }
    }

    const back = (
      raw: Rows64,
      projection: Rows64 | undefined,
      unit: { unit: Rows64; norms: Float64Array },
      d: Rows64,
      into: Rows64,
    ): Float64Array | undefined => {
      const du = throughNormalise(d, unit.unit, unit.norms);
      if (!projection) {
        accumulate(into, du);
        return undefined;
      }
      addTimesTransposed(into, du, projection, 1);
      const gradient = zeros(projection.rows, projection.dim);
      addTimesTransposed(gradient, transpose(raw), transpose(du), 1);
      return gradient.data;
    };
    const projectionGradient = back(inputs.image, inputs.imageProjection, s, ds, imageGradient);
    if (projectionGradient) out.imageProjection = projectionGradient;
    const textProjectionGradient = back(inputs.text, inputs.textProjection, sText, dsText, textGradient);
    if (textProjectionGradient) out.textProjection = textProjectionGradient;
  }
  out.total =
    options.clipWeight * out.clip +
    options.ceWeight * out.clusterCe +
    options.klWeight * out.clusterKl +
    options.instanceWeight * out.instance;
  return out;
}

/** Soft centroids Σ_j softmax_j(t·c_j / temperature) c_j and entropies, of unit rows and unit centres. */
export function softTargetsReference(
  teacher: Rows64,
  centroids: Rows64,
  temperature: number,
): { softCentroids: Float64Array; entropies: Float64Array } {
  const t = normalise(teacher).unit;
  const c = normalise(centroids).unit;
  const z = zeros(t.rows, c.rows);
  addTimesTransposed(z, t, c, 1 / temperature);
  const { p, lse } = softmax(z);
  const softCentroids = zeros(t.rows, c.dim);
  addTimesTransposed(softCentroids, p, transpose(c), 1);
  const entropies = new Float64Array(t.rows);
  p.data.forEach((value, i) => {
    const row = Math.floor(i / c.rows);
    entropies[row]! -= value * (z.data[i]! - lse[row]!);
  });
  return { softCentroids: softCentroids.data, entropies };
}
