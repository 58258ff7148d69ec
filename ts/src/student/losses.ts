import type { Encoder } from '../encoder/encoder.ts';
import {
  clusterInstanceLoss,
  type LossInputs,
  type LossOptions,
  type SoftTargets,
  sampleCentres,
} from '../kernels/loss.ts';
import { type DeviceMatrix, type Matrix, upload } from '../kernels/rows.ts';
import type { KernelOptions } from '../native/context.ts';
import type { Tensors } from '../program/executor.ts';
import type { ImageTextBatch } from './batches.ts';
import { HEADS } from './heads.ts';
import { oncePerBatch } from './optimise.ts';
import { float32, pickRows } from './tensors.ts';
import type { Loss, TowerOutputs } from './types.ts';

/** Weights of the terms; a term of weight 0 is not computed. */
export interface TermWeights {
  readonly clip: number;
  readonly clusterCe: number;
  readonly clusterKl: number;
  readonly instance: number;
}

/** The teacher's embeddings of a batch, [B, Dt] each. */
export type Targets = (
  batch: ImageTextBatch,
  signal?: AbortSignal,
) => Promise<{ image: Float32Array; text: Float32Array }>;

export interface CidLossOptions {
  readonly weights: TermWeights;
  /** Width of the student's embeddings. */
  readonly dim: number;
  /** Width of the teacher's; needed for any term but CLIP's. */
  readonly teacherDim?: number;
  readonly targets?: Targets;
  /** For the cluster terms. */
  readonly clusters?: {
    /** [K, Dt]. */
    readonly centroids: Matrix;
    /** Centre of each place in the list of training items. */
    readonly labels: Int32Array;
    /** The centres are the parameter `heads.centroids`. */
    readonly learned: boolean;
    /** Share of the centres in a step; 1 for all. */
    readonly sampleRate: number;
    /** The teacher's side over all centres for each place, instead of a pass in every step. */
    readonly soft?: SoftTargets;
  };
  readonly temperature: number;
  readonly teacherTemperature: number;
  readonly pairing: 'same' | 'cross' | 'both';
  readonly seed: number;
  /** Device and threads of the loss. */
  readonly kernel?: KernelOptions;
}

/** The CLIP loss alone: `outputs.heads` holds its `logit_scale`. */
export function clipLoss(options: Pick<CidLossOptions, 'dim' | 'kernel'>): Loss<ImageTextBatch> {
  return cidLoss({
    ...options,
    weights: { clip: 1, clusterCe: 0, clusterKl: 0, instance: 0 },
    temperature: 1,
    teacherTemperature: 1,
    pairing: 'same',
    seed: 0,
  });
}

/** CLIP, cluster and instance terms of {@link clusterInstanceLoss} over the towers' and heads' outputs. */
export function cidLoss(options: CidLossOptions): Loss<ImageTextBatch> {
  const { weights, dim, teacherDim, clusters } = options;
  const distils = weights.clusterCe > 0 || weights.clusterKl > 0 || weights.instance > 0;
  const clustered = weights.clusterCe > 0 || weights.clusterKl > 0;
  // On a GPU centres that do not learn stay from step to step.
  const onDevice = options.kernel?.device?.startsWith('cuda') ?? false;
  let resident: Promise<DeviceMatrix> | undefined;
  const frozen = (centroids: Matrix): Promise<DeviceMatrix> | Matrix => {
    if (!onDevice) return centroids;
    resident ??= upload(centroids, { device: options.kernel!.device! });
    return resident;
  };

  return async (outputs, batch) => {
    const image = outputs.image!.image_embeds!.data as Float32Array;
    const text = outputs.text!.text_embeds!.data as Float32Array;
    const rows = batch.places.length;
    const head = headsOf(outputs);
    const matrix = (data: Float32Array, width: number): Matrix => ({
      data,
      rows: data.length / width,
      dim: width,
    });
    const inputs: { -readonly [K in keyof LossInputs]: LossInputs[K] } = {
      image: matrix(image, dim),
      text: matrix(text, dim),
    };
    const kernel: LossOptions = {
      ...options.kernel,
      clipWeight: weights.clip,
      ceWeight: weights.clusterCe,
      klWeight: weights.clusterKl,
      instanceWeight: weights.instance,
      temperature: options.temperature,
      teacherTemperature: options.teacherTemperature,
      pairing: options.pairing,
    };
    if (weights.clip > 0) inputs.clipLogScale = head('logit_scale')![0]!;
    if (distils) {
      const width = teacherDim!;
      const targets = await options.targets!(batch);
      inputs.teacherImage = matrix(targets.image, width);
      inputs.teacherText = matrix(targets.text, width);
      const imageProjection = head('image_projection');
      const textProjection = head('text_projection');
      if (imageProjection) inputs.imageProjection = matrix(imageProjection, width);
      if (textProjection) inputs.textProjection = matrix(textProjection, width);
      if (weights.instance > 0) inputs.instanceLogScale = head('instance_scale')![0]!;
    }
    if (clustered && clusters) {
      const labels = Int32Array.from(batch.places, (place) => clusters.labels[place]!);
      inputs.labels = labels;
      inputs.centroids = clusters.learned
        ? matrix(head('centroids')!, teacherDim!)
        : await frozen(clusters.centroids);
      const all = clusters.centroids.rows;
      if (clusters.sampleRate < 1) {
        const { seed } = options;
        inputs.sample = sampleCentres({
          clusters: all,
          labels,
          rate: clusters.sampleRate,
          seed,
          step: batch.step,
        });
      } else if (clusters.soft && !clusters.learned) {
        inputs.softTargets = pick(clusters.soft, batch.places, teacherDim!);
      }
    }
    const result = await clusterInstanceLoss(inputs, {
      ...kernel,
      learnedCentroids: clusters?.learned ?? false,
    });
    const { gradients } = result;
    const parameterGradients: Record<string, Float32Array> = {};
    const give = (name: string, value: Float32Array | undefined) => {
      if (value) parameterGradients[`${HEADS}.${name}`] = value;
    };
    if (weights.clip > 0) give('logit_scale', Float32Array.of(gradients.clipLogScale));
    if (weights.instance > 0) give('instance_scale', Float32Array.of(gradients.instanceLogScale));
    give('image_projection', gradients.imageProjection);
    give('text_projection', gradients.textProjection);
    if (clusters?.learned) give('centroids', gradients.centroids);
    return {
      terms: {
        total: result.total,
        ...(weights.clip > 0 && { clip: result.clip }),
        ...(weights.clusterCe > 0 && { clusterCe: result.clusterCe }),
        ...(weights.clusterKl > 0 && { clusterKl: result.clusterKl }),
        ...(weights.instance > 0 && { instance: result.instance }),
      },
      gradients: {
        image: { image_embeds: float32(gradients.image, [rows, dim]) },
        text: { text_embeds: float32(gradients.text, [rows, dim]) },
      },
      parameterGradients,
    };
  };
}

function headsOf(outputs: TowerOutputs): (name: string) => Float32Array | undefined {
  const heads: Tensors = outputs[HEADS] ?? {};
  return (name) => heads[name]?.data as Float32Array | undefined;
}

function pick(soft: SoftTargets, places: Int32Array, dim: number): SoftTargets {
  return {
    softCentroids: pickRows(soft.softCentroids, places, dim),
    entropies: pickRows(soft.entropies, places, 1),
  };
}

/** The teacher's embeddings computed before: `image` [places, Dt], `text` [texts, Dt] of the caption table. */
export function cachedTargets(image: Float32Array, text: Float32Array, dim: number): Targets {
  return async ({ places, texts }) => ({
    image: pickRows(image, places, dim),
    text: pickRows(text, texts, dim),
  });
}

/** The teacher run on the views that the student sees; captions are the same in every view, so theirs come from before. */
export function onlineTargets(teacher: Encoder, text: Float32Array): Targets {
  return oncePerBatch(async ({ views, texts }, signal) => ({
    image: await teacher.embedImages(views!, signal),
    text: pickRows(text, texts, teacher.dim),
  }));
}
