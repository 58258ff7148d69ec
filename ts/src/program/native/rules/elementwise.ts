import { floatAttribute, intAttribute } from '../../attributes.ts';
import type { GraphNode } from '../../graph.ts';
import { type Lowering, type LoweringRule, type LoweringRules, NotNative } from '../lowering.ts';

const output = (node: GraphNode) => node.outputs[0]!;

/** One step over all inputs. */
const plain =
  (step: string): LoweringRule =>
  (l, node) =>
    l.step(output(node), step, node.inputs);

/** One step after the other over any number of inputs. */
const folded =
  (step: string): LoweringRule =>
  (l, node) => {
    const [first, second, ...rest] = node.inputs as [string, string?, ...string[]];
    const y = output(node);
    if (second === undefined) return l.step(y, 'copy', [first]);
    l.step(y, step, [first, second]);
    for (const input of rest) l.step(y, step, [y, input]);
  };

const withNumbers =
  (step: string, p: [name: string, fallback: number], q?: [name: string, fallback: number]): LoweringRule =>
  (l, node) =>
    l.step(output(node), step, node.inputs, {
      p: floatAttribute(node, ...p),
      ...(q && { q: floatAttribute(node, ...q) }),
    });

/** To another type; elements are converted where they are read and stored. */
const cast: LoweringRule = (l, node) => {
  const [from] = node.inputs as [string];
  const y = output(node);
  if (l.type(from) === l.type(y)) return l.same(y, from);
  l.step(y, 'copy', [from]);
};

const clip: LoweringRule = (l, node) => {
  const [x, least = '', most = ''] = node.inputs as [string, string?, string?];
  const y = output(node);
  if (least === '' && most === '') return l.same(y, x);
  if (least === '' || most === '') {
    return l.step(y, least === '' ? 'minimum' : 'maximum', [x, least === '' ? most : least]);
  }
  l.step(y, 'maximum', [x, least]);
  l.step(y, 'minimum', [y, most]);
};

const power: LoweringRule = (l, node) => {
  const [x, exponent] = node.inputs as [string, string];
  const y = output(node);
  const e = l.number(exponent);
  if (e === 2) return l.step(y, 'multiply', [x, x]);
  if (e === 1) return l.step(y, 'copy', [x]);
  if (e === 0.5) return l.step(y, 'squareRoot', [x]);
  if (e === -1) return l.step(y, 'reciprocal', [x]);
  l.step(y, 'power', [x, exponent]);
};

const modulo: LoweringRule = (l, node) => {
  if (intAttribute(node, 'fmod', 0) === 1) throw new NotNative("with C's remainder has no native operation");
  l.step(output(node), 'modulo', node.inputs);
};

/** The first input as it is. */
const pass: LoweringRule = (l, node) => l.same(output(node), node.inputs[0]!);

function notEqualZero(l: Lowering, node: GraphNode): void {
  l.step(output(node), 'not', [node.inputs[0]!]);
  l.step(output(node), 'not', [output(node)]);
}

export const elementwiseRules: LoweringRules = {
  Identity: pass,
  Dropout: pass,
  Cast: (l, node) =>
    l.type(output(node)) === 'bool' && l.type(node.inputs[0]!) !== 'bool'
      ? notEqualZero(l, node)
      : cast(l, node),
  Neg: plain('negate'),
  Abs: plain('absolute'),
  Sign: plain('sign'),
  Sqrt: plain('squareRoot'),
  Reciprocal: plain('reciprocal'),
  Exp: plain('exponential'),
  Log: plain('logarithm'),
  Sin: plain('sine'),
  Cos: plain('cosine'),
  Floor: plain('floor'),
  Ceil: plain('ceil'),
  Tanh: plain('tanh'),
  Sigmoid: plain('sigmoid'),
  Erf: plain('erf'),
  Softplus: plain('softplus'),
  Relu: plain('relu'),
  LeakyRelu: withNumbers('leakyRelu', ['alpha', 0.01]),
  Elu: withNumbers('elu', ['alpha', 1]),
  HardSigmoid: withNumbers('hardSigmoid', ['alpha', 0.2], ['beta', 0.5]),
  HardSwish: plain('hardSwish'),
  Gelu: plain('gelu'),
  QuickGelu: withNumbers('quickGelu', ['alpha', 1.702]),
  GeluGradient: plain('geluGradient'),
  HardSwishGradient: plain('hardSwishGradient'),
  QuickGeluGradient: withNumbers('quickGeluGradient', ['alpha', 1.702]),
  Not: plain('not'),
  Add: plain('add'),
  Sub: plain('subtract'),
  Mul: plain('multiply'),
  Div: plain('divide'),
  Sum: folded('add'),
  Min: folded('minimum'),
  Max: folded('maximum'),
  Pow: power,
  Mod: modulo,
  Clip: clip,
  Equal: plain('equal'),
  Less: plain('less'),
  LessOrEqual: plain('lessOrEqual'),
  Greater: plain('greater'),
  GreaterOrEqual: plain('greaterOrEqual'),
  And: plain('and'),
  Or: plain('or'),
  Where: plain('select'),
};
