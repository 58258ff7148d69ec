import { meanScore } from '../data/rated/scale.ts';
import type { Tensor } from '../program/executor.ts';
import { float32 } from '../student/tensors.ts';
import type { Loss } from '../student/types.ts';
import type { ScoreBatch } from './batches.ts';
import { type EmdForm, emdLoss } from './emd.ts';
import { LOGITS } from './scorer.ts';

/** Rows by learner. */
export type ByLearner = Readonly<Record<string, Float32Array>>;

/** Distributions that each learner is given for the unlabelled rows, [U, bins]; `logits` are what all say of these rows now. */
export type Pseudo = (batch: ScoreBatch, logits: ByLearner) => Promise<ByLearner>;

export interface ScoreLossOptions {
  /** Names of the learners' graphs. */
  readonly graphs: readonly string[];
  /** [bins]. */
  readonly centres: Float64Array;
  /** Whether there are unlabelled rows. */
  readonly guided: boolean;
  /** Of the unlabelled term. */
  readonly weight: number;
  /** Widest pseudo label that counts, in units of the score. */
  readonly maxDeviation: number | undefined;
  readonly form: EmdForm;
  readonly pseudo: Pseudo;
}

/** Distance to the labels, and, with a weight, to the pseudo labels, which are constant; of several learners, their sum. */
export function scoreLoss(options: ScoreLossOptions): Loss<ScoreBatch> {
  const { graphs, centres, guided, weight, maxDeviation, form, pseudo } = options;
  const bins = centres.length;
  return async (outputs, batch) => {
    const at = batch.labels.length;
    const logits = Object.fromEntries(
      graphs.map((graph) => [graph, outputs[graph]![LOGITS]!.data as Float32Array]),
    );
    const unlabelled = Object.fromEntries(graphs.map((graph) => [graph, logits[graph]!.subarray(at)]));
    const given = guided ? await pseudo(batch, unlabelled) : {};
    const terms: Record<string, number> & { total: number } = { total: 0 };
    const gradients: Record<string, Record<string, Tensor>> = {};
    for (const graph of graphs) {
      const prefix = graphs.length > 1 ? `${graph}/` : '';
      const all = logits[graph]!;
      const gradient = new Float32Array(all.length);
      const labelled = emdLoss(all.subarray(0, at), batch.labels, bins, form);
      gradient.set(labelled.gradient);
      terms[`${prefix}labelled`] = labelled.value;
      terms.total += labelled.value;
      if (guided) {
        const targets = given[graph]!;
        const weights = maxDeviation === undefined ? undefined : sure(targets, centres, maxDeviation);
        const guide = emdLoss(unlabelled[graph]!, targets, bins, form, weights);
        for (const [i, value] of guide.gradient.entries()) gradient[at + i] = weight * value;
        terms[`${prefix}unlabelled`] = guide.value;
        terms.total += weight * guide.value;
        if (weights) terms[`${prefix}sure`] = weights.reduce((sum, one) => sum + one, 0) / weights.length;
      }
      gradients[graph] = { [LOGITS]: float32(gradient, outputs[graph]![LOGITS]!.dims) };
    }
    return { terms, gradients };
  };
}

/** 1 for each row whose distribution is no wider than `most`, else 0. */
function sure(distributions: Float32Array, centres: Float64Array, most: number): Float32Array {
  const bins = centres.length;
  return Float32Array.from({ length: distributions.length / bins }, (_, row) => {
    const shares = distributions.subarray(row * bins, (row + 1) * bins);
    const mean = meanScore(shares, centres);
    const variance = shares.reduce((sum, share, k) => sum + share * (centres[k]! - mean) ** 2, 0);
    return variance <= most * most ? 1 : 0;
  });
}
