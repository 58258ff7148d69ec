import { numbersOf } from '../attributes.ts';
import type { GradientRules } from './context.ts';

/** Arithmetic with broadcasting: a gradient is summed back to its input's shape. */
export const arithmeticRules: GradientRules = {
  Add: (c) => {
    for (const i of [0, 1]) if (c.needs(i)) c.give(i, c.sumTo(c.dy, c.dims(c.input(i))));
  },
  Sum: (c) => {
    c.node.inputs.forEach((input, i) => {
      if (c.needs(i)) c.give(i, c.sumTo(c.dy, c.dims(input)));
    });
  },
  Sub: (c) => {
    if (c.needs(0)) c.give(0, c.sumTo(c.dy, c.dims(c.input(0))));
    if (c.needs(1)) c.give(1, c.neg(c.sumTo(c.dy, c.dims(c.input(1)))));
  },
  Mul: (c) => {
    const [a, b] = [c.input(0), c.input(1)];
    if (c.needs(0)) c.give(0, c.sumTo(c.mul(c.dy, b), c.dims(a)));
    if (c.needs(1)) c.give(1, c.sumTo(c.mul(c.dy, a), c.dims(b)));
  },
  // d(a/b)/db = −y/b
  Div: (c) => {
    const [a, b] = [c.input(0), c.input(1)];
    const share = c.div(c.dy, b);
    if (c.needs(0)) c.give(0, c.sumTo(share, c.dims(a)));
    if (c.needs(1)) c.give(1, c.neg(c.sumTo(c.mul(share, c.y), c.dims(b))));
  },
  Neg: (c) => c.give(0, c.neg(c.dy)),
  Sqrt: (c) => c.give(0, c.div(c.scale(c.dy, 0.5), c.y)),
  Exp: (c) => c.give(0, c.mul(c.dy, c.y)),
  Log: (c) => c.give(0, c.div(c.dy, c.input(0))),
  Abs: (c) => c.give(0, c.mul(c.dy, c.graph.emit('Sign', [c.input(0)]))),
  Sin: (c) => c.give(0, c.mul(c.dy, c.graph.emit('Cos', [c.input(0)]))),
  Cos: (c) => c.give(0, c.neg(c.mul(c.dy, c.graph.emit('Sin', [c.input(0)])))),
  Reciprocal: (c) => c.give(0, c.neg(c.mul(c.dy, c.mul(c.y, c.y)))),
  Pow: (c) => {
    const exponent = c.graph.constants.get(c.input(1));
    if (exponent?.data.length !== 1) {
      throw c.unsupported('has an exponent that is not a constant number: it has no gradient rule');
    }
    const [e] = numbersOf(exponent) as [number];
    const x = c.input(0);
    const slope = e === 2 ? x : c.graph.emit('Pow', [x, c.scalar(e - 1)]);
    c.give(0, c.scale(c.mul(c.dy, slope), e));
  },
  // The gradient goes to the operand that was chosen; a tie goes to the first, as a mask of the chosen one.
  Max: (c) => choose(c, 'GreaterOrEqual'),
  Min: (c) => choose(c, 'LessOrEqual'),
  Where: (c) => {
    const condition = c.input(0);
    const zero = c.scalar(0);
    if (c.needs(1)) c.give(1, c.sumTo(c.keep(condition, c.dy), c.dims(c.input(1))));
    if (c.needs(2)) {
      c.give(2, c.sumTo(c.graph.emit('Where', [condition, zero, c.dy]), c.dims(c.input(2))));
    }
  },
};

function choose(c: Parameters<GradientRules[string]>[0], comparison: string): void {
  if (c.node.inputs.length !== 2) throw c.unsupported('with other than two operands has no gradient rule');
  const [a, b] = [c.input(0), c.input(1)];
  const first = c.graph.emit(comparison, [a, b]);
  if (c.needs(0)) c.give(0, c.sumTo(c.keep(first, c.dy), c.dims(a)));
  if (c.needs(1)) {
    c.give(1, c.sumTo(c.graph.emit('Where', [first, c.scalar(0), c.dy]), c.dims(b)));
  }
}
