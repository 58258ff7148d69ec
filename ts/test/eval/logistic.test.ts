import { describe, expect, it } from 'vitest';
import { minimise } from '../../src/eval/lbfgs.ts';
import { fitLogistic, type LogisticData, logisticLoss, predictLogistic } from '../../src/eval/logistic.ts';

/** Numbers in (−1, 1) by index, without a generator. */
const wave = (i: number) => Math.sin(12.9898 * (i + 1)) * Math.cos(4.1414 * i);

function data(rows: number, dim: number, classes: number): LogisticData {
  return {
    features: Float64Array.from({ length: rows * dim }, (_, i) => wave(i)),
    rows,
    dim,
    labels: Int32Array.from({ length: rows }, (_, i) => (i * 7 + (i % 3)) % classes),
    classes,
  };
}

/** The loss as its equation reads. */
function plainLoss({ features, rows, dim, labels, classes }: LogisticData, l2: number, w: Float64Array) {
  let loss = 0;
  for (let i = 0; i < rows; i++) {
    const scores = Array.from({ length: classes }, (_, c) => {
      let score = w[dim * classes + c]!;
      for (let d = 0; d < dim; d++) score += features[i * dim + d]! * w[d * classes + c]!;
      return score;
    });
    const sum = scores.reduce((total, score) => total + Math.exp(score), 0);
    loss += Math.log(sum) - scores[labels[i]!]!;
  }
  let square = 0;
  for (let i = 0; i < dim * classes; i++) square += w[i]! * w[i]!;
  return loss / rows + (l2 / 2) * square;
}

describe('logisticLoss', () => {
  // Sizes round the blocks of four rows and four features.
  it.each([
    [1, 1, 2],
    [3, 5, 3],
    [4, 4, 4],
    [9, 7, 5],
    [13, 8, 1],
  ])(
    'equals its equation, and its gradient finite differences, for %i × %i and %i classes',
    (rows, dim, classes) => {
      const problem = data(rows, dim, classes);
      const w = Float64Array.from({ length: (dim + 1) * classes }, (_, i) => 2 * wave(i + 1000));
      const gradient = new Float64Array(w.length);
      const unused = new Float64Array(w.length);
      expect(logisticLoss(problem, 0.3, w, gradient)).toBeCloseTo(plainLoss(problem, 0.3, w), 12);
      const step = 1e-5;
      for (let i = 0; i < w.length; i++) {
        const [up, down] = [Float64Array.from(w), Float64Array.from(w)];
        up[i]! += step;
        down[i]! -= step;
        const slope =
          (logisticLoss(problem, 0.3, up, unused) - logisticLoss(problem, 0.3, down, unused)) / (2 * step);
        expect(Math.abs(gradient[i]! - slope)).toBeLessThan(1e-8);
      }
    },
  );

  it('stays finite for scores beyond what exp can hold', () => {
    const problem = data(5, 2, 3);
    const w = new Float64Array(9).map((_, i) => 5000 * wave(i));
    expect(Number.isFinite(logisticLoss(problem, 0, w, new Float64Array(9)))).toBe(true);
  });
});

describe('minimise', () => {
  it('finds the minimum of the Rosenbrock function', () => {
    const { x, converged, iterations } = minimise(
      ([a, b], gradient) => {
        gradient[0] = -400 * a! * (b! - a! * a!) - 2 * (1 - a!);
        gradient[1] = 200 * (b! - a! * a!);
        return 100 * (b! - a! * a!) ** 2 + (1 - a!) ** 2;
      },
      Float64Array.of(-1.2, 1),
      { tolerance: 1e-9 },
    );
    expect(converged).toBe(true);
    expect(iterations).toBeLessThan(80);
    expect(x[0]).toBeCloseTo(1, 8);
    expect(x[1]).toBeCloseTo(1, 8);
  });

  it('solves a badly scaled quadratic and says when it was stopped early', () => {
    const scales = [1, 1e4, 1e-2, 30];
    const quadratic = (x: Float64Array, gradient: Float64Array) => {
      let value = 0;
      scales.forEach((scale, i) => {
        gradient[i] = scale * (x[i]! - i);
        value += 0.5 * scale * (x[i]! - i) ** 2;
      });
      return value;
    };
    const { x, converged } = minimise(quadratic, new Float64Array(4), { tolerance: 1e-10 });
    expect(converged).toBe(true);
    for (let i = 0; i < 4; i++) expect(x[i]).toBeCloseTo(i, 6);
    expect(minimise(quadratic, new Float64Array(4), { maxIterations: 1 })).toMatchObject({
      iterations: 1,
      converged: false,
    });
  });

  it('takes no step where the gradient is 0', () => {
    const start = Float64Array.of(3);
    expect(minimise((_, gradient) => gradient.fill(0).length, start)).toMatchObject({
      iterations: 0,
      converged: true,
    });
  });
});

describe('fitLogistic', () => {
  it('ends where the gradient is 0, whatever it started from', () => {
    const problem = data(40, 3, 3);
    const cold = fitLogistic(problem, 1e-2, undefined, { tolerance: 1e-7 });
    const warm = fitLogistic(
      problem,
      1e-2,
      Float64Array.from({ length: 12 }, (_, i) => wave(i)),
      { tolerance: 1e-7 },
    );
    expect(cold.converged && warm.converged).toBe(true);
    expect(cold.value).toBeCloseTo(warm.value, 12);
    // The bias is not penalised: adding a constant to it changes nothing, so only the weights are compared.
    for (let i = 0; i < 9; i++) expect(cold.x[i]).toBeCloseTo(warm.x[i]!, 5);
  });

  it('separates what can be separated', () => {
    const features = Float64Array.of(1, 0, 0.9, 0.1, 0, 1, 0.1, 0.9, -1, -1, -0.9, -1.1);
    const problem = { features, rows: 6, dim: 2, labels: Int32Array.of(0, 0, 1, 1, 2, 2), classes: 3 };
    const { x } = fitLogistic(problem, 1e-4);
    expect([...predictLogistic(problem, x)]).toEqual([0, 0, 1, 1, 2, 2]);
  });

  it('has the closed form of two balanced points: w minimises log(1 + exp(−2w)) with its penalty', () => {
    // Two classes at x = 1 and x = −1. By symmetry W = (w, −w), b = 0: log(1 + exp(−2w)) + l2 w², stationary where
    // 2 / (1 + exp(2w)) = 2 l2 w.
    const problem = {
      features: Float64Array.of(1, -1),
      rows: 2,
      dim: 1,
      labels: Int32Array.of(0, 1),
      classes: 2,
    };
    const l2 = 0.1;
    const { x } = fitLogistic(problem, l2, undefined, { tolerance: 1e-12 });
    expect(x[0]).toBeCloseTo(-x[1]!, 10);
    expect(1 / (1 + Math.exp(2 * x[0]!))).toBeCloseTo(l2 * x[0]!, 10);
  });
});
