import { CidError } from '../native/errors.ts';
import { readModel } from '../onnx/model.ts';
import { prune, rename } from '../program/compose.ts';
import type { Parameter } from '../program/executor.ts';
import type { Graph, GraphValue } from '../program/graph.ts';
import { importModel } from '../program/import.ts';
import { specialize } from '../program/static.ts';

/** A tower from an ONNX file, with the names that the trainer and a model folder use. */
export interface ImportedTower {
  /** At the sizes of training: only the batch is open, so that what can run it is known beforehand. */
  readonly graph: Graph;
  /** For the model folder, as open as the file. */
  readonly exported: Graph;
  readonly parameters: readonly Parameter[];
  /** Width of the embedding. */
  readonly dim: number;
}

/** Which output of a file a tower keeps: the first of `names` that is there, or else, unless it must be one of these, the only one. */
interface Output {
  readonly names: readonly string[];
  /** Its name in the tower. */
  readonly as: string;
  /** Defaults to false. */
  readonly exact?: boolean;
}

/**
 * `pixel_values` [batch, 3, imageSize, imageSize] → `image_embeds` [batch, D], from any model of one image.
 *
 * @param output Another output than the embedding, such as features before the projection.
 */
export async function importImageTower(
  path: string,
  imageSize: number | undefined,
  output: Output = { names: ['image_embeds'], as: 'image_embeds' },
): Promise<ImportedTower & { imageSize: number }> {
  const { graph, parameters } = await read(path, 'image');
  const input = pick(graph.inputs, 'pixel_values', path, 'input');
  const declared = input.dims[2];
  const size = typeof declared === 'number' ? declared : imageSize;
  if (graph.inputs.length > 1 || input.type !== 'float32' || input.dims.length !== 4 || size === undefined) {
    throw invalid(path, 'an image tower has one float32 input, [batch, 3, size, size]');
  }
  const dims = { pixel_values: [2, 3, size, size] };
  return { ...finish(path, graph, parameters, 'image', input, output, dims), imageSize: size };
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
  return finish(
    path,
    graph,
    parameters,
    'text',
    input,
    { names: ['text_embeds'], as: 'text_embeds' },
    {
      input_ids: shape,
      attention_mask: shape,
    },
  );
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
  { names, as: output, exact = false }: Output,
  inputDims: Readonly<Record<string, readonly number[]>>,
): ImportedTower {
  const embedding =
    names.flatMap((wanted) => whole.outputs.filter((value) => value.name === wanted))[0] ??
    (exact ? undefined : only(whole.outputs));
  if (!embedding) throw missing(path, 'output', names[0]!, whole.outputs);
  const standard = name === 'image' ? 'pixel_values' : 'input_ids';
  const renames = new Map([
    [input.name, standard],
    [embedding.name, output],
  ]);
  // A value within that has one of these names must not be taken for it.
  for (const taken of [standard, output]) if (!renames.has(taken)) renames.set(taken, `${taken}.within`);
  const renamed = rename(prune({ ...whole, name, outputs: [embedding] }), renames);
  const used = Object.fromEntries(renamed.inputs.map((value) => [value.name, inputDims[value.name]!]));
  const dims = specialize(renamed, used, { training: false }).dims(output);
  if (dims.length !== 2 || dims[0] !== 2) {
    throw invalid(
      path,
      `its output ${embedding.name} must be [batch, width] but is [${dims}] for a batch of 2`,
    );
  }
  const kept = new Set(renamed.parameters.map((parameter) => parameter.name));
  const graph = { ...renamed, outputs: [{ ...renamed.outputs[0]!, dims: ['batch', dims[1]!] }] };
  return {
    graph: {
      ...graph,
      inputs: graph.inputs.map((value) => ({
        ...value,
        dims: [value.dims[0]!, ...used[value.name]!.slice(1)],
      })),
    },
    exported: graph,
    parameters: parameters.filter((parameter) => kept.has(parameter.name)),
    dim: dims[1]!,
  };
}

/** The value of the standard name, or the only one. */
function pick(values: readonly GraphValue[], name: string, path: string, what: string): GraphValue {
  const found = values.find((value) => value.name === name) ?? only(values);
  if (found) return found;
  throw missing(path, what, name, values);
}

function only(values: readonly GraphValue[]): GraphValue | undefined {
  return values.length === 1 ? values[0] : undefined;
}

function missing(path: string, what: string, name: string, values: readonly GraphValue[]): CidError {
  const there = values.map((value) => value.name).join(', ') || 'none';
  return invalid(path, `it has no ${what} ${name}, but ${there}`);
}

function invalid(path: string, reason: string): CidError {
  return new CidError('MODEL_INVALID', `${path} cannot be a student's tower: ${reason}`);
}
