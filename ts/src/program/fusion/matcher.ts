import { intAttribute, numbersOf, positiveAxis } from '../attributes.ts';
import { Emitter } from '../emitter.ts';
import type { GraphNode } from '../graph.ts';
import { permutation, sliceRanges } from '../shapes/layout.ts';
import type { StaticGraph } from '../static.ts';
import { View } from '../view.ts';

/** Writes a replacement of the node and returns its value, or returns undefined where the pattern is not there. */
export type Rewrite = (m: Matcher, node: GraphNode) => string | undefined;

/** What a value is a view of. */
export interface Traced {
  readonly base: string;
  readonly view: View;
  /** The number that the elements of the base are multiplied by. */
  readonly factor: number;
}

/** A graph that is being rewritten: finds what makes a value, and writes what replaces it. */
export class Matcher extends Emitter {
  /** The graph that is rewritten, which has the shapes of nodes that are not written yet. */
  readonly original: StaticGraph;
  readonly #producers = new Map<string, GraphNode>();
  readonly #uses = new Map<string, number>();
  readonly #parameters: ReadonlySet<string>;
  readonly #learned: Set<string>;

  constructor(graph: StaticGraph, original: StaticGraph) {
    super(graph);
    this.original = original;
    this.#parameters = new Set(graph.parameters.map(({ name }) => name));
    this.#learned = new Set(this.#parameters);
    const use = (value: string) => this.#uses.set(value, (this.#uses.get(value) ?? 0) + 1);
    for (const node of original.nodes) node.inputs.forEach(use);
    original.outputs.forEach(use);
  }

  /** Whether one node alone reads a value. */
  isUsedOnce(value: string): boolean {
    return this.#uses.get(value) === 1;
  }

  /** The value that replaces a node's output, or undefined to leave the node as it is. */
  rewrite(node: GraphNode, patterns: readonly Rewrite[]): string | undefined {
    if (node.op === 'Identity') return node.inputs[0]!;
    const before = this.graph.nodes.length;
    for (const pattern of patterns) {
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
    if (node.inputs.some((input) => this.#learned.has(input))) {
      for (const output of node.outputs) this.#learned.add(output);
    }
  }

  /** Shape of a value of the graph that is rewritten. */
  originalDims(value: string): readonly number[] {
    return this.original.dims(value);
  }

  producer(value: string): GraphNode | undefined {
    return this.#producers.get(value);
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

  /** The factor and the operand of a product or quotient with a number. */
  scaled(node: GraphNode | undefined): [number, string] | undefined {
    if (node?.op !== 'Mul' && node?.op !== 'Div') return undefined;
    const scaled = this.withNumber(node);
    if (!scaled || (node.op === 'Div' && this.number(node.inputs[1]!) === undefined)) return undefined;
    return [node.op === 'Div' ? 1 / scaled[0] : scaled[0], scaled[1]];
  }

  isParameter(value: string): boolean {
    return this.#parameters.has(value);
  }

  /** Whether a value depends on a parameter. */
  isLearned(value: string): boolean {
    return this.#learned.has(value);
  }

  /**
   * Follows a value back through operators that only relabel, permute or cut, as far as one view can say it; through factors too
   * where `factors` says so.
   */
  trace(value: string, options: { factors?: boolean } = {}): Traced {
    const path: { node: GraphNode; output: string }[] = [];
    let base = value;
    let node = this.#producers.get(base);
    while (node && (VIEWS.has(node.op) || (options.factors && this.scaled(node)))) {
      path.push({ node, output: base });
      base = this.scaled(node)?.[1] ?? node.inputs[0]!;
      node = this.#producers.get(base);
    }
    let view = View.of(this.dims(base));
    let factor = 1;
    for (const { node: step, output } of path.toReversed()) {
      const scaled = this.scaled(step);
      if (scaled) {
        factor *= scaled[0];
        continue;
      }
      const next = this.through(view, step, output, this.dims(output));
      if (next) {
        view = next;
        continue;
      }
      [base, view, factor] = [output, View.of(this.dims(output)), 1];
    }
    return { base, view, factor };
  }

  /** A view seen through one operator more; undefined where that is no view, or none that can be said. */
  through(view: View, node: GraphNode, output: string, dims: readonly number[]): View | undefined {
    switch (node.op) {
      case 'Transpose':
        return view.transpose(permutation(node, dims.length));
      case 'Slice': {
        let result: View | undefined = view;
        for (const { axis, start, step, length } of sliceRanges(this.graph.context(node))) {
          result = step === 1 ? result?.slice(axis, start, length) : undefined;
        }
        return result;
      }
      case 'Split': {
        const axis = positiveAxis(intAttribute(node, 'axis', 0), dims.length);
        const before = node.outputs.slice(0, node.outputs.indexOf(output));
        const start = before.reduce((sum, name) => sum + this.dims(name)[axis]!, 0);
        return view.slice(axis, start, dims[axis]!);
      }
      case 'Gather': {
        const index = this.graph.constants.get(node.inputs[1]!);
        if (index?.data.length !== 1) return undefined;
        const axis = positiveAxis(intAttribute(node, 'axis', 0), view.dims.length);
        const at = positiveAxis(numbersOf(index)[0]!, view.dims[axis]!);
        return view.slice(axis, at, 1)?.reshape(dims);
      }
      default:
        return RELABELS.has(node.op) ? view.reshape(dims) : undefined;
    }
  }
}

const RELABELS: ReadonlySet<string> = new Set(['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze']);
const VIEWS: ReadonlySet<string> = new Set([...RELABELS, 'Transpose', 'Slice', 'Split', 'Gather']);
