import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { avaScale, scoreScale } from '../../src/data/rated/scale.ts';
import { formatEstimate, measureScores, type ScoreMetrics } from '../../src/eval/scores.ts';
import { Random, streams } from '../../src/student/random.ts';

const scale = scoreScale(1, 10, 10, 5);
const measure = (x: readonly number[], y: readonly number[], options = {}): Promise<ScoreMetrics> =>
  measureScores({ scores: x }, { scores: y, scale }, { resamples: 0, ...options });

describe('correlations', () => {
  // Of scipy.stats.spearmanr and pearsonr, 1.10.
  it.each([
    [[1, 2, 2, 3, 3, 3, 4, 5, 5, 6], [2, 1, 4, 4, 3, 5, 5, 5, 7, 6], 0.8683428245838675, 0.8233149399515902],
    [
      [0.5, 0.5, 0.5, 0.7, 0.2, 0.2, 0.9, 0.9],
      [3, 1, 2, 2, 5, 5, 1, 4],
      -0.5598480891048279,
      -0.5585896657399072,
    ],
    [
      [5.1, 4.2, 6.3, 5.5, 7.7, 3.9, 5.2],
      [4.9, 4.4, 6.0, 6.1, 7.1, 4.4, 5.0],
      0.9549937104572925,
      0.953328317030051,
    ],
    [[1, 1 + 1e-9, 1 + 3e-9, 1 + 2e-9], [1, 2, 3, 4], 0.8, 0.7999999822364268],
    [[1, 2], [5, 3], -1, -1],
  ])('are those of scipy: %#', async (x, y, srcc, plcc) => {
    const found = await measure(x, y);
    expect(found.srcc.value).toBeCloseTo(srcc, 13);
    // Scores that differ by 1e-9 leave few digits.
    expect(found.plcc.value).toBeCloseTo(plcc, x[0] === 1 && x[1]! < 1.1 ? 6 : 13);
    expect(found.srcc.reason).toBeUndefined();
  });

  it.each([
    [[2, 2, 2, 2], [1, 2, 3, 4], 'the predicted scores are all equal'],
    [[1, 2, 3, 4], [0.1, 0.1, 0.1, 0.1], 'the given scores are all equal'],
    [[3, 3, 3], [0.1, 0.1, 0.1], 'the predicted scores and the given scores are all equal'],
    [[3], [4], 'there is one image only'],
  ])('are not defined without variance: %#', async (x, y, reason) => {
    // scipy has NaN here.
    const found = await measure(x, y, { resamples: 50 });
    for (const estimate of [found.srcc, found.plcc]) {
      expect(estimate).toEqual({ value: null, low: null, high: null, reason });
    }
    expect(found.mse.value).toBeGreaterThan(0);
    expect(JSON.parse(JSON.stringify(found)).srcc.value).toBeNull();
  });

  it('of ranks does not change under what keeps the order, of scores not under what is linear', async () => {
    const number = fc.integer({ min: -50, max: 50 });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(number, number), { minLength: 3, maxLength: 40 }), async (pairs) => {
        const [x, y] = [pairs.map(([a]) => a), pairs.map(([, b]) => b)];
        const found = await measure(x, y);
        if (found.srcc.value === null) return;
        const curved = await measure(
          x.map((value) => Math.exp(value / 20)),
          y,
        );
        expect(curved.srcc.value).toBeCloseTo(found.srcc.value, 12);
        const straight = await measure(
          x.map((value) => 3 * value - 7),
          y,
        );
        expect(straight.plcc.value).toBeCloseTo(found.plcc.value!, 12);
        const turned = await measure(
          x.map((value) => -value),
          y,
        );
        expect(turned.srcc.value).toBeCloseTo(-found.srcc.value, 12);
      }),
    );
  });
});

describe('errors', () => {
  it('counts a score at the threshold as a low one', async () => {
    const found = await measure([5, 5.1, 4, 9], [4, 4.9, 5, 5.5]);
    expect(found.accuracy.value).toBe(0.75);
    expect(found.threshold).toBe(avaScale.threshold);
    expect((await measure([5, 5.1, 4, 9], [4, 4.9, 5, 5.5], { threshold: 4.95 })).accuracy.value).toBe(0.25);
  });

  it('squares differences', async () => {
    expect((await measure([1, 2, 3], [1, 4, 2])).mse.value).toBeCloseTo(5 / 3, 14);
  });

  it('has the earth mover’s distance in three forms, named apart', async () => {
    const predicted = [0.1, 0.2, 0.3, 0.4, 0.25, 0.25, 0.25, 0.25];
    const given = [0.4, 0.3, 0.2, 0.1, 0, 0, 1, 0];
    const four = scoreScale(1, 4, 4);
    const found = await measureScores(
      { scores: [3, 2.5], distributions: predicted },
      { scores: [2, 3], distributions: given, scale: four },
      { resamples: 0 },
    );
    // numpy's; the first is scipy.stats.wasserstein_distance over the four bins.
    expect(found.emd1!.value).toBeCloseTo(0.25, 14);
    expect(found.emd2!.value).toBeCloseTo(0.29886690629508117, 14);
    expect(found.squaredEmd!.value).toBeCloseTo(0.08937500000000001, 14);
    const same = await measureScores(
      { scores: [2], distributions: [0.5, 0.5, 0, 0] },
      { scores: [2], distributions: [0.5, 0.5, 0, 0], scale: four },
    );
    expect([same.emd1, same.emd2].map((estimate) => estimate!.value)).toEqual([0, 0]);
    expect((await measure([1, 2], [2, 1])).emd1).toBeUndefined();
  });
});

describe('intervals', () => {
  const random = new Random(9, streams.benchmark);
  const y = Array.from({ length: 60 }, () => Math.round(random.between(1, 10)));
  const x = y.map((score) => score + random.normal());

  /** The same resamples, each written out and ranked anew. */
  async function plain(
    seed: number,
    resamples: number,
    of: (x: number[], y: number[]) => Promise<number>,
  ): Promise<[number, number]> {
    const drawn = Array.from({ length: resamples }, (_, r) => {
      const draw = new Random(seed, streams.bootstrap, r);
      const rows = Array.from(x, () => draw.below(x.length));
      return of(
        rows.map((row) => x[row]!),
        rows.map((row) => y[row]!),
      );
    });
    const values = (await Promise.all(drawn)).sort((a, b) => a - b);
    const at = (share: number) => {
      const place = share * (resamples - 1);
      const below = values[Math.floor(place)]!;
      return below + (place % 1) * (values[Math.min(Math.floor(place) + 1, resamples - 1)]! - below);
    };
    return [at(0.025), at(0.975)];
  }

  it('are those of resamples written out', async () => {
    const found = await measure(x, y, { seed: 5, resamples: 200 });
    for (const name of ['srcc', 'plcc', 'mse', 'accuracy'] as const) {
      const [low, high] = await plain(5, 200, async (a, b) => (await measure(a, b))[name].value!);
      expect(found[name].low).toBeCloseTo(low, 11);
      expect(found[name].high).toBeCloseTo(high, 11);
      expect(found[name].low!).toBeLessThanOrEqual(found[name].value!);
      expect(found[name].high!).toBeGreaterThanOrEqual(found[name].value!);
    }
  });

  it('follow the seed', async () => {
    expect(await measure(x, y, { seed: 5, resamples: 100 })).toEqual(
      await measure(x, y, { seed: 5, resamples: 100 }),
    );
    expect((await measure(x, y, { seed: 5, resamples: 100 })).srcc.low).not.toBe(
      (await measure(x, y, { seed: 6, resamples: 100 })).srcc.low,
    );
  });

  it('cover the truth about as often as they say', async () => {
    let covered = 0;
    const runs = 200;
    for (let run = 0; run < runs; run++) {
      const draw = new Random(run, streams.benchmark, 1);
      const truth = Array.from({ length: 80 }, () => draw.normal());
      const guess = truth.map((value) => value + draw.normal());
      const { plcc } = await measure(guess, truth, { seed: run, resamples: 200, confidence: 0.9 });
      if (plcc.low! <= Math.SQRT1_2 && plcc.high! >= Math.SQRT1_2) covered++;
    }
    // 0.9 ± four standard deviations, and what the percentile interval is known to fall short by.
    expect(covered / runs).toBeGreaterThan(0.79);
    expect(covered / runs).toBeLessThan(0.985);
  });

  it('are left out where most resamples have no value', async () => {
    // Only with the first and the last image does either vary: 44 % of the resamples.
    const { srcc, mse } = await measure([1, 1, 2], [2, 1, 1], { resamples: 1000 });
    expect(srcc.value).toBeCloseTo(-0.5, 12);
    expect(srcc).toMatchObject({ low: null, high: null, reason: expect.stringMatching(/most resamples/) });
    expect(mse.low).not.toBeNull();
  });

  it('are written with their value', async () => {
    expect(formatEstimate({ value: 0.71349, low: 0.7, high: 0.72 })).toBe('0.713 [0.700, 0.720]');
    expect(formatEstimate({ value: 0.5, low: null, high: null }, 1)).toBe('0.5');
    expect(formatEstimate({ value: null, low: null, high: null, reason: 'x' })).toBe('not defined: x');
  });
});

it('refuses what it cannot measure', async () => {
  await expect(measure([], [])).rejects.toThrow(/at least one image/);
  await expect(measure([1, 2], [1])).rejects.toThrow('Expected 1 scores for predicted.scores but received 2');
  await expect(measure([1, Number.NaN], [1, 2])).rejects.toThrow('The predicted score of image 1 is NaN');
  await expect(measure([1, 2], [1, 2], { confidence: 2 })).rejects.toThrow(/from 0 to 1 for confidence/);
  await expect(
    measureScores(
      { scores: [1], distributions: [1] },
      { scores: [1], distributions: [1, 0], scale: scoreScale(0, 1, 2) },
    ),
  ).rejects.toThrow('Expected 1 rows of 2 shares for predicted.distributions but received 1');
});
