import { intAttribute, sameDims } from '../attributes.ts';
import { MICROSOFT } from '../emitter.ts';
import { axesOf } from '../shapes/layout.ts';
import type { Matcher, Rewrite } from './matcher.ts';

const close = (a: number | undefined, b: number) => a !== undefined && Math.abs(a - b) < 1e-4 * Math.abs(b);

/** x · σ(αx) */
export const quickGelu: Rewrite = (m, node) => {
  for (const [x, gate] of [node.inputs, node.inputs.toReversed()] as [string, string][]) {
    const sigmoid = m.made(gate, 'Sigmoid');
    if (!sigmoid) continue;
    const scaled = m.withNumber(m.made(sigmoid.inputs[0]!, 'Mul'));
    const [alpha, operand] = scaled ?? [1, sigmoid.inputs[0]!];
    if (operand === x) return m.graph.emit('QuickGelu', [x], { alpha }, MICROSOFT);
  }
  return undefined;
};

/** ½ x (1 + erf(x/√2)), the three factors in any order. */
export const gelu: Rewrite = (m, node) => {
  const factors = node.inputs.flatMap((input) => m.made(input, 'Mul')?.inputs ?? [input]);
  if (factors.length !== 3) return undefined;
  const half = factors.find((factor) => close(m.number(factor), 0.5));
  const rest = factors.filter((factor) => factor !== half);
  if (half === undefined || rest.length !== 2) return undefined;
  for (const [x, sum] of [rest, rest.toReversed()] as [string, string][]) {
    const shifted = m.withNumber(m.made(sum, 'Add'));
    const erf = shifted && close(shifted[0], 1) ? m.made(shifted[1], 'Erf') : undefined;
    if (!erf) continue;
    const divided = m.withNumber(m.made(erf.inputs[0]!, 'Div'));
    const multiplied = m.withNumber(m.made(erf.inputs[0]!, 'Mul'));
    const scaled =
      (divided && close(divided[0], Math.SQRT2)) || (multiplied && close(multiplied[0], Math.SQRT1_2));
    const operand = (divided ?? multiplied)?.[1];
    if (scaled && operand === x) return m.graph.emit('Gelu', [x], {}, MICROSOFT);
  }
  return undefined;
};

/** Mean over the last axis, kept. */
function lastMean(m: Matcher, value: string): string | undefined {
  const node = m.made(value, 'ReduceMean');
  if (!node || intAttribute(node, 'keepdims', 1) !== 1) return undefined;
  const rank = m.dims(node.inputs[0]!).length;
  const axes = axesOf(m.graph.context(node), rank);
  return axes?.length === 1 && axes[0] === rank - 1 ? node.inputs[0] : undefined;
}

/** (x − mean) / √(mean((x − mean)²) + ε) · γ + β */
export const layerNormalization: Rewrite = (m, node) => {
  for (const [scaled, beta] of [node.inputs, node.inputs.toReversed()] as [string, string][]) {
    const product = m.made(scaled, 'Mul');
    if (!product || m.dims(beta).length !== 1) continue;
    for (const [normalized, gamma] of [product.inputs, product.inputs.toReversed()] as [string, string][]) {
      const division = m.made(normalized, 'Div');
      if (!division || m.dims(gamma).length !== 1) continue;
      const centered = m.made(division.inputs[0]!, 'Sub');
      const root = m.made(division.inputs[1]!, 'Sqrt');
      const shifted = root && m.withNumber(m.made(root.inputs[0]!, 'Add'));
      const squared = shifted && lastMean(m, shifted[1]);
      if (!centered || squared === undefined) continue;
      const [x, mean] = centered.inputs as [string, string];
      const averaged = lastMean(m, mean);
      const difference = squareRoot(m, squared);
      if (averaged === undefined || difference === undefined || averaged !== x) continue;
      const twin = m.made(difference, 'Sub');
      const equal = twin?.inputs[0] === x && lastMean(m, twin.inputs[1]!) === x;
      if (!equal || !sameDims(m.dims(gamma), m.dims(beta)) || m.dims(gamma)[0] !== m.dims(x).at(-1)) continue;
      return m.graph.emit('LayerNormalization', [x, gamma, beta], { axis: -1, epsilon: shifted![0] });
    }
  }
  return undefined;
};

/** What a value is the square of, as an exporter writes it. */
function squareRoot(m: Matcher, value: string): string | undefined {
  const power = m.made(value, 'Pow');
  if (power && m.number(power.inputs[1]!) === 2) return power.inputs[0];
  const multiplied = m.made(value, 'Mul');
  return multiplied && multiplied.inputs[0] === multiplied.inputs[1] ? multiplied.inputs[0] : undefined;
}
