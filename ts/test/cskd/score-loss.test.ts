import { describe, expect, it } from 'vitest';
import type { ScoreBatch } from '../../src/cskd/batches.ts';
import { softmaxRows } from '../../src/cskd/emd.ts';
import { type ScoreLossOptions, scoreLoss } from '../../src/cskd/score-loss.ts';
import { float32 } from '../../src/student/tensors.ts';
import { differences, relativeError } from './differences.ts';

const bins = 5;
const [labelled, unlabelled] = [3, 4];
const rows = labelled + unlabelled;
const wave = (length: number, shift: number) =>
  Float32Array.from({ length }, (_, i) => Math.sin(1 + shift + 1.9 * i));
const batch = { labels: softmaxRows(wave(labelled * bins, 2), bins) } as ScoreBatch;
const given = {
  a: softmaxRows(wave(unlabelled * bins, 5), bins),
  b: softmaxRows(wave(unlabelled * bins, 7), bins),
};
const logits = { a: wave(rows * bins, 0), b: wave(rows * bins, 3) };

function lossOf(more: Partial<ScoreLossOptions> = {}) {
  const loss = scoreLoss({
    graphs: ['a', 'b'],
    centres: Float64Array.of(1, 2, 3, 4, 5),
    guided: true,
    weight: 0.6,
    maxDeviation: undefined,
    form: 'squared',
    pseudo: async () => given,
    ...more,
  });
  const graphs = more.graphs ?? ['a', 'b'];
  return (values: { a: Float32Array; b: Float32Array }) =>
    loss(
      Object.fromEntries(
        graphs.map((graph) => [graph, { score_logits: float32(values[graph as 'a'], [rows, bins]) }]),
      ),
      batch,
    );
}

describe('scoreLoss', () => {
  it.each([
    ['squared', undefined],
    ['root', undefined],
    ['squared', 1.4],
  ] as const)('has the gradient of finite differences, %s, widest %s', async (form, maxDeviation) => {
    const loss = lossOf({ form, maxDeviation });
    const { gradients, terms } = await loss(logits);
    for (const graph of ['a', 'b'] as const) {
      const totals = new Map<string, number>();
      const moved: Float32Array[] = [];
      // Differences ask for values at once, and the loss gives them later: first what is asked for, then again with the answers.
      differences(logits[graph], (values) => {
        moved.push(values);
        return 0;
      });
      for (const values of moved) {
        const { terms: found } = await loss({ ...logits, [graph]: values });
        totals.set(values.join(), found.total);
      }
      const expected = differences(logits[graph], (values) => totals.get(values.join())!);
      const gradient = gradients[graph]!.score_logits!.data as Float32Array;
      expect(relativeError(gradient, expected)).toBeLessThan(5e-6);
    }
    const { total, ...parts } = terms as Record<string, number>;
    const sum = ['a', 'b'].reduce(
      (all, graph) => all + parts[`${graph}/labelled`]! + 0.6 * parts[`${graph}/unlabelled`]!,
      0,
    );
    expect(total).toBeCloseTo(sum, 12);
    if (maxDeviation !== undefined) expect(parts['a/sure']! > 0 && parts['a/sure']! < 1).toBe(true);
  });

  it('is that of the labels where nothing else is given', async () => {
    const loss = lossOf({ graphs: ['a'], guided: false, pseudo: async () => expect.unreachable() });
    const alone = { a: logits.a.slice(0, labelled * bins), b: logits.b };
    const { terms, gradients } = await loss(alone);
    expect(Object.keys(terms).sort()).toEqual(['labelled', 'total']);
    expect(gradients.a!.score_logits!.data).toHaveLength(labelled * bins);
  });

  it('moves nothing where no pseudo label counts', async () => {
    const { gradients, terms } = await lossOf({ graphs: ['a'], maxDeviation: 1e-3 })(logits);
    expect(terms).toMatchObject({ unlabelled: 0, sure: 0 });
    const gradient = gradients.a!.score_logits!.data as Float32Array;
    expect(gradient.subarray(labelled * bins).every((value) => value === 0)).toBe(true);
  });
});
