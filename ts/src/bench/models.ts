import { product } from '../program/attributes.ts';
import { GraphBuilder } from '../program/builder.ts';
import type { Parameter, Tensor } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import { Random, streams } from '../student/random.ts';

/** A graph from `input` to `embedding`, and what it is given. */
export interface BenchTower {
  readonly graph: Graph;
  /** Of a batch. */
  input(batch: number, random: Random): Tensor;
}

/** A model whose training is measured. Its parameters are named as PyTorch names them; linear weights are [in, out], as exporters leave them. */
export interface BenchModel {
  /** One that is trained towards given rows, or two that are trained towards each other. */
  readonly towers: readonly BenchTower[];
  /** Pairs in a batch by default. */
  readonly batch: number;
}

/** Width of the embeddings. */
export const EMBEDDING = 512;

interface TransformerSize {
  readonly width: number;
  readonly depth: number;
  readonly heads: number;
}

const vit = (size: TransformerSize, batch: number) => () => ({
  towers: [{ graph: vitGraph({ image: 64, patch: 8, ...size }), input: pixels(64) }],
  batch,
});

const images = (graph: (image: number) => Graph) => () => ({
  towers: [{ graph: graph(64), input: pixels(64) }],
  batch: 32,
});

/** Over CLIP's tokens. */
const text = (size: TransformerSize, prefix?: string) => {
  const [vocabulary, length] = [49_408, 77];
  return { graph: textGraph({ vocabulary, length, ...size }, prefix), input: tokens(vocabulary, length) };
};

const clip =
  (image: TransformerSize & { image: number; patch: number }, texts: TransformerSize, batch: number) =>
  () => ({
    towers: [{ graph: vitGraph(image, 'image.'), input: pixels(image.image) }, text(texts, 'text.')],
    batch,
  });

/** CLIP's text transformer. */
const CLIP_TEXT = { width: 512, depth: 12, heads: 8 };

/** Models by name: the sizes of students that a CPU can train, and CLIP ViT-B/32 with its text tower for a GPU. */
export const BENCH_MODELS: Readonly<Record<string, () => BenchModel>> = {
  'vit-w192': vit({ width: 192, depth: 6, heads: 3 }, 64),
  'vit-w512': vit({ width: 512, depth: 6, heads: 8 }, 32),
  'text-w512': () => ({ towers: [text(CLIP_TEXT)], batch: 32 }),
  'clip-w192': clip(
    { image: 64, patch: 8, width: 192, depth: 6, heads: 3 },
    { width: 192, depth: 6, heads: 3 },
    64,
  ),
  'clip-b-32': clip({ image: 224, patch: 32, width: 768, depth: 12, heads: 12 }, CLIP_TEXT, 4096),
  resnet18: images(resnet18),
  'mobilenetv3-small': images(mobilenetV3Small),
};

/** What the models begin from: normal weights that keep the size of what they multiply, ones for scales, zeros for biases. */
export function startingParameters(graphs: readonly Graph[], seed: number): Parameter[] {
  const random = new Random(seed, streams.benchmark, 1);
  return graphs
    .flatMap(({ parameters }) => parameters)
    .map(({ name, dims }) => {
      const value = new Float32Array(product(dims));
      const running = /running_(mean|var)$/.test(name);
      if (dims.length === 1) {
        value.fill(/weight$|running_var$/.test(name) ? 1 : 0);
      } else {
        // [in, out] of a linear layer, [out, in, height, width] of a convolution; tables of rows are small.
        const fan = /embedding|token$/.test(name)
          ? 2500
          : dims.length === 2
            ? dims[0]!
            : value.length / dims[0]!;
        const deviation = Math.sqrt(1 / fan);
        for (let i = 0; i < value.length; i++) value[i] = deviation * random.normal();
      }
      return { name, dims, value, decay: true, trainable: !running };
    });
}

/** Images that are drawn; later ones of a large batch have the same values, beginning elsewhere. */
const DRAWN = 64;

const pixels =
  (image: number) =>
  (batch: number, random: Random): Tensor => {
    const dims = [batch, 3, image, image];
    const data = new Float32Array(product(dims));
    const drawn = data.subarray(0, Math.min(batch, DRAWN) * 3 * image * image);
    for (let i = 0; i < drawn.length; i++) drawn[i] = random.normal();
    for (let at = drawn.length; at < data.length; at += drawn.length) {
      const begin = random.below(drawn.length);
      data.set(drawn.subarray(begin).subarray(0, data.length - at), at);
      const behind = at + drawn.length - begin;
      if (behind < data.length) data.set(drawn.subarray(0, begin).subarray(0, data.length - behind), behind);
    }
    return { type: 'float32', dims, data };
  };

/** Texts of 8 tokens and more behind a first one; the largest token ends a text, zeros follow. */
const tokens =
  (vocabulary: number, length: number) =>
  (batch: number, random: Random): Tensor => {
    const data = new BigInt64Array(batch * length);
    for (let row = 0; row < batch; row++) {
      const end = 8 + random.below(length - 8);
      for (let at = 0; at < end; at++) data[row * length + at] = BigInt(1 + random.below(vocabulary - 3));
      data[row * length] = BigInt(vocabulary - 2);
      data[row * length + end] = BigInt(vocabulary - 1);
    }
    return { type: 'int64', dims: [batch, length], data };
  };

/** Layers as exporters write them. */
class Layers {
  readonly b: GraphBuilder;
  readonly #prefix: string;

  /** @param prefix Of the parameters' names. */
  constructor(name: string, prefix = '') {
    this.b = new GraphBuilder(name);
    this.#prefix = prefix;
  }

  parameter(name: string, dims: number[]): string {
    return this.b.parameter(`${this.#prefix}${name}`, dims);
  }

  linear(x: string, name: string, from: number, to: number): string {
    const y = this.b.op('MatMul', [x, this.parameter(`${name}.weight`, [from, to])]);
    return this.b.op('Add', [y, this.parameter(`${name}.bias`, [to])]);
  }

  layerNorm(x: string, name: string, width: number): string {
    const parameters = ['weight', 'bias'].map((part) => this.parameter(`${name}.${part}`, [width]));
    return this.b.op('LayerNormalization', [x, ...parameters], { epsilon: 1e-5 });
  }

  gelu(x: string): string {
    const { b } = this;
    const erf = b.op('Erf', [b.op('Div', [x, b.scalar(Math.SQRT2)])]);
    return b.op('Mul', [b.op('Mul', [x, b.op('Add', [erf, b.scalar(1)])]), b.scalar(0.5)]);
  }

  quickGelu(x: string): string {
    const { b } = this;
    return b.op('Mul', [x, b.op('Sigmoid', [b.op('Mul', [x, b.scalar(1.702)])])]);
  }

  block(x: string, name: string, { width, heads }: TransformerSize, mask?: string): string {
    const { b } = this;
    const qkv = this.linear(this.layerNorm(x, `${name}.norm1`, width), `${name}.qkv`, width, 3 * width);
    const split = b.op('Reshape', [qkv, b.ints([0, 0, 3 * heads, width / heads])]);
    const [q, k, v] = b
      .ops('Split', [split, b.ints([heads, heads, heads])], { axis: 2 }, { outputs: 3 })
      .map((part) => b.op('Transpose', [part], { perm: [0, 2, 1, 3] })) as [string, string, string];
    const key = b.op('Transpose', [k], { perm: [0, 1, 3, 2] });
    let scores = b.op('MatMul', [b.op('Mul', [q, b.scalar((width / heads) ** -0.5)]), key]);
    if (mask !== undefined) scores = b.op('Add', [scores, mask]);
    const mixed = b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }), v]);
    const rows = b.op('Reshape', [b.op('Transpose', [mixed], { perm: [0, 2, 1, 3] }), b.ints([0, 0, width])]);
    const middle = b.op('Add', [x, this.linear(rows, `${name}.out`, width, width)]);
    const hidden = this.linear(
      this.layerNorm(middle, `${name}.norm2`, width),
      `${name}.fc1`,
      width,
      4 * width,
    );
    const active = mask === undefined ? this.gelu(hidden) : this.quickGelu(hidden);
    return b.op('Add', [middle, this.linear(active, `${name}.fc2`, 4 * width, width)]);
  }

  /** A convolution without a bias that keeps the size at a stride of 1, and its batch norm. */
  conv(
    x: string,
    names: readonly [conv: string, norm: string],
    [from, to, kernel, stride = 1, group = 1]: readonly [number, number, number, number?, number?],
    epsilon = 1e-5,
  ): string {
    const { b } = this;
    const [name, norm] = names;
    const y = b.op('Conv', [x, this.parameter(`${name}.weight`, [to, from / group, kernel, kernel])], {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [kernel >> 1, kernel >> 1, kernel >> 1, kernel >> 1],
      group,
    });
    const parts = ['weight', 'bias', 'running_mean', 'running_var'];
    return b.op('BatchNormalization', [y, ...parts.map((part) => this.parameter(`${norm}.${part}`, [to]))], {
      epsilon,
    });
  }

  build(embedding: string): Graph {
    this.b.output('embedding', embedding, ['batch', EMBEDDING]);
    return this.b.build();
  }
}

/** A vision transformer whose first token is the embedding: `input` [batch, 3, image, image] → `embedding`. */
function vitGraph(size: TransformerSize & { image: number; patch: number }, prefix?: string): Graph {
  const { image, patch, width, depth } = size;
  const layers = new Layers('vit', prefix);
  const { b } = layers;
  const count = (image / patch) ** 2;
  const input = b.input('input', 'float32', ['batch', 3, image, image]);
  const kernel = [
    layers.parameter('patch.weight', [width, 3, patch, patch]),
    layers.parameter('patch.bias', [width]),
  ];
  const grid = b.op('Conv', [input, ...kernel], { kernel_shape: [patch, patch], strides: [patch, patch] });
  const rows = b.op('Transpose', [b.op('Reshape', [grid, b.ints([0, width, count])])], { perm: [0, 2, 1] });
  const batch = b.op('Slice', [b.op('Shape', [input]), b.ints([0]), b.ints([1])]);
  const shape = b.op('Concat', [batch, b.ints([1, width])], { axis: 0 });
  const token = b.op('Expand', [layers.parameter('token', [1, 1, width]), shape]);
  const position = layers.parameter('position_embedding', [1, count + 1, width]);
  let x = b.op('Add', [b.op('Concat', [token, rows], { axis: 1 }), position]);
  for (let i = 0; i < depth; i++) x = layers.block(x, `blocks.${i}`, size);
  const first = b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(0n) });
  const pooled = b.op('Gather', [layers.layerNorm(x, 'norm', width), first], { axis: 1 });
  return layers.build(b.op('MatMul', [pooled, layers.parameter('projection.weight', [width, EMBEDDING])]));
}

/** A causal transformer whose embedding is read at the largest token: `input` [batch, length] → `embedding`. */
function textGraph(size: TransformerSize & { vocabulary: number; length: number }, prefix?: string): Graph {
  const { vocabulary, length, width, depth } = size;
  const layers = new Layers('text', prefix);
  const { b } = layers;
  const input = b.input('input', 'int64', ['batch', length]);
  const embedded = b.op('Gather', [layers.parameter('token_embedding.weight', [vocabulary, width]), input]);
  let x = b.op('Add', [embedded, layers.parameter('position_embedding', [length, width])]);
  const hidden = (_: unknown, at: number) => (at % length > Math.floor(at / length) ? -1e9 : 0);
  const data = Float32Array.from({ length: length * length }, hidden);
  const mask = b.constant({ type: 'float32', dims: [length, length], data });
  for (let i = 0; i < depth; i++) x = layers.block(x, `blocks.${i}`, size, mask);
  const end = b.op('ArgMax', [input], { axis: 1, keepdims: 1 });
  const scalar = (value: bigint) => b.constant({ type: 'int64', dims: [], data: BigInt64Array.of(value) });
  const batch = b.op('Gather', [b.op('Shape', [input]), scalar(0n)]);
  const row = b.op('Unsqueeze', [b.op('Range', [scalar(0n), batch, scalar(1n)]), b.ints([1])]);
  const places = b.op('Concat', [row, end], { axis: 1 });
  const pooled = b.op('GatherND', [layers.layerNorm(x, 'norm', width), places]);
  return layers.build(b.op('MatMul', [pooled, layers.parameter('projection.weight', [width, EMBEDDING])]));
}

/** torchvision's resnet18 with {@link EMBEDDING} outputs (He et al., 2015). */
function resnet18(image: number): Graph {
  const layers = new Layers('resnet18');
  const { b } = layers;
  const input = b.input('input', 'float32', ['batch', 3, image, image]);
  const stem = b.op('Relu', [layers.conv(input, ['conv1', 'bn1'], [3, 64, 7, 2])]);
  let x = b.op('MaxPool', [stem], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] });
  let from = 64;
  for (const [stage, to] of [64, 128, 256, 512].entries()) {
    for (const index of [0, 1]) {
      const name = `layer${stage + 1}.${index}`;
      const stride = stage > 0 && index === 0 ? 2 : 1;
      const first = b.op('Relu', [layers.conv(x, [`${name}.conv1`, `${name}.bn1`], [from, to, 3, stride])]);
      const second = layers.conv(first, [`${name}.conv2`, `${name}.bn2`], [to, to, 3]);
      const down = [`${name}.downsample.0`, `${name}.downsample.1`] as const;
      const through = stride === 1 ? x : layers.conv(x, down, [from, to, 1, stride]);
      x = b.op('Relu', [b.op('Add', [second, through])]);
      from = to;
    }
  }
  const pooled = b.op('Flatten', [b.op('GlobalAveragePool', [x])]);
  return layers.build(layers.linear(pooled, 'fc', 512, EMBEDDING));
}

/** Kernel, expanded and outgoing channels, squeeze and excitation, HardSwish rather than ReLU, stride. */
const MOBILE_BLOCKS: readonly (readonly [number, number, number, boolean, boolean, number])[] = [
  [3, 16, 16, true, false, 2],
  [3, 72, 24, false, false, 2],
  [3, 88, 24, false, false, 1],
  [5, 96, 40, true, true, 2],
  [5, 240, 40, true, true, 1],
  [5, 240, 40, true, true, 1],
  [5, 120, 48, true, true, 1],
  [5, 144, 48, true, true, 1],
  [5, 288, 96, true, true, 2],
  [5, 576, 96, true, true, 1],
  [5, 576, 96, true, true, 1],
];

/** torchvision's mobilenet_v3_small with {@link EMBEDDING} outputs and no dropout (Howard et al., 2019). */
function mobilenetV3Small(image: number): Graph {
  const layers = new Layers('mobilenetv3-small');
  const { b } = layers;
  const epsilon = 1e-3;
  const pointwise = (x: string, name: string, from: number, to: number) =>
    b.op(
      'Conv',
      [x, layers.parameter(`${name}.weight`, [to, from, 1, 1]), layers.parameter(`${name}.bias`, [to])],
      {
        kernel_shape: [1, 1],
      },
    );
  const input = b.input('input', 'float32', ['batch', 3, image, image]);
  const stem = layers.conv(input, ['features.0.0', 'features.0.1'], [3, 16, 3, 2], epsilon);
  let x = b.op('HardSwish', [stem]);
  let from = 16;
  for (const [index, [kernel, middle, to, squeezed, swish, stride]] of MOBILE_BLOCKS.entries()) {
    let part = 0;
    const name = () => `features.${index + 1}.block.${part++}`;
    const both = (own: string) => [`${own}.0`, `${own}.1`] as const;
    const activation = (value: string) => b.op(swish ? 'HardSwish' : 'Relu', [value]);
    let y = x;
    if (middle !== from) y = activation(layers.conv(y, both(name()), [from, middle, 1], epsilon));
    y = activation(layers.conv(y, both(name()), [middle, middle, kernel, stride, middle], epsilon));
    if (squeezed) {
      const own = name();
      const few = Math.max(8, 8 * Math.floor((middle / 4 + 4) / 8));
      const mean = b.op('GlobalAveragePool', [y]);
      const hidden = b.op('Relu', [pointwise(mean, `${own}.fc1`, middle, few)]);
      const scale = b.op('HardSigmoid', [pointwise(hidden, `${own}.fc2`, few, middle)], {
        alpha: 1 / 6,
        beta: 0.5,
      });
      y = b.op('Mul', [scale, y]);
    }
    y = layers.conv(y, both(name()), [middle, to, 1], epsilon);
    x = stride === 1 && from === to ? b.op('Add', [y, x]) : y;
    from = to;
  }
  x = b.op('HardSwish', [layers.conv(x, ['features.12.0', 'features.12.1'], [96, 576, 1], epsilon)]);
  const pooled = b.op('Flatten', [b.op('GlobalAveragePool', [x])]);
  const hidden = b.op('HardSwish', [layers.linear(pooled, 'classifier.0', 576, 1024)]);
  return layers.build(layers.linear(hidden, 'classifier.3', 1024, EMBEDDING));
}
