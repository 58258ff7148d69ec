import { intAttribute, intsAttribute, positiveAxis } from '../attributes.ts';
import type { ShapeContext, ShapeRule, ShapeRules } from './context.ts';
import { axesOf } from './layout.ts';

const reduce: ShapeRule = (c) => {
  const dims = c.dims(0);
  const axes = reducedAxes(c);
  const keep = intAttribute(c.node, 'keepdims', 1) === 1;
  const kept = keep
    ? dims.map((dim, i) => (axes.includes(i) ? 1 : dim))
    : dims.filter((_, i) => !axes.includes(i));
  return [{ type: c.type(0), dims: kept }];
};

/** The axes that a reduction goes over: all of them when none are given, unless the node says that this means none. */
export function reducedAxes(c: ShapeContext): number[] {
  const rank = c.dims(0).length;
  const axes = axesOf(c, rank);
  if (axes && axes.length > 0) return axes;
  if (intAttribute(c.node, 'noop_with_empty_axes', 0) === 1) return [];
  return Array.from({ length: rank }, (_, i) => i);
}

const argument: ShapeRule = (c) => {
  const dims = c.dims(0);
  const axis = positiveAxis(intAttribute(c.node, 'axis', 0), dims.length);
  const keep = intAttribute(c.node, 'keepdims', 1) === 1;
  return [{ type: 'int64', dims: keep ? dims.with(axis, 1) : dims.filter((_, i) => i !== axis) }];
};

/** Output 0 as the input; 1 and 2 are mean and inverse deviation over the axes from `axis` on. */
const layerNormalization: ShapeRule = (c) => {
  const dims = c.dims(0);
  const axis = positiveAxis(intAttribute(c.node, 'axis', -1), dims.length);
  const row = { type: c.type(0), dims: dims.map((dim, i) => (i < axis ? dim : 1)) };
  return c.node.outputs.map((_, i) => (i === 0 ? c.info(0) : row));
};

const matmul: ShapeRule = (c) => {
  const a = transposed(c.dims(0), intAttribute(c.node, 'transA', 0) === 1);
  const b = transposed(c.dims(1), intAttribute(c.node, 'transB', 0) === 1);
  const rows = a.length > 1 ? a.slice(-2, -1) : [];
  const columns = b.length > 1 ? b.slice(-1) : [];
  if (a.at(-1) !== (b.length > 1 ? b.at(-2) : b[0])) throw c.invalid(`cannot multiply [${a}] by [${b}]`);
  return [{ type: c.type(0), dims: [...c.broadcast(a.slice(0, -2), b.slice(0, -2)), ...rows, ...columns] }];
};

function transposed(dims: readonly number[], flag: boolean): readonly number[] {
  return flag ? [...dims.slice(0, -2), dims.at(-1)!, dims.at(-2)!] : dims;
}

/** Sizes along the spatial axes of a convolution or pooling with everything ONNX lets one leave out. */
export interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** Begins of all axes, then ends. */
  readonly pads: readonly number[];
}

export function windowOf(c: ShapeContext, kernel: readonly number[]): Window {
  const { node } = c;
  const strides = intsAttribute(node, 'strides') ?? kernel.map(() => 1);
  const dilations = intsAttribute(node, 'dilations') ?? kernel.map(() => 1);
  const auto = node.attributes.auto_pad;
  if (auto?.kind === 'string' && auto.value !== 'NOTSET' && auto.value !== 'VALID') {
    const late = auto.value === 'SAME_LOWER';
    const totals = kernel.map((size, i) => {
      const input = c.dims(0)[i + 2]!;
      const output = Math.ceil(input / strides[i]!);
      return Math.max(0, (output - 1) * strides[i]! + dilations[i]! * (size - 1) + 1 - input);
    });
    const less = totals.map((total) => Math.floor(total / 2));
    const more = totals.map((total) => Math.ceil(total / 2));
    return { kernel, strides, dilations, pads: late ? [...more, ...less] : [...less, ...more] };
  }
  const pads = auto?.value === 'VALID' ? undefined : intsAttribute(node, 'pads');
  return { kernel, strides, dilations, pads: pads ?? [...kernel, ...kernel].map(() => 0) };
}

function windowed(c: ShapeContext, kernel: readonly number[]): number[] {
  const window = windowOf(c, kernel);
  const round = intAttribute(c.node, 'ceil_mode', 0) === 1 ? Math.ceil : Math.floor;
  return kernel.map((size, i) => {
    const padded = c.dims(0)[i + 2]! + window.pads[i]! + window.pads[i + kernel.length]!;
    return round((padded - window.dilations[i]! * (size - 1) - 1) / window.strides[i]!) + 1;
  });
}

const pool: ShapeRule = (c) => {
  const dims = [...c.dims(0).slice(0, 2), ...windowed(c, intsAttribute(c.node, 'kernel_shape')!)];
  return c.node.outputs.map((_, i) => ({ type: i === 0 ? c.type(0) : 'int64', dims }));
};

export const reductionShapes: ShapeRules = {
  ReduceSum: reduce,
  ReduceMean: reduce,
  ReduceMax: reduce,
  ReduceMin: reduce,
  ReduceProd: reduce,
  ReduceL1: reduce,
  ReduceL2: reduce,
  ReduceSumSquare: reduce,
  ReduceLogSumExp: reduce,
  ArgMax: argument,
  ArgMin: argument,
  LayerNormalization: layerNormalization,
  BatchNormalization: (c) => c.node.outputs.map((_, i) => (i === 0 ? c.info(0) : c.info(1))),
  MatMul: matmul,
  FusedMatMul: matmul,
  Gemm: (c) => {
    const [m] = transposed(c.dims(0), intAttribute(c.node, 'transA', 0) === 1);
    const [, n] = transposed(c.dims(1), intAttribute(c.node, 'transB', 0) === 1);
    return [{ type: c.type(0), dims: [m!, n!] }];
  },
  Conv: (c) => {
    const weight = c.dims(1);
    return [{ type: c.type(0), dims: [c.dims(0)[0]!, weight[0]!, ...windowed(c, weight.slice(2))] }];
  },
  ConvTranspose: (c) => {
    const weight = c.dims(1);
    const kernel = weight.slice(2);
    const { strides, dilations, pads } = windowOf(c, kernel);
    const extra = intsAttribute(c.node, 'output_padding') ?? kernel.map(() => 0);
    const spatial = kernel.map(
      (size, i) =>
        (c.dims(0)[i + 2]! - 1) * strides[i]! +
        dilations[i]! * (size - 1) +
        1 +
        extra[i]! -
        pads[i]! -
        pads[i + kernel.length]!,
    );
    const channels = weight[1]! * intAttribute(c.node, 'group', 1);
    return [{ type: c.type(0), dims: [c.dims(0)[0]!, channels, ...spatial] }];
  },
  MaxPool: pool,
  AveragePool: pool,
  GlobalAveragePool: (c) => [{ type: c.type(0), dims: c.dims(0).map((dim, i) => (i < 2 ? dim : 1)) }],
};
