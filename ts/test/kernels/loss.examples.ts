import type { LossInputs } from '../../src/kernels/loss.ts';
import type { Matrix } from '../../src/kernels/rows.ts';
import { type LossReferenceInputs, type LossReferenceOptions, rows64 } from '../reference/loss.ts';
import { sequence } from '../reference/sequence.ts';

export interface Shape {
  batch: number;
  dim: number;
  teacherDim: number;
  clusters: number;
  projected: boolean;
}

export const matrix = (rows: number, dim: number, seed: number): Matrix & { data: Float32Array } => ({
  data: sequence(rows * dim, seed),
  rows,
  dim,
});

/** Inputs of every term. Students lean towards their teachers, so that the softmaxes are neither flat nor one-hot. */
export function example(
  { batch, dim, teacherDim, clusters, projected }: Shape,
  seed = 1,
): Required<Omit<LossInputs, 'softTargets' | 'sample' | 'centroids'>> & {
  centroids: Matrix;
  sample?: Int32Array;
} {
  const image = matrix(batch, dim, seed);
  const text = matrix(batch, dim, seed + 1);
  const teacherImage = matrix(batch, teacherDim, seed + 2);
  const teacherText = matrix(batch, teacherDim, seed + 3);
  const centroids = matrix(clusters, teacherDim, seed + 4);
  const labels = sequence(batch, seed + 5).map((x) => Math.floor(((x + 1) / 2) * clusters));
  for (let i = 0; i < batch; i++) {
    for (let k = 0; k < dim; k++) text.data[i * dim + k]! += image.data[i * dim + k]!;
    for (let k = 0; k < teacherDim; k++) {
      const at = i * teacherDim + k;
      teacherImage.data[at]! +=
        centroids.data[labels[i]! * teacherDim + k]! + (image.data[i * dim + (k % dim)] ?? 0);
      teacherText.data[at]! += teacherImage.data[at]!;
    }
  }
  return {
    image,
    text,
    teacherImage,
    teacherText,
    centroids,
    labels: Int32Array.from(labels),
    clipLogScale: 2,
    instanceLogScale: 2.5,
    ...(projected
      ? {
          imageProjection: matrix(dim, teacherDim, seed + 6),
          textProjection: matrix(dim, teacherDim, seed + 7),
        }
      : {}),
  } as ReturnType<typeof example>;
}

export const options: Required<Omit<LossReferenceOptions, never>> = {
  clipWeight: 0.7,
  ceWeight: 0.9,
  klWeight: 1.3,
  instanceWeight: 1.1,
  temperature: 0.1,
  teacherTemperature: 0.07,
  pairing: 'same',
};

export const convert = (value: Matrix | undefined) =>
  value === undefined ? undefined : rows64(value.data, value.rows, value.dim);

/** Of inputs that are in memory. */
export function toReference(inputs: LossInputs): LossReferenceInputs {
  const out: Record<string, unknown> = { ...inputs };
  for (const name of [
    'image',
    'text',
    'teacherImage',
    'teacherText',
    'imageProjection',
    'textProjection',
    'centroids',
  ] as const) {
    if (inputs[name] !== undefined) out[name] = convert(inputs[name] as Matrix);
  }
  return out as unknown as LossReferenceInputs;
}

export const TERMS = ['total', 'clip', 'clusterCe', 'clusterKl', 'instance'] as const;
export const SCALES = ['clipLogScale', 'instanceLogScale'] as const;
export const GRADIENTS = ['image', 'text', 'imageProjection', 'textProjection', 'centroids'] as const;
