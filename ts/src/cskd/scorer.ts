import { join } from 'node:path';
import type { ScoreScale } from '../data/rated/scale.ts';
import { scoreScale } from '../data/rated/scale.ts';
import {
  type ImageEncoder,
  type OpenImageEncoderOptions,
  openImageEncoder,
} from '../encoder/image-encoder.ts';
import { readModelJson } from '../encoder/tokenizer.ts';
import { CidError } from '../native/errors.ts';
import { GraphBuilder } from '../program/builder.ts';
import { chain } from '../program/compose.ts';
import type { Parameter } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import type { Json } from '../run/hash.ts';
import { type Backbone, IMAGE_KEY } from '../student/backbone.ts';
import { exportImageModel } from '../student/image-model.ts';
import { buildMlp } from '../student/mlp.ts';

/** Names of what a scorer gives: while it is trained, and as a model. */
export const LOGITS = 'score_logits';
export const DISTRIBUTION = 'score_distribution';

/** A model that rates images: its embedding of an image is the distribution of scores over the bins of a scale. */
export interface Scorer extends ImageEncoder {
  readonly scale: ScoreScale;
}

/**
 * Opens the model folder of a scorer that `trainScorer` wrote. `embedImages` gives score distributions, [n, bins].
 *
 * Fails with MODEL_INVALID for a folder of something else.
 */
export async function openScorer(
  folder: string,
  options: Pick<OpenImageEncoderOptions, 'providers' | 'threads' | 'batchSize'> = {},
): Promise<Scorer> {
  const scale = await readScale(folder);
  const encoder = await openImageEncoder(folder, { ...options, imageOutput: DISTRIBUTION });
  if (encoder.dim !== scale.bins) {
    await encoder.dispose();
    throw new CidError(
      'MODEL_INVALID',
      `${folder} gives ${encoder.dim} shares where its scale has ${scale.bins} bins`,
    );
  }
  return Object.assign(encoder, { scale });
}

/** The scale that a scorer rates on. Fails with MODEL_INVALID for a model that is none. */
export async function readScale(folder: string): Promise<ScoreScale> {
  const config = await readModelJson(join(folder, 'config.json'));
  const scale = (config[IMAGE_KEY] as { scale?: Partial<ScoreScale> } | undefined)?.scale;
  try {
    if (scale) return scoreScale(scale.low!, scale.high!, scale.bins!, scale.threshold);
  } catch (error) {
    throw new CidError('MODEL_INVALID', `The scale in ${folder} is none: ${(error as Error).message}`, {
      cause: error,
    });
  }
  throw new CidError(
    'MODEL_INVALID',
    `${folder} is no scorer: its config.json names no scale. Train one with clip-cid aesthetics train`,
  );
}

/** An encoder with a head, to be trained. */
export interface ScorerProgram {
  readonly backbone: Backbone;
  /** `pixel_values` → `score_logits` [batch, bins] and `pooler_output`. */
  readonly graph: Graph;
  readonly parameters: readonly Parameter[];
  readonly scale: ScoreScale;
}

/**
 * Puts a head on an encoder. Its last layer starts small, so that the first distributions are nearly even.
 *
 * @param hidden Width of the head's hidden layer; 0 for a linear one.
 * @param rate Factor on the learning rate of the encoder; 0 keeps it as it is.
 */
export function buildScorer(
  backbone: Backbone,
  scale: ScoreScale,
  { hidden, rate, seed }: { hidden: number; rate: number; seed: number },
): ScorerProgram {
  const head = buildMlp(
    'head',
    { input: 'pooler_output', output: LOGITS, from: backbone.width, hidden, to: scale.bins, gain: 0.1 },
    seed,
  );
  const encoder = backbone.parameters.map(
    (parameter): Parameter =>
      rate === 0 ? { ...parameter, trainable: false } : { ...parameter, rate: (parameter.rate ?? 1) * rate },
  );
  return {
    backbone,
    graph: chain(backbone.graph, head.graph, [LOGITS, 'pooler_output']),
    parameters: [...encoder, ...head.parameters],
    scale,
  };
}

/** Writes a scorer as a model folder: `pixel_values` → `score_distribution` [batch, bins] and `pooler_output`. */
export async function exportScorer(
  folder: string,
  { graph, backbone, scale }: ScorerProgram,
  values: ReadonlyMap<string, Float32Array>,
  dtype: 'float32' | 'float16',
): Promise<void> {
  const builder = new GraphBuilder('shares');
  const logits = builder.input(LOGITS, 'float32', ['batch', scale.bins]);
  builder.output(DISTRIBUTION, builder.op('Softmax', [logits], { axis: -1 }), ['batch', scale.bins]);
  await exportImageModel(
    folder,
    {
      graph: chain(graph, builder.build(), [DISTRIBUTION, 'pooler_output']),
      values,
      backbone,
      facts: { scale: { ...scale } as unknown as Json },
    },
    dtype,
  );
}
