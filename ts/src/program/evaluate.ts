import { elementType, newData, type TensorData } from '../onnx/tensor.ts';
import { intAttribute, numbersOf, positiveAxis, product, tensorAttribute } from './attributes.ts';
import type { Constant, DataType, GraphNode } from './graph.ts';
import type { ShapeContext, ValueInfo } from './shapes/context.ts';
import { permutation, shapeRange, sliceRanges } from './shapes/layout.ts';

/** Constants larger than this stay operators: folding is there for shapes, masks and tables, not to blow a graph up. */
const LARGEST = 1 << 22;

/**
 * The value of a node whose inputs are all constants (or only their shapes matter), or undefined when it has to run. This is
 * what turns the chains of Shape, Gather and Concat that exporters write into plain shapes.
 */
export function evaluate(
  context: ShapeContext,
  output: ValueInfo,
  constants: ReadonlyMap<string, Constant>,
): Constant | undefined {
  const { node } = context;
  if (node.outputs.length !== 1 || product(output.dims) > LARGEST) return undefined;
  if (node.op === 'Shape') {
    const dims = context.dims(0);
    const { start, end } = shapeRange(node, dims.length);
    return fromNumbers(output, dims.slice(start, end));
  }
  const inputs: (Constant | undefined)[] = [];
  for (const name of node.inputs) {
    const constant = constants.get(name);
    if (name !== '' && !constant) return undefined;
    inputs.push(constant);
  }
  return EVALUATORS[node.op]?.({ node, context, output, inputs });
}

interface Evaluation {
  readonly node: GraphNode;
  readonly context: ShapeContext;
  readonly output: ValueInfo;
  readonly inputs: readonly (Constant | undefined)[];
}

type Evaluator = (evaluation: Evaluation) => Constant | undefined;

/** Largest int64, which 'to the end' of a slice is written as, and which float64 cannot hold. */
const INT64_MAX = 2n ** 63n - 1n;

function fromNumbers({ type, dims }: ValueInfo, values: ArrayLike<number>): Constant {
  const data = newData(type, values.length);
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (data instanceof BigInt64Array) data[i] = value >= 2 ** 63 ? INT64_MAX : BigInt(Math.trunc(value));
    else data[i] = value;
  }
  return { type, dims, data };
}

/** Copies elements: `source(i)` is where element i of the output comes from. Values pass unconverted. */
function moved({ type, dims }: ValueInfo, from: TensorData, source: (index: number) => number): Constant {
  const data = newData(type, product(dims));
  for (let i = 0; i < data.length; i++) data[i] = from[source(i)]!;
  return { type, dims, data };
}

function stridesOf(dims: readonly number[]): number[] {
  const strides = dims.map(() => 1);
  for (let i = dims.length - 2; i >= 0; i--) strides[i] = strides[i + 1]! * dims[i + 1]!;
  return strides;
}

/** The index into `from` that element `index` of the broadcast shape `to` reads. */
function broadcastIndex(from: readonly number[], to: readonly number[]): (index: number) => number {
  const strides = stridesOf(from);
  const targets = stridesOf(to);
  const lead = to.length - from.length;
  return (index) => {
    let source = 0;
    for (let i = 0; i < from.length; i++) {
      if (from[i] !== 1) source += (Math.floor(index / targets[i + lead]!) % to[i + lead]!) * strides[i]!;
    }
    return source;
  };
}

const elementwise =
  (apply: (values: readonly number[], type: DataType) => number): Evaluator =>
  ({ inputs, output }) => {
    const operands = inputs.map((input) => ({
      values: numbersOf(input!),
      at: broadcastIndex(input!.dims, output.dims),
    }));
    const type = inputs[0]!.type;
    const count = product(output.dims);
    const results = Array.from({ length: count }, (_, i) =>
      apply(
        operands.map(({ values, at }) => values[at(i)]!),
        type,
      ),
    );
    return fromNumbers(output, results);
  };

const same: Evaluator = ({ inputs, output }) => ({ ...output, data: inputs[0]!.data });

const isInteger = (type: DataType) => type === 'int64' || type === 'int32';

const EVALUATORS: Readonly<Record<string, Evaluator>> = {
  Constant: ({ node }) => tensorAttribute(node, 'value')!,
  Identity: same,
  Reshape: same,
  Flatten: same,
  Squeeze: same,
  Unsqueeze: same,
  Cast: ({ inputs, output, node }) => {
    const values = numbersOf(inputs[0]!);
    const bool = elementType(intAttribute(node, 'to', 0)) === 'bool';
    return fromNumbers(output, bool ? values.map((value) => (value === 0 ? 0 : 1)) : values);
  },
  Add: elementwise(([a, b]) => a! + b!),
  Sub: elementwise(([a, b]) => a! - b!),
  Mul: elementwise(([a, b]) => a! * b!),
  Div: elementwise(([a, b], type) => (isInteger(type) ? Math.trunc(a! / b!) : a! / b!)),
  Mod: elementwise(([a, b]) => a! - Math.floor(a! / b!) * b!),
  Pow: elementwise(([a, b]) => a! ** b!),
  Neg: elementwise(([a]) => -a!),
  Sqrt: elementwise(([a]) => Math.sqrt(a!)),
  Floor: elementwise(([a]) => Math.floor(a!)),
  Min: elementwise((values) => Math.min(...values)),
  Max: elementwise((values) => Math.max(...values)),
  Equal: elementwise(([a, b]) => Number(a === b)),
  Less: elementwise(([a, b]) => Number(a! < b!)),
  Greater: elementwise(([a, b]) => Number(a! > b!)),
  LessOrEqual: elementwise(([a, b]) => Number(a! <= b!)),
  GreaterOrEqual: elementwise(([a, b]) => Number(a! >= b!)),
  And: elementwise(([a, b]) => Number(a !== 0 && b !== 0)),
  Or: elementwise(([a, b]) => Number(a !== 0 || b !== 0)),
  Not: elementwise(([a]) => Number(a === 0)),
  Where: ({ inputs, output }) => {
    const [condition, yes, no] = inputs as [Constant, Constant, Constant];
    const at = [condition, yes, no].map(({ dims }) => broadcastIndex(dims, output.dims));
    const data = newData(output.type, product(output.dims));
    for (let i = 0; i < data.length; i++) {
      data[i] = Number(condition.data[at[0]!(i)]) !== 0 ? yes.data[at[1]!(i)]! : no.data[at[2]!(i)]!;
    }
    return { ...output, data };
  },
  Expand: ({ inputs, output }) =>
    moved(output, inputs[0]!.data, broadcastIndex(inputs[0]!.dims, output.dims)),
  Tile: ({ inputs, output }) => {
    const from = inputs[0]!.dims;
    const strides = stridesOf(from);
    const targets = stridesOf(output.dims);
    return moved(output, inputs[0]!.data, (index) =>
      from.reduce((sum, dim, i) => sum + (Math.floor(index / targets[i]!) % dim) * strides[i]!, 0),
    );
  },
  Transpose: ({ node, inputs, output }) => {
    const from = inputs[0]!.dims;
    const strides = stridesOf(from);
    const targets = stridesOf(output.dims);
    const perm = permutation(node, from.length);
    return moved(output, inputs[0]!.data, (index) =>
      perm.reduce(
        (sum, axis, i) => sum + (Math.floor(index / targets[i]!) % output.dims[i]!) * strides[axis]!,
        0,
      ),
    );
  },
  Slice: ({ context, inputs, output }) => {
    const from = inputs[0]!.dims;
    const strides = stridesOf(from);
    const targets = stridesOf(output.dims);
    const ranges = sliceRanges(context);
    return moved(output, inputs[0]!.data, (index) =>
      from.reduce((sum, _, i) => {
        const { start, step } = ranges.find(({ axis }) => axis === i) ?? { start: 0, step: 1 };
        return sum + (start + (Math.floor(index / targets[i]!) % output.dims[i]!) * step) * strides[i]!;
      }, 0),
    );
  },
  Gather: ({ node, inputs, output }) => {
    const [source, indices] = inputs as [Constant, Constant];
    const axis = positiveAxis(intAttribute(node, 'axis', 0), source.dims.length);
    const size = source.dims[axis]!;
    const after = product(source.dims.slice(axis + 1));
    const picks = numbersOf(indices).map((index) => positiveAxis(index, size));
    return moved(output, source.data, (i) => {
      const tail = i % after;
      const pick = Math.floor(i / after) % picks.length;
      const head = Math.floor(i / (after * picks.length));
      return (head * size + picks[pick]!) * after + tail;
    });
  },
  Concat: ({ node, inputs, output }) => {
    const axis = positiveAxis(intAttribute(node, 'axis', 0), output.dims.length);
    const after = product(output.dims.slice(axis + 1));
    const heads = product(output.dims.slice(0, axis));
    const data = newData(output.type, product(output.dims));
    let offset = 0;
    for (const input of inputs) {
      const run = input!.dims[axis]! * after;
      for (let head = 0; head < heads; head++) {
        for (let i = 0; i < run; i++) {
          data[head * output.dims[axis]! * after + offset + i] = input!.data[head * run + i]!;
        }
      }
      offset += run;
    }
    return { ...output, data };
  },
  ConstantOfShape: ({ node, output }) => {
    const value = tensorAttribute(node, 'value');
    const data = newData(output.type, product(output.dims));
    if (value) data.fill(value.data[0] as never);
    return { ...output, data };
  },
  Range: ({ inputs, output }) => {
    const [start, , delta] = inputs.map((input) => numbersOf(input!)[0]!);
    return fromNumbers(
      output,
      Array.from({ length: output.dims[0]! }, (_, i) => start! + i * delta!),
    );
  },
  ReduceProd: reduceAll((values) => values.reduce((a, b) => a * b, 1)),
  ReduceSum: reduceAll((values) => values.reduce((a, b) => a + b, 0)),
  ReduceMax: reduceAll((values) => Math.max(...values)),
  Trilu: ({ node, inputs, output }) => {
    const { dims, data } = inputs[0]!;
    const [rows, columns] = dims.slice(-2) as [number, number];
    const shift = inputs[1] ? numbersOf(inputs[1])[0]! : 0;
    const upper = intAttribute(node, 'upper', 1) === 1;
    const result = newData(output.type, data.length);
    for (let i = 0; i < data.length; i++) {
      const diagonal = (i % columns) - (Math.floor(i / columns) % rows) - shift;
      if (upper ? diagonal >= 0 : diagonal <= 0) result[i] = data[i]!;
    }
    return { ...output, data: result };
  },
};

/** Reductions to one element; over fewer axes they stay operators. */
function reduceAll(apply: (values: number[]) => number): Evaluator {
  return ({ inputs, output }) =>
    product(output.dims) === 1 ? fromNumbers(output, [apply(numbersOf(inputs[0]!))]) : undefined;
}
