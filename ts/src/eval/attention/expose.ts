import { create } from '@bufbuild/protobuf';
import { expectString, failRange } from '../../native/check.ts';
import { CidError } from '../../native/errors.ts';
import { readModel, writeModel } from '../../onnx/model.ts';
import type { ModelProto, NodeProto, TensorProto } from '../../onnx/onnx_pb.ts';
import { GraphProtoSchema, ModelProtoSchema, ValueInfoProtoSchema } from '../../onnx/onnx_pb.ts';
import { type AttentionSite, findAttention } from './find.ts';
import { inputsOf } from './flow.ts';
import { imageInput, modelFile } from './source.ts';

export interface ExposeOptions {
  /** Nodes to append, which may use any value of the graph. */
  readonly nodes?: readonly NodeProto[];
  /** Constants that these use. */
  readonly initializers?: readonly TensorProto[];
}

/**
 * A copy of a model whose outputs are the values named, in this order, and nothing else: what none of them needs is left out, inputs too.
 * Weights are shared with the model. Types of new outputs are left to ONNX Runtime to infer.
 */
export function exposeValues(
  model: ModelProto,
  values: readonly string[],
  { nodes = [], initializers = [] }: ExposeOptions = {},
): ModelProto {
  const graph = model.graph!;
  const all = [...graph.node, ...nodes];
  const made = new Set([...graph.input, ...graph.initializer].map(({ name }) => name));
  for (const { output } of all) for (const name of output) made.add(name);
  for (const value of values) if (!made.has(value)) failRange('values of the graph', 'values', value);

  const needed = new Set(values);
  const kept: NodeProto[] = [];
  for (const node of all.toReversed()) {
    if (!node.output.some((name) => needed.has(name))) continue;
    kept.push(node);
    for (const name of inputsOf(node)) needed.add(name);
  }
  const outputs = new Map(graph.output.map((output) => [output.name, output]));
  const isNeeded = ({ name }: { name: string }) => needed.has(name);
  const { $typeName: _, ...rest } = model;
  return create(ModelProtoSchema, {
    ...rest,
    graph: create(GraphProtoSchema, {
      name: graph.name,
      node: kept.toReversed(),
      initializer: [...graph.initializer, ...initializers].filter(isNeeded),
      sparseInitializer: graph.sparseInitializer.filter((tensor) => needed.has(tensor.values?.name ?? '')),
      input: graph.input.filter(isNeeded),
      output: values.map((name) => outputs.get(name) ?? create(ValueInfoProtoSchema, { name })),
    }),
  });
}

/**
 * A copy of a model that also gives out the attention probabilities found in it (see `findAttention`), after its own outputs:
 * float tensors [.., queries, keys], one a layer.
 */
export function exposeAttention(model: ModelProto, sites: readonly { readonly value: string }[]): ModelProto {
  const own = model.graph!.output.map(({ name }) => name);
  return exposeValues(model, [
    ...own,
    ...sites.map(({ value }) => value).filter((value) => !own.includes(value)),
  ]);
}

/**
 * Writes a copy of an image model that also gives out its attention probabilities, one output a layer, [.., queries, keys], for use elsewhere.
 * Its external data is copied with it.
 *
 * @param model Model folder or ONNX file.
 * @param out ONNX file to write.
 * @param options.file File within a model folder; found by its usual names when not given.
 * @returns The layers in the order of the graph; `value` names the output.
 * @throws CidError MODEL_INVALID, MODEL_UNSUPPORTED as of `findAttention` and where there is no attention, FILE_WRITE.
 */
export async function writeAttentionModel(
  model: string,
  out: string,
  { file }: { file?: string } = {},
): Promise<AttentionSite[]> {
  expectString('model', model);
  expectString('out', out);
  const path = await modelFile(model, file);
  const whole = await readModel(path);
  const sites = findAttention(whole, imageInput(whole, path).name, path);
  if (sites.length === 0) throw new CidError('MODEL_UNSUPPORTED', `${path} has no attention`);
  await writeModel(out, exposeAttention(whole, sites));
  return sites;
}
