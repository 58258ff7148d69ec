import { floatAttribute, intAttribute, numbersOf, positiveAxis, product } from '../attributes.ts';
import { toAttributes } from '../builder.ts';
import { Emitter, OWN } from '../emitter.ts';
import { attentionShape, NEVER } from '../fused/attention.ts';
import type { GraphNode } from '../graph.ts';
import { ELEMENTWISE } from '../items.ts';
import { sliceRanges } from '../shapes/layout.ts';
import { StaticGraph } from '../static.ts';

/** One row of the `rows` that each of `batch` items has: the same of all, or where an index says. */
interface Pick {
  readonly batch: number;
  readonly rows: number;
  readonly at: number | string;
}

/**
 * A graph that computes nothing of rows of which only one an item is read in the end: behind the last attention's keys and values, a
 * transformer whose embedding is one token's works on that token alone, forward and backward. What is left is computed as it was. Rows
 * are picked as early as the operators between work on each row by itself.
 */
export function withoutUnreadRows(graph: StaticGraph): StaticGraph {
  const live = liveOf(graph);
  const { nodes, makers } = live;
  const narrowed = narrowNodes(live);
  if (narrowed.size === 0) return graph;

  const result = new StaticGraph(graph, graph.inputs, graph.outputs);
  result.statistics.push(...graph.statistics);
  for (const [name, constant] of graph.constants) result.setConstant(name, constant);
  const e = new Emitter(result);
  // Values of picked rows by what they are picked from; what a narrowed node makes keeps its name.
  const made = new Set([...narrowed.keys()].map((node) => node.outputs[0]!));
  const picked = new Map<string, string>();
  const pickedOf = (value: string, pick: Pick): string => {
    if (made.has(value)) return value;
    const key = `${value}|${pick.at}`;
    let rows = picked.get(key);
    if (rows === undefined) {
      rows = pickRows(e, value, pick);
      picked.set(key, rows);
    }
    return rows;
  };
  const written = new Set<GraphNode>();
  const write = (node: GraphNode | undefined): void => {
    if (!node || written.has(node)) return;
    written.add(node);
    const pick = narrowed.get(node);
    // An index may be made behind the rows that it now picks.
    if (typeof pick?.at === 'string') write(makers.get(pick.at));
    for (const input of node.inputs) write(makers.get(input));
    if (pick) {
      const { rowwise, shape } = operandsOf(live, node, pick)!;
      const picked = (value: string) => pickedOf(value, pick);
      const inputs = node.inputs.map((input, i) => (rowwise.has(i) ? picked(input) : input));
      if (isAttention(node)) result.append(oneQuery(e, live, { ...node, inputs }, pick, picked));
      else result.append(shape ? reshapeNode(e, node, inputs[0]!, shape) : { ...node, inputs });
    } else if (pickOf(graph, node) && made.has(node.inputs[0]!)) {
      result.append(reshapeNode(e, node, node.inputs[0]!, graph.dims(node.outputs[0]!)));
    } else {
      result.append(node);
    }
  };
  nodes.forEach(write);
  return result;
}

/** What a graph's outputs need, and who makes and reads each value of it. */
interface Live {
  readonly graph: StaticGraph;
  readonly nodes: readonly GraphNode[];
  readonly makers: ReadonlyMap<string, GraphNode>;
  readonly readers: ReadonlyMap<string, readonly GraphNode[]>;
}

function liveOf(graph: StaticGraph): Live {
  const { nodes } = graph.toGraph();
  const makers = new Map(nodes.flatMap((node) => node.outputs.map((output) => [output, node] as const)));
  const readers = new Map<string, GraphNode[]>();
  for (const node of nodes) {
    for (const input of new Set(node.inputs)) {
      const list = readers.get(input);
      if (list) list.push(node);
      else readers.set(input, [node]);
    }
  }
  return { graph, nodes, makers, readers };
}

/** Nodes of whose rows only picked ones are read, with what picks them. */
function narrowNodes(live: Live): Map<GraphNode, Pick> {
  const { graph, nodes, readers } = live;
  const outputs = new Set(graph.outputs);
  const narrowed = new Map<GraphNode, Pick>();
  const readAs = (value: string, reader: GraphNode): Pick | undefined => {
    const pick = narrowed.get(reader);
    if (!pick) return reader.inputs.indexOf(value) === 0 ? pickOf(graph, reader) : undefined;
    const { rowwise } = operandsOf(live, reader, pick)!;
    return reader.inputs.every((input, i) => input !== value || rowwise.has(i)) ? pick : undefined;
  };
  for (const node of nodes.toReversed()) {
    const [value, ...more] = node.outputs as [string, ...string[]];
    if (outputs.has(value) || more.some((output) => outputs.has(output) || readers.has(output))) continue;
    const picks = (readers.get(value) ?? []).map((reader) => readAs(value, reader));
    const [first] = picks;
    const same = picks.every((pick) => pick && first && samePick(pick, first));
    if (first && same && operandsOf(live, node, first)) narrowed.set(node, first);
  }
  return narrowed;
}

const samePick = (a: Pick, b: Pick) => a.batch === b.batch && a.rows === b.rows && a.at === b.at;

/** What a node picks of its first input, [batch, rows, ...], if that is all it does. */
function pickOf(graph: StaticGraph, node: GraphNode): Pick | undefined {
  const dims = node.inputs[0] ? graph.dims(node.inputs[0]) : [];
  const [batch, rows] = dims as [number, number];
  if (dims.length < 3 || rows < 2) return undefined;
  if (node.op === 'PickRow' && node.domain === OWN) return { batch, rows, at: node.inputs[1]! };
  if (node.op === 'Slice') {
    const ranges = sliceRanges(graph.context(node)).filter(
      ({ axis, length, step }) => length !== dims[axis] || step !== 1,
    );
    const [range] = ranges;
    if (ranges.length !== 1 || range!.axis !== 1 || range!.length !== 1) return undefined;
    return { batch, rows, at: range!.start };
  }
  if (node.op !== 'Gather' || positiveAxis(intAttribute(node, 'axis', 0), dims.length) !== 1)
    return undefined;
  const index = graph.constants.get(node.inputs[1]!);
  if (index?.data.length !== 1) return undefined;
  return { batch, rows, at: positiveAxis(numbersOf(index)[0]!, rows) };
}

/** How many leading axes of a value are its rows: [batch, rows, ...] or [batch · rows, ...]. */
function rowAxes(dims: readonly number[], { batch, rows }: Pick): 1 | 2 | undefined {
  if (dims.length > 2 && dims[0] === batch && dims[1] === rows) return 2;
  return dims.length > 1 && dims[0] === batch * rows ? 1 : undefined;
}

/** The shape of the picked rows of such a value. */
function pickedDims(dims: readonly number[], pick: Pick): number[] {
  return rowAxes(dims, pick) === 2 ? dims.with(1, 1) : dims.with(0, pick.batch);
}

function pickRows(e: Emitter, value: string, pick: Pick): string {
  const dims = e.dims(value);
  const { batch, rows, at } = pick;
  const items = e.reshape(value, [batch, rows, product(dims) / (batch * rows)]);
  const chosen =
    typeof at === 'number'
      ? e.slice(items, [1], [at], [at + 1])
      : e.graph.emit('PickRow', [items, at], {}, OWN);
  return e.reshape(chosen, pickedDims(dims, pick));
}

function reshapeNode(e: Emitter, node: GraphNode, input: string, dims: readonly number[]): GraphNode {
  return { ...node, op: 'Reshape', domain: '', inputs: [input, e.graph.ints(dims)], attributes: {} };
}

interface Operands {
  /** Inputs that have a row for each row of the output. The others are the same for all. */
  readonly rowwise: ReadonlySet<number>;
  /** Of the picked rows, where the node only gives a new shape. */
  readonly shape?: readonly number[];
}

const RELABELS: ReadonlySet<string> = new Set(['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze']);

/** The operands of a node that makes each row of its output from the same row of its inputs; undefined for any other. */
function operandsOf(live: Live, node: GraphNode, pick: Pick): Operands | undefined {
  const { graph } = live;
  const dims = graph.dims(node.outputs[0]!);
  const axes = rowAxes(dims, pick);
  if (axes === undefined) return undefined;
  const first = graph.dims(node.inputs[0]!);
  const alone = { rowwise: new Set([0]) };
  if (RELABELS.has(node.op))
    return rowAxes(first, pick) ? { ...alone, shape: pickedDims(dims, pick) } : undefined;
  if (ELEMENTWISE.has(node.op)) return elementwise(graph, node, dims, axes);
  if (isAttention(node)) return attention(live, node, axes);
  if (rowAxes(first, pick) !== axes) return undefined;
  switch (node.op) {
    case 'LayerNormalization':
      return positiveAxis(intAttribute(node, 'axis', -1), first.length) >= axes ? alone : undefined;
    case 'MatMul':
    case 'FusedMatMul':
    case 'Gemm': {
      const right = graph.dims(node.inputs[1]!);
      const bias = node.inputs[2] ? graph.dims(node.inputs[2]) : [];
      const plain = right.length === 2 && intAttribute(node, 'transA', 0) === 0 && first.length === axes + 1;
      return plain && (bias.length < 2 || bias[0] === 1) ? alone : undefined;
    }
    default:
      return undefined;
  }
}

/** What broadcasts must not differ from row to row. */
function elementwise(
  graph: StaticGraph,
  node: GraphNode,
  dims: readonly number[],
  axes: number,
): Operands | undefined {
  const rowwise = new Set<number>();
  for (const [i, input] of node.inputs.entries()) {
    if (input === '') continue;
    const own = graph.dims(input);
    const lead = dims.length - own.length;
    const sizes = dims.slice(0, axes).map((_, axis) => (axis < lead ? 1 : own[axis - lead]!));
    if (sizes.every((size, axis) => size === dims[axis])) rowwise.add(i);
    else if (sizes[axes - 1] !== 1) return undefined;
  }
  return rowwise.size > 0 ? { rowwise } : undefined;
}

const isAttention = ({ op, domain }: GraphNode) => op === 'Attention' && domain === OWN;

/** A row of an attention is that of its query. */
function attention(live: Live, node: GraphNode, axes: number): Operands | undefined {
  const { graph } = live;
  const mask = node.inputs[3] ?? '';
  if (axes !== 2 || (mask !== '' && graph.dims(mask)[2] !== 1)) return undefined;
  if (!attentionShape(node, graph.context(node), 0).packed) return { rowwise: new Set([0]) };
  return projectionOf(live, node) ? { rowwise: new Set() } : undefined;
}

/** The product that makes queries, keys and values for an attention, and for nothing else. */
function projectionOf({ graph, makers, readers }: Live, node: GraphNode): GraphNode | undefined {
  let value = node.inputs[0]!;
  let maker: GraphNode | undefined;
  do {
    if (readers.get(value)!.length > 1 || graph.outputs.includes(value)) return undefined;
    maker = makers.get(value);
    value = maker?.inputs[0] ?? '';
  } while (maker?.op === 'Reshape');
  if (maker?.op !== 'Gemm' && maker?.op !== 'MatMul') return undefined;
  if (graph.dims(maker.inputs[1]!).length !== 2 || intAttribute(maker, 'transA', 0) === 1) return undefined;
  const bias = maker.inputs[2] ?? '';
  return bias === '' || graph.dims(bias).length === 1 ? maker : undefined;
}

/** An attention of one query an item to all keys and values. */
function oneQuery(
  e: Emitter,
  live: Live,
  node: GraphNode,
  pick: Pick,
  picked: (value: string) => string,
): GraphNode {
  const { batch, rows, at } = pick;
  const [, , , mask = ''] = node.inputs;
  const causal = intAttribute(node, 'causal', 0) === 1;
  const attributes = { heads: intAttribute(node, 'heads', 1), scale: floatAttribute(node, 'scale', 1) };
  const write = (operands: readonly string[], more: Readonly<Record<string, number>> = {}): GraphNode => {
    // The last token sees all.
    const seen = causal && at !== rows - 1 ? seenFrom(e, pick) : mask;
    const inputs = seen === '' ? operands : [...operands, seen];
    return { ...node, inputs, attributes: toAttributes({ ...attributes, ...more }) };
  };
  if (intAttribute(node, 'packed', 0) === 0) return write(node.inputs.slice(0, 3));
  const projection = projectionOf(live, node)!;
  const [x, weight, bias = ''] = projection.inputs as [string, string, string?];
  const axis = intAttribute(projection, 'transB', 0) === 1 ? 0 : 1;
  const width = e.dims(weight)[axis]! / 3;
  /** Of thirds of the columns. */
  const project = (from: string, begin: number, end: number, tokens: number) => {
    const part = (value: string, along: number) => e.slice(value, [along], [begin * width], [end * width]);
    const added = bias === '' ? [] : [part(bias, 0)];
    const y = e.graph.emit(projection.op, [from, part(weight, axis), ...added], projection.attributes);
    return e.reshape(y, [batch, tokens, (end - begin) * width]);
  };
  return write([project(picked(x), 0, 1, 1), project(x, 1, 3, rows), ''], { paired: 1 });
}

/** A causal mask's row at the picked token, [batch or 1, 1, 1, rows]. */
function seenFrom(e: Emitter, { batch, rows, at }: Pick): string {
  const all = e.graph.causal(rows, rows, NEVER);
  if (typeof at === 'number') return e.reshape(e.slice(all, [0], [at], [at + 1]), [1, 1, 1, rows]);
  return e.reshape(e.graph.emit('Gather', [all, at], { axis: 0 }), [batch, 1, 1, rows]);
}
