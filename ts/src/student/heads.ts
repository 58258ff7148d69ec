import { GraphBuilder } from '../program/builder.ts';
import type { Parameter } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import { Random, streams } from './random.ts';

/** ln(1 / 0.07) and ln 100: where CLIP's logit scale starts, and what it is clamped to. */
export const initialLogScale = Math.log(1 / 0.07);
export const largestLogScale = Math.log(100);

/** Which parameters of its own a loss has. */
export interface HeadsConfig {
  /** Width of the student's embeddings. */
  dim: number;
  /** `instance_scale` of the instance term. */
  instance: boolean;
  /** Width of the teacher's embeddings; with another than the student's there are `image_projection` and `text_projection`. */
  teacherDim?: number;
  /** Starting values of learned centres, [K, teacherDim]: `centroids`. */
  centroids?: { data: Float32Array; rows: number };
  /** Where `logit_scale` starts. Defaults to ln(1/0.07). */
  logScale?: number;
}

/** Name of the graph, and prefix of its parameters. */
export const HEADS = 'heads';

/**
 * The parameters that a loss uses itself, as a graph without inputs whose outputs are the parameters `heads.NAME` under their
 * short names. So they live in the executor's buffer and are updated, averaged and saved with the others.
 */
export function buildHeads(config: HeadsConfig, seed: number): { graph: Graph; parameters: Parameter[] } {
  const builder = new GraphBuilder(HEADS);
  const parameters: Parameter[] = [];
  const add = (name: string, dims: readonly number[], value: Float32Array, more: Partial<Parameter>) => {
    parameters.push({ name: `${HEADS}.${name}`, dims, value, decay: false, trainable: true, ...more });
    builder.output(name, builder.parameter(`${HEADS}.${name}`, dims), dims);
  };
  const scale = { max: largestLogScale };
  // Always there: validation compares with it too.
  add('logit_scale', [], Float32Array.of(config.logScale ?? initialLogScale), scale);
  if (config.instance) add('instance_scale', [], Float32Array.of(initialLogScale), scale);
  const { dim, teacherDim } = config;
  if (teacherDim !== undefined && teacherDim !== dim) {
    for (const [index, name] of (['image_projection', 'text_projection'] as const).entries()) {
      const random = new Random(seed, streams.initial, index + 1, 1);
      const value = Float32Array.from({ length: dim * teacherDim }, () => dim ** -0.5 * random.normal());
      add(name, [dim, teacherDim], value, { decay: true });
    }
  }
  if (config.centroids && teacherDim !== undefined) {
    add('centroids', [config.centroids.rows, teacherDim], config.centroids.data, {});
  }
  return { graph: builder.build(), parameters };
}
