import { attention } from './fusion/attention.ts';
import { gelu, layerNormalization, quickGelu } from './fusion/elementwise.ts';
import { undone } from './fusion/layout.ts';
import { Matcher, type Rewrite } from './fusion/matcher.ts';
import { normActivation } from './fusion/norms.ts';
import { withoutUnreadRows } from './fusion/picked.ts';
import { linear, patches, permutedRows, scaledProduct, transposedProduct } from './fusion/products.ts';
import { pickByIndices, pickByProduct, pickByRows } from './fusion/rows.ts';
import { StaticGraph } from './static.ts';

const PATTERNS: Readonly<Record<string, readonly Rewrite[]>> = {
  Mul: [quickGelu, gelu, scaledProduct],
  Div: [scaledProduct],
  Add: [layerNormalization, linear],
  MatMul: [attention, pickByProduct, transposedProduct, permutedRows],
  FusedMatMul: [attention],
  Gemm: [permutedRows],
  Conv: [patches],
  Gather: [pickByRows],
  GatherND: [pickByIndices],
  Transpose: [undone],
  Reshape: [undone],
  Relu: [normActivation],
  HardSwish: [normActivation],
};

/**
 * Rewrites a graph into fewer, larger operators before it is differentiated: a gradient's uses of the values between would
 * forbid it later. Rows that nothing reads are left out. What is unused stays behind as dead nodes, which `toGraph` drops.
 */
export function fuse(graph: StaticGraph): StaticGraph {
  const result = new StaticGraph(graph, graph.inputs, graph.outputs);
  result.statistics.push(...graph.statistics);
  for (const [name, constant] of graph.constants) result.setConstant(name, constant);
  const matcher = new Matcher(result, graph);
  // Values by the name of what they are the same as.
  const aliases = new Map<string, string>();
  for (const original of graph.nodes) {
    const node = { ...original, inputs: original.inputs.map((input) => aliases.get(input) ?? input) };
    const replacement = matcher.rewrite(node, PATTERNS[node.op] ?? []);
    if (replacement === undefined) matcher.append(node);
    else aliases.set(node.outputs[0]!, replacement);
  }
  for (const output of graph.outputs) {
    const value = aliases.get(output);
    if (value === undefined) continue;
    matcher.append({
      op: 'Identity',
      domain: '',
      name: output,
      inputs: [value],
      outputs: [output],
      attributes: {},
    });
  }
  return withoutUnreadRows(result);
}
