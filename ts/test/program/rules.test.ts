import { expect, test } from 'vitest';
import { CASES, caseGraph } from './support/cases.ts';
import { gradientsOf, lossOf, spread } from './support/gradient.ts';

/**
 * Slope of the loss along a direction of one parameter by Richardson's extrapolation of central differences: the error left is
 * the float32 rounding of the outputs, about 1e-6 of them over a step of 1e-2.
 */
async function slope(at: (step: number) => Promise<number>): Promise<number> {
  const h = 2 ** -6;
  const coarse = ((await at(2 * h)) - (await at(-2 * h))) / (4 * h);
  const fine = ((await at(h)) - (await at(-h))) / (2 * h);
  return (4 * fine - coarse) / 3;
}

test.each(CASES)('the gradient of $name is the slope of finite differences', async (given) => {
  const { graph, all, weights } = caseGraph(given);
  const gradients = await gradientsOf(graph, all, weights);
  for (const [i, { name }] of graph.parameters.entries()) {
    const { dims: shape } = all[name]!;
    const data = all[name]!.data as Float32Array;
    const direction = spread(data.length, 50 + i);
    const expected = await slope((step) => {
      const moved = data.map((value, j) => value + step * direction[j]!);
      return lossOf(graph, { ...all, [name]: { type: 'float32', dims: shape, data: moved } }, weights);
    });
    const actual = gradients.get(name)!.reduce((sum, g, j) => sum + g * direction[j]!, 0);
    const scale = Math.hypot(...gradients.get(name)!) * Math.hypot(...direction);
    expect(Math.abs(actual - expected), `${name}: ${actual} against ${expected}`).toBeLessThan(
      1e-3 * scale + 1e-4,
    );
  }
});
