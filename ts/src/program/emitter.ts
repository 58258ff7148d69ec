import { sameDims } from './attributes.ts';
import type { StaticGraph } from './static.ts';

export const MICROSOFT = 'com.microsoft';
/** Our own operators: see `fused/`. */
export const OWN = 'clip-cid';

/** Writes the few operators that gradients are made of. Every method appends to the graph and returns the value's name. */
export class Emitter {
  readonly graph: StaticGraph;

  constructor(graph: StaticGraph) {
    this.graph = graph;
  }

  dims(value: string): readonly number[] {
    return this.graph.dims(value);
  }

  add = (a: string, b: string): string => this.graph.emit('Add', [a, b]);
  sub = (a: string, b: string): string => this.graph.emit('Sub', [a, b]);
  mul = (a: string, b: string): string => this.graph.emit('Mul', [a, b]);
  div = (a: string, b: string): string => this.graph.emit('Div', [a, b]);
  neg = (a: string): string => this.graph.emit('Neg', [a]);
  scalar = (value: number): string => this.graph.scalar(value);

  /** a · value; `a` itself when the value is 1. */
  scale(a: string, value: number): string {
    return value === 1 ? a : this.mul(a, this.scalar(value));
  }

  /** `yes` where the condition holds, 0 elsewhere. */
  keep(condition: string, yes: string): string {
    return this.graph.emit('Where', [condition, yes, this.scalar(0)]);
  }

  zeros(dims: readonly number[]): string {
    return this.graph.emit('ConstantOfShape', [this.graph.ints(dims)]);
  }

  reshape(a: string, dims: readonly number[]): string {
    return sameDims(this.dims(a), dims) ? a : this.graph.emit('Reshape', [a, this.graph.ints(dims)]);
  }

  transpose(a: string, perm: readonly number[]): string {
    return perm.every((axis, i) => axis === i) ? a : this.graph.emit('Transpose', [a], { perm });
  }

  /** From `start` up to but not including `end` along each axis. */
  slice(
    a: string,
    axes: readonly number[],
    starts: readonly number[],
    ends: readonly number[],
    steps?: readonly number[],
  ): string {
    const { graph } = this;
    const inputs = [a, graph.ints(starts), graph.ints(ends), graph.ints(axes)];
    return graph.emit('Slice', steps ? [...inputs, graph.ints(steps)] : inputs);
  }

  /** Zeros round a value. */
  pad(a: string, begins: readonly number[], ends: readonly number[]): string {
    if ([...begins, ...ends].every((pad) => pad === 0)) return a;
    return this.graph.emit('Pad', [a, this.graph.ints([...begins, ...ends])]);
  }

  concat(values: readonly string[], axis: number): string {
    return values.length === 1 ? values[0]! : this.graph.emit('Concat', values, { axis });
  }

  expand(a: string, dims: readonly number[]): string {
    return sameDims(this.dims(a), dims) ? a : this.graph.emit('Expand', [a, this.graph.ints(dims)]);
  }

  /** op(a) · op(b) · alpha, batched over leading axes. Transposed operands cost nothing. */
  matmul(a: string, b: string, options: { transA?: boolean; transB?: boolean; alpha?: number } = {}): string {
    const attributes = {
      ...(options.transA ? { transA: 1 } : {}),
      ...(options.transB ? { transB: 1 } : {}),
      ...(options.alpha === undefined || options.alpha === 1 ? {} : { alpha: options.alpha }),
    };
    if (this.dims(a).length === 2 && this.dims(b).length === 2) {
      return this.graph.emit('Gemm', [a, b], attributes);
    }
    return Object.keys(attributes).length === 0
      ? this.graph.emit('MatMul', [a, b])
      : this.graph.emit('FusedMatMul', [a, b], attributes, MICROSOFT);
  }

  /** Sum over axes, which are dropped. */
  sumOver(a: string, axes: readonly number[]): string {
    const dims = this.dims(a);
    if (axes.every((axis) => dims[axis] === 1)) {
      return this.reshape(
        a,
        dims.filter((_, i) => !axes.includes(i)),
      );
    }
    return this.graph.emit('SumOver', [a], { axes }, OWN);
  }

  /** [M, N] → [N]. */
  columnSum(a: string): string {
    return this.sumOver(a, [0]);
  }

  /** The gradient of a broadcast: sums until the shape is `dims`. */
  sumTo(a: string, dims: readonly number[]): string {
    const from = this.dims(a);
    if (sameDims(from, dims)) return a;
    const lead = from.length - dims.length;
    const axes = from.map((_, i) => i).filter((i) => i < lead || (dims[i - lead] === 1 && from[i] !== 1));
    return this.reshape(this.sumOver(a, axes), dims);
  }
}
