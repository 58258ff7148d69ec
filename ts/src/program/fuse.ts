import { floatAttribute, intAttribute, intsAttribute, product, sameDims } from './attributes.ts';
import { Emitter, MICROSOFT } from './emitter.ts';
import type { GraphNode } from './graph.ts';
import { axesOf, permutation } from './shapes/layout.ts';
import { StaticGraph } from './static.ts';

/**
 * Rewrites a graph into fewer, larger operators before it is differentiated: a gradient's uses of the values between would
 * forbid it later. What a pattern leaves unused stays behind as dead nodes, which `toGraph` drops.
 */
export function fuse(graph: StaticGraph): StaticGraph {
  const result = new StaticGraph(graph, graph.inputs, graph.outputs);
  result.statistics.push(...graph.statistics);
  for (const [name, constant] of graph.constants) result.setConstant(name, constant);
  const matcher = new Matcher(result);
  // Values by the name of what they are the same as.
  const aliases = new Map<string, string>();
  for (const original of graph.nodes) {
    const node = { ...original, inputs: original.inputs.map((input) => aliases.get(input) ?? input) };
    const replacement = matcher.rewrite(node);
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
  return result;
}

/** Writes a replacement of the node and returns its value, or returns undefined where the pattern is not there. */
type Rewrite = (m: Matcher, node: GraphNode) => string | undefined;

class Matcher extends Emitter {
  readonly #producers = new Map<string, GraphNode>();

  /** The value that replaces a node's output, or undefined to leave the node as it is. */
  rewrite(node: GraphNode): string | undefined {
    if (node.op === 'Identity') return node.inputs[0]!;
    const before = this.graph.nodes.length;
    for (const pattern of PATTERNS[node.op] ?? []) {
      const value = pattern(this, node);
      for (const added of this.graph.nodes.slice(before)) this.#record(added);
      if (value !== undefined) return value;
    }
    return undefined;
  }

  append(node: GraphNode): void {
    this.graph.append(node);
    this.#record(node);
  }

  #record(node: GraphNode): void {
    for (const output of node.outputs) this.#producers.set(output, node);
  }

  /** The node that makes a value, when it is of this operator. */
  made(value: string, op: string): GraphNode | undefined {
    const node = this.#producers.get(value);
    return node?.op === op ? node : undefined;
  }

  /** The number that a constant of one element is. */
  number(value: string): number | undefined {
    const constant = this.graph.constants.get(value);
    return constant?.data.length === 1 && constant.type === 'float32' ? Number(constant.data[0]) : undefined;
  }

  /** A node's two operands as [constant number, other operand]. */
  withNumber(node: GraphNode | undefined): [number, string] | undefined {
    if (!node) return undefined;
    const [a, b] = node.inputs as [string, string];
    const [x, y] = [this.number(a), this.number(b)];
    if (y !== undefined) return [y, a];
    return x === undefined ? undefined : [x, b];
  }

  isParameter(value: string): boolean {
    return this.graph.parameters.some(({ name }) => name === value);
  }
}

const close = (a: number | undefined, b: number) => a !== undefined && Math.abs(a - b) < 1e-4 * Math.abs(b);

/** x · σ(αx) */
const quickGelu: Rewrite = (m, node) => {
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
const gelu: Rewrite = (m, node) => {
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
const layerNormalization: Rewrite = (m, node) => {
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

/** x · W + b with x of any rank as one Gemm over rows, which adds the bias on its way. */
const gemm: Rewrite = (m, node) => {
  for (const [multiplied, bias] of [node.inputs, node.inputs.toReversed()] as [string, string][]) {
    const matmul = m.made(multiplied, 'MatMul');
    if (!matmul || !m.isParameter(bias) || m.dims(bias).length !== 1) continue;
    const [x, w] = matmul.inputs as [string, string];
    const dims = m.dims(x);
    if (dims.length < 2 || m.dims(w).length !== 2 || m.dims(bias)[0] !== m.dims(w)[1]) continue;
    const turned = m.made(w, 'Transpose');
    if (turned && permutation(turned, 2)[0] === 0) continue;
    const rows = m.reshape(x, [product(dims.slice(0, -1)), dims.at(-1)!]);
    const y = turned
      ? m.graph.emit('Gemm', [rows, turned.inputs[0]!, bias], { transB: 1 })
      : m.graph.emit('Gemm', [rows, w, bias]);
    return m.reshape(y, [...dims.slice(0, -1), m.dims(bias)[0]!]);
  }
  return undefined;
};

/** A factor on a batched product becomes its alpha. */
const scaledProduct: Rewrite = (m, node) => {
  const scaled = m.withNumber(node);
  if (!scaled) return undefined;
  const factor = node.op === 'Div' ? 1 / scaled[0] : scaled[0];
  if (node.op === 'Div' && m.number(node.inputs[1]!) === undefined) return undefined;
  const matmul = m.made(scaled[1], 'MatMul') ?? m.made(scaled[1], 'FusedMatMul');
  if (!matmul || m.dims(scaled[1]).length < 3 || m.dims(matmul.inputs[1]!).length < 3) return undefined;
  const alpha = floatAttribute(matmul, 'alpha', 1) * factor;
  return m.graph.emit('FusedMatMul', matmul.inputs, { ...matmul.attributes, alpha }, MICROSOFT);
};

/** A · Bᵀ with a Transpose written out: the product reads B as it lies. */
const transposedProduct: Rewrite = (m, node) => {
  const [a, b] = node.inputs as [string, string];
  const turned = m.made(b, 'Transpose');
  if (!turned || m.dims(b).length < 3) return undefined;
  const source = turned.inputs[0]!;
  const perm = [...permutation(turned, m.dims(source).length)];
  const rank = perm.length;
  // Only where what stays of the permutation moves whole rows.
  if (perm[rank - 2] !== rank - 1) return undefined;
  [perm[rank - 2], perm[rank - 1]] = [perm[rank - 1]!, perm[rank - 2]!];
  return m.graph.emit('FusedMatMul', [a, m.transpose(source, perm)], { transB: 1 }, MICROSOFT);
};

/** A convolution whose windows tile the image, as in a patch embedding: one product over patches. */
const patches: Rewrite = (m, node) => {
  const [x, w, bias] = node.inputs as [string, string, string | undefined];
  const [dims, kernel] = [m.dims(x), m.dims(w).slice(2)];
  const strides = intsAttribute(node, 'strides') ?? kernel.map(() => 1);
  const pads = intsAttribute(node, 'pads') ?? [];
  const tiles =
    kernel.length === 2 &&
    product(kernel) > 1 &&
    sameDims(kernel, strides) &&
    intAttribute(node, 'group', 1) === 1 &&
    pads.every((pad) => pad === 0) &&
    kernel.every((size, i) => dims[i + 2]! % size === 0) &&
    !('auto_pad' in node.attributes && node.attributes.auto_pad!.value !== 'NOTSET') &&
    (intsAttribute(node, 'dilations') ?? []).every((dilation) => dilation === 1);
  if (!tiles) return undefined;
  const [images, channels, height, width] = dims as [number, number, number, number];
  const [kh, kw] = kernel as [number, number];
  const [rows, columns, features] = [height / kh, width / kw, m.dims(w)[0]!];
  const blocks = m.transpose(m.reshape(x, [images, channels, rows, kh, columns, kw]), [0, 2, 4, 1, 3, 5]);
  const flat = m.reshape(blocks, [images * rows * columns, channels * kh * kw]);
  const weight = m.reshape(w, [features, channels * kh * kw]);
  const y = m.graph.emit('Gemm', bias ? [flat, weight, bias] : [flat, weight], { transB: 1 });
  const turned = m.transpose(m.reshape(y, [images, rows * columns, features]), [0, 2, 1]);
  return m.reshape(turned, [images, features, rows, columns]);
};

/** A Transpose that only undoes one before it, with reshapes between that cancel. */
const undone: Rewrite = (m, node) => {
  let value = node.inputs[0]!;
  for (let inner = m.made(value, 'Reshape'); inner; inner = m.made(value, 'Reshape'))
    value = inner.inputs[0]!;
  const first = m.made(value, 'Transpose');
  if (!first || !sameDims(m.dims(value), m.dims(node.inputs[0]!))) return undefined;
  const rank = m.dims(value).length;
  const [inner, outer] = [permutation(first, rank), permutation(node, rank)];
  return outer.every((axis, i) => inner[axis] === i) ? first.inputs[0] : undefined;
};

const PATTERNS: Readonly<Record<string, readonly Rewrite[]>> = {
  Mul: [quickGelu, gelu, scaledProduct],
  Div: [scaledProduct],
  Add: [layerNormalization, gemm],
  MatMul: [transposedProduct],
  Conv: [patches],
  Transpose: [undone],
};
