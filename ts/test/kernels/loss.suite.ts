import { describe, expect, it } from 'vitest';
import {
  clusterInstanceLoss,
  type LossInputs,
  type LossOptions,
  type LossOutput,
  type SoftTargetsOptions,
  sampleCentres,
  softTargets,
} from '../../src/kernels/loss.ts';
import { type Matrix, type Rows, upload } from '../../src/kernels/rows.ts';
import type { Device } from '../../src/native/devices.ts';
import { type LossReferenceResult, lossReference, softTargetsReference } from '../reference/loss.ts';
import {
  convert,
  example,
  GRADIENTS,
  matrix,
  options,
  SCALES,
  type Shape,
  TERMS,
  toReference,
} from './loss.examples.ts';

/**
 * Largest error of a gradient relative to its largest element, or to `summand` where that is larger: what its summands are like that
 * may cancel.
 */
function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>, summand = 0): number {
  expect(actual.length).toBe(expected.length);
  let error = 0;
  let size = summand;
  for (let i = 0; i < expected.length; i++) {
    error = Math.max(error, Math.abs(actual[i]! - expected[i]!));
    size = Math.max(size, Math.abs(expected[i]!));
  }
  return error === 0 ? 0 : error / size;
}

/**
 * Terms are sums of logits of up to 1 / temperature; gradients are sums of products of such weights. A product is right to 3 · 2^-18 of
 * its summands' absolute sum where the processor multiplies matrices of bfloat16, in two halves each, and to float32 elsewhere, on a
 * GPU to 2^-19.
 */
const TERM_BOUND = 2e-5;
/** Rows err on their own, so their mean errs less. */
const termBound = (batch: number): number => TERM_BOUND + 1.2e-4 / Math.sqrt(batch);
const GRADIENT_BOUND = 2e-5;

function expectClose(actual: LossOutput, expected: LossReferenceResult, batch: number): void {
  const summand = 1 / (options.temperature * batch);
  for (const term of TERMS)
    expect(Math.abs(actual[term] - expected[term]), term).toBeLessThan(termBound(batch));
  for (const scale of SCALES) {
    expect(Math.abs(actual.gradients[scale] - expected[scale]), scale).toBeLessThan(termBound(batch));
  }
  for (const name of GRADIENTS) {
    const gradient = actual.gradients[name];
    if (gradient !== undefined) {
      const error = relativeError(gradient, expected[name]!, summand);
      expect(error, name).toBeLessThan(GRADIENT_BOUND);
    }
  }
}

/** The loss on one device, held to the reference. */
export function lossSuite(device: Device): void {
  const lossOf = (inputs: LossInputs, settings: LossOptions = {}) =>
    clusterInstanceLoss(inputs, { ...settings, device });
  const targetsOf = (teacher: Rows, centroids: Rows, settings: SoftTargetsOptions = {}) =>
    softTargets(teacher, centroids, { ...settings, device });

  describe('clusterInstanceLoss', () => {
    const shapes: Shape[] = [
      { batch: 1, dim: 1, teacherDim: 1, clusters: 1, projected: false },
      { batch: 2, dim: 3, teacherDim: 3, clusters: 2, projected: false },
      { batch: 3, dim: 2, teacherDim: 5, clusters: 1, projected: true },
      { batch: 11, dim: 7, teacherDim: 5, clusters: 13, projected: true },
      { batch: 12, dim: 32, teacherDim: 32, clusters: 32, projected: false },
      { batch: 13, dim: 33, teacherDim: 31, clusters: 33, projected: true },
      { batch: 24, dim: 64, teacherDim: 64, clusters: 256, projected: false },
      { batch: 145, dim: 17, teacherDim: 48, clusters: 257, projected: true },
      { batch: 257, dim: 40, teacherDim: 40, clusters: 700, projected: false },
      { batch: 31, dim: 31, teacherDim: 63, clusters: 255, projected: true },
      { batch: 32, dim: 65, teacherDim: 64, clusters: 256, projected: true },
      { batch: 33, dim: 32, teacherDim: 32, clusters: 31, projected: false },
      { batch: 65, dim: 129, teacherDim: 127, clusters: 513, projected: true },
      { batch: 3, dim: 4096, teacherDim: 4096, clusters: 5, projected: false },
      { batch: 2, dim: 1, teacherDim: 1, clusters: 3, projected: false },
      { batch: 1, dim: 9, teacherDim: 9, clusters: 1100, projected: false },
      // From 1,000 centres, or pairs, and a width of 64 on, products may be in fixed point.
      { batch: 35, dim: 66, teacherDim: 66, clusters: 999, projected: false },
      { batch: 35, dim: 66, teacherDim: 66, clusters: 1000, projected: false },
      { batch: 999, dim: 64, teacherDim: 64, clusters: 10, projected: false },
      { batch: 1000, dim: 64, teacherDim: 64, clusters: 10, projected: false },
      { batch: 1037, dim: 100, teacherDim: 65, clusters: 30, projected: true },
      { batch: 70, dim: 20, teacherDim: 65, clusters: 4100, projected: true },
      { batch: 5, dim: 640, teacherDim: 640, clusters: 4003, projected: false },
    ];

    it.each(shapes)('agrees with the float64 reference for %o', async (shape) => {
      const inputs = example(shape);
      const actual = await lossOf(inputs, { ...options, learnedCentroids: true });
      expectClose(actual, lossReference(toReference(inputs), options), shape.batch);
    });

    it.each(['same', 'cross', 'both'] as const)(
      'agrees with pairing %s and a sample of the centres',
      async (pairing) => {
        const inputs = example({ batch: 37, dim: 20, teacherDim: 24, clusters: 400, projected: true });
        const sample = sampleCentres({ clusters: 400, labels: inputs.labels, rate: 0.2, seed: 1, step: 3 });
        const settings = { ...options, pairing };
        const actual = await lossOf({ ...inputs, sample }, { ...settings, learnedCentroids: true });
        expectClose(actual, lossReference(toReference({ ...inputs, sample }), settings), 37);
      },
    );

    it.each([
      { clipWeight: 0 },
      { ceWeight: 0 },
      { klWeight: 0 },
      { instanceWeight: 0 },
      { clipWeight: 0, instanceWeight: 0 },
      { ceWeight: 0, klWeight: 0, instanceWeight: 0 },
    ])('leaves terms of weight 0 out: %o', async (off) => {
      const inputs = example({ batch: 9, dim: 6, teacherDim: 6, clusters: 10, projected: false });
      const settings = { ...options, ...off };
      expectClose(await lossOf(inputs, settings), lossReference(toReference(inputs), settings), 9);
    });

    it('needs no input that only absent terms use', async () => {
      const { image, text, clipLogScale, centroids, labels } = example({
        batch: 4,
        dim: 3,
        teacherDim: 3,
        clusters: 5,
        projected: false,
      });
      const clip = await lossOf(
        { image, text, clipLogScale },
        { ceWeight: 0, klWeight: 0, instanceWeight: 0 },
      );
      expect(clip.total).toBe(clip.clip);
      const ce = await lossOf(
        { image, text, centroids, labels },
        { clipWeight: 0, klWeight: 0, instanceWeight: 0 },
      );
      expect(ce.total).toBe(ce.clusterCe);
      expect(ce.gradients.text).toEqual(new Float32Array(12));
    });

    it('stays finite and right at sharp temperatures', async () => {
      const inputs = {
        ...example({ batch: 30, dim: 16, teacherDim: 16, clusters: 50, projected: false }),
        clipLogScale: Math.log(100),
        instanceLogScale: 6,
      };
      const settings = { ...options, temperature: 0.005, teacherTemperature: 0.002 };
      const actual = await lossOf(inputs, settings);
      const expected = lossReference(toReference(inputs), settings);
      // Logits reach 500: a rounding of them is 3e-5, and moves a weight by as much.
      for (const term of TERMS)
        expect(Math.abs(actual[term] - expected[term]) / expected.total, term).toBeLessThan(1e-5);
      for (const name of ['image', 'text'] as const) {
        expect(relativeError(actual.gradients[name], expected[name])).toBeLessThan(5e-4);
      }
    });

    it.each([1, 0.04, 0.02, 0.01, 0.005])(
      'is right over many centres at a temperature of %d',
      async (temperature) => {
        const inputs = example({ batch: 12, dim: 64, teacherDim: 64, clusters: 21_000, projected: false });
        const settings = { ...options, temperature, teacherTemperature: temperature * 0.8 };
        const actual = await lossOf(inputs, { ...settings, learnedCentroids: true });
        const expected = lossReference(toReference(inputs), settings);
        for (const term of TERMS)
          expect(Math.abs(actual[term] - expected[term]), term).toBeLessThan(termBound(12));
        for (const name of ['image', 'text', 'centroids'] as const) {
          const error = relativeError(actual.gradients[name]!, expected[name]!, 1 / (temperature * 12));
          expect(error, name).toBeLessThan(GRADIENT_BOUND);
        }
      },
    );

    it('is right where every softmax is one-hot, and where every one is flat', async () => {
      const inputs = example({ batch: 40, dim: 19, teacherDim: 19, clusters: 70, projected: false });
      const settings = { ...options, learnedCentroids: true } as const;
      for (const [logScale, temperature] of [
        [12, 1e-5],
        [80, 1e-30],
        [-80, 1e30],
      ] as const) {
        const sharp = { ...inputs, clipLogScale: logScale, instanceLogScale: logScale };
        const taus = { temperature, teacherTemperature: temperature };
        const actual = await lossOf(sharp, { ...settings, ...taus });
        const expected = lossReference(toReference(sharp), { ...options, ...taus });
        // A cosine's error moves a logit by as many times as the scale.
        const scale = Math.max(1, Math.exp(logScale), 1 / temperature);
        for (const term of TERMS)
          expect(Math.abs(actual[term] - expected[term]) / scale, term).toBeLessThan(TERM_BOUND);
        for (const name of ['image', 'text', 'centroids'] as const) {
          const gradient = actual.gradients[name]!;
          expect(
            relativeError(
              gradient,
              expected[name]!,
              name === 'text' ? Math.exp(logScale) / 40 : 1 / (temperature * 40),
            ),
          ).toBeLessThan(GRADIENT_BOUND);
        }
        for (const name of SCALES)
          expect(Math.abs(actual.gradients[name] - expected[name]) / scale, name).toBeLessThan(TERM_BOUND);
      }
    });

    it('gives the same bits for 1, 2 and 7 threads', async () => {
      const inputs = example({ batch: 157, dim: 24, teacherDim: 36, clusters: 600, projected: true });
      const results = [];
      for (const threads of [1, 2, 7]) {
        const settings = { ...options, pairing: 'both', learnedCentroids: true, threads } as const;
        results.push(await lossOf(inputs, settings));
      }
      expect(results[1]).toEqual(results[0]);
      expect(results[2]).toEqual(results[0]);
    });

    it('has neither KL nor a KL gradient when the student is the teacher', async () => {
      const inputs = example({ batch: 20, dim: 12, teacherDim: 12, clusters: 40, projected: false });
      const kl = await lossOf(
        { ...inputs, teacherImage: inputs.image },
        { clipWeight: 0, ceWeight: 0, instanceWeight: 0, temperature: 0.05 },
      );
      expect(Math.abs(kl.clusterKl)).toBeLessThan(1e-5);
      for (const value of kl.gradients.image) expect(Math.abs(value)).toBeLessThan(1e-5);
    });

    it('has neither KL nor CE for a single centre', async () => {
      const inputs = example({ batch: 8, dim: 5, teacherDim: 5, clusters: 1, projected: false });
      const result = await lossOf(inputs, { clipWeight: 0, instanceWeight: 0 });
      expect(Math.abs(result.clusterCe)).toBeLessThan(1e-5);
      expect(Math.abs(result.clusterKl)).toBeLessThan(1e-5);
      for (const value of result.gradients.image) expect(Math.abs(value)).toBeLessThan(1e-5);
    });

    it('takes a sample of every centre as all of them', async () => {
      const inputs = example({ batch: 19, dim: 8, teacherDim: 8, clusters: 300, projected: false });
      const settings = { ...options, learnedCentroids: true };
      const sample = sampleCentres({ clusters: 300, labels: inputs.labels, rate: 1, seed: 0, step: 0 });
      expect(await lossOf({ ...inputs, sample }, settings)).toEqual(await lossOf(inputs, settings));
    });

    it('does not care for the order of the centres', async () => {
      const inputs = example({ batch: 21, dim: 9, teacherDim: 9, clusters: 310, projected: false });
      const move = (centre: number) => (centre * 7 + 3) % 310;
      const centroids = { ...inputs.centroids, data: new Float32Array(310 * 9) };
      for (let j = 0; j < 310; j++)
        centroids.data.set(inputs.centroids.data.subarray(j * 9, (j + 1) * 9), move(j) * 9);
      const one = await lossOf(inputs, options);
      const other = await lossOf({ ...inputs, centroids, labels: inputs.labels.map(move) }, options);
      for (const term of TERMS) expect(Math.abs(one[term] - other[term])).toBeLessThan(TERM_BOUND);
      expect(relativeError(other.gradients.image, one.gradients.image)).toBeLessThan(GRADIENT_BOUND);
    });

    it('does not care for the length of rows', async () => {
      const inputs = example({ batch: 10, dim: 6, teacherDim: 6, clusters: 12, projected: false });
      const scaled = (value: Matrix) => ({
        ...value,
        data: (value.data as Float32Array).map((x) => x * 1024),
      });
      const one = await lossOf(inputs, options);
      const other = await lossOf(
        {
          ...inputs,
          image: scaled(inputs.image),
          teacherImage: scaled(inputs.teacherImage),
          centroids: scaled(inputs.centroids),
        },
        options,
      );
      for (const term of TERMS) expect(other[term]).toBe(one[term]);
      expect(other.gradients.image.map((x) => x * 1024)).toEqual(one.gradients.image);
    });

    it('takes centres that are on the device, with a sample of them or not', async () => {
      const inputs = example({ batch: 23, dim: 14, teacherDim: 14, clusters: 260, projected: false });
      const { data, ...shape } = inputs.centroids;
      using centroids = await upload({ data: data as Float32Array, ...shape }, { device });
      const sample = sampleCentres({ clusters: 260, labels: inputs.labels, rate: 0.3, seed: 1, step: 2 });
      for (const chosen of [{}, { sample }]) {
        const one = await lossOf({ ...inputs, ...chosen }, options);
        const other = await lossOf({ ...inputs, ...chosen, centroids }, options);
        for (const term of TERMS) expect(other[term]).toBe(one[term]);
        expect(relativeError(other.gradients.image, one.gradients.image)).toBeLessThan(1e-6);
        expect(other.gradients.text).toEqual(one.gradients.text);
      }
      await expect(lossOf({ ...inputs, centroids }, { ...options, learnedCentroids: true })).rejects.toThrow(
        'Expected false together with centroids on a device for learnedCentroids',
      );
      using narrow = await upload(matrix(5, 3, 1), { device });
      await expect(lossOf({ ...inputs, centroids: narrow }, options)).rejects.toThrow(
        'Expected a width of 14 for centroids.dim but received 3',
      );
    });

    it('takes soft targets instead of the pass of the teacher', async () => {
      const inputs = example({ batch: 31, dim: 14, teacherDim: 14, clusters: 280, projected: false });
      const soft = await targetsOf(inputs.teacherImage, inputs.centroids, {
        temperature: options.teacherTemperature,
      });
      const one = await lossOf(inputs, options);
      const other = await lossOf({ ...inputs, softTargets: soft }, options);
      expect(Math.abs(other.clusterKl - one.clusterKl)).toBeLessThan(TERM_BOUND);
      expect(relativeError(other.gradients.image, one.gradients.image)).toBeLessThan(GRADIENT_BOUND);
    });

    it.each([
      ['image', 0, 'image'],
      ['text', Number.NaN, 'text'],
      ['teacherImage', Number.POSITIVE_INFINITY, 'teacherImage'],
      ['teacherText', 0, 'teacherText'],
      ['centroids', Number.NaN, 'centroids'],
    ] as const)('names the first row of %s that is %s', async (name, bad, where) => {
      const inputs = example({ batch: 40, dim: 5, teacherDim: 5, clusters: 40, projected: false });
      inputs[name].data.fill(bad, 33 * 5, 34 * 5);
      inputs[name].data.fill(bad, 37 * 5, 38 * 5);
      await expect(lossOf(inputs, options)).rejects.toMatchObject({
        code: 'INVALID_DATA',
        message: `Row 33 of ${where} is zero, NaN or infinite`,
      });
    });

    it('names a row that its projection makes zero', async () => {
      const inputs = example({ batch: 3, dim: 4, teacherDim: 5, clusters: 6, projected: true });
      inputs.imageProjection.data.fill(0);
      await expect(lossOf(inputs, options)).rejects.toThrow('Row 0 of image after its projection is zero');
    });

    it.runIf(device.startsWith('cuda'))('says how much memory of the device it needs', async () => {
      const inputs = example({ batch: 200, dim: 64, teacherDim: 64, clusters: 3000, projected: false });
      await expect(lossOf(inputs, { maxDeviceMemory: 2 ** 20 })).rejects.toMatchObject({
        code: 'OUT_OF_MEMORY',
        message: expect.stringMatching(
          /^Softmaxes of 200 rows over 3000 keys of width 64 need \d+ MB .* hold 1 MB/,
        ),
      });
    });

    it('aborts, before it starts and in the middle', async () => {
      const inputs = example({ batch: 1024, dim: 128, teacherDim: 128, clusters: 16_000, projected: false });
      await expect(lossOf(inputs, { signal: AbortSignal.abort() })).rejects.toMatchObject({
        code: 'ABORTED',
      });
      const controller = new AbortController();
      const running = lossOf(inputs, { signal: controller.signal });
      await new Promise(setImmediate);
      controller.abort();
      await expect(running).rejects.toMatchObject({ code: 'ABORTED' });
    });
  });

  describe('softTargets', () => {
    it.each([
      [1, 1, 1],
      [3, 2, 4],
      [50, 33, 700],
    ])('agrees with the reference for %i rows of %i and %i centres', async (rows, dim, clusters) => {
      const teacher = matrix(rows, dim, 1);
      const centroids = matrix(clusters, dim, 2);
      const actual = await targetsOf(teacher, centroids, { temperature: 0.08 });
      const expected = softTargetsReference(convert(teacher)!, convert(centroids)!, 0.08);
      expect(relativeError(actual.softCentroids, expected.softCentroids)).toBeLessThan(GRADIENT_BOUND);
      for (let i = 0; i < rows; i++) {
        expect(Math.abs(actual.entropies[i]! - expected.entropies[i]!)).toBeLessThan(TERM_BOUND);
      }
    });

    it('takes rows that are on the device, of any element type', async () => {
      const teacher = matrix(9, 6, 1);
      const centroids = { ...matrix(7, 6, 2), dtype: 'bfloat16' as const };
      const bits = new Uint16Array(centroids.data.buffer).filter((_, at) => at % 2 === 1);
      using left = await upload(teacher, { device });
      using right = await upload({ ...centroids, data: bits }, { device });
      const wanted = await targetsOf(teacher, { ...centroids, data: bits });
      expect(await targetsOf(left, right)).toEqual(wanted);
      expect(await targetsOf(left, { ...centroids, data: bits })).toEqual(wanted);
    });

    it('takes rows in chunks and names a fault by its place among all', async () => {
      const whole = matrix(7, 3, 1);
      const chunks = [
        { data: whole.data.slice(0, 6), rows: 2, dim: 3 },
        { data: whole.data.slice(6), rows: 5, dim: 3 },
      ];
      const centroids = matrix(4, 3, 2);
      expect(await targetsOf(chunks, centroids)).toEqual(await targetsOf(whole, centroids));
      chunks[1]!.data.fill(0, 3, 6);
      await expect(targetsOf(chunks, centroids)).rejects.toThrow('Row 3 of teacher is zero, NaN or infinite');
    });
  });
}
