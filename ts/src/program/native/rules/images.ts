import { floatAttribute, intAttribute, intsAttribute, product, stringAttribute } from '../../attributes.ts';
import { writtenWindow } from '../../fused/convolution.ts';
import type { GraphNode } from '../../graph.ts';
import { type Window, windowOf } from '../../shapes/reduction.ts';
import type { Ref } from '../draft.ts';
import { type Lowering, type LoweringRule, type LoweringRules, NotNative } from '../lowering.ts';

/** Numbers of a window along both axes; one of an image with one axis is the second. */
interface Axes {
  readonly inputs: [number, number];
  readonly outputs: [number, number];
  readonly numbers: (axis: 0 | 1) => number[];
}

function axesOf(
  input: readonly number[],
  output: readonly number[],
  { kernel, strides, dilations, pads }: Window,
): Axes {
  if (kernel.length > 2) throw new NotNative('over more than two axes has no native operation');
  const both = (values: readonly number[], fill: number): [number, number] =>
    values.length === 1 ? [fill, values[0]!] : [values[0]!, values[1]!];
  const [k, s, d, p] = [
    both(kernel, 1),
    both(strides, 1),
    both(dilations, 1),
    both(pads.slice(0, kernel.length), 0),
  ];
  const outputs = both(output.slice(2), 1);
  return {
    inputs: both(input.slice(2), 1),
    outputs,
    // As native/core/program_images.cpp reads them.
    numbers: (axis) => [outputs[axis], k[axis], s[axis], d[axis], p[axis]],
  };
}

/** Numbers of a convolution, and its floating-point operations. */
function convolution(
  x: readonly number[],
  y: readonly number[],
  w: readonly number[],
  window: Window,
  groups: number,
  planar: boolean,
  precision: number,
): { code: number[]; flops: number } {
  const axes = axesOf(x, y, window);
  const code = [
    x[0]!,
    ...axes.inputs,
    x[1]!,
    y[1]!,
    groups,
    ...axes.numbers(0),
    ...axes.numbers(1),
    planar ? 1 : 0,
    precision,
  ];
  return { code, flops: 2 * product(y) * product(w.slice(1)) };
}

/** A graph's own input lies as ONNX has it, and a convolution reads it so. */
function image(l: Lowering, value: string, groups: number, window: Window): { ref: Ref; planar: boolean } {
  const planar =
    l.graph.inputs.some(({ name }) => name === value) &&
    !l.isFlat(value) &&
    groups === 1 &&
    window.dilations.at(-1) === 1;
  return { planar, ref: planar ? l.read(value) : l.readPixels(value) };
}

const conv: LoweringRule = (l, node) => {
  const [x, w, bias = ''] = node.inputs as [string, string, string?];
  const y = node.outputs[0]!;
  const window = windowOf(l.context(node), l.dims(w).slice(2));
  const groups = intAttribute(node, 'group', 1);
  const { ref, planar } = image(l, x, groups, window);
  const { code, flops } = convolution(
    l.dims(x),
    l.dims(y),
    l.dims(w),
    window,
    groups,
    planar,
    l.precisionNumber,
  );
  l.fixed('conv', [...code, ref, l.read(w), bias === '' ? null : l.read(bias), l.write(y, 'pixels')], flops);
};

const convInputGradient: LoweringRule = (l, node) => {
  const [dy, w] = node.inputs as [string, string];
  const dx = node.outputs[0]!;
  const groups = intAttribute(node, 'group', 1);
  const { code, flops } = convolution(
    l.dims(dx),
    l.dims(dy),
    l.dims(w),
    writtenWindow(node),
    groups,
    false,
    l.precisionNumber,
  );
  l.fixed('convInputGradient', [...code, 0, l.readPixels(dy), l.read(w), l.write(dx, 'pixels')], flops);
};

const convWeightGradient: LoweringRule = (l, node) => {
  const [dy, x] = node.inputs as [string, string];
  const dw = node.outputs[0]!;
  const window = writtenWindow(node);
  const groups = intAttribute(node, 'group', 1);
  const { ref, planar } = image(l, x, groups, window);
  const { code, flops } = convolution(
    l.dims(x),
    l.dims(dy),
    l.dims(dw),
    window,
    groups,
    planar,
    l.precisionNumber,
  );
  const gradient = l.readPixels(dy);
  l.fixed('convWeightGradient', [...code, ref, gradient, l.sum(dw)!, null], flops);
};

const ACTIVATIONS = ['', 'Relu', 'HardSwish'];

/** Rows by channels, as a batch norm goes over them. */
function rowsOf(l: Lowering, node: GraphNode, x: string): number[] {
  const dims = l.dims(x);
  const activation = ACTIVATIONS.indexOf(stringAttribute(node, 'activation', ''));
  const given = intAttribute(node, 'training_mode', 0) === 1 ? 0 : 1;
  return [product(dims) / dims[1]!, dims[1]!, floatAttribute(node, 'epsilon', 1e-5), activation, given];
}

const batchNorm: LoweringRule = (l, node) => {
  const [x, gamma, beta, mean, variance, residual = ''] = node.inputs as [
    string,
    string,
    string,
    string,
    string,
    string?,
  ];
  const numbers = rowsOf(l, node, x);
  const operands = [
    l.readPixels(x),
    l.read(gamma),
    l.read(beta),
    residual === '' ? null : l.readPixels(residual),
  ];
  const given = numbers.at(-1) === 1;
  const y = l.write(node.outputs[0]!, 'pixels');
  const statistics = given
    ? [l.read(mean), l.read(variance)]
    : node.outputs.slice(1, 3).map((value) => l.write(value));
  l.fixed('batchNorm', [...numbers, ...operands, y, ...statistics], 5 * l.count(x));
};

/** Gradients of γ and β are wanted or not; the operation adds them somewhere in any case. */
function sumOrScrap(l: Lowering, value: string): Ref {
  return l.sum(value) ?? l.ref({ storage: l.fresh('float32', l.count(value), value), offset: 0 }, 'write');
}

const batchNormGradient: LoweringRule = (l, node) => {
  const activated = node.op === 'BatchNormalizationActivationGradient';
  const [dy, x, gamma] = node.inputs as [string, string, string];
  const [beta, mean, variance, y, residual = ''] = activated
    ? (node.inputs.slice(3) as [string, string, string, string, string?])
    : ['', node.inputs[3]!, node.inputs[4]!, ''];
  const numbers = rowsOf(
    l,
    activated
      ? node
      : { ...node, attributes: { ...node.attributes, training_mode: { kind: 'int', value: 1 } } },
    x,
  );
  const relu = stringAttribute(node, 'activation', '') === 'Relu';
  const statistics = [gamma, beta === '' ? gamma : beta, mean, variance].map((value) => l.read(value));
  const with0 = residual !== '' && numbers[3] !== 0;
  const came = [with0 && relu ? l.readPixels(y) : null, with0 && !relu ? l.readPixels(residual) : null];
  const operands = [l.readPixels(dy), l.readPixels(x), ...statistics, ...came];
  const [dx, dGamma, dBeta, dResidual] = node.outputs as [string, string, string, string?];
  const written = [l.write(dx, 'pixels'), dResidual === undefined ? null : l.write(dResidual, 'pixels')];
  const sums = [sumOrScrap(l, dGamma), sumOrScrap(l, dBeta)];
  l.fixed('batchNormGradient', [...numbers, ...operands, ...written, ...sums], 12 * l.count(x));
};

/** Numbers of a pooling. */
function pooling(x: readonly number[], y: readonly number[], window: Window): number[] {
  const axes = axesOf(x, y, window);
  return [x[0]!, ...axes.inputs, x[1]!, ...axes.numbers(0), ...axes.numbers(1)];
}

const poolWindow = (l: Lowering, node: GraphNode) =>
  windowOf(l.context(node), intsAttribute(node, 'kernel_shape')!);

const maxPool: LoweringRule = (l, node) => {
  const [x] = node.inputs as [string];
  const [y, indices = `${y}.marks`] = node.outputs as [string, string?];
  if (intAttribute(node, 'storage_order', 0) !== 0)
    throw new NotNative('in column order has no native operation');
  const code = pooling(l.dims(x), l.dims(y), poolWindow(l, node));
  // Two bytes an element.
  l.fixed('maxPool', [...code, l.readPixels(x), l.write(y, 'pixels'), l.writeMarks(indices, 2 * l.count(y))]);
};

const maxPoolGradient: LoweringRule = (l, node) => {
  const [dy, indices] = node.inputs as [string, string];
  const dx = node.outputs[0]!;
  const marks = l.place(indices);
  if (marks.layout !== 'marks') throw new NotNative('has indices from elsewhere');
  const code = pooling(l.dims(dx), l.dims(dy), writtenWindow(node));
  l.fixed('maxPoolGradient', [...code, l.readPixels(dy), l.ref(marks), l.write(dx, 'pixels')]);
};

const averagePool: LoweringRule = (l, node) => {
  const [x] = node.inputs as [string];
  const y = node.outputs[0]!;
  if (intAttribute(node, 'ceil_mode', 0) === 1) throw new NotNative('with ceil_mode has no native operation');
  const counts = intAttribute(node, 'count_include_pad', 0);
  const code = pooling(l.dims(x), l.dims(y), poolWindow(l, node));
  l.fixed('averagePool', [...code, counts, l.readPixels(x), l.write(y, 'pixels')]);
};

const averagePoolGradient: LoweringRule = (l, node) => {
  const [dy] = node.inputs as [string];
  const dx = node.outputs[0]!;
  const code = pooling(l.dims(dx), l.dims(dy), writtenWindow(node));
  const counts = intAttribute(node, 'count_include_pad', 0);
  l.fixed('averagePoolGradient', [...code, counts, l.readPixels(dy), l.write(dx, 'pixels')]);
};

export const imageRules: LoweringRules = {
  Conv: conv,
  ConvInputGradient: convInputGradient,
  ConvWeightGradient: convWeightGradient,
  BatchNormalization: batchNorm,
  BatchNormalizationActivation: batchNorm,
  BatchNormalizationGradient: batchNormGradient,
  BatchNormalizationActivationGradient: batchNormGradient,
  MaxPool: maxPool,
  MaxPoolGradient: maxPoolGradient,
  AveragePool: averagePool,
  AveragePoolGradient: averagePoolGradient,
};
