import { floatAttribute, intAttribute, product } from './attributes.ts';
import { Emitter, MICROSOFT, OWN } from './emitter.ts';
import { fusedOperator } from './fused/index.ts';
import type { GraphNode } from './graph.ts';
import { StaticGraph } from './static.ts';

/**
 * The same graph without the operators of some domains: what fused operators mean, for runtimes that lack them and as the oracle
 * that executors of fused ones are held against. `domains` defaults to all but ONNX's own.
 */
export function decompose(graph: StaticGraph, domains: readonly string[] = [MICROSOFT, OWN]): StaticGraph {
  const result = new StaticGraph(graph, graph.inputs, graph.outputs);
  result.statistics.push(...graph.statistics);
  for (const [name, constant] of graph.constants) result.setConstant(name, constant);
  const emitter = new StandardEmitter(result);
  for (const node of graph.nodes) {
    if (!domains.includes(node.domain)) {
      result.append(node);
      continue;
    }
    const values = expand(emitter, node);
    for (const [i, output] of node.outputs.entries()) {
      if (output === '') continue;
      const inputs = [values[i]!];
      result.append({ op: 'Identity', domain: '', name: output, inputs, outputs: [output], attributes: {} });
    }
  }
  // What an operator of our own is made of may be of another domain that has to go.
  return result.nodes.some(({ domain }) => domains.includes(domain)) ? decompose(result, domains) : result;
}

function expand(e: StandardEmitter, node: GraphNode): readonly string[] {
  const own = fusedOperator(node);
  return own ? own.decompose(e, node, e.graph.context(node)) : [MICROSOFTS[node.op]!(e, node)];
}

/** Writes sums as operators of ONNX that are fast in its runtime. */
class StandardEmitter extends Emitter {
  /** [M, N] → [N]. A product with ones: a matrix multiply streams over memory, a reduction over rows here does not. */
  override columnSum(a: string): string {
    const [rows, columns] = this.dims(a) as [number, number];
    if (rows === 1) return this.reshape(a, [columns]);
    return this.reshape(this.matmul(this.graph.filled([1, rows], 1), a), [columns]);
  }

  /** [M, N] → [M]. */
  #rowSum(a: string): string {
    const [rows, columns] = this.dims(a) as [number, number];
    if (columns === 1) return this.reshape(a, [rows]);
    return this.reshape(this.matmul(a, this.graph.filled([columns, 1], 1)), [rows]);
  }

  /** Sum over axes, which are dropped. */
  override sumOver(a: string, axes: readonly number[]): string {
    const dims = this.dims(a);
    const summed = axes.filter((axis) => dims[axis] !== 1);
    const target = dims.filter((_, i) => !axes.includes(i));
    if (summed.length === 0) return this.reshape(a, target);
    // Axes that are together at the end, then those at the front; a reduction takes what lies between.
    let trailing = dims.length;
    while (trailing > 0 && (axes.includes(trailing - 1) || dims[trailing - 1] === 1)) trailing--;
    let leading = 0;
    while (leading < trailing && (axes.includes(leading) || dims[leading] === 1)) leading++;
    let result = a;
    let rest = dims;
    if (product(dims.slice(trailing)) > 1) {
      const rows = dims.slice(0, trailing);
      result = this.#rowSum(this.reshape(result, [product(rows), product(dims.slice(trailing))]));
      rest = rows;
    }
    if (product(rest.slice(0, leading)) > 1) {
      const columns = rest.slice(leading);
      result = this.columnSum(this.reshape(result, [product(rest.slice(0, leading)), product(columns)]));
      rest = columns;
    } else {
      rest = rest.slice(leading);
    }
    const between = summed.map((axis) => axis - leading).filter((axis) => axis >= 0 && axis < rest.length);
    if (between.length > 0) {
      const { graph } = this;
      result = graph.emit('ReduceSum', [this.reshape(result, rest), graph.ints(between)], { keepdims: 0 });
    }
    return this.reshape(result, target);
  }
}

const MICROSOFTS: Readonly<Record<string, (e: Emitter, node: GraphNode) => string>> = {
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
