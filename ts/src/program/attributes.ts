import { CidError } from '../native/errors.ts';
import type { Constant, GraphNode } from './graph.ts';

/** A node as messages name it. */
export function describeNode(node: GraphNode): string {
  const op = node.domain === '' ? node.op : `${node.domain}.${node.op}`;
  return `${op} (node '${node.name || (node.outputs[0] ?? '')}')`;
}

export function unsupported(node: GraphNode, why: string): CidError {
  return new CidError('MODEL_UNSUPPORTED', `Operator ${describeNode(node)} ${why}`);
}

export function intAttribute(node: GraphNode, name: string, fallback: number): number {
  const attribute = node.attributes[name];
  return attribute?.kind === 'int' ? attribute.value : fallback;
}

export function floatAttribute(node: GraphNode, name: string, fallback: number): number {
  const attribute = node.attributes[name];
  return attribute?.kind === 'float' ? attribute.value : fallback;
}

export function stringAttribute(node: GraphNode, name: string, fallback: string): string {
  const attribute = node.attributes[name];
  return attribute?.kind === 'string' ? attribute.value : fallback;
}

export function intsAttribute(node: GraphNode, name: string): readonly number[] | undefined {
  const attribute = node.attributes[name];
  return attribute?.kind === 'ints' ? attribute.value : undefined;
}

export function tensorAttribute(node: GraphNode, name: string): Constant | undefined {
  const attribute = node.attributes[name];
  return attribute?.kind === 'tensor' ? attribute.value : undefined;
}

/** Values of a constant as numbers; int64 beyond 2^53 only ever means 'to the end' and loses nothing that matters. */
export function numbersOf(constant: Constant): number[] {
  return Array.from(constant.data as ArrayLike<number | bigint>, Number);
}

/** An axis counted from the end made one from the start. */
export function positiveAxis(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis;
}

export function product(values: readonly number[]): number {
  return values.reduce((result, value) => result * value, 1);
}

export function sameDims(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

/** ONNX's (numpy's) broadcast of shapes; undefined when they don't fit. */
export function broadcastDims(a: readonly number[], b: readonly number[]): number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const dims: number[] = [];
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) return undefined;
    dims.push(x === 1 ? y : x);
  }
  return dims;
}
