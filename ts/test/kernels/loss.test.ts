import { describe, expect, it } from 'vitest';
import {
  clusterInstanceLoss,
  type LossInputs,
  type LossOptions,
  sampleCentres,
  softTargets,
} from '../../src/kernels/loss.ts';
import { lossReference } from '../reference/loss.ts';
import { convert, example, type GRADIENTS, matrix, options, SCALES, toReference } from './loss.examples.ts';

describe('the reference of the loss', () => {
  it.each(['same', 'cross', 'both'] as const)(
    'has the gradients of its finite differences, pairing %s',
    (pairing) => {
      const inputs = toReference(example({ batch: 5, dim: 4, teacherDim: 3, clusters: 7, projected: true }));
      inputs.sample = Int32Array.from(new Set([...inputs.labels!, 2, 5])).sort();
      // The teacher is a constant of the loss, though the centres enter through it too.
      inputs.teacherCentroids = convert(
        example({ batch: 5, dim: 4, teacherDim: 3, clusters: 7, projected: true }).centroids,
      )!;
      const check = (settings: typeof options, names: readonly (typeof GRADIENTS)[number][]) => {
        const { ...gradients } = lossReference(inputs, settings);
        const step = 1e-5;
        for (const name of names) {
          const { data } = inputs[name]!;
          for (let i = 0; i < data.length; i++) {
            const value = data[i]!;
            data[i] = value + step;
            const above = lossReference(inputs, settings).total;
            data[i] = value - step;
            const below = lossReference(inputs, settings).total;
            data[i] = value;
            expect(
              Math.abs((above - below) / (2 * step) - gradients[name]![i]!),
              `${name}[${i}]`,
            ).toBeLessThan(1e-7);
          }
        }
        for (const name of SCALES) {
          const value = inputs[name]!;
          const above = lossReference({ ...inputs, [name]: value + step }, settings).total;
          const below = lossReference({ ...inputs, [name]: value - step }, settings).total;
          expect(Math.abs((above - below) / (2 * step) - gradients[name]), name).toBeLessThan(1e-7);
        }
      };
      const all = { ...options, pairing };
      check(all, ['image', 'text', 'imageProjection', 'textProjection', 'centroids']);
      for (const weight of ['clipWeight', 'ceWeight', 'klWeight', 'instanceWeight'] as const) {
        check({ ...all, [weight]: 0 }, ['image', 'centroids']);
      }
      delete inputs.sample;
      check(all, ['image', 'centroids']);
    },
  );
});
describe('clusterInstanceLoss', () => {
  it('names what is wrong with its arguments', async () => {
    const inputs = example({ batch: 4, dim: 3, teacherDim: 3, clusters: 5, projected: false });
    const reject = (change: object, message: string, settings: LossOptions = {}) =>
      expect(
        clusterInstanceLoss({ ...inputs, ...change } as LossInputs, { ...options, ...settings }),
      ).rejects.toThrow(message);
    await reject({ text: matrix(3, 3, 1) }, 'Expected 4 rows for text.rows but received 3');
    await reject(
      { image: { data: new Float32Array(11), rows: 4, dim: 3 } },
      'Expected a Float32Array of 12 [rows, dim] for image.data',
    );
    await reject(
      { image: { data: new Uint16Array(12), rows: 4, dim: 3 } },
      'Expected a Float32Array of 12 [rows, dim] for image.data',
    );
    await reject(
      { teacherImage: matrix(4, 6, 1) },
      'Expected a width of 3 for teacherImage.dim but received 6',
    );
    await reject(
      { imageProjection: matrix(3, 6, 1) },
      'Expected a [3, 6] matrix for textProjection but received undefined',
    );
    await reject(
      { labels: Int32Array.of(0, 1, 2, 5) },
      'Expected a centre from 0 to 4 for labels[3] but received 5',
    );
    await reject({ sample: Int32Array.of(0, 0) }, 'Expected a centre over 0 for sample[1] but received 0');
    await reject(
      { labels: Int32Array.of(0, 1, 2, 4), sample: Int32Array.of(0, 1, 2) },
      'Expected a sample that holds label 4',
    );
    await reject({ teacherText: undefined }, 'Expected a matrix for teacherText but received undefined');
    await reject(
      { clipLogScale: undefined },
      'Expected a number from -80 to 80 for clipLogScale but received undefined',
    );
    await reject({ images: 1 }, 'for inputs but received "images"');
    await reject({}, 'Expected a number over 0 for temperature but received 0', { temperature: 0 });
    await reject({}, "Expected one of 'same', 'cross', 'both' for pairing", { pairing: 'none' as 'same' });
    const soft = { softCentroids: new Float32Array(12), entropies: new Float32Array(4) };
    await reject({ softTargets: soft }, 'Expected false together with softTargets', {
      learnedCentroids: true,
    });
    await reject(
      { softTargets: soft, sample: Int32Array.of(0, 1, 2, 3, 4) },
      'Expected no sample together with softTargets',
    );
  });
});

describe('softTargets', () => {
  it('names what is wrong with its arguments', async () => {
    await expect(softTargets(matrix(2, 3, 1), matrix(2, 4, 1))).rejects.toThrow(
      'for centroids.dim but received 4',
    );
    await expect(softTargets(matrix(2, 3, 1), matrix(0, 3, 1))).rejects.toThrow(
      'Expected at least one row for centroids',
    );
  });
});

describe('sampleCentres', () => {
  const labels = Int32Array.of(7, 3, 7, 99);

  it.each([0, 0.03, 0.1, 0.5, 0.9, 1])(
    'holds every label and the right number of centres at rate %d',
    (rate) => {
      const sample = sampleCentres({ clusters: 100, labels, rate, seed: 5, step: 2 });
      expect(sample.length).toBe(Math.max(3, Math.round(rate * 100)));
      expect([...sample]).toEqual([...new Set(sample)].sort((a, b) => a - b));
      expect(sample[sample.length - 1]).toBeLessThan(100);
      for (const label of labels) expect(sample).toContain(label);
    },
  );

  it('is a function of seed and step', () => {
    const draw = (seed: number, step: number) =>
      sampleCentres({ clusters: 1000, labels, rate: 0.1, seed, step });
    expect(draw(1, 1)).toEqual(draw(1, 1));
    expect(draw(1, 2)).not.toEqual(draw(1, 1));
    expect(draw(2, 1)).not.toEqual(draw(1, 1));
  });

  it('takes all others alike', () => {
    const counts = new Float64Array(50);
    const rounds = 4000;
    for (const rate of [0.2, 0.8]) {
      counts.fill(0);
      for (let step = 0; step < rounds; step++) {
        for (const centre of sampleCentres({ clusters: 50, labels: Int32Array.of(4), rate, seed: 9, step }))
          counts[centre]!++;
      }
      expect(counts[4]).toBe(rounds);
      const share = (Math.round(rate * 50) - 1) / 49;
      // Five standard deviations of a binomial.
      const deviation = 5 * Math.sqrt(rounds * share * (1 - share));
      counts.forEach((count, centre) => {
        if (centre !== 4) expect(Math.abs(count - rounds * share)).toBeLessThan(deviation);
      });
    }
  });

  it('refuses a label that is no centre', () => {
    expect(() => sampleCentres({ clusters: 9, labels, rate: 0.1, seed: 0, step: 0 })).toThrow(
      'Expected a centre from 0 to 8 for labels[3] but received 99',
    );
  });
});
