import { CidError } from '../native/errors.ts';
import { readModel } from '../onnx/model.ts';
import type { Parameter } from '../program/executor.ts';
import type { Graph, GraphValue } from '../program/graph.ts';
import { importModel } from '../program/import.ts';
import { specialize } from '../program/static.ts';

/** A tower from an ONNX file, with the names that the trainer and a model folder use. */
export interface ImportedTower {
  readonly graph: Graph;
  readonly parameters: readonly Parameter[];
  /** Width of the embedding. */
  readonly dim: number;
}

/** `pixel_values` [batch, 3, imageSize, imageSize] → `image_embeds` [batch, D], from any model of one image. */
export async function importImageTower(
  path: string,
  imageSize: number | undefined,
): Promise<ImportedTower & { imageSize: number }> {
  const { graph, parameters } = await read(path, 'image');
  const input = pick(graph.inputs, 'pixel_values', path, 'input');
  const declared = input.dims[2];
  const size = typeof declared === 'number' ? declared : imageSize;
  if (graph.inputs.length > 1 || input.type !== 'float32' || input.dims.length !== 4 || size === undefined) {
    throw invalid(path, 'an image tower has one float32 input, [batch, 3, size, size]');
  }
  const dims = { pixel_values: [2, 3, size, size] };
  return { ...finish(path, graph, parameters, 'image', input, 'image_embeds', dims), imageSize: size };
}

/** `input_ids` and, where the model has it, `attention_mask`, [batch, contextLength] → `text_embeds` [batch, D]. */
export async function importTextTower(path: string, contextLength: number): Promise<ImportedTower> {
  const { graph, parameters } = await read(path, 'text');
  const input = pick(graph.inputs, 'input_ids', path, 'input');
  for (const { name, type } of graph.inputs) {
    if ((name !== input.name && name !== 'attention_mask') || type !== 'int64') {
      throw invalid(
        path,
        `a text tower takes input_ids and attention_mask, both int64, but this one takes ${name}, ${type}`,
      );
    }
  }
  const shape = [2, contextLength];
  return finish(path, graph, parameters, 'text', input, 'text_embeds', {
    input_ids: shape,
    attention_mask: shape,
  });
}

async function read(
  path: string,
  tower: string,
): Promise<{ graph: Graph; parameters: readonly Parameter[] }> {
  const { graph, parameters } = importModel(await readModel(path));
  // Two exports may well have parameters of the same name; a student that is loaded again has its prefix already.
  const names = new Map(
    parameters.map(({ name }) => [name, name.startsWith(`${tower}.`) ? name : `${tower}.${name}`] as const),
  );
  return {
    graph: rename(graph, names),
    parameters: parameters.map((parameter) => ({ ...parameter, name: names.get(parameter.name)! })),
  };
}

/** Gives input and output their standard names, drops other outputs, and finds the width of the embedding. */
function finish(
  path: string,
  whole: Graph,
  parameters: readonly Parameter[],
  name: 'image' | 'text',
  input: GraphValue,
  output: string,
  inputDims: Readonly<Record<string, readonly number[]>>,
): ImportedTower {
  const embedding = pick(whole.outputs, output, path, 'output');
  const standard = name === 'image' ? 'pixel_values' : 'input_ids';
  const renamed = rename(
    { ...whole, name, outputs: [embedding] },
    new Map([
      [input.name, standard],
      [embedding.name, output],
    ]),
  );
  const used = Object.fromEntries(renamed.inputs.map((value) => [value.name, inputDims[value.name]!]));
  const dims = specialize(renamed, used, { training: false }).dims(output);
  if (dims.length !== 2 || dims[0] !== 2) {
    throw invalid(
      path,
      `its output ${embedding.name} must be [batch, width] but is [${dims}] for a batch of 2`,
    );
  }
  const graph = { ...renamed, outputs: [{ ...renamed.outputs[0]!, dims: ['batch', dims[1]!] }] };
  const reached = new Set(graph.nodes.flatMap(({ inputs }) => inputs));
  const kept = (value: { name: string }) => reached.has(value.name);
  return {
    graph: { ...graph, parameters: graph.parameters.filter(kept) },
    parameters: parameters.filter(kept),
    dim: dims[1]!,
  };
}

/** The value of the standard name, or the only one. */
function pick(values: readonly GraphValue[], name: string, path: string, what: string): GraphValue {
  const found = values.find((value) => value.name === name) ?? (values.length === 1 ? values[0] : undefined);
  if (found) return found;
  throw invalid(
    path,
    `it has no ${what} ${name}, but ${values.map((value) => value.name).join(', ') || 'none'}`,
  );
}

/** A graph with some of its values called otherwise. */
function rename(graph: Graph, names: ReadonlyMap<string, string>): Graph {
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

function invalid(path: string, reason: string): CidError {
  return new CidError('MODEL_INVALID', `${path} cannot be a student's tower: ${reason}`);
}
