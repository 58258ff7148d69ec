import { elementType } from '../../onnx/tensor.ts';
import { intAttribute } from '../attributes.ts';
import type { DataType } from '../graph.ts';
import type { ShapeContext, ShapeRule, ShapeRules } from './context.ts';

/** The first output is as the first input; so are further ones (a mask, for one). */
const like: ShapeRule = (c) => c.node.outputs.map(() => c.info(0));

const broadcastAll = (c: ShapeContext): number[] => {
  let dims = [...c.dims(0)];
  for (let i = 1; i < c.inputCount; i++) dims = c.broadcast(dims, c.dims(i));
  return dims;
};

const nary: ShapeRule = (c) => [{ type: c.type(0), dims: broadcastAll(c) }];
const comparison: ShapeRule = (c) => [{ type: 'bool', dims: broadcastAll(c) }];

const castType = (c: ShapeContext): DataType => {
  const code = intAttribute(c.node, 'to', 0);
  const type = elementType(code);
  if (!type) throw c.invalid(`casts to element type ${code}, which is not supported`);
  return type;
};

const UNARY =
  'Identity Relu LeakyRelu Elu Sigmoid Tanh Exp Log Sqrt Neg Abs Sign Reciprocal Erf Sin Cos Floor Ceil Softplus ' +
  'HardSwish HardSigmoid Gelu QuickGelu Clip Softmax LogSoftmax Not Trilu';
const NARY = 'Add Sub Mul Div Pow Min Max Sum Mod';
const COMPARISON = 'Equal Greater Less GreaterOrEqual LessOrEqual And Or';

const table = (names: string, rule: ShapeRule): ShapeRules =>
  Object.fromEntries(names.split(' ').map((name) => [name, rule]));

export const elementwiseShapes: ShapeRules = {
  ...table(UNARY, like),
  ...table(NARY, nary),
  ...table(COMPARISON, comparison),
  Cast: (c) => [{ type: castType(c), dims: c.dims(0) }],
  Dropout: (c) => c.node.outputs.map((_, i) => ({ type: i === 0 ? c.type(0) : 'bool', dims: c.dims(0) })),
  Where: (c) => [{ type: c.type(1), dims: broadcastAll(c) }],
};
