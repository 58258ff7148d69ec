import type { Encoder } from '../encoder/encoder.ts';
import { DeviceTensor } from '../kernels/device-tensor.ts';
import {
  type DeviceLossInputs,
  type LossInputs,
  type LossOptions,
  lossAnywhere,
  type SoftTargets,
  sampleCentres,
} from '../kernels/loss.ts';
import { type DeviceMatrix, type Matrix, upload } from '../kernels/rows.ts';
import type { KernelOptions } from '../native/context.ts';
import type { AnyTensors, Tensor } from '../program/executor.ts';
import type { ImageTextBatch } from './batches.ts';
import { HEADS } from './heads.ts';
import { oncePerBatch } from './optimise.ts';
import { float32, pickRows } from './tensors.ts';
import type { AnyLossResult, AnyOutputs, Loss, LossResult, TowerOutputs } from './types.ts';

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

/** The inputs of both kinds of loss, as they are gathered. */
type Inputs = { -readonly [K in keyof LossInputs]: LossInputs[K] | DeviceLossInputs[K] };

/** CLIP, cluster and instance terms of `clusterInstanceLoss` over the towers' and heads' outputs, wherever these are. */
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

  const anywhere = async (outputs: AnyOutputs, batch: ImageTextBatch): Promise<AnyLossResult> => {
    const rows = batch.places.length;
    const heads: AnyTensors = outputs[HEADS] ?? {};
    const scale = (name: string): number => (heads[name] as Tensor).data[0] as number;
    const matrix = (data: Float32Array, width: number): Matrix => ({
      data,
      rows: data.length / width,
      dim: width,
    });
    const rowsOf = (tensor: Tensor | DeviceTensor, width: number): Matrix | DeviceTensor =>
      tensor instanceof DeviceTensor ? tensor : matrix(tensor.data as Float32Array, width);
    const inputs: Inputs = {
      image: rowsOf(outputs.image!.image_embeds!, dim),
      text: rowsOf(outputs.text!.text_embeds!, dim),
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
    if (weights.clip > 0) inputs.clipLogScale = scale('logit_scale');
    if (distils) {
      const width = teacherDim!;
      const targets = await options.targets!(batch);
      inputs.teacherImage = matrix(targets.image, width);
      inputs.teacherText = matrix(targets.text, width);
      const { image_projection, text_projection } = heads;
      if (image_projection) inputs.imageProjection = rowsOf(image_projection, width);
      if (text_projection) inputs.textProjection = rowsOf(text_projection, width);
      if (weights.instance > 0) inputs.instanceLogScale = scale('instance_scale');
    }
    if (clustered && clusters) {
      const labels = Int32Array.from(batch.places, (place) => clusters.labels[place]!);
      inputs.labels = labels;
      inputs.centroids = clusters.learned
        ? rowsOf(heads.centroids!, teacherDim!)
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
    const result = await lossAnywhere(inputs as LossInputs | DeviceLossInputs, {
      ...kernel,
      learnedCentroids: clusters?.learned ?? false,
    });
    const { gradients } = result;
    const parameterGradients: Record<string, Float32Array | DeviceTensor> = {};
    const give = (name: string, value: Float32Array | DeviceTensor | undefined) => {
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
        image: { image_embeds: tensorOf(gradients.image, [rows, dim]) },
        text: { text_embeds: tensorOf(gradients.text, [rows, dim]) },
      },
      parameterGradients,
    };
  };
  // Of outputs on the host all gradients are there too.
  const onHost = (outputs: TowerOutputs, batch: ImageTextBatch) =>
    anywhere(outputs, batch) as Promise<LossResult>;
  return Object.assign(onHost, { anywhere });
}

function tensorOf(gradient: Float32Array | DeviceTensor, dims: readonly number[]): Tensor | DeviceTensor {
  return gradient instanceof DeviceTensor ? gradient : float32(gradient, dims);
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
