import { GraphBuilder } from '../program/builder.ts';
import type { Parameter } from '../program/executor.ts';
import type { Graph } from '../program/graph.ts';
import {
  type StudentConfig,
  type StudentName,
  type StudentOptions,
  studentConfig,
  type TextConfig,
  type VisionConfig,
} from './config.ts';
import { CountedParameters, linear, NoParameters, norm, Parameters, quickGelu } from './layers.ts';

/** Graphs and starting values of a student: `image` (pixel_values → image_embeds) and `text` (input_ids → text_embeds). */
export interface StudentProgram {
  readonly image: Graph;
  readonly text: Graph;
  readonly parameters: readonly Parameter[];
}

/**
 * A CLIP with new weights. Initialisation is CLIP's (Radford et al., 2021, as published with its code): normal, with the
 * spread of what writes into the residual stream divided by √(2 · layers).
 *
 * Weight decay acts on matrices and kernels. Norms and biases have none, as in CLIP; token embeddings and positions have none
 * either, because they are looked up rather than multiplied: decay would wear away rows that a batch does not touch.
 */
export function buildStudent(config: StudentConfig, seed: number): StudentProgram {
  const parameters = new Parameters(seed);
  const image = buildVision(config.vision, config.embedDim, parameters);
  const text = buildText(config.text, config.embedDim, parameters, false);
  return { image, text, parameters: parameters.list };
}

/** The text tower of an exported model, which takes texts of any length up to the context's. Parameters are the same. */
export function buildExportedText(config: StudentConfig): Graph {
  return buildText(config.text, config.embedDim, new NoParameters(0), true);
}

/**
 * How many values each tower of a student learns. The vocabulary, of which the text tower has a row a token, is 49,408, that of CLIP, where
 * `student` does not say otherwise; in training it follows from the tokenizer.
 *
 * @param student A name, or a name with some numbers changed. Defaults to 'mini-64'.
 * @throws RangeError for sizes that do not fit.
 */
export function studentParameters(student?: StudentName | StudentOptions): { image: number; text: number } {
  const { embedDim, vision, text } = studentConfig(student);
  const counted = [new CountedParameters(0), new CountedParameters(0)] as const;
  buildVision(vision, embedDim, counted[0]);
  buildText(text, embedDim, counted[1], false);
  return { image: counted[0].count, text: counted[1].count };
}

/** An image encoder alone, with new weights: pixel_values → pooler_output [batch, width], what the tower of {@link buildStudent} projects. */
export function buildBackbone(config: VisionConfig, seed: number): { graph: Graph; parameters: Parameter[] } {
  const parameters = new Parameters(seed);
  const builder = new GraphBuilder('image');
  const features = visionFeatures(builder, config, parameters);
  builder.output('pooler_output', features, ['batch', config.width]);
  return { graph: builder.build(), parameters: parameters.list };
}

/** pixel_values [batch, 3, S, S] → image_embeds [batch, embedDim]. */
function buildVision(config: VisionConfig, embedDim: number, parameters: Parameters): Graph {
  const builder = new GraphBuilder('image');
  const features = visionFeatures(builder, config, parameters);
  project(builder, parameters, 'vision', features, config.width, embedDim, 'image_embeds');
  return builder.build();
}

/**
 * The normed features of an image, [batch, width]. With a class token, the first row of the positions is also the token: CLIP
 * adds a position to it that is never without it, so the two would be one sum.
 */
function visionFeatures(builder: GraphBuilder, config: VisionConfig, parameters: Parameters): string {
  const { imageSize, patchSize, width, layers, pooling } = config;
  const pixels = builder.input('pixel_values', 'float32', ['batch', 3, imageSize, imageSize]);
  const patches = (imageSize / patchSize) ** 2;
  const tokens = pooling === 'class' ? patches + 1 : patches;
  const grid =
    config.stem === 'conv'
      ? convolutions(builder, parameters, pixels, config)
      : patch(builder, parameters, pixels, { from: 3, to: width, size: patchSize });
  const flat = builder.op('Reshape', [grid, builder.ints([0, width, patches])]);
  let x = builder.op('Transpose', [flat], { perm: [0, 2, 1] });
  if (pooling === 'class') x = builder.op('Pad', [x, builder.ints([0, 1, 0, 0, 0, 0])]);
  const positions = parameters.add(builder, 'vision.positions', [tokens, width], {
    std: width ** -0.5,
    decay: false,
  });
  x = builder.op('Add', [x, positions]);
  x = norm(builder, parameters, 'vision.norm_in', x, width);
  for (let layer = 0; layer < layers; layer++) {
    x = block(builder, parameters, `vision.blocks.${layer}`, x, config);
  }
  const pooled =
    pooling === 'class'
      ? builder.op('Gather', [x, zeroIndex(builder)], { axis: 1 })
      : builder.op('ReduceMean', [x], { axes: [1], keepdims: 0 });
  // It works on rows, so that of the pooled row alone is enough.
  return norm(builder, parameters, 'vision.norm_out', pooled, width);
}

/**
 * input_ids [batch, T] → text_embeds [batch, embedDim], read at the largest id, the end-of-text token. There is no attention
 * mask: what follows that token cannot be seen from it. A training graph has a fixed T; `anyLength` takes any up to the context.
 */
function buildText(config: TextConfig, embedDim: number, parameters: Parameters, anyLength: boolean): Graph {
  const { vocabSize, contextLength: context, width, layers } = config;
  const builder = new GraphBuilder('text');
  const ids = builder.input('input_ids', 'int64', ['batch', anyLength ? 'sequence' : context]);
  const table = parameters.add(builder, 'text.tokens', [vocabSize, width], { std: 0.02, decay: false });
  let positions = parameters.add(builder, 'text.positions', [context, width], { std: 0.01, decay: false });
  const triangle = new Float32Array(context * context);
  for (let i = 0; i < context; i++) triangle.fill(-1e9, i * context + i + 1, (i + 1) * context);
  let mask = builder.constant({ type: 'float32', dims: [context, context], data: triangle }, 'causal_mask');
  let range = builder.constant(
    { type: 'int64', dims: [context], data: BigInt64Array.from({ length: context }, (_, i) => BigInt(i)) },
    'range',
  );
  if (anyLength) {
    const length = builder.op('Slice', [builder.op('Shape', [ids]), builder.ints([1]), builder.ints([2])]);
    const zero = builder.ints([0]);
    positions = builder.op('Slice', [positions, zero, length, zero]);
    range = builder.op('Slice', [range, zero, length, zero]);
    const both = builder.op('Concat', [length, length], { axis: 0 });
    mask = builder.op('Slice', [mask, builder.ints([0, 0]), both, builder.ints([0, 1])]);
  }
  let x = builder.op('Gather', [table, ids], { axis: 0 });
  x = builder.op('Add', [x, positions]);
  for (let layer = 0; layer < layers; layer++) {
    x = block(builder, parameters, `text.blocks.${layer}`, x, config, mask);
  }
  // The end-of-text row, picked by a product with a one-hot row: cheap, and its gradient is another product.
  const end = builder.op('ArgMax', [ids], { axis: 1, keepdims: 1 });
  const chosen = builder.op('Cast', [builder.op('Equal', [range, end])], { to: 1 });
  const row = builder.op('Unsqueeze', [chosen, builder.ints([1])]);
  const pooled = builder.op('Squeeze', [builder.op('MatMul', [row, x]), builder.ints([1])]);
  const normed = norm(builder, parameters, 'text.norm_out', pooled, width);
  project(builder, parameters, 'text', normed, width, embedDim, 'text_embeds');
  return builder.build();
}

/** Patches of `size` pixels by one linear map: [batch, from, H, W] → [batch, to, H / size, W / size]. */
function patch(
  builder: GraphBuilder,
  parameters: Parameters,
  x: string,
  { from, to, size }: { from: number; to: number; size: number },
): string {
  const kernel = parameters.add(builder, 'vision.patch.weight', [to, from, size, size], {
    std: (from * size * size) ** -0.5,
    decay: true,
  });
  return builder.op('Conv', [x, kernel], { kernel_shape: [size, size], strides: [size, size] });
}

/** Fewest channels of a convolution of the stem. */
const LEAST_CHANNELS = 16;

/** Convolutions that halve the sides until a patch is a point, with twice the channels each time up to the width, and a linear map. */
function convolutions(
  builder: GraphBuilder,
  parameters: Parameters,
  pixels: string,
  { patchSize, width }: VisionConfig,
): string {
  const steps = Math.log2(patchSize);
  let x = pixels;
  let from = 3;
  for (let step = 0; step < steps; step++) {
    const to = Math.min(width, Math.max(LEAST_CHANNELS, Math.round(width / 2 ** (steps - 1 - step))));
    const name = `vision.stem.${step}`;
    // Spread as He et al. (2015) have it for rectified layers: nothing else keeps the scale from step to step.
    const kernel = parameters.add(builder, `${name}.weight`, [to, from, 3, 3], {
      std: (2 / (9 * from)) ** 0.5,
      decay: true,
    });
    const bias = parameters.add(builder, `${name}.bias`, [to], { std: 'zeros', decay: false });
    const convolved = builder.op('Conv', [x, kernel, bias], {
      kernel_shape: [3, 3],
      strides: [2, 2],
      pads: [1, 1, 1, 1],
    });
    x = builder.op('Relu', [convolved]);
    from = to;
  }
  return patch(builder, parameters, x, { from, to: width, size: 1 });
}

function zeroIndex(builder: GraphBuilder): string {
  return builder.constant({ type: 'int64', dims: [], data: BigInt64Array.of(0n) });
}

/** Final projection. */
function project(
  builder: GraphBuilder,
  parameters: Parameters,
  tower: string,
  features: string,
  width: number,
  embedDim: number,
  output: string,
): void {
  const projection = parameters.add(builder, `${tower}.projection`, [width, embedDim], {
    std: width ** -0.5,
    decay: true,
  });
  builder.output(output, builder.op('MatMul', [features, projection]), ['batch', embedDim]);
}

/** A pre-norm transformer block with quick-GELU, [batch, tokens, width] to the same. */
function block(
  builder: GraphBuilder,
  parameters: Parameters,
  name: string,
  input: string,
  { width, heads, layers, mlpRatio }: { width: number; heads: number; layers: number; mlpRatio: number },
  mask?: string,
): string {
  const headWidth = width / heads;
  const hidden = Math.round(width * mlpRatio);
  const inner = width ** -0.5;
  const residual = inner * (2 * layers) ** -0.5;

  const normed = norm(builder, parameters, `${name}.norm1`, input, width);
  const qkv = linear(builder, parameters, `${name}.attn.qkv`, normed, width, 3 * width, inner);
  const split = builder.op('Reshape', [qkv, builder.ints([0, 0, 3 * heads, headWidth])]);
  const [q, k, v] = builder.ops(
    'Split',
    [split, builder.ints([heads, heads, heads])],
    { axis: 2 },
    { outputs: 3 },
  ) as [string, string, string];
  const scaled = builder.op('Mul', [q, builder.scalar(headWidth ** -0.5)]);
  const queries = builder.op('Transpose', [scaled], { perm: [0, 2, 1, 3] });
  const keys = builder.op('Transpose', [k], { perm: [0, 2, 3, 1] });
  const values = builder.op('Transpose', [v], { perm: [0, 2, 1, 3] });
  let scores = builder.op('MatMul', [queries, keys]);
  if (mask !== undefined) scores = builder.op('Add', [scores, mask]);
  const attended = builder.op('MatMul', [builder.op('Softmax', [scores], { axis: -1 }), values]);
  const merged = builder.op('Reshape', [
    builder.op('Transpose', [attended], { perm: [0, 2, 1, 3] }),
    builder.ints([0, 0, width]),
  ]);
  const attention = linear(builder, parameters, `${name}.attn.out`, merged, width, width, residual);
  const x = builder.op('Add', [input, attention]);

  const normed2 = norm(builder, parameters, `${name}.norm2`, x, width);
  const wide = linear(builder, parameters, `${name}.mlp.in`, normed2, width, hidden, (2 * width) ** -0.5);
  const active = quickGelu(builder, wide);
  return builder.op('Add', [
    x,
    linear(builder, parameters, `${name}.mlp.out`, active, hidden, width, residual),
  ]);
}
