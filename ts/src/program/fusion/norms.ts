import { intAttribute, sameDims } from '../attributes.ts';
import { OWN } from '../emitter.ts';
import type { GraphNode } from '../graph.ts';
import type { Matcher, Rewrite } from './matcher.ts';

/** The batch norm that makes a value which nothing else reads. */
function normOf(m: Matcher, value: string): GraphNode | undefined {
  const norm = m.made(value, 'BatchNormalization');
  return norm && norm.outputs[0] === value && m.isUsedOnce(value) ? norm : undefined;
}

/** activation(batch norm + residual) in one pass over memory, forward and backward. */
export const normActivation: Rewrite = (m, node) => {
  const [x] = node.inputs as [string];
  const alone = normOf(m, x);
  if (alone) return write(m, node.op, alone);
  const sum = m.isUsedOnce(x) ? m.made(x, 'Add') : undefined;
  for (const [value, residual] of sum ? ([sum.inputs, sum.inputs.toReversed()] as [string, string][]) : []) {
    const norm = normOf(m, value);
    if (norm && sameDims(m.dims(value), m.dims(residual))) return write(m, node.op, norm, residual);
  }
  return undefined;
};

function write(m: Matcher, activation: string, norm: GraphNode, residual?: string): string {
  const training = intAttribute(norm, 'training_mode', 0) === 1;
  const inputs = residual === undefined ? norm.inputs : [...norm.inputs, residual];
  const attributes = { ...norm.attributes, activation };
  const [y, mean, variance] = m.graph.emitAll(
    'BatchNormalizationActivation',
    inputs,
    attributes,
    training ? 3 : 1,
    OWN,
  );
  // The running averages follow the statistics that are computed now.
  const { statistics } = m.graph;
  statistics.forEach((known, i) => {
    if (known.batchMean !== norm.outputs[1]) return;
    statistics[i] = { ...known, batchMean: mean!, batchVariance: variance! };
  });
  return y!;
}
