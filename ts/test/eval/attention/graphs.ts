import type { ModelProto } from '../../../src/onnx/onnx_pb.ts';
import { product } from '../../../src/program/attributes.ts';
import { GraphBuilder } from '../../../src/program/builder.ts';
import { exportModel } from '../../../src/program/export.ts';
import { hashed } from '../../program/support/torch.ts';

/** Sizes of the graphs here. */
export const SIZE = 8;
export const WIDTH = 4;
export const HEADS = 2;
export const TOKENS = 16;
const PATCH = 2;

/** What lies between the values of a block and its result. `q`, `k` and `v` are [batch, heads, tokens, width / heads]. */
export type Attend = (b: GraphBuilder, q: string, k: string, v: string) => string;

export interface TinyOptions {
  readonly opset?: number;
  /** Rows of the images, where they are fixed. */
  readonly batch?: number;
  /** What is given out: the mean of the tokens, the first, or all as `last_hidden_state`. Defaults to 'mean'. */
  readonly output?: 'mean' | 'first' | 'tokens';
}

/** Attention as most would write it. */
export const plain: Attend = (b, q, k, v) => {
  const scores = b.op('MatMul', [
    b.op('Mul', [q, b.scalar(2)]),
    b.op('Transpose', [k], { perm: [0, 1, 3, 2] }),
  ]);
  return b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }, { name: 'softmax' }), v]);
};

/** `pixel_values` [batch, 3, 8, 8] → `image_embeds` [batch, 4] by way of one layer of attention between 16 patches. */
export function tinyVit(
  attend: Attend,
  { opset = 17, batch, output = 'mean' }: TinyOptions = {},
): ModelProto {
  const b = new GraphBuilder('tiny', { opset });
  const rows = batch ?? 'batch';
  const pixels = b.input('pixel_values', 'float32', [rows, 3, SIZE, SIZE]);
  const cut = b.op('Conv', [pixels, b.parameter('patch', [WIDTH, 3, PATCH, PATCH])], {
    kernel_shape: [PATCH, PATCH],
    strides: [PATCH, PATCH],
  });
  const x = b.op('Transpose', [b.op('Reshape', [cut, b.ints([0, WIDTH, TOKENS])])], { perm: [0, 2, 1] });
  const [q, k, v] = ['q', 'k', 'v'].map((name) => {
    const projected = b.op('MatMul', [x, b.parameter(name, [WIDTH, WIDTH])]);
    const split = b.op('Reshape', [projected, b.ints([0, 0, HEADS, WIDTH / HEADS])]);
    return b.op('Transpose', [split], { perm: [0, 2, 1, 3] });
  }) as [string, string, string];
  const merged = b.op('Transpose', [attend(b, q, k, v)], { perm: [0, 2, 1, 3] });
  const flat = b.op('Reshape', [merged, b.ints([0, -1, WIDTH])]);
  if (output === 'tokens') b.output('last_hidden_state', flat, [rows, TOKENS, WIDTH]);
  else {
    const first = b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(0n) });
    const pooled =
      output === 'first'
        ? b.op('Gather', [flat, first], { axis: 1 })
        : b.op('ReduceMean', [flat], { axes: [1], keepdims: 0 });
    b.output('image_embeds', pooled, [rows, WIDTH]);
  }
  return filled(b);
}

/** The model with values in its parameters. */
export function filled(b: GraphBuilder): ModelProto {
  const graph = b.build();
  const values = graph.parameters.map(({ name, dims }, i) => [name, hashed(20 + i, product(dims))] as const);
  return exportModel(graph, new Map(values));
}
