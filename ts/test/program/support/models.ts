import { product } from '../../../src/program/attributes.ts';
import { GraphBuilder } from '../../../src/program/builder.ts';
import type { Parameter } from '../../../src/program/executor.ts';
import type { Graph } from '../../../src/program/graph.ts';
import { spread } from './gradient.ts';

/** Writes a model as an exporter would: linear layers as MatMul and Add, norms and activations in their parts. */
class Layers {
  readonly b: GraphBuilder;

  constructor(b: GraphBuilder) {
    this.b = b;
  }

  linear(x: string, name: string, from: number, to: number): string {
    const w = this.b.parameter(`${name}.weight`, [from, to]);
    return this.b.op('Add', [this.b.parameter(`${name}.bias`, [to]), this.b.op('MatMul', [x, w])]);
  }

  norm(x: string, name: string, width: number): string {
    const { b } = this;
    const centered = b.op('Sub', [x, b.op('ReduceMean', [x], { axes: [-1] })]);
    const variance = b.op('ReduceMean', [b.op('Pow', [centered, b.scalar(2)])], { axes: [-1] });
    const deviation = b.op('Sqrt', [b.op('Add', [variance, b.scalar(1e-5)])]);
    const scaled = b.op('Mul', [b.op('Div', [centered, deviation]), b.parameter(`${name}.weight`, [width])]);
    return b.op('Add', [scaled, b.parameter(`${name}.bias`, [width])]);
  }

  gelu(x: string, quick: boolean): string {
    const { b } = this;
    if (quick) return b.op('Mul', [x, b.op('Sigmoid', [b.op('Mul', [x, b.scalar(1.702)])])]);
    const erf = b.op('Erf', [b.op('Div', [x, b.scalar(Math.SQRT2)])]);
    return b.op('Mul', [b.op('Mul', [x, b.op('Add', [erf, b.scalar(1)])]), b.scalar(0.5)]);
  }

  attention(x: string, name: string, width: number, heads: number, mask?: string): string {
    const { b } = this;
    const split = (value: string, perm: number[]) =>
      b.op('Transpose', [b.op('Reshape', [value, b.ints([0, 0, heads, width / heads])])], { perm });
    const q = split(this.linear(x, `${name}.q`, width, width), [0, 2, 1, 3]);
    const k = split(this.linear(x, `${name}.k`, width, width), [0, 2, 3, 1]);
    const v = split(this.linear(x, `${name}.v`, width, width), [0, 2, 1, 3]);
    let scores = b.op('Div', [b.op('MatMul', [q, k]), b.scalar(Math.sqrt(width / heads))]);
    if (mask) scores = b.op('Add', [scores, mask]);
    const mixed = b.op('Transpose', [b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }), v])], {
      perm: [0, 2, 1, 3],
    });
    return this.linear(b.op('Reshape', [mixed, b.ints([0, 0, width])]), `${name}.out`, width, width);
  }

  block(x: string, name: string, width: number, heads: number, quick: boolean, mask?: string): string {
    const { b } = this;
    const attended = this.attention(
      this.norm(x, `${name}.ln1`, width),
      `${name}.attention`,
      width,
      heads,
      mask,
    );
    const middle = b.op('Add', [x, attended]);
    const hidden = this.linear(this.norm(middle, `${name}.ln2`, width), `${name}.fc1`, width, 4 * width);
    return b.op('Add', [middle, this.linear(this.gelu(hidden, quick), `${name}.fc2`, 4 * width, width)]);
  }
}

export interface VitSize {
  image: number;
  patch: number;
  width: number;
  depth: number;
  heads: number;
  out: number;
}

/** `pixels` [batch, 3, image, image] → `embedding` [batch, out]. */
export function vit({ image, patch, width, depth, heads, out }: VitSize): Graph {
  const b = new GraphBuilder('vit');
  const layers = new Layers(b);
  const tokens = (image / patch) ** 2;
  const pixels = b.input('pixels', 'float32', ['batch', 3, image, image]);
  const patches = b.op(
    'Conv',
    [pixels, b.parameter('patch.weight', [width, 3, patch, patch]), b.parameter('patch.bias', [width])],
    { kernel_shape: [patch, patch], strides: [patch, patch] },
  );
  const rows = b.op('Transpose', [b.op('Reshape', [patches, b.ints([0, width, tokens])])], {
    perm: [0, 2, 1],
  });
  const batch = b.op('Slice', [b.op('Shape', [pixels]), b.ints([0]), b.ints([1])]);
  const shape = b.op('Concat', [batch, b.ints([1, width])], { axis: 0 });
  const token = b.op('Expand', [b.parameter('class', [1, 1, width]), shape]);
  let x = b.op('Add', [
    b.op('Concat', [token, rows], { axis: 1 }),
    b.parameter('position', [1, tokens + 1, width]),
  ]);
  for (let i = 0; i < depth; i++) x = layers.block(x, `block${i}`, width, heads, false);
  const first = b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(0n) });
  const pooled = b.op('Gather', [layers.norm(x, 'ln', width), first], { axis: 1 });
  b.output('embedding', b.op('MatMul', [pooled, b.parameter('projection', [width, out])]), ['batch', out]);
  return b.build();
}

export interface TextSize {
  vocabulary: number;
  length: number;
  width: number;
  depth: number;
  heads: number;
  out: number;
}

/** `ids` [batch, length], the largest of which ends the text → `embedding` [batch, out]. */
export function text({ vocabulary, length, width, depth, heads, out }: TextSize): Graph {
  const b = new GraphBuilder('text');
  const layers = new Layers(b);
  const ids = b.input('ids', 'int64', ['batch', length]);
  const embedded = b.op('Gather', [b.parameter('token', [vocabulary, width]), ids]);
  let x = b.op('Add', [embedded, b.parameter('position', [length, width])]);
  const mask = b.constant({
    type: 'float32',
    dims: [length, length],
    data: Float32Array.from({ length: length * length }, (_, i) =>
      i % length > Math.floor(i / length) ? -1e9 : 0,
    ),
  });
  for (let i = 0; i < depth; i++) x = layers.block(x, `block${i}`, width, heads, true, mask);
  const end = b.op('ArgMax', [ids], { axis: 1, keepdims: 1 });
  const batch = b.op('Gather', [
    b.op('Shape', [ids]),
    b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(0n) }),
  ]);
  const zero = b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(0n) });
  const one = b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(1n) });
  const rows = b.op('Unsqueeze', [b.op('Range', [zero, batch, one]), b.ints([1])]);
  const pooled = b.op('GatherND', [layers.norm(x, 'ln', width), b.op('Concat', [rows, end], { axis: 1 })]);
  b.output('embedding', b.op('MatMul', [pooled, b.parameter('projection', [width, out])]), ['batch', out]);
  return b.build();
}

/** Small convolutions with batch norms: `pixels` [batch, 3, 16, 16] → `embedding` [batch, 8]. */
export function convolutional(): Graph {
  const b = new GraphBuilder('convolutional');
  const norm = (x: string, name: string, width: number) =>
    b.op('BatchNormalization', [
      x,
      ...['weight', 'bias', 'mean', 'variance'].map((part) => b.parameter(`${name}.${part}`, [width])),
    ]);
  const pixels = b.input('pixels', 'float32', ['batch', 3, 16, 16]);
  const stem = b.op('Conv', [pixels, b.parameter('stem', [6, 3, 3, 3])], {
    pads: [1, 1, 1, 1],
    strides: [2, 2],
  });
  const hidden = b.op('HardSwish', [norm(stem, 'bn1', 6)]);
  const depthwise = b.op('Conv', [hidden, b.parameter('depthwise', [6, 1, 3, 3])], {
    pads: [1, 1, 1, 1],
    group: 6,
  });
  const sum = b.op('Add', [hidden, b.op('Relu', [norm(depthwise, 'bn2', 6)])]);
  const pooled = b.op('Flatten', [b.op('GlobalAveragePool', [sum])]);
  const out = b.op('Gemm', [pooled, b.parameter('head.weight', [8, 6]), b.parameter('head.bias', [8])], {
    transB: 1,
  });
  b.output('embedding', out, ['batch', 8]);
  return b.build();
}

/** Small values for matrices, ones for scales, running variances too. */
export function parametersOf(...graphs: readonly Graph[]): Parameter[] {
  const seen = new Map<string, Parameter>();
  for (const [index, { name, dims }] of graphs.flatMap((graph) => graph.parameters).entries()) {
    if (seen.has(name)) continue;
    const noise = spread(product(dims), index + 1);
    const fan = dims.length > 1 ? product(dims) / Math.max(...dims) : 100;
    const one = /(ln\d?|bn\d)\.weight|variance/.test(name);
    const running = /\.(mean|variance)$/.test(name);
    const value = noise.map((v) => (one ? 1 : running ? 0 : v / Math.sqrt(fan)));
    seen.set(name, { name, dims, value, decay: dims.length > 1, trainable: !running });
  }
  return [...seen.values()];
}
