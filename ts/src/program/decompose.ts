import { floatAttribute, intAttribute } from './attributes.ts';
import { Emitter, MICROSOFT } from './emitter.ts';
import type { GraphNode } from './graph.ts';
import { StaticGraph } from './static.ts';

/**
 * The same graph in ONNX's own operators alone: what fused operators mean, for other runtimes and as the oracle that executors
 * of fused ones are held against.
 */
export function decompose(graph: StaticGraph): StaticGraph {
  const result = new StaticGraph(graph, graph.inputs, graph.outputs);
  result.statistics.push(...graph.statistics);
  for (const [name, constant] of graph.constants) result.setConstant(name, constant);
  const emitter = new Emitter(result);
  for (const node of graph.nodes) {
    const rule = node.domain === MICROSOFT ? DECOMPOSITIONS[node.op] : undefined;
    if (!rule) {
      result.append(node);
      continue;
    }
    const inputs = [rule(emitter, node)];
    result.append({
      op: 'Identity',
      domain: '',
      name: node.name,
      inputs,
      outputs: node.outputs,
      attributes: {},
    });
  }
  return result;
}

const DECOMPOSITIONS: Readonly<Record<string, (e: Emitter, node: GraphNode) => string>> = {
  // ½ x (1 + erf(x/√2))
  Gelu: (e, { inputs: [x] }) => {
    const erf = e.graph.emit('Erf', [e.scale(x!, Math.SQRT1_2)]);
    return e.mul(e.scale(x!, 0.5), e.add(erf, e.scalar(1)));
  },
  // x · σ(αx)
  QuickGelu: (e, node) => {
    const [x] = node.inputs as [string];
    return e.mul(x, e.graph.emit('Sigmoid', [e.scale(x, floatAttribute(node, 'alpha', 1.702))]));
  },
  FusedMatMul: (e, node) => {
    const [a, b] = node.inputs as [string, string];
    const turn = (value: string, flag: string) => {
      if (intAttribute(node, flag, 0) === 0) return value;
      const axes = e.dims(value).map((_, i) => i);
      return e.transpose(value, [...axes.slice(0, -2), axes.length - 1, axes.length - 2]);
    };
    const product = e.graph.emit('MatMul', [turn(a, 'transA'), turn(b, 'transB')]);
    return e.scale(product, floatAttribute(node, 'alpha', 1));
  },
};
