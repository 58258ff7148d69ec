import type { Graph, GraphValue } from './graph.ts';

/**
 * Two graphs as one: inputs of the second that are named as outputs of the first are fed by these, its other inputs become inputs of
 * the whole. Parameters of one name are the same; all else of the second is renamed where a name is taken.
 *
 * @param outputs Names of the outputs that the whole has, of either graph; what leads to none of them is left out. A name that
 *   neither has is a RangeError.
 */
export function chain(first: Graph, second: Graph, outputs: readonly string[]): Graph {
  const taken = new Set(namesOf(first));
  const fed = new Set(first.outputs.map(({ name }) => name));
  const parameters = new Set(first.parameters.map(({ name }) => name));
  const renamed = new Map<string, string>();
  for (const name of namesOf(second)) {
    const shared = fed.has(name) && second.inputs.some((input) => input.name === name);
    if (!taken.has(name) || shared || parameters.has(name)) continue;
    let next = `${second.name}.${name}`;
    while (taken.has(next)) next = `${next}_`;
    taken.add(next);
    renamed.set(name, next);
  }
  const to = (name: string) => renamed.get(name) ?? name;
  const known = [...first.outputs, ...second.outputs];
  const chosen = outputs.map((name): GraphValue => {
    const own = second.outputs.find((value) => value.name === name);
    return own ? { ...own, name: to(name) } : outputNamed(known, name);
  });
  return prune({
    name: first.name,
    opset: Math.max(first.opset, second.opset),
    inputs: [
      ...first.inputs,
      ...second.inputs
        .filter(({ name }) => !fed.has(name))
        .map((input) => ({ ...input, name: to(input.name) })),
    ],
    outputs: chosen,
    parameters: [...first.parameters, ...second.parameters.filter(({ name }) => !parameters.has(name))],
    constants: new Map([
      ...first.constants,
      ...[...second.constants].map(([name, constant]) => [to(name), constant] as const),
    ]),
    nodes: [
      ...first.nodes,
      ...second.nodes.map((node) => ({
        ...node,
        name: to(node.name),
        inputs: node.inputs.map(to),
        outputs: node.outputs.map(to),
      })),
    ],
  });
}

function outputNamed(outputs: readonly GraphValue[], name: string): GraphValue {
  const found = outputs.find((value) => value.name === name);
  if (found) return found;
  const names = outputs.map((value) => value.name).join(', ');
  throw new RangeError(`Expected one of ${names} for outputs but received ${name}`);
}

/** The graph with some of its outputs, what they need, and the inputs that are used. A name that it does not have is a RangeError. */
export function outputsOnly(graph: Graph, names: readonly string[]): Graph {
  const pruned = prune({ ...graph, outputs: names.map((name) => outputNamed(graph.outputs, name)) });
  const read = new Set([...names, ...pruned.nodes.flatMap(({ inputs }) => inputs)]);
  return { ...pruned, inputs: graph.inputs.filter(({ name }) => read.has(name)) };
}

/** The graph with only what its outputs need; inputs stay. */
export function prune(graph: Graph): Graph {
  const live = new Set(graph.outputs.map(({ name }) => name));
  const nodes = graph.nodes.toReversed().filter((node) => {
    const needed = node.outputs.some((output) => live.has(output));
    if (needed) for (const input of node.inputs) live.add(input);
    return needed;
  });
  return {
    ...graph,
    nodes: nodes.reverse(),
    parameters: graph.parameters.filter(({ name }) => live.has(name)),
    constants: new Map([...graph.constants].filter(([name]) => live.has(name))),
  };
}

function namesOf(graph: Graph): string[] {
  const names = [
    ...graph.inputs.map(({ name }) => name),
    ...graph.parameters.map(({ name }) => name),
    ...graph.constants.keys(),
    ...graph.nodes.flatMap(({ name, outputs }) => [name, ...outputs]),
  ];
  return [...new Set(names)].filter((name) => name !== '');
}

/** A graph with some of its values called otherwise. */
export function rename(graph: Graph, names: ReadonlyMap<string, string>): Graph {
  const to = (name: string) => names.get(name) ?? name;
  const value = <T extends { readonly name: string }>(known: T): T => ({ ...known, name: to(known.name) });
  return {
    ...graph,
    inputs: graph.inputs.map(value),
    outputs: graph.outputs.map(value),
    parameters: graph.parameters.map(value),
    constants: new Map([...graph.constants].map(([name, constant]) => [to(name), constant])),
    nodes: graph.nodes.map((node) => ({
      ...node,
      inputs: node.inputs.map(to),
      outputs: node.outputs.map(to),
    })),
  };
}
