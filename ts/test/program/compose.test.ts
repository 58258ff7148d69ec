import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../src/program/builder.ts';
import { chain, prune, rename } from '../../src/program/compose.ts';
import type { Graph } from '../../src/program/graph.ts';

/** x [batch, 2] → half, all: `all` = relu(x w), `half` = 0.5 all. */
function first(): Graph {
  const builder = new GraphBuilder('first');
  const x = builder.input('x', 'float32', ['batch', 2]);
  const product = builder.op('MatMul', [x, builder.parameter('w', [2, 2])]);
  const all = builder.op('Relu', [product]);
  builder.output('all', all, ['batch', 2]);
  builder.output('half', builder.op('Mul', [all, builder.scalar(0.5)]), ['batch', 2]);
  return builder.build();
}

/** all, shift → y: names within are those of the first graph. */
function second(): Graph {
  const builder = new GraphBuilder('second');
  const all = builder.input('all', 'float32', ['batch', 2]);
  const shift = builder.input('shift', 'float32', ['batch', 2]);
  const product = builder.op('MatMul', [all, builder.parameter('v', [2, 2])]);
  builder.output('y', builder.op('Mul', [builder.op('Add', [product, shift]), builder.scalar(3)]), [
    'batch',
    2,
  ]);
  return builder.build();
}

const names = (values: readonly { readonly name: string }[]) => values.map(({ name }) => name);

describe('chain', () => {
  it('feeds one graph with the outputs of the other and keeps their names apart', () => {
    const whole = chain(first(), second(), ['y', 'all']);
    expect(names(whole.inputs)).toEqual(['x', 'shift']);
    expect(names(whole.outputs)).toEqual(['y', 'all']);
    expect(names(whole.parameters)).toEqual(['w', 'v']);
    const written = whole.nodes.flatMap(({ outputs }) => outputs);
    expect(new Set(written).size).toBe(written.length);
    // Every input of a node is there before it.
    const known = new Set([...names(whole.inputs), ...names(whole.parameters), ...whole.constants.keys()]);
    for (const node of whole.nodes) {
      for (const input of node.inputs) expect(known.has(input), input).toBe(true);
      for (const output of node.outputs) known.add(output);
    }
    expect([...whole.constants.values()].map(({ data }) => data[0])).toEqual([3]);
  });

  it('leaves out what leads to no output that was asked for', () => {
    expect(chain(first(), second(), ['half']).nodes.map(({ op }) => op)).toEqual([
      'MatMul',
      'Relu',
      'Mul',
      'Identity',
    ]);
    expect(() => chain(first(), second(), ['z'])).toThrow(
      'Expected one of all, half, y for outputs but received z',
    );
  });

  it('shares parameters of one name', () => {
    const shared = rename(second(), new Map([['v', 'w']]));
    expect(names(chain(first(), shared, ['y']).parameters)).toEqual(['w']);
  });
});

it('prunes parameters, constants and nodes, but no inputs', () => {
  const graph = first();
  const pruned = prune({ ...graph, outputs: graph.outputs.filter(({ name }) => name === 'all') });
  expect(pruned.nodes.map(({ op }) => op)).toEqual(['MatMul', 'Relu', 'Identity']);
  expect(pruned.constants.size).toBe(0);
  expect(names(pruned.inputs)).toEqual(['x']);
});
